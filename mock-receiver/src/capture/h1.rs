//! HTTP/1: requests one after the other, read from raw bytes.

use std::{io, sync::atomic::Ordering, time::Duration};

use bytes::{Buf, Bytes};
use memchr::memchr;
use tokio::time::{sleep, timeout};

use super::{
    Headers, Problem, Record,
    io::Wire,
    parse::{self, Framing, HEAD_BYTES_MAX, Head},
    reply::{self, End},
    serve::{Collected, Connection, Facts, Kept, explain, stalled, stopped, too_large},
    timeline::{Closer, Late},
};
use crate::script::{Answer, Fault};

/// The longest line that says the size of a chunk.
const CHUNK_LINE_BYTES_MAX: usize = 16 << 10;
/// How much is taken and thrown away behind a refusal, so that the sender can read it.
const LINGER_BYTES_MAX: u64 = 4 << 20;
/// For how long a connection is kept on which nothing is read any more.
const STOPPED_MAX: Duration = Duration::from_mins(10);

/// Serves requests until the connection ends; says who ended it.
pub(super) async fn serve(connection: &Connection, wire: &mut Wire) -> Closer {
    loop {
        match request(connection, wire).await {
            Ok(End::Keep) => {}
            Ok(End::Close) => {
                wire.close(LINGER_BYTES_MAX).await;
                return Closer::Receiver;
            }
            Ok(End::Cut) => return Closer::Receiver,
            Ok(End::Reset) => {
                wire.reset_switch().store(true, Ordering::Relaxed);
                return Closer::ReceiverReset;
            }
            Ok(End::Sender) => return Closer::Sender,
            Err(error) => {
                let ours = error.kind() == io::ErrorKind::TimedOut;
                return if ours { Closer::Receiver } else { Closer::SenderReset };
            }
        }
    }
}

async fn request(connection: &Connection, wire: &mut Wire) -> io::Result<End> {
    let (head, first_byte) = match read_head(connection, wire).await? {
        Read::Whole(head, first_byte) => (head, first_byte),
        Read::Nothing => return Ok(End::Sender),
        Read::Broken(first_byte, reason, end) => {
            let head = wire.buf.split().freeze();
            connection.keep_malformed(&head, first_byte, (Problem::Incomplete, reason), None);
            return end.map(|()| End::Sender);
        }
        Read::TooLarge(first_byte) => {
            let head = wire.buf.split().freeze();
            let why = format!("the head exceeds {HEAD_BYTES_MAX} bytes");
            return refuse(connection, wire, &head, first_byte, (431, why)).await;
        }
    };
    let parsed = match parse::head(&head) {
        Ok(parsed) => parsed,
        Err(refused) => {
            let why = (refused.status, refused.why);
            return refuse(connection, wire, &head, first_byte, why).await;
        }
    };
    let Head { method, target, version, framing, .. } = parsed;
    let facts = Facts { head: head.clone(), method, target, version, first_byte };
    let record = match connection.record(facts) {
        Ok(record) => record,
        Err(answer) => {
            let late = Late::default();
            skip_body(connection, wire, &parsed).await?;
            return reply::send(wire, answer, &parsed, &late, connection.accepted).await;
        }
    };
    let late = connection.follow(&record);
    let early = match connection.shared.scripts.find(&record.bin) {
        Some(script) => script.early(&record),
        None => None,
    };
    if let Some(answer) = early {
        return cut_off(connection, wire, record, framing, answer).await;
    }
    let body = collect(connection, wire, &parsed, None).await?;
    let whole = body.problem.is_none();
    let Some(answer) = connection.take(record, body).await else {
        return Ok(End::Sender);
    };
    if !whole {
        // What follows is not the beginning of a request.
        let last = Head { keep_alive: false, ..parsed };
        return reply::send(wire, answer, &last, &late, connection.accepted).await;
    }
    if !answer.delay.is_zero() {
        tokio::select! {
            biased;
            () = sleep(answer.delay) => {}
            Err(error) = wire.ended() => return Err(error),
        }
    }
    reply::send(wire, answer, &parsed, &late, connection.accepted).await
}

enum Read {
    Whole(Bytes, Duration),
    /// The sender ended the connection between requests.
    Nothing,
    /// The head broke off, and so did perhaps the connection.
    Broken(Duration, String, io::Result<()>),
    TooLarge(Duration),
}

async fn read_head(connection: &Connection, wire: &mut Wire) -> io::Result<Read> {
    // Empty lines between requests are skipped (RFC 9112 §2.2).
    loop {
        let skip = wire.buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        wire.buf.advance(skip);
        if !wire.buf.is_empty() {
            break;
        }
        match wire.fill_or_idle().await {
            Ok(0) => return Ok(Read::Nothing),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    let first_byte = connection.accepted.elapsed();
    let mut looked = 0;
    loop {
        if let Some(end) = parse::section_end(&wire.buf, looked) {
            if end > HEAD_BYTES_MAX {
                return Ok(Read::TooLarge(first_byte));
            }
            let head = Bytes::copy_from_slice(&wire.buf[..end]);
            wire.buf.advance(end);
            return Ok(Read::Whole(head, first_byte));
        }
        if wire.buf.len() > HEAD_BYTES_MAX {
            return Ok(Read::TooLarge(first_byte));
        }
        if wire.buf[0] == 0x16 && wire.buf.len() > 5 {
            // A TLS handshake has no lines to wait for.
            return Ok(Read::Whole(wire.buf.split().freeze(), first_byte));
        }
        looked = wire.buf.len();
        let (why, end) = match wire.fill_or_idle().await {
            Ok(0) => ("the connection ended before the head was complete", Ok(())),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                ("the head did not become complete in time", Err(error))
            }
            Err(error) => ("the connection broke before the head was complete", Err(error)),
        };
        return Ok(Read::Broken(first_byte, why.to_owned(), end));
    }
}

/// Keeps and answers a request whose head is refused.
async fn refuse(
    connection: &Connection,
    wire: &mut Wire,
    head: &Bytes,
    first_byte: Duration,
    (status, why): (u16, String),
) -> io::Result<End> {
    let answer = explain(status, &why);
    let problem = if status == 431 { Problem::TooLarge } else { Problem::Malformed };
    let late = connection.keep_malformed(head, first_byte, (problem, why), Some(status));
    reply::send(wire, answer, &Head::last(), &late, connection.accepted).await
}

/// Plays a fault that does not wait for the body.
async fn cut_off(
    connection: &Connection,
    wire: &mut Wire,
    record: Record,
    framing: Framing,
    answer: Answer,
) -> io::Result<End> {
    let fault = answer.fault.unwrap_or(Fault::StopReading);
    let (body, end) = if let Fault::CloseIn { after_bytes, reset } = fault {
        let head = Head { framing, ..Head::last() };
        let body = collect(connection, wire, &head, Some(after_bytes)).await?;
        (body, if reset { End::Reset } else { End::Cut })
    } else {
        (stopped(), End::Cut)
    };
    connection.take_cut(record, body);
    if fault == Fault::StopReading {
        sleep(STOPPED_MAX).await;
    }
    Ok(end)
}

/// Reads the body of a request that is not captured, within the same bounds.
async fn skip_body(connection: &Connection, wire: &mut Wire, head: &Head<'_>) -> io::Result<()> {
    collect(connection, wire, head, None).await.map(drop)
}

/// Reads the body; `cut` is after how many bytes a fault ends it.
async fn collect(
    connection: &Connection,
    wire: &mut Wire,
    head: &Head<'_>,
    cut: Option<u64>,
) -> io::Result<Collected> {
    let shared = &connection.shared;
    let max = shared.limits.body_bytes_max;
    let claimed = match head.framing {
        Framing::Length(0) if cut.is_none() => return Ok(Collected::none()),
        Framing::Length(bytes) => bytes,
        Framing::Chunked => 0,
    };
    if head.expects && claimed > max as u64 {
        // It asked whether to send, so it can be told before.
        let (problem, why) = too_large(max);
        return Ok(Collected::refused(problem, why));
    }
    if head.expects && wire.buf.is_empty() && head.version == "HTTP/1.1" {
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let limit = shared.limits.body_timeout;
    let mut body = Body { kept: Kept::new(shared, claimed), wire, limit, cut };
    let ended = match head.framing {
        Framing::Length(bytes) => body.length(bytes).await.map(|()| Headers::default()),
        Framing::Chunked => body.chunks().await,
    };
    Ok(body.kept.done(ended))
}

pub(super) type Problematic<T> = Result<T, (Problem, String)>;

/// A body being read.
pub(super) struct Body<'a> {
    pub(super) kept: Kept<'a>,
    pub(super) wire: &'a mut Wire,
    pub(super) limit: Duration,
    pub(super) cut: Option<u64>,
}

impl Body<'_> {
    async fn fill(&mut self) -> Problematic<()> {
        let broke = |why: &str| (Problem::Incomplete, why.to_owned());
        match timeout(self.limit, self.wire.fill()).await {
            Err(_) => Err(stalled(self.limit)),
            Ok(Ok(0)) => Err(broke("the connection ended before the body was complete")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(broke("the connection broke before the body was complete")),
        }
    }

    /// Takes so many bytes of content.
    pub(super) async fn length(&mut self, mut left: u64) -> Problematic<()> {
        self.check_cut()?;
        while left > 0 {
            if self.wire.buf.is_empty() {
                self.fill().await?;
            }
            let mut taken = left.min(self.wire.buf.len() as u64);
            if let Some(cut) = self.cut {
                taken = taken.min(cut - self.kept.read());
            }
            let bytes = taken as usize;
            self.kept.add(&self.wire.buf[..bytes])?;
            self.wire.buf.advance(bytes);
            left -= taken;
            self.check_cut()?;
        }
        Ok(())
    }

    fn check_cut(&self) -> Problematic<()> {
        match self.cut {
            Some(cut) if self.kept.read() >= cut => {
                let why = format!("ended behind {cut} bytes of the body, as the fault asks for");
                Err((Problem::CutOff, why))
            }
            _ => Ok(()),
        }
    }

    /// Takes what comes until the other side ends, as answers may (RFC 9112 §6.3).
    pub(super) async fn rest(&mut self) -> Problematic<()> {
        loop {
            self.kept.add(&self.wire.buf)?;
            self.wire.buf.clear();
            match timeout(self.limit, self.wire.fill()).await {
                Err(_) => return Err(stalled(self.limit)),
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => {
                    let why = "the connection broke before the body was complete";
                    return Err((Problem::Incomplete, why.to_owned()));
                }
            }
        }
    }

    /// Takes chunks to their end (RFC 9112 §7.1) and returns the trailers.
    pub(super) async fn chunks(&mut self) -> Problematic<Headers> {
        let malformed = |why: String| (Problem::Malformed, why);
        loop {
            let line = self.line().await?;
            let size = parse::chunk_size(&line).ok_or_else(|| {
                let line = parse::shown(line.trim_ascii_end());
                malformed(format!("the size of a chunk is no number (RFC 9112 §7.1): {line}"))
            })?;
            if size == 0 {
                return self.trailers().await;
            }
            self.length(size).await?;
            let end = self.line().await?;
            if !end.trim_ascii().is_empty() {
                let found = parse::shown(end.trim_ascii_end());
                return Err(malformed(format!("a chunk is longer than its size: {found} follows")));
            }
        }
    }

    /// Up to and with the next line end.
    async fn line(&mut self) -> Problematic<Bytes> {
        loop {
            if let Some(end) = memchr(b'\n', &self.wire.buf) {
                return Ok(self.wire.buf.split_to(end + 1).freeze());
            }
            if self.wire.buf.len() > CHUNK_LINE_BYTES_MAX {
                let why = format!("the line of a chunk exceeds {CHUNK_LINE_BYTES_MAX} bytes");
                return Err((Problem::Malformed, why));
            }
            self.fill().await?;
        }
    }

    async fn trailers(&mut self) -> Problematic<Headers> {
        let mut looked = 0;
        loop {
            if let Some(end) = parse::section_end(&self.wire.buf, looked) {
                let lines = Bytes::copy_from_slice(&self.wire.buf[..end]);
                self.wire.buf.advance(end);
                let none = lines.len() <= 2;
                return Ok(if none { Headers::default() } else { Headers::of_lines(lines) });
            }
            if self.wire.buf.len() > HEAD_BYTES_MAX {
                let why = format!("the trailers exceed {HEAD_BYTES_MAX} bytes");
                return Err((Problem::Malformed, why));
            }
            looked = self.wire.buf.len();
            self.fill().await?;
        }
    }
}
