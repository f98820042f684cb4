//! Forwarding one request: it goes to the target as it came, and the target's answer comes back
//! as it was, but for what belongs to a connection alone (RFC 9110 §7.6.1).

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Headers, Record,
    h1::Body,
    io::{Socket, Wire},
    parse::{self, Framing, HEAD_BYTES_MAX},
    serve::{Collected, Kept, explain},
};
use crate::{
    forward::{Forwarded, Target},
    receiver::Shared,
    script::Answer,
};

/// How much of a request is written at once; the time to take something is for each.
const PIECE: usize = 64 << 10;
/// How many interim answers (1xx) are passed over.
const INTERIM_MAX: usize = 32;

/// What of a target's answer an [`Answer`] does not hold in another form.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// What stands behind the status, as sent.
    pub(super) reason: Vec<u8>,
    /// The header lines that are passed on, in order and case; `content-length` is among them.
    pub(super) lines: Vec<(String, Vec<u8>)>,
    pub(super) trailers: Headers,
}

/// Why no answer is passed back: the status of ours, and a sentence.
type Failure = (u16, String);

/// Forwards a whole request and reads the answer whole, within `forward_timeout`.
pub(super) async fn relay(
    shared: &Shared,
    target: &Target,
    record: &Record,
) -> (Answer, Forwarded) {
    let began = Instant::now();
    let path = target.path_and_query(&record.bin, &record.path, record.query.as_deref());
    let to = format!("http://{}{path}", target.authority);
    let limit = shared.limits.forward_timeout;
    let exchange = Box::pin(exchange(shared, target, record, &path));
    let done = match timeout(limit, exchange).await {
        Ok(done) => done,
        Err(_) => Err((504, format!("no whole answer came within {limit:?}"))),
    };
    let mut forwarded = Forwarded {
        to,
        status: None,
        headers: Headers::default(),
        trailers: Headers::default(),
        body: Bytes::new(),
        error: None,
        duration: began.elapsed(),
    };
    let answer = match done {
        Ok(read) => {
            forwarded.status = Some(read.status.as_u16());
            forwarded.headers = read.headers.clone();
            forwarded.trailers = read.trailers.clone();
            forwarded.body = read.body.clone();
            read.answer()
        }
        Err((status, why)) => {
            let text = format!("{} was not forwarded to {target}: {why}", record.bin);
            forwarded.error = Some(why);
            explain(status, &text)
        }
    };
    (answer, forwarded)
}

/// A target's answer.
struct Read {
    status: StatusCode,
    reason: Vec<u8>,
    headers: Headers,
    trailers: Headers,
    body: Bytes,
}

impl Read {
    fn answer(self) -> Answer {
        let Self { status, reason, headers, trailers, body } = self;
        let lines = passed_on(&headers);
        // For HTTP/2, which has names in lower case only and frames by itself.
        let pairs = lines.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        let headers = pairs.filter_map(|(name, value)| checked(name, value)).collect();
        let relayed = Some(Box::new(Relayed { reason, lines, trailers }));
        Answer { status, headers, body, delay: Duration::ZERO, fault: None, relayed }
    }
}

/// A header line, where it is one that HTTP/2 can have.
pub(super) fn checked(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

async fn exchange(
    shared: &Shared,
    target: &Target,
    record: &Record,
    path: &str,
) -> Result<Read, Failure> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await;
    let stream = stream.map_err(|error| (502, format!("no connection to be had: {error}")))?;
    let _ = stream.set_nodelay(true); // Only makes it faster.
    let (idle, limit) = (shared.limits.idle_timeout, shared.limits.body_timeout);
    let mut wire = Wire::new(Socket::Plain(stream), idle, limit);
    let sent = send(&mut wire, target, record, path).await;
    // A target may answer, and end, before it has read everything.
    match read(shared, &mut wire, record).await {
        Err(failure) => Err(match sent {
            Err(error) => (502, format!("it did not take the request: {error}")),
            Ok(()) => failure,
        }),
        read => read,
    }
}

/// Writes the request: its lines in order and case, `host` too.
async fn send(wire: &mut Wire, target: &Target, record: &Record, path: &str) -> io::Result<()> {
    let mut head = format!("{} {path} HTTP/1.1\r\n", record.method).into_bytes();
    let chunked = record.headers.bytes("transfer-encoding").is_some();
    for (name, value) in passed_on(&record.headers) {
        // The body is here: nobody waits to be asked for it (RFC 9110 §10.1.1).
        if !name.eq_ignore_ascii_case("expect") {
            line(&mut head, name.as_bytes(), &value);
        }
    }
    if record.headers.bytes("host").is_none() {
        line(&mut head, b"host", target.authority.as_bytes());
    }
    let chunked = chunked || !record.trailers.is_empty();
    if chunked {
        line(&mut head, b"transfer-encoding", b"chunked");
    } else if record.headers.bytes("content-length").is_none() && !record.body.is_empty() {
        line(&mut head, b"content-length", record.body.len().to_string().as_bytes());
    }
    line(&mut head, b"connection", b"close");
    head.extend_from_slice(b"\r\n");
    if chunked && !record.body.is_empty() {
        head.extend_from_slice(format!("{:x}\r\n", record.body.len()).as_bytes());
    }
    wire.send(&head).await?;
    for piece in record.body.chunks(PIECE) {
        wire.send(piece).await?;
    }
    if chunked {
        let last = end_of_chunks(!record.body.is_empty(), &record.trailers);
        wire.send(&last).await?;
    }
    Ok(())
}

/// What follows the bytes of the only chunk (RFC 9112 §7.1).
pub(super) fn end_of_chunks(any: bool, trailers: &Headers) -> Vec<u8> {
    let mut end = Vec::new();
    if any {
        end.extend_from_slice(b"\r\n");
    }
    end.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter() {
        line(&mut end, name.as_bytes(), value);
    }
    end.extend_from_slice(b"\r\n");
    end
}

/// Writes a header line.
pub(super) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The lines that are not for one connection alone (RFC 9110 §7.6.1); folded ones in one line
/// (RFC 9112 §5.2).
fn passed_on(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    const HOP: [&str; 7] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "proxy-authorization",
    ];
    let nominated: Vec<String> = headers
        .all("connection")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .collect();
    let chunked = headers.bytes("transfer-encoding").is_some();
    let stays = |name: &str| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let is_hop = HOP.into_iter().any(is) || nominated.iter().any(|hop| is(hop));
        // Beside a transfer coding a length means nothing (RFC 9112 §6.3).
        let is_length = chunked && is("content-length");
        !is_hop && !is_length
    };
    let unfolded = |value: &[u8]| {
        value.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect()
    };
    let lines = headers.iter().filter(|(name, _)| stays(name));
    lines.map(|(name, value)| (name.to_owned(), unfolded(value))).collect()
}

async fn read(shared: &Shared, wire: &mut Wire, record: &Record) -> Result<Read, Failure> {
    let bad = |why: &str| (502, why.to_owned());
    for _ in 0..INTERIM_MAX {
        let head = read_head(wire).await?;
        let first = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let (status, reason) = status_line(first)
            .ok_or_else(|| (502, format!("it answered no HTTP/1: {}", parse::shown(first))))?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(bad("it switched protocols, though it was not asked to"));
        }
        if status.is_informational() {
            continue;
        }
        let headers = Headers::of_head(head.clone());
        let bare = record.method == "HEAD" || matches!(status.as_u16(), 204 | 304);
        let length = headers.get("content-length").map(str::parse::<u64>);
        let framing = match (headers.bytes("transfer-encoding"), length) {
            _ if bare => Some(Framing::Length(0)),
            (Some(_), _) => Some(Framing::Chunked),
            (None, Some(Ok(length))) => Some(Framing::Length(length)),
            (None, Some(Err(_))) => return Err(bad("its content-length is no number")),
            (None, None) => None,
        };
        let claimed = if let Some(Framing::Length(length)) = framing { length } else { 0 };
        let kept = Kept::new(shared, claimed);
        let mut body = Body { kept, wire, limit: shared.limits.body_timeout, cut: None };
        let ended = match framing {
            Some(Framing::Length(length)) => body.length(length).await.map(|()| Headers::default()),
            Some(Framing::Chunked) => body.chunks().await,
            None => body.rest().await.map(|()| Headers::default()),
        };
        let Collected { kept: body, trailers, problem, .. } = body.kept.done(ended);
        if let Some((_, why)) = problem {
            return Err((502, format!("its answer is not whole: {why}")));
        }
        return Ok(Read { status, reason: reason.to_vec(), headers, trailers, body });
    }
    Err(bad("it sent interim answers (1xx) and no other"))
}

async fn read_head(wire: &mut Wire) -> Result<Bytes, Failure> {
    let mut looked = 0;
    loop {
        if let Some(end) = parse::section_end(&wire.buf, looked) {
            let head = Bytes::copy_from_slice(&wire.buf[..end]);
            wire.buf.advance(end);
            return Ok(head);
        }
        if wire.buf.len() > HEAD_BYTES_MAX {
            return Err((502, format!("the head of its answer exceeds {HEAD_BYTES_MAX} bytes")));
        }
        looked = wire.buf.len();
        match wire.fill().await {
            Ok(0) if looked == 0 => return Err((502, "it ended without an answer".to_owned())),
            Ok(0) => return Err((502, "it ended within the head of its answer".to_owned())),
            Ok(_) => {}
            Err(error) => return Err((502, format!("the connection broke: {error}"))),
        }
    }
}

/// `HTTP/1.1 200 OK` (RFC 9112 §4)
fn status_line(line: &[u8]) -> Option<(StatusCode, &[u8])> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let (status, reason) = rest.split_at_checked(3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    Some((status, reason.strip_prefix(b" ").unwrap_or(reason)))
}
