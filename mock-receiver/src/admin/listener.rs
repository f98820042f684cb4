//! `GET` and `PUT listener`: how the addresses that capture accept connections.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{Problem, Reply, json_reply};
use crate::{receiver::Shared, script::DELAY_MAX};

/// What is given is set, the rest stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerDocument {
    /// How long a new connection waits before anything is read from it.
    accept_delay_ms: Option<u64>,
    /// For how long from now connections are refused; 0 ends it.
    refuse_ms: Option<u64>,
}

pub(super) fn set(shared: &Shared, document: &ListenerDocument) -> Result<(), Problem> {
    let checked = |name: &str, ms: Option<u64>| match ms.map(Duration::from_millis) {
        Some(duration) if duration > DELAY_MAX => {
            let (max, found) = (DELAY_MAX.as_millis(), duration.as_millis());
            Err(Problem::bad_request(format!("{name}: at most {max}, found {found}")))
        }
        duration => Ok(duration),
    };
    let delay = checked("accept_delay_ms", document.accept_delay_ms)?;
    let refuse = checked("refuse_ms", document.refuse_ms)?;
    shared.gate.send_modify(|gate| {
        gate.delay = delay.unwrap_or(gate.delay);
        if let Some(refuse) = refuse {
            gate.refuse_until = (!refuse.is_zero()).then(|| Instant::now() + refuse);
        }
    });
    Ok(())
}

pub(super) fn show(shared: &Shared) -> Result<Reply, Problem> {
    let gate = *shared.gate.borrow();
    let left = gate.refuse_until.map(|end| end.saturating_duration_since(Instant::now()));
    let bad: BTreeMap<_, _> = shared
        .bad_tls
        .iter()
        .map(|(fault, addr)| (fault.as_str(), format!("https://{addr}")))
        .collect();
    json_reply(&json!({
        "capture": shared.url("").trim_end_matches('/'),
        "bad_tls": bad,
        "accept_delay_ms": gate.delay.as_millis() as u64,
        "refuse_ms": left.unwrap_or_default().as_millis() as u64,
    }))
}
