//! What a request looked like: raw bytes first, every other view derived from them.

mod h1;
mod h2;
mod headers;
mod io;
mod parse;
mod relay;
mod reply;
mod serve;
mod timeline;

use std::{borrow::Cow, fmt, net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

pub use headers::Headers;
pub(crate) use relay::Relayed;
pub(crate) use serve::{BIN_BYTES_MAX, serve};
pub use timeline::{Closer, Timeline};

use crate::Forwarded;

/// One request as it was received, byte for byte.
///
/// A cheap handle (one reference count) to a [`Record`], whose fields it gives:
/// `capture.body`, `capture.path`, `capture.header("webhook-id")`.
#[derive(Clone)]
pub struct Capture(Arc<Record>);

impl Capture {
    pub(crate) fn new(record: Record) -> Self {
        Self(Arc::new(record))
    }

    pub(crate) fn into_record(self) -> Record {
        Arc::unwrap_or_clone(self.0)
    }
}

impl Deref for Capture {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capture({})", self.0)
    }
}

/// The facts of a [`Capture`].
#[derive(Clone)]
#[non_exhaustive]
pub struct Record {
    /// Its number, from 1, in the order of capture over all bins. Zero in a closure that decides
    /// the answer, because the number is given together with the answer.
    pub seq: u64,
    /// The bin: the first segment of the path, as sent.
    pub bin: Arc<str>,
    /// When the head of the request was complete.
    pub at: Timestamp,
    /// The method as sent (`POST`).
    pub method: String,
    /// The path as sent, with the bin and without the query; percent-encoding is kept.
    pub path: String,
    /// What follows the first `?` of the target, as sent; `None` without a `?`.
    pub query: Option<String>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// The header lines in the order, case and number in which they were sent. HTTP/2 has no
    /// lines: they are written as HTTP/1.1 would have them, `:authority` as `host`, and those of
    /// the same name where the first of them stood.
    pub headers: Headers,
    /// The trailer lines after a chunked body; usually empty.
    pub trailers: Headers,
    /// The body after the transfer coding: the bytes that the sender meant, and signed.
    pub body: Bytes,
    /// How many bytes of the body were read; more than `body.len()` where it was cut.
    pub body_bytes: u64,
    /// Why the request is not whole, when it is not.
    pub problem: Option<Problem>,
    /// The problem in a sentence.
    pub reason: Option<String>,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// The connection's number, from 1, in the order of acceptance.
    pub connection: u64,
    /// The request's number on its connection, from 1.
    pub request: u64,
    /// The status of the answer; `None` when the connection was left hanging or reset.
    pub status: Option<u16>,
    /// From the complete head to the complete body.
    pub duration: Duration,
    /// When what happened.
    pub timeline: Timeline,
    /// What came of forwarding it, where its bin forwards.
    pub forwarded: Option<Box<Forwarded>>,
}

/// Why a [`Capture`] is not a whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The body is larger than the receiver keeps; the beginning is kept, the answer was 413.
    TooLarge,
    /// The connection ended before head and body were complete.
    Incomplete,
    /// Nothing of the body came for too long; the answer was 408.
    Stalled,
    /// Too many bytes of bodies were on their way at once; the answer was 503.
    Overloaded,
    /// It is not HTTP, or its framing makes no sense; kept as far as it came, the answer was 400,
    /// 431 or 505.
    Malformed,
    /// A [`Fault`](crate::Fault) of ours ended it before its body was complete.
    CutOff,
}

impl Problem {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::TooLarge,
        Self::Incomplete,
        Self::Stalled,
        Self::Overloaded,
        Self::Malformed,
        Self::CutOff,
    ];

    /// The name by which the API and the program call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::Stalled => "stalled",
            Self::Overloaded => "overloaded",
            Self::Malformed => "malformed",
            Self::CutOff => "cut_off",
        }
    }
}

impl Record {
    /// The first value of a header, by its name in any case. `None` too where the value is not
    /// UTF-8: see [`Headers::bytes`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body parsed as JSON.
    ///
    /// For convenience only: numbers beyond 64 bits lose digits here, never in `body`.
    ///
    /// # Errors
    /// When the body is not JSON of that shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The body as text; `None` where it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// The field `event` of a JSON body, as the guide's envelope has it; looked for in bodies of
    /// up to 1 MiB.
    pub fn event(&self) -> Option<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            event: Cow<'a, str>,
        }
        // The first byte tells most other bodies apart without parsing them.
        let object = self.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        (object && self.body.len() <= 1 << 20)
            .then(|| serde_json::from_slice::<Envelope<'_>>(&self.body).ok())
            .flatten()
            .map(|envelope| envelope.event)
    }

    /// Whether all of it arrived and was kept.
    pub fn is_whole(&self) -> bool {
        self.problem.is_none()
    }

    /// Request line and header lines exactly as sent, with the empty line that ends them.
    pub fn head(&self) -> &[u8] {
        self.headers.head()
    }

    /// A request like those that senders of webhooks send, for tests.
    #[cfg(test)]
    pub(crate) fn sample(bin: Arc<str>) -> Self {
        let head = "POST /orders/1 HTTP/1.1\r\nHost: 127.0.0.1:4010\r\nUser-Agent: sender/1.0\r\n\
            Content-Type: application/json\r\nWebhook-Id: msg_2b7f0c\r\n\
            Webhook-Timestamp: 1764513045\r\nContent-Length: 400\r\n\r\n";
        Self {
            seq: 0,
            bin,
            at: Timestamp::UNIX_EPOCH,
            method: "POST".to_owned(),
            path: "/orders/1".to_owned(),
            query: None,
            version: "HTTP/1.1",
            headers: Headers::of_head(Bytes::copy_from_slice(head.as_bytes())),
            trailers: Headers::default(),
            body: Bytes::new(),
            body_bytes: 0,
            problem: None,
            reason: None,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            connection: 1,
            request: 1,
            status: Some(200),
            duration: Duration::ZERO,
            timeline: Timeline::new(None, Duration::ZERO),
            forwarded: None,
        }
    }

    /// What it costs in memory, about.
    pub(crate) fn cost(&self) -> usize {
        /// Index entries, the late part of the timeline and the allocator's own share.
        const OVERHEAD: usize = 240;
        size_of::<Self>()
            + OVERHEAD
            + self.head().len()
            + self.trailers.head().len()
            + self.body.len()
            + self.path.len()
            + self.query.as_ref().map_or(0, String::len)
            + self.reason.as_ref().map_or(0, String::len)
            + self.forwarded.as_ref().map_or(0, |forwarded| forwarded.cost())
    }
}

/// One line for people: `#7 POST /orders?v=2 → 200, 45 B, event match`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {}", self.seq, self.method, self.path)?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        match self.status {
            Some(status) => write!(f, " → {status}")?,
            None => f.write_str(" → no answer")?,
        }
        write!(f, ", {} B", self.body_bytes)?;
        if let Some(event) = self.event() {
            write!(f, ", event {}", event.escape_debug())?;
        }
        if let Some(problem) = self.problem {
            write!(f, ", {}", problem.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({self})")
    }
}
