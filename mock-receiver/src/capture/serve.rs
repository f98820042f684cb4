//! The capture address: what every connection goes through, whatever is spoken on it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use jiff::Timestamp;
use tokio::net::TcpStream;

use super::{
    Headers, Problem, Record, Timeline, h1, h2,
    io::{Socket, Wire},
    relay::relay,
    timeline::{Closer, Late},
};
use crate::{
    forward::Target,
    receiver::Shared,
    script::{Answer, Fault, Scripted, keep_default},
    store::TooManyBins,
    tls,
};

/// The longest name of a bin.
pub(crate) const BIN_BYTES_MAX: usize = 128;
/// Where requests are kept whose bin cannot be made out.
const STRAY_BIN: &str = "malformed";
/// How much more than the largest body is read, and thrown away, so that the sender reads our
/// 413 in the place of a reset.
pub(super) const DRAIN_BYTES_MAX: u64 = 64 << 20;

/// What is known of a connection.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    peer: SocketAddr,
    number: u64,
    pub(super) accepted: Instant,
    tls: Option<Duration>,
    requests: AtomicU64,
    /// The timeline of the last request, which learns how the connection ended.
    last: Mutex<Option<Late>>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    tls: Option<tls::Acceptor>,
    stream: TcpStream,
    peer: SocketAddr,
    number: u64,
) {
    let accepted = Instant::now();
    let limits = shared.limits;
    let (socket, tls, speaks_h2) = match tls {
        None => (Socket::Plain(stream), None, false),
        Some(acceptor) => match Box::pin(acceptor.accept(stream, limits.idle_timeout)).await {
            Ok(stream) => {
                let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Socket::Tls(Box::new(stream)), Some(accepted.elapsed()), speaks_h2)
            }
            Err(error) => {
                tracing::debug!(connection = number, %peer, error = %error, "no TLS handshake");
                return;
            }
        },
    };
    let (requests, last) = (AtomicU64::new(0), Mutex::new(None));
    let connection = Connection { shared, peer, number, accepted, tls, requests, last };
    let mut wire = Wire::new(socket, limits.idle_timeout, limits.body_timeout);
    let closer = if speaks_h2 || h2::is_preface(&mut wire).await {
        let connection = Arc::new(connection);
        let closer = h2::serve(connection.clone(), wire).await;
        connection.ended(closer);
        return;
    } else {
        h1::serve(&connection, &mut wire).await
    };
    connection.ended(closer);
}

/// The outer facts of a request, whatever was spoken.
pub(super) struct Facts<'a> {
    pub(super) head: Bytes,
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) version: &'static str,
    pub(super) first_byte: Duration,
}

impl Connection {
    /// The record of a request whose head is complete, or the answer to one that has no bin.
    pub(super) fn record(&self, facts: Facts<'_>) -> Result<Record, Answer> {
        let (path, query) = split(facts.target);
        let Some(bin) = bin_of(path) else {
            return Err(explain(404, HOW_TO));
        };
        if bin.len() > BIN_BYTES_MAX {
            let why = "the name of a bin, the first segment, has at most 128 bytes";
            return Err(explain(404, why));
        }
        let bin = self.shared.store.bin(bin);
        let bin = bin.map_err(|TooManyBins| explain(503, &TooManyBins.to_string()))?;
        let mut timeline = Timeline::new(self.tls, facts.first_byte);
        timeline.head = self.accepted.elapsed();
        timeline.body = timeline.head;
        Ok(Record {
            seq: 0,
            bin,
            at: Timestamp::now(),
            method: facts.method.to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            version: facts.version,
            headers: Headers::of_head(facts.head),
            trailers: Headers::default(),
            body: Bytes::new(),
            body_bytes: 0,
            problem: None,
            reason: None,
            peer: self.peer,
            connection: self.number,
            request: self.requests.fetch_add(1, Ordering::Relaxed) + 1,
            status: None,
            duration: Duration::ZERO,
            timeline,
            forwarded: None,
        })
    }

    /// Keeps what came of a request whose head does not make sense, under the bin that it seems
    /// to be for.
    pub(super) fn keep_malformed(
        &self,
        head: &Bytes,
        first_byte: Duration,
        (problem, reason): (Problem, String),
        status: Option<u16>,
    ) -> Late {
        let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split_ascii_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let stray = bin_of(split(target).0).is_none_or(|bin| bin.len() > BIN_BYTES_MAX);
        let facts =
            |target| Facts { head: head.clone(), method, target, version: "HTTP/1.1", first_byte };
        let root = format!("/{STRAY_BIN}");
        let record = self.record(facts(if stray { &root } else { target }));
        let Ok(mut record) = record else {
            return Late::default(); // No room for its bin: nothing can be kept.
        };
        if stray {
            split(target).0.clone_into(&mut record.path);
        }
        (record.problem, record.reason, record.status) = (Some(problem), Some(reason), status);
        let late = self.follow(&record);
        self.shared.store.push(record);
        late
    }

    /// Takes a request whose body has come, or has not, and decides the answer; `None` where the
    /// sender is gone.
    ///
    /// Where the bin forwards, and no rule of its scenario answers, that waits for the target.
    pub(super) async fn take(&self, mut record: Record, body: Collected) -> Option<Answer> {
        record.timeline.body = self.accepted.elapsed();
        record.duration = record.timeline.body.saturating_sub(record.timeline.head);
        record.trailers = body.trailers;
        (record.body, record.body_bytes) = (body.kept, body.read);
        let Some((problem, reason)) = body.problem else {
            let target = self.shared.forwards.find(&record.bin);
            let scripted = match self.shared.scripts.find(&record.bin) {
                Some(script) => script.answer(record, &self.shared.store, target.is_some()),
                None if target.is_some() => Scripted::Passed(Box::new(record), None),
                None => Scripted::Answer(keep_default(record, &self.shared.store)),
            };
            return Some(match (scripted, target) {
                (Scripted::Answer(answer), _) => answer,
                (Scripted::Passed(record, fault), Some(target)) => {
                    self.forward(*record, fault, &target).await
                }
                (Scripted::Passed(record, _), None) => keep_default(*record, &self.shared.store),
            });
        };
        let status = match problem {
            Problem::TooLarge => 413,
            Problem::Stalled => 408,
            Problem::Overloaded => 503,
            Problem::Malformed => 400,
            Problem::Incomplete | Problem::CutOff => 0,
        };
        (record.problem, record.status) = (Some(problem), Some(status).filter(|&code| code > 0));
        let answer = (status > 0).then(|| explain(status, &reason));
        record.reason = Some(reason);
        self.shared.store.push(record);
        answer
    }

    /// Passes a request on and keeps it together with the target's answer. What goes wrong with
    /// the bin's answers goes wrong with the target's.
    async fn forward(&self, mut record: Record, fault: Option<Fault>, target: &Target) -> Answer {
        let (mut answer, forwarded) = relay(&self.shared, target, &record).await;
        answer.fault = fault;
        record.forwarded = Some(Box::new(forwarded));
        record.status = answer.status_sent();
        self.shared.store.push(record);
        answer
    }

    /// Takes a request that a fault has ended; it uses up no step of its bin's scenario.
    pub(super) fn take_cut(&self, mut record: Record, body: Collected) {
        record.timeline.body = self.accepted.elapsed();
        record.duration = record.timeline.body.saturating_sub(record.timeline.head);
        (record.body, record.body_bytes) = (body.kept, body.read);
        (record.problem, record.reason) = body.problem.unzip();
        self.shared.store.push(record);
    }

    /// The late part of the timeline of what is now the last request.
    pub(super) fn follow(&self, record: &Record) -> Late {
        let late = record.timeline.late();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(late.clone());
        late
    }

    fn ended(&self, closer: Closer) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(late) = last {
            late.closed(self.accepted, closer);
        }
    }
}

/// A body, as far as it came.
pub(super) struct Collected {
    pub(super) kept: Bytes,
    pub(super) read: u64,
    pub(super) trailers: Headers,
    pub(super) problem: Option<(Problem, String)>,
}

impl Collected {
    pub(super) fn none() -> Self {
        Self { kept: Bytes::new(), read: 0, trailers: Headers::default(), problem: None }
    }

    pub(super) fn refused(problem: Problem, why: String) -> Self {
        Self { problem: Some((problem, why)), ..Self::none() }
    }
}

/// The part of a body that has come, within all bounds and in memory of its own.
pub(super) struct Kept<'a> {
    bytes: Vec<u8>,
    read: u64,
    body_bytes_max: usize,
    inflight: &'a AtomicUsize,
    inflight_max: usize,
    /// Ours of the bytes that are on their way.
    ours: usize,
}

/// A larger claim in `content-length` is not believed before the bytes come.
const RESERVE_BYTES_MAX: u64 = 64 << 10;

impl<'a> Kept<'a> {
    pub(super) fn new(shared: &'a Shared, claimed: u64) -> Self {
        let bytes = Vec::with_capacity(claimed.min(RESERVE_BYTES_MAX) as usize);
        let (body_bytes_max, inflight_max) =
            (shared.limits.body_bytes_max, shared.limits.inflight_bytes_max);
        Self { bytes, read: 0, body_bytes_max, inflight: &shared.inflight, inflight_max, ours: 0 }
    }

    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Takes more; the error says why no more is taken.
    pub(super) fn add(&mut self, data: &[u8]) -> Result<(), (Problem, String)> {
        self.read += data.len() as u64;
        let room = data.len().min(self.body_bytes_max - self.bytes.len());
        self.ours += room;
        if self.inflight.fetch_add(room, Ordering::Relaxed) + room > self.inflight_max {
            let why = "too many bytes of bodies are on their way at once".to_owned();
            return Err((Problem::Overloaded, why));
        }
        self.bytes.extend_from_slice(&data[..room]);
        if self.read > self.body_bytes_max as u64 + DRAIN_BYTES_MAX {
            return Err(too_large(self.body_bytes_max));
        }
        Ok(())
    }

    pub(super) fn done(mut self, ended: Result<Headers, (Problem, String)>) -> Collected {
        let large = self.read > self.body_bytes_max as u64;
        let (trailers, problem) = match ended {
            Ok(trailers) => (trailers, large.then(|| too_large(self.body_bytes_max))),
            Err(problem) => (Headers::default(), Some(problem)),
        };
        let kept = std::mem::take(&mut self.bytes).into_boxed_slice().into();
        Collected { kept, read: self.read, trailers, problem }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.inflight.fetch_sub(self.ours, Ordering::Relaxed);
    }
}

/// What is left of a body that a fault does not let be read.
pub(super) fn stopped() -> Collected {
    let why = "reading was stopped behind the head, as the fault asks for".to_owned();
    Collected::refused(Problem::CutOff, why)
}

pub(super) fn too_large(max: usize) -> (Problem, String) {
    (Problem::TooLarge, format!("the body exceeds {max} bytes"))
}

pub(super) fn stalled(limit: Duration) -> (Problem, String) {
    (Problem::Stalled, format!("no byte of the body came for {limit:?}"))
}

/// Path and query of a target, without the origin that it may have (RFC 9112 §3.2.2).
fn split(target: &str) -> (&str, Option<&str>) {
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// The first segment of the path.
fn bin_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next().filter(|bin| !bin.is_empty())
}

const HOW_TO: &str = "nothing is captured here: send to /BIN or /BIN/any/path with any method, \
    and read it back from the admin address under /api/v1/requests?bin=BIN";

/// An answer of the receiver's own.
pub(super) fn explain(status: u16, detail: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = crate::admin::problem_document(status, detail).into();
    let json = HeaderValue::from_static("application/problem+json");
    let headers = vec![(CONTENT_TYPE, json)];
    let delay = Duration::ZERO;
    Answer { status, headers, body, delay, fault: None, relayed: None }
}
