//! One connection's bytes: the socket, with TLS or without, behind a buffer of what was read.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

/// How much is read at once.
const READ_BYTES: usize = 16 << 10;
/// How much a sender may send ahead while its request is being answered.
const AHEAD_BYTES_MAX: usize = 128 << 10;
/// How long the end of a connection waits for the sender to read what was answered.
const LINGER: Duration = Duration::from_millis(500);

pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that is read through a buffer.
pub(super) struct Wire {
    socket: Socket,
    /// What was read and not used yet.
    pub(super) buf: BytesMut,
    /// One timer for the whole connection: one per request costs as much as a capture.
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    /// Whether something came, or was answered, since the timer was set.
    alive: bool,
    write_timeout: Duration,
    reset: Arc<AtomicBool>,
}

/// Makes the end a reset where that was asked for; where it fails the sender sees an orderly
/// close, which is the next best.
impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.tcp().set_zero_linger();
        }
    }
}

impl Wire {
    pub(super) fn new(socket: Socket, idle_timeout: Duration, write_timeout: Duration) -> Self {
        let idle = Box::pin(sleep(idle_timeout));
        let (buf, reset) = (BytesMut::new(), Arc::default());
        Self { socket, buf, idle, idle_timeout, alive: true, write_timeout, reset }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.socket {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Reads more into the buffer; 0 at the end.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The same, but fails with `TimedOut` when nothing comes for the idle timeout (up to twice
    /// as long).
    pub(super) async fn fill_or_idle(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_fill(cx) {
                return Poll::Ready(read);
            }
            while self.idle.as_mut().poll(cx).is_ready() {
                if !std::mem::take(&mut self.alive) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
            }
            Poll::Pending
        })
        .await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buf.reserve(READ_BYTES);
        let read = poll_read_buf(pin!(&mut self.socket), cx, &mut self.buf);
        self.alive |= read.is_ready();
        read
    }

    /// Reads ahead, within bounds, until the sender's side ends; for as long as there is nothing
    /// else to do.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        while self.buf.len() < AHEAD_BYTES_MAX {
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
        std::future::pending().await
    }

    /// Writes all of it, within the time that a sender has to take something.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.alive = true;
        let limit = self.write_timeout;
        timeout(limit, async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        })
        .await?
    }

    /// Set, it makes the end of the connection a reset (RST) instead of an orderly close.
    pub(super) fn reset_switch(&self) -> Arc<AtomicBool> {
        self.reset.clone()
    }

    /// Ends our side and takes, for a moment, what still comes: closing over unread bytes resets
    /// the connection, and the sender may lose the answer.
    pub(super) async fn close(&mut self, bytes_max: u64) {
        let drained = async {
            if self.socket.shutdown().await.is_err() {
                return;
            }
            let mut left = bytes_max;
            while let Ok(read @ 1..) = self.fill().await {
                self.buf.clear();
                left = left.saturating_sub(read as u64);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, drained).await;
    }
}

/// Reads what is in the buffer first.
impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.buf.is_empty() {
            let taken = self.buf.len().min(buf.remaining());
            buf.put_slice(&self.buf[..taken]);
            self.buf.advance(taken);
            return Poll::Ready(Ok(()));
        }
        pin!(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        pin!(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => pin!(stream).poll_read(cx, buf),
            Self::Tls(stream) => pin!(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => pin!(stream).poll_write(cx, buf),
            Self::Tls(stream) => pin!(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => pin!(stream).poll_flush(cx),
            Self::Tls(stream) => pin!(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => pin!(stream).poll_shutdown(cx),
            Self::Tls(stream) => pin!(stream).poll_shutdown(cx),
        }
    }
}
