//! Waiting, and the account when it was in vain.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use mock_receiver::{ErrorKind, Matcher, Receiver};
use serde_json::json;

use crate::support::{DEADLINE, post};

#[tokio::test]
async fn a_wait_counts_what_came_before_and_what_comes_later() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a", "", "1").await;
    let wait = tokio::spawn(receiver.wait("a").count(3).within(DEADLINE).into_future());
    post(&receiver, "/other", "", "x").await;
    post(&receiver, "/a", "", "2").await;
    assert!(!wait.is_finished());
    post(&receiver, "/a/deep", "", "3").await;
    let bodies: Vec<_> = wait.await.unwrap().unwrap().iter().map(|c| c.body.clone()).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
}

#[tokio::test]
async fn an_unmet_wait_names_the_nearest_miss() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a/x", "X-Id: 1\r\n", r#"{"event":"upload","data":{"n":3,"m":[1]}}"#).await;
    post(&receiver, "/a", "X-Id: 1\r\n", r#"{"event":"match","data":{"n":4,"m":[1]}}"#).await;
    post(&receiver, "/a/y", "", "not json").await;
    let wanted = Matcher::new()
        .method("POST")
        .path("/a")
        .header("x-ID", "1")
        .event("match")
        .json(json!({ "data": { "n": 3, "m": [1] } }));
    let began = Instant::now();
    let within = Duration::from_millis(200);
    let error =
        receiver.wait("a").count(2).matching(wanted.clone()).within(within).await.unwrap_err();
    assert!(began.elapsed() >= within);
    assert_eq!((error.kind(), error.captures().len()), (ErrorKind::Unmet, 0));
    assert_eq!(
        error.to_string(),
        r#"after 200ms bin "a" has 0 of the 2 requests waited for; 3 came
nearest miss: #2 POST /a → 200, 40 B, event match
  json/data/n: expected "3", found "4"
requests so far:
  #1 POST /a/x → 200, 41 B, event upload
  #2 POST /a → 200, 40 B, event match
  #3 POST /a/y → 200, 8 B"#
    );
    assert_eq!(format!("{error:?}"), error.to_string(), "unwrap() shows the same");

    post(&receiver, "/a", "x-id: 0\r\nx-id: 1\r\n", r#"{"data":{"m":[1],"n":3},"event":"match"}"#)
        .await;
    let met = receiver.wait("a").matching(wanted).within(DEADLINE).await.unwrap();
    assert_eq!(met.iter().map(|capture| capture.seq).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn a_wait_ends_with_its_receiver() {
    let receiver = Receiver::start().await.unwrap();
    let wait = tokio::spawn(receiver.wait("a").within(DEADLINE).into_future());
    tokio::task::yield_now().await;
    drop(receiver);
    let error = tokio::time::timeout(DEADLINE / 2, wait).await.expect("ends").unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// A paused clock jumps to the next timer when a test waits for a socket; the receiver has a
/// runtime of its own, so its waits are real.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_cut_a_wait_short() {
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let sender = std::thread::spawn(move || {
        // tidy: allow(sleep): the wait must be under way before the request that meets it
        std::thread::sleep(Duration::from_millis(100));
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(b"POST /a HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    assert_eq!(receiver.wait("a").within(DEADLINE).await.unwrap().len(), 1);
    sender.join().unwrap();
}

#[tokio::test]
async fn exactly_once_is_one_success_per_key() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("a").respond([500, 200]);
    for id in ["1", "1", "2"] {
        post(&receiver, "/a", &format!("Webhook-Id: {id}\r\n"), "{}").await;
    }
    assert_eq!(receiver.assert_exactly_once_by("a", "webhook-id"), 2);

    post(&receiver, "/a", "Webhook-Id: 2\r\n", "{}").await;
    post(&receiver, "/a", "", "{}").await;
    receiver.on("a").respond(503);
    post(&receiver, "/a", "Webhook-Id: 3\r\n", "{}").await;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        receiver.assert_exactly_once_by("a", "webhook-id");
    }));
    let text = *panic.unwrap_err().downcast::<String>().expect("a text");
    assert_eq!(
        text,
        r#"bin "a": 2 of 3 keys not taken over exactly once, 1 requests without a key
  no key: #5 POST /a → 200, 2 B
  "2" was taken over 2 times:
    #3 POST /a → 200, 2 B
    #4 POST /a → 200, 2 B
  "3" was never taken over:
    #6 POST /a → 503, 2 B"#
    );
}
