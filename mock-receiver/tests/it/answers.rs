//! Bins answer as they were told.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use mock_receiver::{Receiver, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{DEADLINE, call, post};

async fn statuses<const N: usize>(receiver: &Receiver, bin: &str) -> [u16; N] {
    let mut statuses = [0; N];
    for status in &mut statuses {
        let answer = post(receiver, &format!("/{bin}"), "", "{}").await;
        *status = answer[9..12].parse().expect("a status");
    }
    statuses
}

#[tokio::test]
async fn the_last_of_a_sequence_repeats_and_more_can_follow() {
    let receiver = Receiver::builder().script("built", [500, 204]).start().await.unwrap();
    assert_eq!(statuses(&receiver, "built").await, [500, 204, 204]);
    assert_eq!(statuses(&receiver, "other").await, [200]);

    receiver.on("a").respond([500, 502]).then(Response::status(503)).then(vec![201u16, 202]);
    assert_eq!(statuses(&receiver, "a").await, [500, 502, 503, 201, 202, 202]);
    receiver.on("a").then(410);
    assert_eq!(statuses(&receiver, "a").await, [410, 410]);
    receiver.on("a").respond(404);
    assert_eq!(statuses(&receiver, "a").await, [404]);
    receiver.on("a").respond(Response::received());
    assert_eq!(statuses(&receiver, "a").await, [200]);
    let kept: Vec<_> = receiver.requests("a").iter().map(|c| c.status.unwrap()).collect();
    assert_eq!(kept, [500, 502, 503, 201, 202, 202, 410, 410, 404, 200]);
}

#[tokio::test]
async fn an_answer_has_the_headers_body_and_delay_it_was_given() {
    let receiver = Receiver::start().await.unwrap();
    let wait = Duration::from_millis(150);
    let busy = Response::status(503).header("Retry-After", "1").header("x-n", "1");
    receiver.on("busy").respond(busy.header("x-n", "2").body("busy\n").delay(wait));
    let began = Instant::now();
    let answer = post(&receiver, "/busy", "", "").await;
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\nx-n: 1\r\nx-n: 2\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nbusy\n"), "{answer}");

    receiver.on("none").respond(Response::status(204).body("must not be sent"));
    let answer = post(&receiver, "/none", "", "").await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_hang_takes_the_request_and_says_nothing() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("quiet").respond(Response::hang());
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    sender
        .write_all(b"POST /quiet HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        .await
        .unwrap();
    let seen = receiver.wait("quiet").within(DEADLINE).await.unwrap();
    assert_eq!((seen[0].status, seen[0].is_whole()), (None, true));
    let nothing = timeout(Duration::from_millis(200), sender.read_u8()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_a_close() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("rude").respond(Response::reset()).then(200);
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    sender
        .write_all(b"POST /rude HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        .await
        .unwrap();
    let end = timeout(DEADLINE, sender.read_u8()).await.expect("ends");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(statuses(&receiver, "rude").await, [200]);
    let kept: Vec<_> = receiver.requests("rude").iter().map(|capture| capture.status).collect();
    assert_eq!(kept, [None, Some(200)]);
}

#[tokio::test]
async fn a_closure_decides_from_the_capture() {
    let receiver = Receiver::start().await.unwrap();
    let mut calls = 0;
    receiver.on("own").respond_with(move |capture| {
        calls += 1;
        match capture.event().as_deref() {
            Some("match") => Response::status(202).body(format!("call {calls}")),
            Some("panic") => panic!("as asked"),
            _ => Response::status(422),
        }
    });
    let first = post(&receiver, "/own", "", r#"{"event":"match"}"#).await;
    assert!(first.contains("202 Accepted") && first.ends_with("call 1"), "{first}");
    assert!(post(&receiver, "/own", "", "{}").await.contains("422"));
    let broken = post(&receiver, "/own", "", r#"{"event":"panic"}"#).await;
    assert!(broken.contains("500 ") && broken.contains("panicked: as asked"), "{broken}");
    let after = post(&receiver, "/own", "", r#"{"event":"match"}"#).await;
    assert!(after.ends_with("call 4"), "{after}");
    let kept: Vec<_> =
        receiver.requests("own").iter().map(|c| (c.seq, c.status.unwrap())).collect();
    assert_eq!(kept, [(1, 202), (2, 422), (3, 500), (4, 202)]);
}

#[tokio::test]
async fn answers_are_set_and_shown_over_the_api() {
    let receiver = Receiver::start().await.unwrap();
    let set = call(
        &receiver,
        "PUT",
        "bins/b",
        r#"{"answers":[{"status":500,"body":"no","delay_ms":1},
        {"headers":{"x-a":"1","set-cookie":["a=1","b=2"]}},{"reset":true}]}"#,
    )
    .await;
    assert_eq!(set.status, 200, "{}", String::from_utf8_lossy(&set.body));
    assert!(post(&receiver, "/b", "", "").await.ends_with("\r\n\r\nno"));
    let shown = call(&receiver, "GET", "bins/b", "").await.json();
    assert_eq!(
        shown["answers"],
        serde_json::json!([
            { "status": 500, "body": "no", "delay_ms": 1 },
            { "status": 200, "headers": { "x-a": "1", "set-cookie": ["a=1", "b=2"] } },
            { "reset": true },
        ])
    );
    assert_eq!((&shown["next_answer"], &shown["total"]), (&1.into(), &1.into()));
    assert_eq!(shown["url"], receiver.url("b"));
    let second = post(&receiver, "/b", "", "").await;
    assert!(second.contains("set-cookie: a=1\r\nset-cookie: b=2\r\n"), "{second}");

    assert_eq!(call(&receiver, "PUT", "bins/b", r#"{"answer":{"status":418}}"#).await.status, 200);
    assert_eq!(statuses(&receiver, "b").await, [418, 418]);
    assert_eq!(call(&receiver, "DELETE", "bins/b", "").await.status, 204);
    assert_eq!(receiver.requests("b").len(), 0);
    assert_eq!(statuses(&receiver, "b").await, [200]);
    assert_eq!(call(&receiver, "GET", "bins/never", "").await.status, 404);

    for (wrong, named) in [
        (r#"{"answer":{"status":99}}"#, "answer.status: 99"),
        (r#"{"answers":[{},{"hang":true,"body":"x"}]}"#, "answers[1].hang"),
        (r#"{"answer":{"headers":{"content-length":"1"}}}"#, "content-length"),
        (r#"{"answer":{"headers":{"a b":"1"}}}"#, "a b"),
        (r#"{"answer":{"headers":{"a":1}}}"#, "a string or a list of strings"),
        (r#"{"answer":{"stauts":200}}"#, "stauts"),
        (r#"{"answer":{"delay_ms":600001}}"#, "600000"),
        (r#"{"answer":{},"answers":[{}]}"#, "exactly one"),
        (r#"{"answers":[]}"#, "at least one"),
        (r#"{"secrt":"x"}"#, "secrt"),
        ("nonsense", "line 1"),
    ] {
        let answer = call(&receiver, "PUT", "bins/b", wrong).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.detail().contains(named), "{wrong}: {}", answer.detail());
    }
    assert_eq!(statuses(&receiver, "b").await, [200], "a refused answer changes nothing");
}

#[test]
#[should_panic(expected = "99 is not a status that can be answered")]
fn a_status_that_is_none_is_refused_where_it_is_written() {
    let _ = Response::status(99);
}
