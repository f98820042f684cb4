//! Answers in gzip, which a receiver may send unasked (RFC 9110 §12.5.3).

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use postrider::delivery::{ANSWER_BYTES_MAX, Ack, Cause, Nack};
use tokio::time::Instant;

use crate::peer::Peer;
use crate::{deliver, refused, settings, sink};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn coded(status: &str, coding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-encoding: {coding}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn taken(text: impl AsRef<[u8]>) -> Ack {
    Ack::new().status(200).answer(text.as_ref())
}

#[tokio::test]
async fn the_decoded_text_is_kept() {
    for coding in ["gzip", "x-gzip", "GZIP"] {
        let peer = Peer::answering(coded("200 OK", coding, &gzip(b"hello"))).await;
        let sink = sink(&settings(&peer.url()));
        for _ in 0..2 {
            assert_eq!(deliver(&sink).await, Ok(taken("hello")), "{coding}");
        }
        assert_eq!(peer.connections(), 1, "{coding}: the connection was not used again");
    }
    let peer = Peer::answering(coded("500 No", "gzip", &gzip(b"why"))).await;
    let expect = Nack::retry(Cause::Status, "the receiver answered 500 Internal Server Error");
    let nack = refused(&sink(&settings(&peer.url()))).await;
    assert_eq!(nack, expect.status(500).answer(b"why"));
    let peer = Peer::answering("HTTP/1.1 204 No\r\ncontent-encoding: gzip\r\n\r\n").await;
    assert_eq!(deliver(&sink(&settings(&peer.url()))).await, Ok(Ack::new().status(204)));
}

/// A body of 64 KiB that decodes to 64 MiB is decoded as far as the bound and no further.
#[tokio::test]
async fn a_bomb_is_cut() {
    let bomb = gzip(&vec![b'a'; 64 << 20]);
    assert!(bomb.len() < 70_000, "{}", bomb.len());
    let peer = Peer::answering(coded("200 OK", "gzip", &bomb)).await;
    let client = postrider_sinks::http::Client::new(
        &peer.url(),
        postrider_sinks::http::Options::new(crate::local()).response_bytes_max(100_000),
    )
    .unwrap();
    let started = Instant::now();
    let answer = client
        .send(http::Method::POST, &http::HeaderMap::new(), "x".into(), Duration::from_secs(10))
        .await
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    assert_eq!((answer.body.len(), answer.complete), (100_000, false));
    assert!(!answer.headers.contains_key("content-encoding"), "{:?}", answer.headers);
}

/// The bound holds for what comes, too: empty blocks decode to nothing, for ever.
#[tokio::test]
async fn endless_gzip_without_text_is_cut() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n").await;
        connection.send(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]).await;
        // A stored block of length 0 (RFC 1951 §3.2.4).
        let blocks = [0, 0, 0, 255, 255].repeat(1000);
        while tokio::io::AsyncWriteExt::write_all(&mut connection.stream, &blocks).await.is_ok() {}
    })
    .await;
    assert_eq!(deliver(&sink(&settings(&peer.url()))).await, Ok(taken("")));
}

/// What cannot be decoded never fails a delivery: the status has said what it means.
#[tokio::test]
async fn broken_and_unknown_codings() {
    let check = async |answer: Vec<u8>, text: &[u8]| {
        let peer = Peer::answering(answer).await;
        assert_eq!(deliver(&sink(&settings(&peer.url()))).await, Ok(taken(text)));
    };
    check(coded("200 OK", "gzip", b"no gzip at all"), b"").await;
    check(coded("200 OK", "br", b"\x0b\x02\x80hello\x03"), b"").await;
    check(coded("200 OK", "gzip, gzip", &gzip(&gzip(b"x"))), b"").await;
    check(coded("200 OK", "identity", b"plain"), b"plain").await;
    // Whole blocks that came before the text broke off are kept.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&[b'a'; ANSWER_BYTES_MAX]).unwrap();
    encoder.flush().unwrap();
    let beginning = encoder.get_ref().clone();
    check(coded("200 OK", "gzip", &beginning), &[b'a'; ANSWER_BYTES_MAX]).await;
}
