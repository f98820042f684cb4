//! Several events in one request: how they are joined, and what its answer says of each.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use postrider::Timestamp;
use postrider::config::{ByteSize, HumanDuration};
use postrider::delivery::{Ack, Cause, Nack, Outcome};
use postrider::sink::Problem;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::answer::Answer;
use super::permanent::Statuses;
use super::request::Format;

/// Most events of one request that may be asked for.
pub const BATCH_EVENTS_MAX: u32 = 1000;
/// Largest `bytes` of a batch that may be asked for.
pub const BATCH_BYTES_MAX: u64 = 64 << 20;
/// Longest `linger` of a batch that may be asked for.
pub const BATCH_LINGER_MAX: Duration = Duration::from_secs(10);

/// How many events go into one request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HttpBatch")]
pub struct BatchSettings {
    /// Most events of one request, 1 to 1000.
    #[serde(default = "events_default")]
    #[schemars(range(min = 1, max = 1000))]
    pub events: u32,
    /// Most bytes of a request's body, at most 64 MiB; a single larger event goes alone.
    #[serde(default = "bytes_default")]
    pub bytes: ByteSize,
    /// How long the first event of a batch waits for others, at most 10s. A lane that is behind
    /// does not wait.
    #[serde(default = "linger_default")]
    pub linger: HumanDuration,
    /// How the events are joined.
    #[serde(default)]
    pub form: Form,
    /// What the answer says: about all events by its status, or about each.
    #[serde(default)]
    pub answer: AnswerKind,
}

fn events_default() -> u32 {
    100
}

fn bytes_default() -> ByteSize {
    ByteSize(1 << 20)
}

fn linger_default() -> HumanDuration {
    HumanDuration(Duration::from_millis(5))
}

/// How events are joined into one body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Form {
    /// A JSON array of what the format makes of each; of the format "cloudevents" that is the
    /// batched content mode of its HTTP binding (§3.3).
    #[default]
    Array,
    /// One line for each, `application/x-ndjson`.
    Ndjson,
}

/// What a batch's answer tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum AnswerKind {
    /// Its status holds for every event.
    #[default]
    Whole,
    /// A success lists each event: `{"results":[{"id":ID,"status":200}]}`. Any other status holds
    /// for every event.
    PerEvent,
}

impl BatchSettings {
    pub(super) fn check(&self, format: Format, problems: &mut Vec<Problem>) {
        if !(1..=BATCH_EVENTS_MAX).contains(&self.events) {
            let message = format!("expected 1 to {BATCH_EVENTS_MAX}, found {}", self.events);
            problems.push(Problem::new("batch.events", message));
        }
        if !(1..=BATCH_BYTES_MAX).contains(&self.bytes.0) {
            let most = ByteSize(BATCH_BYTES_MAX);
            let message = format!("expected 1B to {most}, found {}", self.bytes);
            problems.push(Problem::new("batch.bytes", message));
        }
        if self.linger.0 > BATCH_LINGER_MAX {
            let most = HumanDuration(BATCH_LINGER_MAX);
            let message = format!("expected at most {most}, found {}", self.linger);
            problems.push(Problem::new("batch.linger", message));
        }
        if format == Format::CloudEventsBinary {
            let message = "the format \"cloudevents-binary\" has one event in each request";
            let problem = Problem::new("batch", message);
            problems.push(problem.remedy("choose the format \"cloudevents\", or take it out"));
        }
    }

    /// The content type of a batch in this format.
    pub(super) fn content_type(&self, format: Format) -> HeaderValue {
        HeaderValue::from_static(match (self.form, format) {
            (Form::Ndjson, _) => "application/x-ndjson",
            (Form::Array, Format::CloudEvents) => {
                "application/cloudevents-batch+json; charset=utf-8"
            }
            (Form::Array, _) => "application/json",
        })
    }

    /// Splits bodies into requests, by their places: each within the bounds, but for a single event
    /// that is larger.
    pub(super) fn split(&self, bodies: &[Bytes]) -> Vec<std::ops::Range<usize>> {
        let mut parts = Vec::new();
        let (mut from, mut bytes) = (0, 2);
        for (at, body) in bodies.iter().enumerate() {
            let more = body.len() + 1;
            let is_full = at - from >= self.events as usize || bytes + more > self.bytes.0 as usize;
            if at > from && is_full {
                parts.push(from..at);
                (from, bytes) = (at, 2);
            }
            bytes += more;
        }
        if from < bodies.len() {
            parts.push(from..bodies.len());
        }
        parts
    }

    /// One body of several.
    pub(super) fn join(&self, bodies: &[Bytes]) -> Bytes {
        let bytes: usize = bodies.iter().map(|body| body.len() + 1).sum();
        let mut joined = Vec::with_capacity(bytes + 2);
        match self.form {
            Form::Array => {
                joined.push(b'[');
                for (at, body) in bodies.iter().enumerate() {
                    if at > 0 {
                        joined.push(b',');
                    }
                    joined.extend_from_slice(body);
                }
                joined.push(b']');
            }
            Form::Ndjson => {
                for body in bodies {
                    // In JSON a line break is white space between values (RFC 8259 §2): a blank
                    // says the same.
                    let line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
                    joined.extend(body.iter().map(line));
                    joined.push(b'\n');
                }
            }
        }
        joined.into()
    }

    /// What the answer means to the event of each id.
    pub(super) fn outcomes(
        &self,
        answer: &Answer,
        ids: &[String],
        now: Timestamp,
        permanent: &[Statuses],
    ) -> Vec<Outcome> {
        let whole = answer.outcome_with(now, permanent);
        if self.answer == AnswerKind::Whole || whole.is_err() {
            return vec![whole; ids.len()];
        }
        let Ok(Results { results }) = serde_json::from_slice(&answer.body) else {
            let why = if answer.complete {
                "the answer of a batch does not list its events: expected {\"results\":[…]}"
            } else {
                "the answer of a batch is longer than response_bytes_max"
            };
            let nack = Nack::retry(Cause::Protocol, why).status(answer.status.as_u16());
            return vec![Err(nack.answer(&answer.body)); ids.len()];
        };
        let by_id: HashMap<&str, &ResultOf> =
            results.iter().map(|result| (result.id.as_str(), result)).collect();
        let outcome = |id: &String| match by_id.get(id.as_str()) {
            Some(result) => result.outcome(answer, now, permanent),
            None => Err(Nack::retry(Cause::Protocol, "the answer of the batch does not name it")
                .status(answer.status.as_u16())),
        };
        ids.iter().map(outcome).collect()
    }
}

/// An id for a request of several events: the same for the same events in the same order.
pub(super) fn id(ids: &[String]) -> String {
    let mut digest = Sha256::new();
    for id in ids {
        digest.update(id.as_bytes());
        digest.update(b"\n");
    }
    let digest = digest.finalize();
    let hex = digest[..16].iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("batch_".to_owned()).chain(hex).collect()
}

#[derive(Deserialize)]
struct Results {
    results: Vec<ResultOf>,
}

/// What a receiver says of one event.
#[derive(Deserialize)]
struct ResultOf {
    id: String,
    /// As the status of an answer to this event alone.
    status: u16,
    #[serde(default)]
    message: String,
}

impl ResultOf {
    fn outcome(&self, answer: &Answer, now: Timestamp, permanent: &[Statuses]) -> Outcome {
        let Ok(status) = StatusCode::from_u16(self.status) else {
            let message = format!("the answer of the batch gives it the status {}", self.status);
            return Err(Nack::retry(Cause::Protocol, message));
        };
        if status.is_success() {
            return Ok(Ack::new().status(self.status).answer(self.message.as_bytes()));
        }
        let own = Answer {
            status,
            headers: http::HeaderMap::new(),
            body: Bytes::copy_from_slice(self.message.as_bytes()),
            complete: true,
            peer: answer.peer,
        };
        own.outcome_with(now, permanent)
    }
}
