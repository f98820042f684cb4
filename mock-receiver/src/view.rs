//! Captures as JSON documents, for the API and for the program's output.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use crate::{
    Capture, Closer, Forwarded, Timeline,
    capture::{Headers, Record},
};

/// A capture in a list: everything but the body.
#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    seq: u64,
    bin: &'a str,
    received_at: String,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    version: &'a str,
    peer: String,
    connection: u64,
    request: u64,
    /// `null` where the connection was left hanging or reset.
    status: Option<u16>,
    event: Option<String>,
    headers: Vec<(String, String)>,
    body_bytes: u64,
    /// Why it is not whole, or `null`.
    problem: Option<&'static str>,
    /// The same in a sentence.
    reason: Option<&'a str>,
    /// Whether `body_bytes` counts more than what is kept.
    truncated: bool,
    duration_ms: f64,
    timeline: Moments,
    /// Where it was forwarded to and what came of it, or `null`.
    forwarded: Option<Forward<'a>>,
}

#[derive(Serialize)]
struct Forward<'a> {
    to: &'a str,
    status: Option<u16>,
    /// Why the target's answer was not passed back, or `null`.
    error: Option<&'a str>,
    duration_ms: f64,
}

/// A timeline in milliseconds since the connection was accepted.
#[derive(Serialize)]
struct Moments {
    tls_ms: Option<f64>,
    first_byte_ms: f64,
    head_ms: f64,
    body_ms: f64,
    answer_began_ms: Option<f64>,
    answer_ended_ms: Option<f64>,
    closed_ms: Option<f64>,
    closed_by: Option<Closer>,
}

impl Moments {
    fn of(timeline: &Timeline) -> Self {
        let millis = |at: Duration| at.as_micros() as f64 / 1000.0;
        Self {
            tls_ms: timeline.tls.map(millis),
            first_byte_ms: millis(timeline.first_byte),
            head_ms: millis(timeline.head),
            body_ms: millis(timeline.body),
            answer_began_ms: timeline.answer_began().map(millis),
            answer_ended_ms: timeline.answer_ended().map(millis),
            closed_ms: timeline.closed().map(millis),
            closed_by: timeline.closed_by(),
        }
    }
}

impl<'a> Summary<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        Self {
            seq: record.seq,
            bin: &record.bin,
            received_at: format!("{:.3}", record.at),
            method: &record.method,
            path: &record.path,
            query: record.query.as_deref(),
            version: record.version,
            peer: record.peer.to_string(),
            connection: record.connection,
            request: record.request,
            status: record.status,
            event: record.event().map(Into::into),
            headers: record.headers.to_pairs(),
            body_bytes: record.body_bytes,
            problem: record.problem.map(crate::Problem::as_str),
            reason: record.reason.as_deref(),
            truncated: record.body_bytes > record.body.len() as u64,
            duration_ms: record.duration.as_micros() as f64 / 1000.0,
            timeline: Moments::of(&record.timeline),
            forwarded: record.forwarded.as_ref().map(|forwarded| Forward {
                to: &forwarded.to,
                status: forwarded.status,
                error: forwarded.error.as_deref(),
                duration_ms: forwarded.duration.as_micros() as f64 / 1000.0,
            }),
        }
    }
}

/// One capture with everything.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    trailers: Vec<(String, String)>,
    /// Request line and header lines, exactly as sent.
    head_base64: String,
    /// The body where it is UTF-8.
    body: Option<&'a str>,
    /// The body where it is not.
    body_base64: Option<String>,
    /// What the target answered, where it was forwarded and answered.
    target_answer: Option<TargetAnswer<'a>>,
}

#[derive(Serialize)]
struct TargetAnswer<'a> {
    headers: Vec<(String, String)>,
    trailers: Vec<(String, String)>,
    /// Status line and header lines, exactly as sent.
    head_base64: String,
    body: Option<&'a str>,
    body_base64: Option<String>,
}

impl<'a> TargetAnswer<'a> {
    fn of(forwarded: &'a Forwarded) -> Self {
        let body = std::str::from_utf8(&forwarded.body).ok();
        Self {
            headers: forwarded.headers.to_pairs(),
            trailers: forwarded.trailers.to_pairs(),
            head_base64: STANDARD.encode(forwarded.headers.head()),
            body,
            body_base64: body.is_none().then(|| STANDARD.encode(&forwarded.body)),
        }
    }
}

impl<'a> Detail<'a> {
    fn of(record: &'a Record) -> Self {
        let body = record.text();
        let answered = record.forwarded.as_ref().filter(|one| one.status.is_some());
        Self {
            summary: Summary::of(record),
            trailers: Headers::to_pairs(&record.trailers),
            head_base64: STANDARD.encode(record.head()),
            body,
            body_base64: body.is_none().then(|| STANDARD.encode(&record.body)),
            target_answer: answered.map(|forwarded| TargetAnswer::of(forwarded)),
        }
    }
}

/// The document of `GET /api/v1/requests/{seq}`: everything, the body as text where it is UTF-8
/// and in base64 where it is not.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Detail::of(self).serialize(serializer)
    }
}

/// As the [`Record`].
impl Serialize for Capture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Detail::of(self).serialize(serializer)
    }
}
