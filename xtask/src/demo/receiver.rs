//! The `mock-receiver` program, from outside: its start line and its admin API.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

use super::account::Arrival;
use crate::process::{self, Guard, TICK};
use crate::scratch::Scratch;
use crate::term::Progress;
use crate::{Fail, Outcome};

/// The bin that the demo's endpoint posts to.
pub(super) const BIN: &str = "dashboard";
/// Requests listed at once.
const PAGE: usize = 500;
/// Bound on one answer of the admin API.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Bound on one call of the admin API.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Bound on the receiver's start.
const START_MAX: Duration = Duration::from_secs(10);

/// A running receiver; it ends with its owner.
pub(super) struct Receiver {
    guard: Guard,
    /// Where webhooks go, without the bin.
    pub(super) capture: String,
    /// Where the admin API is.
    pub(super) admin: String,
    pub(super) token: String,
    agent: Agent,
    /// In the order of their numbers.
    seen: Vec<Seen>,
}

/// A request as the receiver lists it.
struct Seen {
    seq: u64,
    /// The event's id, or why this is no webhook.
    id: Result<String, String>,
}

impl Receiver {
    /// Starts it on free ports of the loopback address; its log goes to the folder.
    pub(super) fn start(program: &Path, folder: &Scratch) -> Outcome<Self> {
        let log = folder.join("receiver.log");
        let file = File::create(&log)
            .map_err(|error| Fail::new(format_args!("{}: {error}", log.display())))?;
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--json"]);
        command.current_dir(folder.path()).stdout(Stdio::piped()).stderr(file);
        let mut guard = Guard::start_apart(&mut command)?;
        let line = first_line(&mut guard).map_err(|reason| match reason {
            Fail::Failed(reason) => Fail::Failed(format!("{reason}{}", super::last_lines(&log))),
            other => other,
        })?;
        let start: Value = serde_json::from_str(&line).map_err(|error| {
            Fail::new(format_args!("the receiver's first line {line:?}: {error}"))
        })?;
        let field = |name: &str| {
            start[name].as_str().map(|value| value.trim_end_matches('/').to_owned()).ok_or_else(
                || Fail::new(format_args!("the receiver's first line {line:?} has no {name:?}")),
            )
        };
        let config = Agent::config_builder()
            .timeout_global(Some(CALL_MAX))
            .http_status_as_error(false)
            .proxy(None) // The receiver is on this machine; no proxy of the environment knows it.
            .build();
        Ok(Self {
            guard,
            capture: field("capture")?,
            admin: field("admin")?,
            token: field("token")?,
            agent: config.into(),
            seen: Vec::new(),
        })
    }

    /// Fails where the receiver has ended by itself.
    pub(super) fn check(&mut self) -> Outcome {
        match self.guard.ended()? {
            Some(status) => {
                Err(Fail::new(format_args!("the receiver ended by itself with {status}")))
            }
            None => Ok(()),
        }
    }

    /// How many requests the receiver has shown so far.
    pub(super) fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Lists the requests that came since the last look.
    pub(super) fn look(&mut self) -> Outcome {
        loop {
            process::check_interrupt()?;
            let after = self.seen.last().map_or(0, |seen| seen.seq);
            let path = format!("requests?bin={BIN}&after={after}&limit={PAGE}");
            let page: Value = serde_json::from_slice(&self.call(&path)?).map_err(|error| {
                Fail::new(format_args!("the receiver's answer to {path}: {error}"))
            })?;
            let captures = page["requests"].as_array().ok_or_else(|| {
                Fail::new(format_args!("the receiver's answer to {path} has no list \"requests\""))
            })?;
            if let Some(evicted) = page["evicted"].as_u64().filter(|evicted| *evicted > 0) {
                return Err(Fail::new(format_args!(
                    "the receiver dropped {evicted} requests to make room"
                )));
            }
            for capture in captures {
                let last = self.seen.last().map_or(0, |seen| seen.seq);
                let seq = capture["seq"].as_u64().filter(|seq| *seq > last).ok_or_else(|| {
                    Fail::new(format_args!(
                        "the receiver lists request {} after {last}",
                        capture["seq"]
                    ))
                })?;
                self.seen.push(Seen { seq, id: read_capture(capture) });
            }
            if captures.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads the body of every request that was seen. The second part of the answer says which
    /// requests are not what a webhook should be.
    pub(super) fn read_back(&self) -> Outcome<(Vec<Arrival>, Vec<String>)> {
        let (mut arrivals, mut odd) = (Vec::new(), Vec::new());
        let mut progress = Progress::new("read back from the receiver", self.seen.len() as u64);
        for Seen { seq, id } in &self.seen {
            process::check_interrupt()?;
            match id {
                Ok(id) => {
                    let body = self.call(&format!("requests/{seq}/body"))?;
                    arrivals.push(Arrival { id: id.clone(), body });
                }
                Err(reason) => odd.push(format!("request {seq}: {reason}")),
            }
            progress.set(arrivals.len() as u64);
        }
        Ok((arrivals, odd))
    }

    fn call(&self, path: &str) -> Outcome<Vec<u8>> {
        let url = format!("{}/api/v1/{path}", self.admin);
        let failed =
            |reason: &dyn std::fmt::Display| Fail::new(format_args!("GET {url}: {reason}"));
        let mut answer = self
            .agent
            .get(&url)
            .header("authorization", format!("Bearer {}", self.token))
            .call()
            .map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(failed(&format_args!("answered {}", answer.status())));
        }
        answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| failed(&error))
    }
}

fn first_line(guard: &mut Guard) -> Outcome<String> {
    let lines = guard.lines();
    let started = Instant::now();
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => return Ok(line),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Fail::new("the receiver ended before it was ready"));
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() > START_MAX => {
                let limit = START_MAX.as_secs();
                return Err(Fail::new(format_args!("the receiver was not ready within {limit} s")));
            }
            Err(RecvTimeoutError::Timeout) => process::check_interrupt()?,
        }
    }
}

/// The event's id, where the request is what a webhook should be.
fn read_capture(capture: &Value) -> Result<String, String> {
    if !capture["problem"].is_null() || capture["truncated"] == true {
        return Err(format!("it is not whole: {}", capture["problem"]));
    }
    if capture["method"] != "POST" {
        return Err(format!("its method is {}, not POST", capture["method"]));
    }
    match header(capture, "content-type").as_slice() {
        ["application/json"] => {}
        other => return Err(format!("its content-type is {other:?}, not application/json")),
    }
    match header(capture, "webhook-id").as_slice() {
        [id] => Ok((*id).to_owned()),
        other => Err(format!("it has {} webhook-id headers instead of one", other.len())),
    }
}

fn header<'a>(capture: &'a Value, name: &str) -> Vec<&'a str> {
    let pairs = capture["headers"].as_array().into_iter().flatten();
    pairs
        .filter(|pair| pair[0].as_str().is_some_and(|found| found.eq_ignore_ascii_case(name)))
        .filter_map(|pair| pair[1].as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_capture_is_read_only_where_it_is_a_webhook() {
        let capture = |method: &str, headers: Value| json!({"method": method, "headers": headers});
        let kind = ["Content-Type", "application/json"];
        let good = capture("POST", json!([kind, ["Webhook-Id", "a"]]));
        assert_eq!(read_capture(&good).unwrap(), "a");
        for bad in [
            capture("GET", json!([kind, ["webhook-id", "a"]])),
            capture("POST", json!([kind])),
            capture("POST", json!([kind, ["webhook-id", "a"], ["webhook-id", "b"]])),
            capture("POST", json!([["webhook-id", "a"]])),
            json!({"method": "POST", "headers": good["headers"], "problem": "cut off"}),
            capture("POST", json!([["content-type", "text/plain"], ["webhook-id", "a"]])),
        ] {
            assert!(read_capture(&bad).is_err(), "{bad}");
        }
    }
}
