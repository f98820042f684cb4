//! Forwarding to targets that are raw sockets, so that what they get is what was on the wire.

use std::{net::SocketAddr, time::Duration};

use mock_receiver::{Fault, Matcher, Receiver, Response, Rule, Scenario};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::support::{DEADLINE, call, post, raw};

/// A target that takes one request per connection up to this end, tells its bytes and answers.
async fn target(
    until: &'static [u8],
    answer: &'static [u8],
) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (told, requests) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(until) {
                request.push(stream.read_u8().await.expect("more of the request"));
            }
            let _ = told.send(request).await;
            stream.write_all(answer).await.expect("answers");
        }
    });
    (addr, requests)
}

async fn forwarding(addr: SocketAddr, path: &str) -> Receiver {
    let builder = Receiver::builder().forward("app", format!("http://{addr}{path}"));
    builder.start().await.expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_request_goes_to_the_target_and_its_answer_comes_back_as_they_were() {
    let (addr, mut requests) = target(
        b"\r\n\r\nA\0\xffB",
        b"HTTP/1.1 418 Short And Stout\r\nX-Twice: 1\r\nx-other: \xe9\r\nX-TWICE: 2\r\n\
          Keep-Alive: timeout=5\r\nX-Hop: a\r\nConnection: x-hop\r\nContent-LENGTH: 5\r\n\r\n\0tea\xff",
    )
    .await;
    let receiver = forwarding(addr, "/base").await;
    let mut request = b"PuRGE /app/x%2fy?q=1&q=%20 HTTP/1.1\r\nHost: shop.example\r\nX-b: 1\r\n\
        x-A: 2\r\nX-B: 3\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nTE: trailers\r\n\
        Content-Length: 4\r\n\r\n"
        .to_vec();
    request.extend_from_slice(b"A\0\xffB");
    let answer = raw(receiver.addr(), request).await;
    assert_eq!(
        answer,
        "HTTP/1.1 418 Short And Stout\r\nX-Twice: 1\r\nx-other: \u{fffd}\r\nX-TWICE: 2\r\n\
         Content-LENGTH: 5\r\nconnection: close\r\n\r\n\0tea\u{fffd}"
    );
    assert_eq!(
        text(&requests.recv().await.expect("a request")),
        "PuRGE /base/x%2fy?q=1&q=%20 HTTP/1.1\r\nHost: shop.example\r\nX-b: 1\r\nx-A: 2\r\n\
         X-B: 3\r\nContent-Length: 4\r\nconnection: close\r\n\r\nA\0\u{fffd}B"
    );
    let captures = receiver.requests("app");
    let forwarded = captures[0].forwarded.as_ref().expect("is forwarded");
    assert_eq!(forwarded.to, format!("http://{addr}/base/x%2fy?q=1&q=%20"));
    assert_eq!((forwarded.status, captures[0].status), (Some(418), Some(418)));
    assert_eq!(&forwarded.body[..], b"\0tea\xff");
    assert_eq!(forwarded.headers.get("keep-alive"), Some("timeout=5"));
    let document = call(&receiver, "GET", "requests/1", "").await.json();
    assert_eq!(document["forwarded"]["status"], 418);
    assert_eq!(document["target_answer"]["body_base64"], "AHRlYf8=");
}

#[tokio::test]
async fn chunks_and_trailers_go_both_ways() {
    let (addr, mut requests) = target(
        b"0\r\nX-Sum: 7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n\
          2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\nX-Back: yes\r\n\r\n",
    )
    .await;
    let receiver = forwarding(addr, "").await;
    let request = "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\n\r\n";
    let answer = raw(receiver.addr(), request).await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nTrailer: X-Back\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n5\r\nhello\r\n0\r\nX-Back: yes\r\n\r\n"
    );
    assert_eq!(
        text(&requests.recv().await.expect("a request")),
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         5\r\nabcde\r\n0\r\nX-Sum: 7\r\n\r\n"
    );
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length_and_those_without_a_length_their_bytes() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n";
    let (addr, _requests) = target(b"\r\n\r\n", head).await;
    let receiver = forwarding(addr, "").await;
    let answer =
        raw(receiver.addr(), "HEAD /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let expect = "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\nconnection: close\r\n\r\n";
    assert_eq!(answer, expect);

    let (addr, _requests) = target(b"\r\n\r\n", b"HTTP/1.0 200 Fine\r\n\r\nto the end").await;
    let receiver = forwarding(addr, "").await;
    let answer =
        raw(receiver.addr(), "GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nto the end"), "{answer}");
    assert!(answer.contains("content-length: 10\r\n"), "{answer}");
}

#[tokio::test]
async fn a_target_that_is_down_is_told_to_the_sender_and_on_the_capture() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = gone.local_addr().expect("an address");
    drop(gone);
    let receiver = forwarding(addr, "").await;
    let answer = post(&receiver, "/app", "", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(answer.contains(&format!("app was not forwarded to http://{addr}: no connection")));
    let captures = receiver.requests("app");
    assert!(captures[0].is_whole() && captures[0].status == Some(502));
    let forwarded = captures[0].forwarded.as_ref().expect("was tried");
    assert_eq!(forwarded.status, None);
    assert!(forwarded.error.as_ref().expect("an error").starts_with("no connection"));
}

#[tokio::test]
async fn a_target_that_never_answers_or_breaks_off_is_bounded() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let limit = Duration::from_millis(200);
    let builder = Receiver::builder().forward("app", url).forward_timeout(limit);
    let receiver = builder.start().await.expect("starts");
    let answer = tokio::time::timeout(DEADLINE, post(&receiver, "/app", "", "{}")).await;
    let answer = answer.expect("is bounded");
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("within 200ms"), "{answer}");

    for (bytes, why) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"[..], "is not whole"),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nX:", "within the head"),
        (b"", "without an answer"),
    ] {
        let (addr, _requests) = target(b"{}", bytes).await;
        let receiver = forwarding(addr, "").await;
        let answer = post(&receiver, "/app", "", "{}").await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(why), "{why}: {answer}");
    }
}

#[tokio::test]
async fn rules_answer_before_the_target_and_faults_go_with_its_answers() {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntarget";
    let (addr, _requests) = target(b"{}", ok).await;
    let receiver = Receiver::start().await.expect("starts");
    let twice = Rule::when(Matcher::new().method("POST")).times(2).respond(Response::status(500));
    let on = receiver.on("app").forward(format!("http://{addr}"));
    let on = on.scenario(Scenario::new().rule(twice));
    for expect in ["500", "500", "200"] {
        let answer = post(&receiver, "/app", "", "{}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expect} ")), "{answer}");
    }
    on.fault(Fault::TruncateBody { after_bytes: 3 });
    let answer = post(&receiver, "/app", "", "{}").await;
    assert!(answer.ends_with("\r\n\r\ntar"), "{answer}");
    let forwards: Vec<_> = receiver.requests("app").iter().map(|c| c.forwarded.is_some()).collect();
    assert_eq!(forwards, [false, false, true, true]);
}

#[tokio::test]
async fn the_api_shows_targets_and_never_names_them() {
    let receiver = Receiver::start().await.expect("starts");
    receiver.on("app").forward("http://127.0.0.1:9/base/");
    let shown = call(&receiver, "GET", "bins/app", "").await.json();
    assert_eq!(shown["forward"], "http://127.0.0.1:9/base");
    let refused = call(&receiver, "PUT", "bins/app", r#"{"forward":"http://127.0.0.1:8"}"#).await;
    assert_eq!(refused.status, 403);
    assert!(refused.detail().contains("--forward BIN=URL"), "{}", refused.detail());
    let shown = call(&receiver, "GET", "bins/app", "").await.json();
    assert_eq!(shown["forward"], "http://127.0.0.1:9/base");
}

#[tokio::test]
async fn a_receiver_does_not_start_with_a_target_that_is_none() {
    for (bin, url, why) in [
        ("app", "https://a", "https"),
        ("a/b", "http://127.0.0.1:9", "name of a bin"),
        ("app", "127.0.0.1:9", "http://"),
    ] {
        let error = Receiver::builder().forward(bin, url).start().await.expect_err(url);
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Both sides of a forwarded request are there after a restart.
#[tokio::test]
async fn what_a_target_answered_is_kept_in_the_folder() {
    let ok = b"HTTP/1.1 201 Made\r\nX-From: target\r\nContent-Length: 2\r\n\r\nok";
    let (addr, _requests) = target(b"{}", ok).await;
    let folder = std::env::temp_dir().join(format!("mock-forward-{}", std::process::id()));
    let url = format!("http://{addr}");
    let builder = || Receiver::builder().store(&folder).forward("app", &url);
    let receiver = builder().start().await.expect("starts");
    post(&receiver, "/app", "", "{}").await;
    drop(receiver);
    let receiver = builder().start().await.expect("starts again");
    let captures = receiver.requests("app");
    let forwarded = captures[0].forwarded.as_ref().expect("is kept");
    assert_eq!((forwarded.status, &forwarded.body[..]), (Some(201), &b"ok"[..]));
    assert_eq!(forwarded.headers.get("x-from"), Some("target"));
    assert_eq!(&captures[0].body[..], b"{}");
    drop(receiver);
    std::fs::remove_dir_all(&folder).expect("is removed");
}
