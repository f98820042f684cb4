//! What is bounded, and what is seen of it.

use mock_receiver::{Problem, Receiver};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{DEADLINE, call, post, raw, read_answer};

#[tokio::test]
async fn the_oldest_make_room_and_are_counted() {
    let receiver = Receiver::builder().captures_max(3).start().await.unwrap();
    for at in 0..5 {
        post(&receiver, if at % 2 == 0 { "/even" } else { "/odd" }, "", &at.to_string()).await;
    }
    let held: Vec<_> = receiver.after(0, 10).iter().map(|capture| capture.body.clone()).collect();
    assert_eq!(
        (held.as_slice(), receiver.evicted()),
        (&["2".into(), "3".into(), "4".into()][..], 2)
    );
    let even = call(&receiver, "GET", "requests?bin=even", "").await.json();
    assert_eq!((&even["total"], &even["evicted"]), (&2.into(), &1.into()));
    assert_eq!(even["requests"][0]["seq"], 3);
    let gone = call(&receiver, "GET", "requests/1", "").await;
    assert_eq!(gone.status, 404);
    assert!(gone.detail().contains("not held any more"));
}

#[tokio::test]
async fn bytes_are_bounded_too_and_the_newest_stays() {
    let receiver = Receiver::builder().bytes_max(100_000).start().await.unwrap();
    let body = "x".repeat(40_000);
    for _ in 0..3 {
        post(&receiver, "/a", "", &body).await;
    }
    assert_eq!((receiver.requests("a").len(), receiver.evicted()), (2, 1));
    post(&receiver, "/a", "", &"y".repeat(200_000)).await;
    let held = receiver.requests("a");
    assert_eq!((held.len(), held[0].body.len(), receiver.evicted()), (1, 200_000, 3));
    receiver.clear("a");
    for _ in 0..2 {
        post(&receiver, "/a", "", &body).await;
    }
    assert_eq!((receiver.requests("a").len(), receiver.evicted()), (2, 3), "room is given back");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_cut_and_answered_413() {
    let receiver =
        Receiver::builder().body_bytes_max(1_000).script("a", [201, 202]).start().await.unwrap();
    assert!(post(&receiver, "/a", "", &"x".repeat(1_000)).await.starts_with("HTTP/1.1 201"));
    let answer = post(&receiver, "/a", "", &"x".repeat(500_000)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("1000 bytes"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let seen = &receiver.requests("a")[1];
    assert_eq!((seen.problem, seen.status), (Some(Problem::TooLarge), Some(413)));
    assert_eq!((seen.body.len(), seen.body_bytes), (1_000, 500_000));
    let listed = call(&receiver, "GET", "requests?filter=status:413", "").await.json();
    assert_eq!(listed["requests"][0]["truncated"], true);
    assert_eq!(listed["requests"][0]["problem"], "too_large");
    assert!(post(&receiver, "/a", "", "").await.starts_with("HTTP/1.1 202"), "no step was used up");

    // Who asks before sending is told before.
    let mut careful = TcpStream::connect(receiver.addr()).await.unwrap();
    let head =
        "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n";
    careful.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut careful).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_request_that_breaks_off_is_kept_as_that() {
    let receiver = Receiver::start().await.unwrap();
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    sender
        .write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    drop(sender);
    tokio::time::timeout(DEADLINE, receiver.changed(0)).await.expect("is captured");
    let seen = &receiver.requests("a")[0];
    assert_eq!((seen.problem, seen.status), (Some(Problem::Incomplete), None));
    assert_eq!(seen.body, "half");
    let error = receiver.wait("a").within(std::time::Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("1 came, 1 of them not whole"), "{error}");
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_refused() {
    let receiver = Receiver::start().await.unwrap();
    let large = "x".repeat(60_000);
    let answer = post(&receiver, "/a", &format!("X-Large: {large}\r\n"), "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(receiver.requests("a")[0].header("x-large"), Some(large.as_str()));
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    let head = format!("POST /a HTTP/1.1\r\nHost: a\r\nX-Large: {large}{large}\r\n\r\n");
    sender.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut sender).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = "X-Many: 1\r\n".repeat(101);
    let answer = raw(receiver.addr(), format!("POST /a HTTP/1.1\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let seen = receiver.requests("a");
    let problems: Vec<_> = seen.iter().map(|capture| capture.problem).collect();
    assert_eq!(problems, [None, Some(Problem::TooLarge), Some(Problem::TooLarge)]);
    assert!(seen[1].head().len() > 64 << 10 && seen[1].head().len() < 256 << 10);
}

#[tokio::test]
async fn a_body_that_stalls_is_ended() {
    let wait = std::time::Duration::from_millis(50);
    let receiver = Receiver::builder().body_timeout(wait).start().await.unwrap();
    let answer =
        raw(receiver.addr(), "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("for 50ms"), "{answer}");
    let seen = &receiver.requests("a")[0];
    assert_eq!((seen.problem, seen.status), (Some(Problem::Stalled), Some(408)));
}

#[tokio::test]
async fn bodies_on_their_way_are_bounded_together() {
    let receiver = Receiver::builder().inflight_bytes_max(1_000).start().await.unwrap();
    let mut first = TcpStream::connect(receiver.addr()).await.unwrap();
    let (head, half) = ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n", "x".repeat(450));
    first.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read_answer(&mut first).await.starts_with("HTTP/1.1 100"));
    first.write_all(half.as_bytes()).await.unwrap();
    // The first half is on its way, and counted, when a further body of that size is too much.
    let deadline = std::time::Instant::now() + DEADLINE;
    while !post(&receiver, "/b", "", &"y".repeat(600)).await.starts_with("HTTP/1.1 503") {
        assert!(std::time::Instant::now() < deadline, "never refused");
    }
    assert_eq!(receiver.requests("b").last().unwrap().problem, Some(Problem::Overloaded));
    first.write_all(half.as_bytes()).await.unwrap();
    assert!(read_answer(&mut first).await.starts_with("HTTP/1.1 200"));
    assert!(post(&receiver, "/b", "", &"y".repeat(600)).await.starts_with("HTTP/1.1 200"));
}

/// An idle connection ends; one whose request is not answered yet does not.
#[tokio::test]
async fn an_idle_connection_is_closed() {
    let idle = std::time::Duration::from_millis(500);
    let receiver = Receiver::builder().idle_timeout(idle).start().await.unwrap();
    assert_eq!(raw(receiver.addr(), "").await, "");
    assert_eq!(raw(receiver.addr(), "POST /a HT").await, "");
    let once = raw(receiver.addr(), "POST /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(once.starts_with("HTTP/1.1 200"), "{once}");
    receiver.on("slow").respond(mock_receiver::Response::status(201).delay(2 * idle));
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    for _ in 0..2 {
        sender.write_all(b"POST /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut sender).await.starts_with("HTTP/1.1 201"));
    }
}
