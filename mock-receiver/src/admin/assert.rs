//! `POST assert`: the checks of the library over the API.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;

use super::{
    Problem, Reply,
    api::{WAIT_MAX, parse},
    json_reply,
};
use crate::{Check, Error, ErrorKind, Key, Matcher, har::har, receiver::Shared};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssertCall {
    bin: String,
    key: Option<String>,
    #[serde(default, rename = "match")]
    matcher: Matcher,
    #[serde(default)]
    exactly_once: bool,
    ordered_by: Option<String>,
    backoff: Option<Backoff>,
    signed_with: Option<String>,
    none_within_ms: Option<u64>,
    #[serde(default)]
    report: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backoff {
    schedule_ms: Vec<u64>,
    #[serde(default = "fifth")]
    tolerance: f64,
}

fn fifth() -> f64 {
    0.2
}

/// Makes the checks in the order of the document's keys above, up to the first that fails.
pub(super) async fn check(shared: &Arc<Shared>, body: &[u8]) -> Result<Reply, Problem> {
    let call: AssertCall = parse(body)?;
    let none_within = call.none_within_ms.map(Duration::from_millis);
    if none_within.is_some_and(|within| within > WAIT_MAX) {
        let max = WAIT_MAX.as_millis();
        return Err(Problem::bad_request(format!("none_within_ms: at most {max}")));
    }
    let mut check = Check::new(shared.clone(), Handle::current(), call.bin).matching(call.matcher);
    if let Some(key) = &call.key {
        let key = Key::parse(key).map_err(|why| Problem::bad_request(why.to_string()))?;
        check = check.by(key);
    }
    let told = |why: Error| failed(&check, &why, call.report);
    let mut held = Vec::new();
    if call.exactly_once {
        check.exactly_once().map_err(told)?;
        held.push("exactly_once");
    }
    if let Some(key) = &call.ordered_by {
        check.ordered_by(key).map_err(told)?;
        held.push("ordered_by");
    }
    if let Some(Backoff { schedule_ms, tolerance }) = call.backoff {
        let schedule: Vec<_> = schedule_ms.into_iter().map(Duration::from_millis).collect();
        check.backoff(&schedule, tolerance).map_err(told)?;
        held.push("backoff");
    }
    if let Some(secret) = &call.signed_with {
        check.signed_with(secret).map_err(told)?;
        held.push("signed_with");
    }
    if let Some(within) = none_within {
        check.none_within(within).await.map_err(told)?;
        held.push("none_within");
    }
    if held.is_empty() {
        return Err(Problem::bad_request(
            "one or more of exactly_once, ordered_by, backoff, signed_with, none_within_ms must \
             be asked for",
        ));
    }
    json_reply(&json!({ "held": held }))
}

fn failed(check: &Check, why: &Error, report: bool) -> Problem {
    if why.kind() != ErrorKind::Unmet {
        return Problem::bad_request(why.to_string());
    }
    let account = why.to_string();
    let summary = account.lines().next().unwrap_or_default();
    // The request was right and is refused for the state that it met.
    let problem = Problem::new(StatusCode::CONFLICT, summary).with("account", &account);
    if !report {
        return problem;
    }
    let page = check.page(&account, why.captures());
    problem.with("html", page).with("har", har(why.captures()))
}
