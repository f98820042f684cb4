//! The capture address: takes requests in, keeps them, answers as scripted.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode, Version,
    body::{Body, Incoming},
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Headers, Problem, Record,
    wire::{HEAD_BYTES_MAX, Tee, Wire},
};
use crate::{
    Response,
    receiver::Shared,
    script::{Kind, keep_default},
    store::TooManyBins,
};

/// The longest name of a bin.
pub(crate) const BIN_BYTES_MAX: usize = 128;
/// How much more than the largest body is read, and thrown away, so that the sender reads our
/// 413 in the place of a reset.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// A larger claim in `content-length` is not believed before the bytes come.
const RESERVE_BYTES_MAX: usize = 64 << 10;

type Reply = hyper::Response<Full<Bytes>>;

/// The connection ends in the place of an answer.
#[derive(Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ended without an answer")
    }
}

impl std::error::Error for Ended {}

struct Connection {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    peer: SocketAddr,
    number: u64,
    requests: AtomicU64,
}

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, number: u64) {
    let wire = Arc::new(Wire::default());
    let io = TokioIo::new(Tee::new(stream, wire.clone(), shared.limits.idle_timeout));
    let requests = AtomicU64::new(0);
    let connection = Arc::new(Connection { shared, wire, peer, number, requests });
    let served = http1::Builder::new()
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX)
        .serve_connection(
            io,
            service_fn(|request| {
                let connection = connection.clone();
                async move {
                    let reply = handle(&connection, request).await;
                    connection.wire.answered();
                    reply
                }
            }),
        )
        .await;
    if let Err(error) = served {
        tracing::debug!(connection = number, %peer, error = %error, "capture connection ended");
    }
}

async fn handle(connection: &Connection, request: Request<Incoming>) -> Result<Reply, Ended> {
    let at = Timestamp::now();
    let began = Instant::now();
    let number = connection.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let head = connection.wire.next_head().unwrap_or_default();
    let Some(target) = target_of(&head, &request) else {
        tracing::error!(connection = connection.number, "lost the framing of a connection");
        return Ok(explain(500, "mock-receiver lost track of this connection; please report it"));
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Some(bin) = bin_of(path) else {
        return Ok(explain(404, HOW_TO));
    };
    if bin.len() > BIN_BYTES_MAX {
        return Ok(explain(404, "the name of a bin, the first segment, has at most 128 bytes"));
    }
    let shared = &connection.shared;
    let Ok(bin) = shared.store.bin(bin) else {
        return Ok(explain(503, &TooManyBins.to_string()));
    };
    let (path, query) = (path.to_owned(), query.map(str::to_owned));
    let method = request.method().as_str().to_owned();
    let version = if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let body = collect(request, shared).await;
    let trailers = connection.wire.trailers(number).filter(|lines| lines.len() > 2);
    let record = Record {
        seq: 0,
        bin,
        at,
        method,
        path,
        query,
        version,
        headers: Headers::of_head(head),
        trailers: trailers.map_or_else(Headers::default, Headers::of_lines),
        body: body.kept,
        body_bytes: body.read,
        problem: body.problem,
        peer: connection.peer,
        connection: connection.number,
        request: number,
        status: None,
        duration: began.elapsed(),
    };
    if let Some(problem) = record.problem {
        return refuse(record, problem, shared);
    }
    let response = match shared.scripts.find(&record.bin) {
        Some(script) => script.answer(record, &shared.store),
        None => keep_default(record, &shared.store),
    };
    answer(response, &connection.wire).await
}

/// The target as sent, if the head is that of this request: evidence must not be mixed up.
fn target_of<'a>(head: &'a [u8], request: &Request<Incoming>) -> Option<&'a str> {
    let line = head.split(|&byte| byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    // The origin of an absolute target (RFC 9112 §3.2.2) is not part of the path.
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    if method == "CONNECT" {
        return Some(target); // An authority (RFC 9112 §3.2.3), which hyper has no path for.
    }
    let path = target.split(['?', '#']).next()?;
    (method == request.method().as_str() && path == request.uri().path()).then_some(target)
}

/// The first segment of the path.
fn bin_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next().filter(|bin| !bin.is_empty())
}

struct Collected {
    kept: Bytes,
    read: u64,
    problem: Option<Problem>,
}

/// Reads the body within all bounds, into memory of its own: frames of hyper share large buffers.
async fn collect(request: Request<Incoming>, shared: &Shared) -> Collected {
    let max = shared.limits.body_bytes_max;
    let expects = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    if body.is_end_stream() {
        return Collected { kept: Bytes::new(), read: 0, problem: None };
    }
    let claimed = body.size_hint().exact().unwrap_or(0);
    if expects && claimed > max as u64 {
        // It asked whether to send, so it can be told before.
        return Collected { kept: Bytes::new(), read: 0, problem: Some(Problem::TooLarge) };
    }
    let mut kept = Vec::with_capacity((claimed as usize).min(RESERVE_BYTES_MAX));
    let inflight_max = shared.limits.inflight_bytes_max;
    let mut inflight = Inflight { all: &shared.inflight, ours: 0, max: inflight_max };
    let mut read = 0;
    let problem = loop {
        let data = match timeout(shared.limits.body_timeout, body.frame()).await {
            Err(_) => break Some(Problem::Stalled),
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some(Problem::Incomplete),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        read += data.len() as u64;
        let room = data.len().min(max - kept.len());
        if !inflight.add(room) {
            break Some(Problem::Overloaded);
        }
        kept.extend_from_slice(&data[..room]);
        if read > max as u64 + DRAIN_BYTES_MAX {
            break None;
        }
    };
    let problem = problem.or((read > max as u64).then_some(Problem::TooLarge));
    Collected { kept: kept.into_boxed_slice().into(), read, problem }
}

/// A body's share of the bytes that may be on their way.
struct Inflight<'a> {
    all: &'a AtomicUsize,
    ours: usize,
    max: usize,
}

impl Inflight<'_> {
    fn add(&mut self, bytes: usize) -> bool {
        self.ours += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.ours, Ordering::Relaxed);
    }
}

/// Keeps a request that is not whole, without a step of its bin's script.
fn refuse(mut record: Record, problem: Problem, shared: &Shared) -> Result<Reply, Ended> {
    let (status, why) = match problem {
        Problem::TooLarge => {
            (413, format!("the body exceeds {} bytes", shared.limits.body_bytes_max))
        }
        Problem::Stalled => {
            (408, format!("no byte of the body came for {:?}", shared.limits.body_timeout))
        }
        Problem::Overloaded => {
            (503, "too many bytes of bodies are on their way at once".to_owned())
        }
        Problem::Incomplete => {
            shared.store.push(record);
            return Err(Ended); // Nobody is there to read an answer.
        }
    };
    record.status = Some(status);
    shared.store.push(record);
    let mut reply = explain(status, &why);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(reply)
}

async fn answer(response: Response, wire: &Wire) -> Result<Reply, Ended> {
    if !response.delay.is_zero() {
        sleep(response.delay).await;
    }
    match response.kind {
        Kind::Hang => pending::<Result<Reply, Ended>>().await,
        Kind::Reset => {
            wire.reset_on_close();
            Err(Ended)
        }
        Kind::Status(status) => {
            let mut reply = Reply::new(Full::new(response.body));
            *reply.status_mut() = status;
            for (name, value) in response.headers {
                reply.headers_mut().append(name, value);
            }
            Ok(reply)
        }
    }
}

const HOW_TO: &str = "nothing is captured here: send to /BIN or /BIN/any/path with any method, \
    and read it back from the admin address under /api/v1/requests?bin=BIN";

fn explain(status: u16, detail: &str) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let document = crate::admin::problem_document(status, detail);
    let mut reply = Reply::new(Full::new(document.into()));
    *reply.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}
