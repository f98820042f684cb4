//! What goes wrong on purpose, as raw bytes and as curl sees it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use mock_receiver::{Closer, Fault, Problem, Receiver, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{DEADLINE, call, post};

/// Sends a request and reads what comes, in order or with a reset.
async fn bytes_of(receiver: &Receiver, fault: Fault) -> (String, bool) {
    receiver.on("a").respond(Response::status(200).body("hello").fault(fault));
    let mut stream = TcpStream::connect(receiver.addr()).await.unwrap();
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("ends");
    (String::from_utf8_lossy(&bytes).into_owned(), read.is_err())
}

#[tokio::test]
async fn each_fault_is_on_the_wire_as_it_says() {
    let receiver = Receiver::start().await.unwrap();
    let (out, reset) = bytes_of(&receiver, Fault::CloseOut { after_bytes: 9, reset: false }).await;
    assert_eq!((out.as_str(), reset), ("HTTP/1.1 ", false));
    let (_, reset) = bytes_of(&receiver, Fault::CloseOut { after_bytes: 50, reset: true }).await;
    assert!(reset, "RST, not FIN");
    let (out, reset) = bytes_of(&receiver, Fault::CloseIn { after_bytes: 1, reset: false }).await;
    // What was sent beyond the cut is unread, so the system may make a reset of the end.
    assert!(out.is_empty(), "{out} {reset}");
    assert!(bytes_of(&receiver, Fault::Reset).await.1);
    assert!(bytes_of(&receiver, Fault::RstStream { code: 2 }).await.1, "HTTP/1.1 has no streams");
    let (out, _) = bytes_of(&receiver, Fault::TruncateBody { after_bytes: 3 }).await;
    assert!(out.contains("content-length: 5\r\n") && out.ends_with("\r\n\r\nhel"), "{out}");
    let (out, _) = bytes_of(&receiver, Fault::WrongLength { by: -2 }).await;
    assert!(out.contains("content-length: 3\r\n") && out.ends_with("\r\n\r\nhello"), "{out}");
    let (out, _) = bytes_of(&receiver, Fault::BadStatusLine { line: "HTTP 200".into() }).await;
    assert!(out.starts_with("HTTP 200\r\ncontent-length: 5\r\n"), "{out}");
    let (out, _) = bytes_of(&receiver, Fault::BadChunk).await;
    assert!(out.contains("transfer-encoding: chunked\r\n"), "{out}");
    assert!(out.ends_with("\r\n\r\n5\r\nhello\r\nthis is no size\r\n\r\n"), "{out}");
    let (out, _) = bytes_of(&receiver, Fault::Interim { count: 5000, status: 103 }).await;
    assert_eq!(out.matches("HTTP/1.1 103 Early Hints\r\n\r\n").count(), 5000);
    assert!(out.ends_with("\r\n\r\nhello"));
    let (out, _) = bytes_of(&receiver, Fault::HugeHead { bytes: 300_000 }).await;
    assert!(out.contains(&"x".repeat(300_000)) && out.ends_with("\r\n\r\nhello"));
    let (out, _) = bytes_of(&receiver, Fault::HugeBody { bytes: 300_001 }).await;
    let body = out.split("\r\n\r\n").nth(1).unwrap();
    assert!(out.contains("content-length: 300001\r\n") && body.len() == 300_001);

    let seen = receiver.requests("a");
    assert_eq!((seen[2].problem, seen[2].body.as_ref()), (Some(Problem::CutOff), &b"{"[..]));
    let statuses: Vec<_> = seen.iter().map(|capture| capture.status).collect();
    assert_eq!(statuses[..6], [None, Some(200), None, None, None, Some(200)]);
    assert_eq!(seen[3].timeline.closed_by(), Some(Closer::ReceiverReset));
}

#[tokio::test]
async fn slow_answers_come_piece_by_piece() {
    let receiver = Receiver::start().await.unwrap();
    for fault in
        [Fault::DripBody { bytes: 1, every_ms: 25 }, Fault::DripHead { bytes: 30, every_ms: 25 }]
    {
        let began = Instant::now();
        let (out, _) = bytes_of(&receiver, fault.clone()).await;
        assert!(out.ends_with("\r\n\r\nhello"), "{out}");
        assert!(began.elapsed() >= Duration::from_millis(75), "{fault:?} {:?}", began.elapsed());
        let timeline = &receiver.requests("a").pop().unwrap().timeline;
        let began = timeline.answer_began().unwrap();
        let took = timeline.answer_ended().unwrap().saturating_sub(began);
        assert!(took >= Duration::from_millis(75), "{took:?}");
    }
}

/// Nothing is read behind the head, so that the sender's buffers fill and it is stuck.
#[tokio::test]
async fn a_receiver_that_stops_reading_stops_the_sender() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("a").respond(Response::received().fault(Fault::StopReading));
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    sender.write_all(b"POST /a HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    let stuck = async {
        loop {
            sender.write_all(&piece).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), stuck).await.is_err());
    let seen = &receiver.requests("a")[0];
    assert_eq!((seen.problem, seen.body_bytes, seen.status), (Some(Problem::CutOff), 0, None));
}

#[tokio::test]
async fn a_fault_of_a_bin_is_switched_live() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("a").respond([201, 202]);
    assert!(post(&receiver, "/a", "", "").await.starts_with("HTTP/1.1 201"));
    let on = r#"{"fault":{"kind":"close_out","after_bytes":15}}"#;
    let shown = call(&receiver, "PUT", "bins/a", on).await;
    assert_eq!(
        shown.json()["fault"]["after_bytes"],
        15,
        "{}",
        String::from_utf8_lossy(&shown.body)
    );
    assert_eq!(post(&receiver, "/a", "", "").await, "HTTP/1.1 202 Ac");
    call(&receiver, "PUT", "bins/a", r#"{"fault":null}"#).await;
    assert!(post(&receiver, "/a", "", "").await.starts_with("HTTP/1.1 202"), "answers stayed");
    receiver.on("a").fault(Fault::BadChunk);
    assert!(post(&receiver, "/a", "", "").await.contains("this is no size"));
    receiver.on("a").fault(None);
    let wrong =
        call(&receiver, "PUT", "bins/a", r#"{"fault":{"kind":"interim","count":2,"status":100}}"#)
            .await;
    assert!(wrong.detail().contains("fault.status: 102 or 103"), "{}", wrong.detail());
}

/// How curl says that a head is too large: "failure in receiving".
const HEAD_REFUSED: i32 = 56;

/// What curl makes of each, by its exit code (curl(1), EXIT CODES).
#[tokio::test]
async fn curl_sees_each_fault_as_it_is_meant() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("a");
    for (fault, expect) in [
        (Fault::Hang, 28),                                      // Timed out.
        (Fault::Reset, 56),                                     // Failure in receiving.
        (Fault::CloseOut { after_bytes: 0, reset: false }, 52), // Nothing was answered.
        (Fault::TruncateBody { after_bytes: 2 }, 18),           // Partial body.
        (Fault::WrongLength { by: 7 }, 18),
        (Fault::BadStatusLine { line: "HTTP/9 what".into() }, 1), // Unsupported protocol.
        (Fault::BadChunk, 56),
        (Fault::Redirect { hops: None, status: 307 }, 47), // Too many redirects.
        (Fault::Redirect { hops: Some(3), status: 308 }, 0),
        (Fault::Interim { count: 20, status: 102 }, 0),
        (Fault::DripBody { bytes: 1, every_ms: 600 }, 28),
        (Fault::HugeHead { bytes: 2_000_000 }, HEAD_REFUSED),
        (Fault::HugeBody { bytes: 2_000_000 }, 63), // Larger than --max-filesize.
        (Fault::Bomb { bytes: 100 << 20 }, 0),
    ] {
        receiver.on("a").respond(Response::status(200).body("hello").fault(fault.clone()));
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "1", "--location", "--max-redirs", "10"])
            .args(["--max-filesize", "1000000", "-o", "/dev/null", "-d", "{}", &url])
            .output();
        let Ok(output) = output else {
            assert!(std::env::var_os("CI").is_none(), "curl is missing");
            println!("skipped: curl is missing");
            return;
        };
        let code = output.status.code().unwrap_or(-1);
        // Its code for a head beyond its bounds changed with its versions.
        let code = if matches!(code, 27 | 100) { HEAD_REFUSED } else { code };
        assert_eq!(code, expect, "{fault:?}");
    }
    let hops: Vec<_> = receiver.requests("a").iter().filter_map(|c| c.query.clone()).collect();
    assert_eq!(hops, ["mock-hop=1", "mock-hop=2", "mock-hop=3"]);

    let too_many = Response::too_many(Duration::from_secs(3), true);
    receiver.on("a").respond(too_many);
    let answer = post(&receiver, "/a", "", "").await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    let date = answer.split("retry-after: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert!(date.ends_with(" GMT"), "{date}");
}

#[tokio::test]
async fn connections_are_refused_for_a_while_and_accepted_slowly() {
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let set = call(&receiver, "PUT", "listener", r#"{"refuse_ms":60000}"#).await;
    assert!(set.json()["refuse_ms"].as_u64() > Some(50_000));
    let deadline = Instant::now() + DEADLINE;
    while let Ok(open) = TcpStream::connect(addr).await {
        assert!(Instant::now() < deadline, "never refused");
        drop(open);
    }
    let refused = TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    receiver.refuse_for(Duration::ZERO);
    while TcpStream::connect(addr).await.is_err() {
        assert!(Instant::now() < deadline, "never accepted again");
    }
    let slow = Duration::from_millis(100);
    receiver.accept_delay(slow);
    let began = Instant::now();
    assert!(post(&receiver, "/a", "", "").await.starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() >= slow, "{:?}", began.elapsed());
    let wrong = call(&receiver, "PUT", "listener", r#"{"refuse_ms":600001}"#).await;
    assert!(wrong.detail().starts_with("refuse_ms: at most 600000"), "{}", wrong.detail());
}
