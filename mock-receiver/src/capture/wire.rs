//! A second look at the inbound bytes of a connection.
//!
//! hyper keeps headers in a map: order across names and their case are gone. So the bytes are
//! read through a [`Tee`] whose [`Framing`] follows the messages (RFC 9112) just far enough to
//! cut out each head and each trailer section as sent. It needs to be right only where hyper
//! accepts the message: what hyper refuses ends the connection.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use memchr::memchr;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// The largest head, or trailer section, that hyper is told to accept.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most header lines that hyper is told to accept (its own default).
pub(super) const HEADERS_MAX: usize = 100;
/// Where following stops: hyper has refused a head long before it is this large.
const LINES_BYTES_MAX: usize = 4 * HEAD_BYTES_MAX;

/// What both sides of one connection share: the reader that cuts heads out, and the service that
/// takes them.
#[derive(Default)]
pub(super) struct Wire {
    state: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    heads: VecDeque<Bytes>,
    /// Trailer sections, each with the number of its request.
    trailers: VecDeque<(u64, Bytes)>,
    /// How many requests have their answer.
    answered: u64,
    reset: bool,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of the next request, as sent.
    pub(super) fn next_head(&self) -> Option<Bytes> {
        self.lock().heads.pop_front()
    }

    /// The trailer lines of the request with that number, once its body is complete.
    pub(super) fn trailers(&self, request: u64) -> Option<Bytes> {
        let mut shared = self.lock();
        while shared.trailers.front().is_some_and(|(of, _)| *of < request) {
            shared.trailers.pop_front();
        }
        let ours = shared.trailers.front().is_some_and(|(of, _)| *of == request);
        ours.then(|| shared.trailers.pop_front()).flatten().map(|(_, lines)| lines)
    }

    /// Says that one more request has its answer.
    pub(super) fn answered(&self) {
        self.lock().answered += 1;
    }

    /// Makes the end of the connection a reset (RST) instead of an orderly close.
    pub(super) fn reset_on_close(&self) {
        self.lock().reset = true;
    }
}

/// A connection whose inbound bytes are followed.
pub(super) struct Tee {
    stream: TcpStream,
    framing: Framing,
    wire: Arc<Wire>,
    idle_timeout: Duration,
    /// One timer for the whole connection: hyper's own makes one per request, which costs as much
    /// as a capture.
    timer: Pin<Box<Sleep>>,
    /// How many heads there were when the timer was set, and how many answers.
    then: (u64, u64),
}

impl Tee {
    /// A connection that ends with an error when no head becomes complete for `idle_timeout` (up
    /// to twice as long) while none is being answered.
    pub(super) fn new(stream: TcpStream, wire: Arc<Wire>, idle_timeout: Duration) -> Self {
        let timer = Box::pin(sleep(idle_timeout));
        let framing = Framing::default();
        Self { stream, framing, wire, idle_timeout, timer, then: (0, 0) }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = (self.framing.requests, self.wire.lock().answered);
            // An answer counts as life, too: one that has just been given may not be out yet.
            if now == self.then && now.0 == now.1 {
                return true;
            }
            self.then = now;
            self.timer.as_mut().reset(Instant::now() + self.idle_timeout);
        }
        false
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.wire.lock().reset {
            // Where it fails the peer sees an orderly close, which is the next best.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Tee {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let fresh = &buf.filled()[before..];
        if !fresh.is_empty() {
            this.framing.feed(fresh, &mut this.wire.lock());
        } else if read.is_pending() && this.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Tee {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Follows the messages on a connection, however its bytes are cut into reads.
#[derive(Default)]
struct Framing {
    at: At,
    /// The beginning of a section of lines whose end has not come yet.
    lines: Vec<u8>,
    /// Heads seen so far: the number of the current request.
    requests: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Debug)]
enum At {
    /// Between messages; empty lines here are skipped (RFC 9112 §2.2).
    #[default]
    Start,
    Head,
    /// In a body, or a chunk's data, of which this much is left.
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    /// In the line end that follows a chunk's data.
    ChunkEnd,
    Trailers,
    /// Not HTTP/1 as far as we can follow; hyper refuses it too.
    Lost,
}

impl Framing {
    fn feed(&mut self, mut bytes: &[u8], out: &mut Shared) {
        while !bytes.is_empty() {
            bytes = self.step(bytes, out);
        }
    }

    /// Takes some of `bytes` (not empty) and returns the rest.
    fn step<'a>(&mut self, bytes: &'a [u8], out: &mut Shared) -> &'a [u8] {
        match self.at {
            At::Start => {
                let skip = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                if skip < bytes.len() {
                    self.at = At::Head;
                }
                &bytes[skip..]
            }
            At::Head => match self.section(bytes) {
                Some((head, rest)) => {
                    self.requests += 1;
                    self.at = body_of(&head);
                    out.heads.push_back(head);
                    rest
                }
                None => &[],
            },
            At::Body(left) | At::ChunkData(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = match (self.at, left - taken) {
                    (At::Body(_), 0) => At::Start,
                    (At::Body(_), left) => At::Body(left),
                    (_, 0) => At::ChunkEnd,
                    (_, left) => At::ChunkData(left),
                };
                &bytes[taken as usize..]
            }
            At::ChunkSize | At::ChunkEnd => match self.line(bytes) {
                Some((line, rest)) => {
                    self.at = match self.at {
                        At::ChunkEnd => At::ChunkSize,
                        _ => match chunk_size(&line) {
                            Some(0) => At::Trailers,
                            Some(size) => At::ChunkData(size),
                            None => At::Lost,
                        },
                    };
                    rest
                }
                None => &[],
            },
            At::Trailers => match self.section(bytes) {
                Some((lines, rest)) => {
                    self.at = At::Start;
                    out.trailers.push_back((self.requests, lines));
                    rest
                }
                None => &[],
            },
            At::Lost => &[],
        }
    }

    /// Up to and with the next line end.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Option<(Bytes, &'a [u8])> {
        let end = memchr(b'\n', bytes).map(|at| at + 1);
        self.collect(bytes, end)
    }

    /// Up to and with the next empty line.
    fn section<'a>(&mut self, bytes: &'a [u8]) -> Option<(Bytes, &'a [u8])> {
        let mut from = 0;
        while let Some(at) = memchr(b'\n', &bytes[from..]) {
            let end = from + at + 1;
            let line = &bytes[from..end];
            // Only the first line of this read can have its beginning in an earlier one.
            let empty = if from > 0 || self.lines.is_empty() || self.lines.ends_with(b"\n") {
                line == b"\n" || line == b"\r\n"
            } else {
                line == b"\n" && (self.lines == b"\r" || self.lines.ends_with(b"\n\r"))
            };
            if empty {
                return self.collect(bytes, Some(end));
            }
            from = end;
        }
        self.collect(bytes, None)
    }

    fn collect<'a>(&mut self, bytes: &'a [u8], end: Option<usize>) -> Option<(Bytes, &'a [u8])> {
        let taken = &bytes[..end.unwrap_or(bytes.len())];
        if self.lines.len() + taken.len() > LINES_BYTES_MAX {
            self.lines = Vec::new();
            self.at = At::Lost;
            return None;
        }
        let Some(end) = end else {
            self.lines.extend_from_slice(taken);
            return None;
        };
        let whole = if self.lines.is_empty() {
            Bytes::copy_from_slice(taken)
        } else {
            self.lines.extend_from_slice(taken);
            Bytes::from(std::mem::take(&mut self.lines).into_boxed_slice())
        };
        Some((whole, &bytes[end..]))
    }
}

/// What follows a request head (RFC 9112 §6.3).
fn body_of(head: &[u8]) -> At {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return At::Lost;
    }
    let mut length = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return At::ChunkSize; // hyper refuses any other than chunked in a request.
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            match std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok()) {
                Some(bytes) => length = bytes,
                None => return At::Lost,
            }
        }
    }
    if length == 0 { At::Start } else { At::Body(length) }
}

/// The size before any extension (RFC 9112 §7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Followed = (Vec<Bytes>, Vec<(u64, Bytes)>, At);

    fn follow<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Followed {
        let (mut framing, mut out) = (Framing::default(), Shared::default());
        for read in reads {
            framing.feed(read, &mut out);
        }
        (out.heads.into(), out.trailers.into(), framing.at)
    }

    const STREAM: &[u8] = b"\r\n\nPOST /a HTTP/1.1\r\nContent-Length: 30\r\n\r\n\
        GET /not-a-head HTTP/1.1\r\n\r\n!!\
        PUT /b HTTP/1.1\nTransfer-Encoding: gzip, Chunked\n\n\
        1A;x=\"y\"\r\nGET / HTTP/1.1\r\n\r\n12345678\r\n0a \r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nx-Sum: 2\r\n\r\n\
        POST /c HTTP/1.1\r\nCONTENT-LENGTH:  0\r\n\r\n\
        POST /d HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
        DELETE /e HTTP/1.0\r\n\r\n";

    #[test]
    fn heads_and_trailers_are_cut_out_however_the_bytes_come() {
        let (heads, trailers, at) = follow([STREAM]);
        let firsts: Vec<_> = heads.iter().map(|head| &head[..head.len().min(7)]).collect();
        let expect: [&[u8]; 5] = [b"POST /a", b"PUT /b ", b"POST /c", b"POST /d", b"DELETE "];
        assert_eq!(firsts, expect);
        assert!(heads.iter().all(|head| head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n")));
        assert_eq!(
            trailers,
            [
                (2, Bytes::from_static(b"X-Sum: 1\r\nx-Sum: 2\r\n\r\n")),
                (4, Bytes::from_static(b"\r\n")),
            ]
        );
        assert_eq!(at, At::Start);

        let whole = (heads, trailers, at);
        assert_eq!(follow(STREAM.chunks(1)), whole, "byte by byte");
        for at in 1..STREAM.len() {
            let (first, second) = STREAM.split_at(at);
            assert_eq!(follow([first, second]), whole, "cut at {at}");
        }
    }

    #[test]
    fn what_cannot_be_followed_ends_it_in_bounded_memory() {
        for stream in [
            &b"NOT HTTP\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..],
            b"GET /a HTTP/1.1\r\nContent-Length: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(follow([stream]).2, At::Lost);
        }
        let chunk = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(follow([&chunk[..]]).2, At::Lost);
        let (mut framing, mut out) = (Framing::default(), Shared::default());
        for _ in 0..LINES_BYTES_MAX {
            framing.feed(b"GET / HTTP/1.1 and on and on", &mut out);
            assert!(framing.lines.capacity() <= 2 * LINES_BYTES_MAX);
        }
        assert_eq!((framing.at, framing.lines.capacity()), (At::Lost, 0));
    }
}
