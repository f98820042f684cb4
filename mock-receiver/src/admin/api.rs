//! The calls of the API.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{Problem, Reply, assert, bins, json_reply, listener, more, reply};
use crate::{
    Matcher,
    capture::BIN_BYTES_MAX,
    filter::Filter,
    receiver::{Shared, WAIT_DEFAULT},
    script::derive,
    store::Totals,
    view::Summary,
    wait::{Miss, Wanted, wait},
};

/// The largest body of a call.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long the body of a call may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest page of a list, also of what a wait returns.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;
pub(super) const WAIT_MAX: Duration = Duration::from_mins(10);

/// Answers one call that has passed the guard.
pub(super) async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let path = request.uri().path().to_owned();
    let Some(call) = path.strip_prefix("/api/v1/") else {
        return Err(Problem::not_found("the API is under /api/v1, for example /api/v1/requests"));
    };
    let segments: Vec<&str> = call.split('/').collect();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Some(answer) = more::route(shared, request.method(), &segments, &query).await {
        return answer;
    }
    if segments == ["assert"] {
        return match request.method() {
            &Method::POST => assert::check(shared, &body(request).await?).await,
            _ => Err(Problem::method_not_allowed("POST")),
        };
    }
    match (segments.as_slice(), request.method()) {
        (["requests"], &Method::GET) => list(shared, &query),
        (["requests"], &Method::DELETE) => clear(shared, &query),
        (["requests"], _) => Err(Problem::method_not_allowed("GET, DELETE")),
        (["requests", seq], &Method::GET) => {
            no_parameters(&query)?;
            json_reply(&find(shared, seq)?)
        }
        (["requests", seq, "body"], &Method::GET) => {
            no_parameters(&query)?;
            let body = find(shared, seq)?.body.clone();
            Ok(reply(StatusCode::OK, "application/octet-stream", body))
        }
        (["wait"], &Method::POST) => wait_for(shared, &body(request).await?).await,
        (["bins"], &Method::POST) => bins::make(shared),
        (["wait" | "bins"], _) => Err(Problem::method_not_allowed("POST")),
        (["listener"], &Method::GET) => listener::show(shared),
        (["listener"], &Method::PUT) => {
            listener::set(shared, &parse(&body(request).await?)?)?;
            listener::show(shared)
        }
        (["listener"], _) => Err(Problem::method_not_allowed("GET, PUT")),
        (["ca.pem"], &Method::GET) => match &shared.authority {
            Some(authority) => {
                let pem = authority.pem().to_owned().into();
                Ok(reply(StatusCode::OK, "application/x-pem-file", pem))
            }
            None => Err(Problem::not_found("the capture address speaks no TLS; start with --tls")),
        },
        (["requests", seq, "scenario"], &Method::GET) => {
            no_parameters(&query)?;
            let capture = find(shared, seq)?;
            json_reply(&derive::scenario(&capture))
        }
        (["requests", seq, "test"], &Method::GET) => {
            no_parameters(&query)?;
            let capture = find(shared, seq)?;
            let test = derive::test(&capture).into();
            Ok(reply(StatusCode::OK, "text/plain; charset=utf-8", test))
        }
        (["requests", _] | ["requests", _, "body" | "scenario" | "test"] | ["ca.pem"], _) => {
            Err(Problem::method_not_allowed("GET"))
        }
        (["bins", bin], _) if bin.is_empty() || bin.len() > BIN_BYTES_MAX => {
            Err(Problem::bad_request(format!("the name of a bin has 1 to {BIN_BYTES_MAX} bytes")))
        }
        (["bins", bin], &Method::GET) => bins::show(shared, bin),
        (["bins", bin], &Method::PUT) => {
            let taken = more::take(&body(request).await?)?;
            if let Some(rest) = &taken.rest {
                bins::set(shared, bin, parse(rest)?)?;
            }
            taken.set(shared, bin)?;
            bins::show(shared, bin)
        }
        (["bins", bin], &Method::DELETE) => {
            shared.scripts.remove(bin);
            shared.store.clear(Some(bin));
            let _ = shared.keyring.set(bin, Vec::new()); // Taking away cannot fail.
            Ok(reply(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
        }
        (["bins", _], _) => Err(Problem::method_not_allowed("GET, PUT, DELETE")),
        _ => Err(Problem::not_found(format!("there is no call {path}"))),
    }
}

#[derive(Serialize)]
struct List<'a> {
    requests: Vec<Summary<'a>>,
    /// What `after` must be to go on; `null` at the end.
    next: Option<u64>,
    evicted: u64,
    total: usize,
}

fn list(shared: &Shared, query: &str) -> Result<Reply, Problem> {
    let (mut bin, mut after, mut limit, mut filter) = (None, 0, PAGE_DEFAULT, Filter::default());
    for (name, value) in parameters(query) {
        match name.as_str() {
            "bin" => bin = Some(value),
            "after" => after = number(&name, &value, 0, u64::MAX)?,
            "limit" => limit = number(&name, &value, 1, PAGE_MAX as u64)? as usize,
            "filter" => filter = Filter::parse(&value).map_err(Problem::bad_request)?,
            _ => return Err(unknown_parameter(&name, "bin, after, limit, filter")),
        }
    }
    let mut page = Vec::new();
    shared.store.each(bin.as_deref(), after, |capture| {
        if filter.matches(&capture) {
            page.push(capture);
        }
        page.len() <= limit
    });
    let more = page.len() > limit;
    page.truncate(limit);
    let Totals { held, evicted } = shared.store.totals(bin.as_deref()).unwrap_or_default();
    json_reply(&List {
        next: page.last().filter(|_| more).map(|capture| capture.seq),
        requests: page.iter().map(|capture| Summary::of(capture)).collect(),
        evicted,
        total: held,
    })
}

fn clear(shared: &Shared, query: &str) -> Result<Reply, Problem> {
    let mut bin = None;
    for (name, value) in parameters(query) {
        match name.as_str() {
            "bin" => bin = Some(value),
            _ => return Err(unknown_parameter(&name, "bin")),
        }
    }
    json_reply(&json!({ "deleted": shared.store.clear(bin.as_deref()) }))
}

pub(super) fn find(shared: &Shared, seq: &str) -> Result<crate::Capture, Problem> {
    let seq = number("the sequence number", seq, 1, u64::MAX)?;
    shared.store.one(seq).ok_or_else(|| {
        Problem::not_found(format!("request {seq} was never captured, or is not held any more"))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitCall {
    bin: String,
    count: Option<usize>,
    timeout_ms: Option<u64>,
    #[serde(default, rename = "match")]
    matcher: Matcher,
}

async fn wait_for(shared: &Shared, body: &[u8]) -> Result<Reply, Problem> {
    let call: WaitCall = parse(body)?;
    let count = call.count.unwrap_or(1);
    let within = call.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
    let held = shared.limits.captures_max;
    if count == 0 || count > held {
        return Err(Problem::bad_request(format!("count: 1 to {held}, found {count}")));
    }
    if within > WAIT_MAX {
        let max = WAIT_MAX.as_millis();
        return Err(Problem::bad_request(format!(
            "timeout_ms: at most {max}, found {}",
            within.as_millis()
        )));
    }
    let wanted = Wanted { bin: call.bin, count, within, matcher: call.matcher };
    match wait(&shared.store, &wanted).await {
        Ok(matched) => {
            let page = &matched[..matched.len().min(PAGE_MAX)];
            let requests: Vec<_> = page.iter().map(|capture| Summary::of(capture)).collect();
            json_reply(&json!({ "matched": matched.len(), "requests": requests }))
        }
        Err(miss) => Err(unmet(&miss)),
    }
}

fn unmet(miss: &Miss) -> Problem {
    let nearest = miss.nearest.as_ref().map(|(capture, mismatches)| {
        json!({ "request": Summary::of(capture), "mismatches": mismatches })
    });
    Problem::new(StatusCode::REQUEST_TIMEOUT, miss.summary())
        .with("wanted", miss.wanted.count)
        .with("matched", miss.matched.len())
        .with("received", miss.received)
        .with("not_whole", miss.partial)
        .with("nearest", nearest)
        .with("account", miss.to_string())
}

pub(super) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into(), value.into()))
}

pub(super) fn no_parameters(query: &str) -> Result<(), Problem> {
    let first = parameters(query).next();
    first.map_or(Ok(()), |(name, _)| {
        Err(Problem::bad_request(format!("unknown parameter {name:?}; this call has none")))
    })
}

pub(super) fn unknown_parameter(name: &str, known: &str) -> Problem {
    Problem::bad_request(format!("unknown parameter {name:?}; the parameters are {known}"))
}

pub(super) fn number(name: &str, value: &str, min: u64, max: u64) -> Result<u64, Problem> {
    let parsed = value.parse().ok().filter(|number| (min..=max).contains(number));
    parsed.ok_or_else(|| {
        Problem::bad_request(format!(
            "{name} must be a number from {min} to {max}, found {value:?}"
        ))
    })
}

pub(super) async fn body(request: Request<Incoming>) -> Result<Bytes, Problem> {
    let read = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body of a call is complete and has at most {BODY_BYTES_MAX} bytes"),
        )),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took over 10 s")),
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("the body of the call: {error}")))
}
