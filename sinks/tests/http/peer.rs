//! A receiver made of a script per connection.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::DEADLINE;

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request as it came: everything up to the empty line, and the body.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Counts connections from 0.
    pub(crate) connection: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// All values of the header called `name`, in lower case.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value)
            .collect()
    }

    /// The one value of the header called `name`.
    pub(crate) fn header(&self, name: &str) -> &str {
        let values = self.headers(name);
        assert_eq!(values.len(), 1, "{name} in {}", self.head);
        values[0]
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<(usize, Vec<Seen>)>>);

/// A listening script; stops when it is dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    log: Log,
    accepting: JoinHandle<()>,
}

/// One accepted connection.
pub(crate) struct Connection<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) number: usize,
    log: Log,
}

impl Peer {
    /// Runs `script` for every connection.
    pub(crate) async fn start<F>(script: impl Fn(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listening(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// As [`start`](Self::start), on a socket that listens already.
    pub(crate) fn listening<F>(
        listener: TcpListener,
        script: impl Fn(Connection) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let seen = log.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = {
                    let mut log = seen.0.lock().unwrap();
                    log.0 += 1;
                    log.0 - 1
                };
                tokio::spawn(script(Connection { stream, number, log: seen.clone() }));
            }
        });
        Self { address, log, accepting }
    }

    /// Answers every request on every connection with `answer`.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                while connection.request().await.is_some() {
                    connection.send(&answer).await;
                }
            }
        })
        .await
    }

    /// Reads one request, sends `answer` and closes.
    pub(crate) async fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                connection.request().await;
                connection.send(&answer).await;
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.0.lock().unwrap().1.clone()
    }

    /// The one request that came.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.0.lock().unwrap().0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads one request by its content-length; `None` where the sender has closed.
    pub(crate) async fn request(&mut self) -> Option<Seen> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        let seen = Seen { connection: self.number, head, body };
        self.log.0.lock().unwrap().1.push(seen.clone());
        Some(seen)
    }

    /// Writes; what the sender no longer wants to hear is no failure of the script.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Waits until the sender closes the connection.
    pub(crate) async fn until_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
    }
}

impl Connection {
    /// Takes the socket out for a handshake; [`over`](Connection::over) goes on after it.
    pub(crate) fn into_stream(self) -> (Connection<()>, TcpStream) {
        (Connection { stream: (), number: self.number, log: self.log }, self.stream)
    }

    /// Closes with a reset instead of an end.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

impl Connection<()> {
    /// Goes on over another stream.
    pub(crate) fn over<S>(self, stream: S) -> Connection<S> {
        Connection { stream, number: self.number, log: self.log }
    }
}

/// Waits until `done` says so; `state` is printed where it never does.
pub(crate) async fn eventually(mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{}", state());
        sleep(std::time::Duration::from_millis(2)).await;
    }
}
