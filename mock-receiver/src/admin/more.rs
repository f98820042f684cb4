//! The calls that look at captures from further off: signatures, deliveries and so on.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Problem, Reply,
    api::{find, no_parameters, parameters, unknown_parameter},
    json_reply,
};
use crate::{
    Deliveries, Key,
    diff::diff,
    filter::Filter,
    har::har,
    receiver::Shared,
    verify::{self, Explanation, SECRETS_MAX, Secret},
};

/// Answers the call, if it is one of these.
pub(super) async fn route(
    shared: &Arc<Shared>,
    method: &Method,
    segments: &[&str],
    query: &str,
) -> Option<Result<Reply, Problem>> {
    Some(match (segments, method) {
        (["requests", seq, "signature"], &Method::GET) => signature(shared, seq, query).await,
        (["deliveries"], &Method::GET) => deliveries(shared, query),
        (["diff"], &Method::GET) => compare(shared, query),
        (["export.har"], &Method::GET) => export(shared, query),
        (["requests", _, "signature"] | ["deliveries" | "diff" | "export.har"], _) => {
            Err(Problem::method_not_allowed("GET"))
        }
        _ => return None,
    })
}

/// `deliveries?bin=&key=&schedule=&tolerance=`
fn deliveries(shared: &Shared, query: &str) -> Result<Reply, Problem> {
    const KNOWN: &str = "bin, key, schedule, tolerance";
    let (mut bin, mut key, mut schedule, mut tolerance) = (None, Key::Known, None, 0.2);
    for (name, value) in parameters(query) {
        match name.as_str() {
            "bin" => bin = Some(value),
            "key" => {
                key = Key::parse(&value).map_err(|why| Problem::bad_request(why.to_string()))?;
            }
            "schedule" => schedule = Some(durations(&value)?),
            "tolerance" => {
                let fits = |number: &f64| (0.0..=10.0).contains(number);
                tolerance = value.parse().ok().filter(fits).ok_or_else(|| {
                    Problem::bad_request(format!(
                        "tolerance must be a part from 0 to 10 (0.2: a fifth), found {value:?}"
                    ))
                })?;
            }
            _ => return Err(unknown_parameter(&name, KNOWN)),
        }
    }
    let bin = bin.ok_or_else(|| Problem::bad_request("bin must be given: deliveries?bin=BIN"))?;
    let grouped = Deliveries::of(shared.store.range(Some(&bin), 0, usize::MAX), &key);
    let documents: Vec<serde_json::Value> = grouped
        .list
        .iter()
        .map(|delivery| {
            let mut document = serde_json::to_value(delivery).unwrap_or_default();
            if let Some(schedule) = &schedule {
                document["schedule_misses"] = json!(delivery.schedule_misses(schedule, tolerance));
            }
            document
        })
        .collect();
    let keyless: Vec<u64> = grouped.keyless.iter().map(|capture| capture.seq).collect();
    json_reply(&json!({ "bin": bin, "deliveries": documents, "without_id": keyless }))
}

/// `5s,5m,250ms`
fn durations(text: &str) -> Result<Vec<Duration>, Problem> {
    let one = |part: &str| {
        let end = part.find(|char: char| !char.is_ascii_digit())?;
        let unit = match &part[end..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        part[..end].parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
    };
    text.split(',').map(|part| one(part.trim())).collect::<Option<_>>().ok_or_else(|| {
        Problem::bad_request(format!("schedule must be gaps like 5s,5m,2h, found {text:?}"))
    })
}

/// `diff?a=&b=`
fn compare(shared: &Shared, query: &str) -> Result<Reply, Problem> {
    let (mut a, mut b) = (None, None);
    for (name, value) in parameters(query) {
        match name.as_str() {
            "a" => a = Some(find(shared, &value)?),
            "b" => b = Some(find(shared, &value)?),
            _ => return Err(unknown_parameter(&name, "a, b")),
        }
    }
    let (Some(a), Some(b)) = (a, b) else {
        return Err(Problem::bad_request("a and b must be given: diff?a=SEQ&b=SEQ"));
    };
    let found = diff(&a, &b);
    let mut document = serde_json::to_value(&found).unwrap_or_default();
    document["account"] = json!(found.to_string());
    json_reply(&document)
}

/// `export.har?bin=&filter=`
fn export(shared: &Shared, query: &str) -> Result<Reply, Problem> {
    let (mut bin, mut filter) = (None, Filter::default());
    for (name, value) in parameters(query) {
        match name.as_str() {
            "bin" => bin = Some(value),
            "filter" => filter = Filter::parse(&value).map_err(Problem::bad_request)?,
            _ => return Err(unknown_parameter(&name, "bin, filter")),
        }
    }
    let mut captures = shared.store.range(bin.as_deref(), 0, usize::MAX);
    captures.retain(|capture| filter.matches(capture));
    json_reply(&har(&captures))
}

#[derive(Serialize)]
struct SignatureDocument {
    #[serde(flatten)]
    explanation: Explanation,
    account: String,
}

async fn signature(shared: &Arc<Shared>, seq: &str, query: &str) -> Result<Reply, Problem> {
    no_parameters(query)?;
    let capture = find(shared, seq)?;
    let state = shared.clone();
    // A search may take a second, which would be one without captures.
    let explained =
        tokio::task::spawn_blocking(move || verify::explain(&capture, &state.keyring)).await;
    let explanation = explained.map_err(|error| {
        Problem::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    })?;
    json_reply(&SignatureDocument { account: explanation.to_string(), explanation })
}

/// What `PUT bins/{bin}` takes beside what is answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    secret: Option<String>,
    secrets: Option<Vec<String>>,
}

/// The members of a bin's document that are taken here.
const SETTINGS: [&str; 2] = ["secret", "secrets"];

/// What of a bin's document is taken here.
pub(super) struct Taken {
    secrets: Option<Vec<Secret>>,
    /// The rest of the document; `None` where nothing is left.
    pub(super) rest: Option<Vec<u8>>,
}

/// Takes its part of the document out and checks it.
pub(super) fn take(body: &[u8]) -> Result<Taken, Problem> {
    let mut document: serde_json::Map<String, serde_json::Value> = super::api::parse(body)?;
    if document.contains_key("forward") {
        return Err(Problem::new(
            hyper::StatusCode::FORBIDDEN,
            "forward: targets are named on the command line (--forward BIN=URL) or by the library, \
             never over the API",
        ));
    }
    let ours: serde_json::Map<_, _> = SETTINGS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), document.remove(*name)?)))
        .collect();
    if ours.is_empty() {
        return Ok(Taken { secrets: None, rest: Some(body.to_vec()) });
    }
    // Never the text of serde's own error: it may quote a secret.
    let settings: Settings = serde_json::from_value(ours.into())
        .map_err(|_| Problem::bad_request("secret is a string, secrets a list of strings"))?;
    let texts = match (settings.secret, settings.secrets) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request("either \"secret\" or \"secrets\", not both"));
        }
        (secret, secrets) => secrets.or(secret.map(|secret| vec![secret])),
    };
    if texts.as_ref().is_some_and(|texts| texts.len() > SECRETS_MAX) {
        return Err(Problem::bad_request(format!("secrets: at most {SECRETS_MAX}")));
    }
    let secrets = texts.map(|texts| texts.into_iter().map(Secret::new).collect::<Result<_, _>>());
    let secrets = secrets.transpose();
    let secrets = secrets.map_err(|error| Problem::bad_request(format!("secrets: {error}")))?;
    let rest = (!document.is_empty()).then(|| serde_json::to_vec(&document).unwrap_or_default());
    Ok(Taken { secrets, rest })
}

impl Taken {
    /// Sets it, when the rest of the document is found right.
    pub(super) fn set(self, shared: &Shared, bin: &str) -> Result<(), Problem> {
        let Some(secrets) = self.secrets else { return Ok(()) };
        shared
            .keyring
            .set(bin, secrets)
            .map_err(|full| Problem::new(hyper::StatusCode::INSUFFICIENT_STORAGE, full.to_string()))
    }
}
