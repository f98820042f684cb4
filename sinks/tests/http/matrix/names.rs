//! What stands before the first byte of a request: names, addresses, connecting and TLS.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use postrider::delivery::Cause;
use postrider_sinks::http::{HttpSink, Resolve};
use rcgen::date_time_ymd;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};

use super::{Expect, compare, exhausted, taken, taken_second, through_the_bus};
use crate::common::skip;
use crate::peer::{OK, Peer};
use crate::tls::{Authority, https};
use crate::{local, settings, sink, sink_with};

/// Answers the first lookup with the first addresses, and so on; the last stays. No addresses
/// stand for a name that does not exist.
struct Answers(Vec<Vec<IpAddr>>, AtomicUsize);

#[async_trait]
impl Resolve for Answers {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let asked = self.1.fetch_add(1, Ordering::SeqCst);
        let addresses = &self.0[asked.min(self.0.len() - 1)];
        if addresses.is_empty() {
            return Err(io::Error::other("Name or service not known"));
        }
        Ok(addresses.clone())
    }
}

fn named(port: u16, answers: &[&[&str]]) -> HttpSink {
    let addresses = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let answers = Answers(answers.iter().map(addresses).collect(), AtomicUsize::new(0));
    let settings = settings(&format!("http://receiver.example:{port}/hook"));
    sink_with(&settings, &local(), |options| options.resolver(Arc::new(answers)))
}

async fn check(name: &str, sink: HttpSink, expect: Expect) {
    if let Err(wrong) = compare(name, &expect, &through_the_bus(sink, 2).await) {
        panic!("{wrong}");
    }
}

#[tokio::test]
async fn names() {
    let peer = Peer::answering(OK).await;
    let named = |answers| named(peer.address.port(), answers);
    let forbidden = || exhausted(Cause::Policy, "the network policy forbids receiver.example");
    check("unknown", named(&[&[]]), exhausted(Cause::Dns, "does not resolve")).await;
    check("known later", named(&[&[], &["127.0.0.1"]]), taken_second()).await;
    check("forbidden", named(&[&["10.0.0.7"]]), forbidden()).await;
    check("one forbidden of two", named(&[&["127.0.0.1", "10.0.0.7"]]), forbidden()).await;
    check("mapped", named(&[&["::ffff:169.254.169.254"]]), forbidden()).await;
    assert_eq!(peer.connections(), 1, "connected for a name that is forbidden");
    check("second address", named(&[&["127.0.0.2", "127.0.0.1"]]), taken(200)).await;
    check("moves", named(&[&["127.0.0.2"], &["127.0.0.1"]]), taken_second()).await;
    check("no IPv6 there", named(&[&["::1", "127.0.0.1"]]), taken(200)).await;
    let turned = named(&[&["127.0.0.2"], &["10.0.0.7"]]);
    check("turns to a forbidden address", turned, forbidden()).await;
}

#[tokio::test]
async fn ipv6() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return skip("matrix::ipv6", "this machine has no IPv6");
    };
    let peer = Peer::listening(listener, |mut connection| async move {
        while connection.request().await.is_some() {
            connection.send(OK).await;
        }
    });
    check("by address", sink(&settings(&peer.url())), taken(200)).await;
    check("by name", named(peer.address.port(), &[&["::1"]]), taken(200)).await;
}

#[tokio::test]
async fn connecting() {
    // Bound and not listening: whoever connects is refused, and nobody else gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = sink(&settings(&format!("http://{}/", socket.local_addr().unwrap())));
    check("refused", refused, exhausted(Cause::Connect, "connection refused by")).await;

    // Connects, for the system takes the connection in, and is answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = sink(&settings(&format!("http://{}/", listener.local_addr().unwrap())));
    let expect = exhausted(Cause::Timeout, "timed out waiting for the answer");
    check("never accepted", silent, expect).await;
}

#[tokio::test]
async fn tls() {
    const NAME: &str = "receiver.example";
    let ours = Authority::new("ours");
    let bad = |words| exhausted(Cause::Tls, words);
    let check_with = async |name: &str, peer: &Peer, expect: Expect| {
        check(name, https(peer, NAME, ours.trusted()), expect).await;
    };
    check_with("right", &ours.receiver(NAME, |_| {}).await, taken(200)).await;
    let unknown = Authority::new("theirs").receiver(NAME, |_| {}).await;
    check_with("unknown authority", &unknown, bad("issuer is not trusted")).await;
    let other = ours.receiver("other.example", |_| {}).await;
    check_with("another host", &other, bad("for another host name")).await;
    let expired = ours
        .receiver(NAME, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
        .await;
    check_with("expired", &expired, bad("has expired")).await;
    let early = ours.receiver(NAME, |params| params.not_before = date_time_ymd(2090, 1, 1)).await;
    check_with("not valid yet", &early, bad("is not valid before 2090-01-01")).await;
    // After the client's first words, so that no reset overtakes what is said.
    let says = async |bytes: &'static [u8]| {
        Peer::start(move |mut connection| async move {
            let _ = connection.stream.read(&mut [0; 16 << 10]).await;
            connection.send(bytes).await;
            connection.until_closed().await;
        })
        .await
    };
    // An alert of TLS 1.0: protocol_version (RFC 8446 §6.2).
    let old = says(&[0x15, 3, 1, 0, 2, 2, 70]).await;
    check_with(
        "old version",
        &old,
        bad("the receiver speaks no version of TLS that is permitted here"),
    )
    .await;
    let plain = says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    check_with("no TLS", &plain, bad("TLS handshake failed")).await;
    let silent = says(b"").await;
    let late = exhausted(Cause::Timeout, "timed out in the TLS handshake");
    check_with("silent handshake", &silent, late).await;
    let broken = Peer::start(|connection| async move { drop(connection) }).await;
    check_with("broken handshake", &broken, bad("broke in the TLS handshake")).await;
}
