//! Receivers and networks that misbehave: each failure has its cause, its words and its end.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use postrider::clock::SystemClock;
use postrider::config::HumanDuration;
use postrider::delivery::{Ack, Cause, Nack, Verdict};
use postrider::event::NewEvent;
use postrider::sink::Sink;
use postrider_sinks::http::{HttpSink, Resolve, SystemResolver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::peer::{Peer, eventually};
use crate::{
    DEADLINE, attempt, deliver, deliver_within, local, refused, settings, sink, sink_with,
};

/// Short, and yet far longer than a loaded machine needs for a turn on loopback.
const SHORT: Duration = Duration::from_millis(400);
/// What an attempt of `SHORT` may take at most, with a loaded machine.
const SHORT_MAX: Duration = Duration::from_secs(4);

/// Checks the failure of an attempt with ample time.
#[track_caller]
fn check(nack: &Nack, cause: Cause, message: &str) {
    assert_eq!(nack.verdict(), Verdict::Retry { after: None }, "{nack:?}");
    assert_eq!((nack.cause(), nack.message()), (cause, message));
}

/// Delivers within [`SHORT`] and demands a timeout in the step that the message names.
async fn times_out(sink: &HttpSink, message: &str) {
    let started = Instant::now();
    // The engine drops the attempt a quarter of a second later, and our message with it.
    let engine = SHORT + Duration::from_millis(250);
    let nack = timeout(engine, deliver_within(sink, SHORT)).await.unwrap().unwrap_err();
    assert_eq!((nack.cause(), nack.message()), (Cause::Timeout, message), "{nack:?}");
    let took = started.elapsed();
    assert!(took >= SHORT * 9 / 10 && took < SHORT_MAX, "{took:?}");
}

#[tokio::test]
async fn refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = sink(&settings(&format!("http://user:hunter2@{address}/hook?token=hunter2")));
    check(&refused(&sink).await, Cause::Connect, &format!("connection refused by {address}"));
    // A timeout of any length is a timeout.
    let nack = deliver_within(&sink, Duration::MAX).await.unwrap_err();
    assert_eq!(nack.cause(), Cause::Connect);
    check(
        &sink.check().await.unwrap_err(),
        Cause::Connect,
        &format!("connection refused by {address}"),
    );
}

#[tokio::test]
async fn no_answer() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let message = format!("timed out waiting for the answer of {} (limit 400ms)", peer.address);
    times_out(&sink(&settings(&peer.url())), &message).await;
}

/// The timeout covers the body: a receiver that sends a byte now and then does not hold a place.
#[tokio::test]
async fn dripping_answer() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        while connection.stream.write_all(b"x").await.is_ok() {
            // tidy: allow(sleep): the peer drips on purpose
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let message = format!("timed out reading the answer of {} (limit 400ms)", peer.address);
    times_out(&sink(&settings(&peer.url())), &message).await;
}

#[tokio::test]
async fn flood_of_informational_answers() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        while connection.stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {
            // tidy: allow(sleep): the peer floods on purpose
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let message = format!("timed out waiting for the answer of {} (limit 400ms)", peer.address);
    times_out(&sink(&settings(&peer.url())), &message).await;
}

/// A failure's status counts however little of its text comes.
#[tokio::test]
async fn hanging_text_of_a_failure() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 410 Gone\r\ncontent-length: 1000\r\n\r\nby").await;
        connection.until_closed().await;
    })
    .await;
    let nack = deliver_within(&sink(&settings(&peer.url())), SHORT).await.unwrap_err();
    let expect = Nack::disable(Cause::Status, "the receiver answered 410: it wants no more events");
    assert_eq!(nack, expect.status(410).answer(b"by"));
}

#[tokio::test]
async fn endless_answer_is_cut_and_its_connection_closed() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while connection.stream.write_all(b"4\r\nabcd\r\n").await.is_ok() {}
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    let expect = Ack::new().status(200).answer("abcd".repeat(1024).as_bytes());
    assert_eq!(deliver(&sink).await, Ok(expect.clone()));
    assert_eq!(deliver(&sink).await, Ok(expect));
    assert_eq!(peer.connections(), 2, "a connection with an unread answer was used again");
}

#[tokio::test]
async fn nothing_is_read_where_the_bound_is_zero() {
    let peer = Peer::answering(crate::peer::OK).await;
    let mut settings = settings(&peer.url());
    settings.response_bytes_max.0 = 0;
    assert_eq!(deliver(&sink(&settings)).await, Ok(Ack::new().status(200)));
}

#[tokio::test]
async fn broken_answers() {
    let check = async |answer: &str, cause: Cause, words: &str| {
        let peer = Peer::answering_once(answer).await;
        let nack = refused(&sink(&settings(&peer.url()))).await;
        let message = nack.message();
        assert_eq!(nack.cause(), cause, "{answer:?}: {message}");
        assert!(message.contains(words), "{answer:?}: {message}");
        assert!(message.contains(&peer.address.to_string()), "{answer:?}: {message}");
        assert_eq!(nack.verdict(), Verdict::Retry { after: None });
        assert_eq!(peer.seen().len(), 1, "{answer:?} was sent twice");
    };
    let (closed, protocol) = (Cause::Closed, Cause::Protocol);
    let head = "closed by 127.0.0.1";
    check("", closed, head).await;
    check("HTTP/1.1 200", closed, "before the head of the answer was complete").await;
    check("HTTP/1.1 200 OK\r\ncontent-le", closed, "before the head").await;
    check("HTTP/1.1 103 Early Hints\r\n\r\n", closed, "before the head").await;
    let body = "before the body of the answer was complete";
    check("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", closed, body).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(&format!("{chunked}9\r\nhalf"), closed, body).await;
    check(&format!("{chunked}4\r\nhalf\r\n"), closed, body).await;
    check(&format!("{chunked}zz\r\nhalf\r\n"), protocol, "not valid HTTP").await;
    check(&format!("{chunked}fffffffffffffffff\r\nx"), protocol, "not valid HTTP").await;
    check("HTTP/1.1 2x0 OK\r\n\r\n", protocol, "not valid HTTP").await;
    check("HTTP/9.9 200 OK\r\n\r\n", protocol, "not valid HTTP").await;
    check("SSH-2.0-OpenSSH_9.9\r\n", protocol, "not valid HTTP").await;
    check("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", protocol, "not valid HTTP").await;
    check("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", protocol, "not valid HTTP").await;
    check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", protocol, "").await;
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129));
    check(&many, protocol, "not valid HTTP").await;
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(200 << 10));
    check(&large, protocol, "not valid HTTP").await;
}

#[tokio::test]
async fn reset_before_the_answer() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let message = format!(
        "the connection was reset by {} before the head of the answer was complete",
        peer.address
    );
    check(&refused(&sink(&settings(&peer.url()))).await, Cause::Closed, &message);
}

/// A full accept queue lets the system drop new connections without a word.
#[tokio::test]
async fn connection_that_is_never_accepted() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let connect = TcpStream::connect(address);
        match timeout(Duration::from_millis(200), connect).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => break,
        }
        assert!(waiting.len() < 100, "the accept queue never fills up");
    }
    let mut settings = settings(&format!("http://{address}/"));
    let message = format!("timed out connecting to {address} (limit 400ms)");
    times_out(&sink(&settings), &message).await;

    settings.connect_timeout = HumanDuration(Duration::from_millis(50));
    let sink = sink(&settings);
    let message = format!("timed out connecting to {address} (limit 50ms)");
    check(&refused(&sink).await, Cause::Timeout, &message);
    check(&sink.check().await.unwrap_err(), Cause::Timeout, &message);
}

struct Failing;

#[async_trait]
impl Resolve for Failing {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "hang.example" => std::future::pending().await,
            "empty.example" => Ok(Vec::new()),
            _ => Err(io::Error::other(
                "failed to lookup address information: Name or service not known",
            )),
        }
    }
}

#[tokio::test]
async fn names_that_do_not_resolve() {
    let sink = |name: &str| {
        let mut settings = settings(&format!("http://{name}/"));
        settings.connect_timeout = HumanDuration(Duration::from_millis(50));
        sink_with(&settings, &local(), |options| options.resolver(Arc::new(Failing)))
    };
    let message = "none.example does not resolve: Name or service not known";
    check(&refused(&sink("none.example")).await, Cause::Dns, message);
    check(&refused(&sink("empty.example")).await, Cause::Dns, "empty.example has no address");
    let message = "timed out resolving hang.example (limit 50ms)";
    check(&refused(&sink("hang.example")).await, Cause::Timeout, message);
}

/// The system's own resolver, asked for what it knows from the hosts file, and for a label of more
/// than 63 bytes, which cannot be asked of any server (RFC 1035 §2.3.4): neither needs a network.
#[tokio::test]
async fn system_resolver() {
    let found = SystemResolver::default().resolve("localhost").await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    let name = format!("{}.invalid", "a".repeat(64));
    let nack = refused(&sink(&settings(&format!("http://{name}/")))).await;
    assert_eq!(nack.cause(), Cause::Dns, "{nack:?}");
    assert!(nack.message().starts_with(&format!("{name} does not resolve: ")), "{nack:?}");
}

/// A receiver may refuse a large event at its first bytes and not read the rest; its answer counts,
/// and the connection, which still carries the rest, does not.
#[tokio::test]
async fn answer_before_the_request_is_read() {
    let peer = Peer::start(|mut connection| async move {
        let mut first = [0; 64];
        connection.stream.read_exact(&mut first).await.unwrap();
        connection.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
        connection.until_closed().await;
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    // More than two socket buffers hold.
    let payload = format!("\"{}\"", "x".repeat(16 << 20));
    let new = NewEvent::raw("match", payload).unwrap();
    let large = new.seal(&SystemClock, 32 << 20).unwrap();
    let outcomes = sink.deliver(&[attempt(large, DEADLINE)]).await;
    let message = "the receiver answered 413 Payload Too Large";
    let expect = Nack::retry(Cause::Status, message).status(413).answer(b"big");
    assert_eq!(outcomes, [Err(expect)]);
}

/// An attempt that is dropped half-way closes its connection and harms no later one.
#[tokio::test]
async fn dropped_attempt() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        if connection.number == 0 {
            connection.until_closed().await;
        } else {
            connection.send(crate::peer::OK).await;
        }
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    {
        let mut first = std::pin::pin!(deliver(&sink));
        tokio::select! {
            outcome = &mut first => panic!("{outcome:?}"),
            () = eventually(|| peer.seen().len() == 1, || "no request came".to_owned()) => {}
        }
    }
    assert_eq!(deliver(&sink).await, Ok(Ack::new().status(200).answer(b"ok")));
    assert_eq!(peer.connections(), 2);
}
