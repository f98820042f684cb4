//! Bytes in are bytes kept.

use std::process::{Command, Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mock_receiver::{Closer, Problem, Receiver};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{DEADLINE, call, post, raw, read_answer};

#[tokio::test]
async fn header_lines_keep_order_case_number_and_bytes() {
    let receiver = Receiver::start().await.unwrap();
    let head = b"POST /odd/%7Epath//x?q=1&q=%20&? HTTP/1.1\r\nhOsT: a\r\nZ-Last: 1\r\n\
        X-Dup: one\r\na-first:no-space\r\nx-dup:\t two \t\r\nX-DUP: \r\n\
        X-Latin: caf\xe9\r\nConnection: close\r\ncontent-LENGTH: 2\r\n\r\n";
    let answer = raw(receiver.addr(), [head, &b"{}"[..]].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"received\":true}"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");

    let seen = &receiver.requests("odd")[0];
    assert_eq!(seen.head(), head);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/odd/%7Epath//x"));
    assert_eq!(seen.query.as_deref(), Some("q=1&q=%20&?"));
    assert_eq!((seen.version, seen.status, seen.seq), ("HTTP/1.1", Some(200), 1));
    assert_eq!(seen.body, "{}");
    let lines: Vec<(&str, &[u8])> = seen.headers.iter().collect();
    assert_eq!(
        lines,
        [
            ("hOsT", &b"a"[..]),
            ("Z-Last", b"1"),
            ("X-Dup", b"one"),
            ("a-first", b"no-space"),
            ("x-dup", b"two"),
            ("X-DUP", b""),
            ("X-Latin", b"caf\xe9"),
            ("Connection", b"close"),
            ("content-LENGTH", b"2"),
        ]
    );
    assert_eq!(seen.header("X-dup"), Some("one"));
    assert_eq!(seen.headers.all("x-dup").count(), 3);
    assert_eq!(
        (seen.header("x-latin"), seen.headers.bytes("x-latin")),
        (None, Some(&b"caf\xe9"[..]))
    );

    let document = call(&receiver, "GET", "requests/1", "").await.json();
    assert_eq!(document["headers"][2], serde_json::json!(["X-Dup", "one"]));
    let exact = document["head_base64"].as_str().map(|text| STANDARD.decode(text).unwrap());
    assert_eq!(exact.as_deref(), Some(&head[..]));
}

#[tokio::test]
async fn a_chunked_body_is_joined_and_its_trailers_kept() {
    let receiver = Receiver::start().await.unwrap();
    let request = "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
        Trailer: X-Sum\r\nConnection: close\r\n\r\n\
        5;ext=\"a;b\"\r\nhello\r\n1\r\n \r\n00006\r\nworld!\r\n0;last\r\nX-Sum: 1\r\nx-SUM:2\r\n\r\n";
    raw(receiver.addr(), request).await;
    let seen = &receiver.requests("chunks")[0];
    assert_eq!(seen.body, "hello world!");
    assert_eq!(seen.trailers.raw(), b"X-Sum: 1\r\nx-SUM:2\r\n\r\n");
    assert_eq!(seen.trailers.len(), 2);
    let document = call(&receiver, "GET", "requests/1", "").await.json();
    assert_eq!(document["trailers"], serde_json::json!([["X-Sum", "1"], ["x-SUM", "2"]]));
}

#[tokio::test]
async fn bodies_come_back_byte_for_byte() {
    let receiver = Receiver::start().await.unwrap();
    let every_byte: Vec<u8> = (0..=255).cycle().take(5 << 20).collect();
    let bodies: [&[u8]; 5] = [
        b"",
        b"\0\xff\xfe\r\n\r\nGET / HTTP/1.1\r\n\r\n\xc3\x28",
        br#"{ "id" : 1152921506151679042999999999999, "f": 1.10, "id":"\u00e9" } "#,
        &every_byte,
        "\u{feff}text\u{1f600}\r\n".as_bytes(),
    ];
    for (at, body) in bodies.iter().enumerate() {
        let length = body.len();
        let head = format!(
            "PUT /bodies HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        raw(receiver.addr(), [head.as_bytes(), body].concat()).await;
        let seen = &receiver.requests("bodies")[at];
        assert!(seen.body == *body && seen.body_bytes == body.len() as u64, "body {at}");

        let exact = call(&receiver, "GET", &format!("requests/{}/body", seen.seq), "").await;
        assert!(exact.body == *body, "body {at} over the API");
        assert!(
            exact.head.contains("content-type: application/octet-stream\r\n"),
            "{}",
            exact.head
        );
        assert!(exact.head.contains("x-content-type-options: nosniff\r\n"), "{}", exact.head);
        let document = call(&receiver, "GET", &format!("requests/{}", seen.seq), "").await.json();
        let shown = match std::str::from_utf8(body) {
            Ok(_) => document["body"].as_str().unwrap().as_bytes().to_vec(),
            Err(_) => STANDARD.decode(document["body_base64"].as_str().unwrap()).unwrap(),
        };
        assert!(shown == *body, "body {at} in the document");
    }
}

/// Heads are cut out of the connection beside hyper, so each way in which messages can follow
/// each other must keep head and body together.
#[tokio::test]
async fn requests_on_one_connection_are_told_apart() {
    let stream = "\r\nPOST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\n\
        GET /trap HTTP/1.1\r\n\r\nmore!\
        PUT /two?x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        GET /three HTTP/1.1\nHost: bare-lf\n\n\
        DELETE http://a.example/four/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for pause_at in [0, 1, 30, 70, 75, 80, 95, 160, 165, 190] {
        let receiver = Receiver::start().await.unwrap();
        let mut connection = TcpStream::connect(receiver.addr()).await.unwrap();
        let (first, second) = stream.as_bytes().split_at(pause_at);
        connection.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        connection.write_all(second).await.unwrap();
        for _ in 0..4 {
            let answer = read_answer(&mut connection).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "paused at {pause_at}: {answer}");
        }
        let seen = receiver.after(0, 10);
        let facts: Vec<_> = seen
            .iter()
            .map(|c| (c.method.as_str(), c.path.as_str(), c.body.len(), c.connection, c.request))
            .collect();
        assert_eq!(
            facts,
            [
                ("POST", "/one", 27, 1, 1),
                ("PUT", "/two", 3, 1, 2),
                ("GET", "/three", 0, 1, 3),
                ("DELETE", "/four/x", 0, 1, 4),
            ]
        );
        assert_eq!(seen[1].query.as_deref(), Some("x"));
        assert_eq!(seen[2].header("host"), Some("bare-lf"));
        assert_eq!(seen[2].head(), b"GET /three HTTP/1.1\nHost: bare-lf\n\n");
    }
}

#[tokio::test]
async fn old_and_careful_senders_are_served() {
    let receiver = Receiver::start().await.unwrap();
    let answer = raw(receiver.addr(), "POST /old HTTP/1.0\r\nContent-Length: 1\r\n\r\nx").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(receiver.requests("old")[0].version, "HTTP/1.0");

    let mut careful = TcpStream::connect(receiver.addr()).await.unwrap();
    let head =
        "POST /careful HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    careful.write_all(head.as_bytes()).await.unwrap();
    let go_on = read_answer(&mut careful).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    careful.write_all(b"ok").await.unwrap();
    assert!(read_answer(&mut careful).await.starts_with("HTTP/1.1 200"));
    assert_eq!(receiver.requests("careful")[0].body, "ok");
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_kept_and_no_bin_is_told_so() {
    let receiver = Receiver::start().await.unwrap();
    for wrong in [
        "POST /a HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /a HTTP/1.1\r\nBad Name: a\r\n\r\n",
    ] {
        let answer = raw(receiver.addr(), wrong).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{wrong:?}: {answer}");
        let seen = receiver.requests("a").pop().expect("is kept");
        assert_eq!((seen.problem, seen.status), (Some(Problem::Malformed), Some(400)));
        assert!(wrong.as_bytes().starts_with(seen.head()) && seen.head().ends_with(b"\r\n\r\n"));
        let reason = seen.reason.as_deref().expect("a reason");
        let told: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(told["detail"], reason);
    }
    receiver.clear("a");
    let root = post(&receiver, "/", "", "x").await;
    assert!(root.starts_with("HTTP/1.1 404") && root.contains("/BIN/any/path"), "{root}");
    let long = post(&receiver, &format!("/{}", "b".repeat(129)), "", "x").await;
    assert!(long.starts_with("HTTP/1.1 404") && long.contains("at most 128 bytes"), "{long}");
    for target in ["CONNECT a:443", "OPTIONS *", "GET http://a.example", "GET //a"] {
        let request = format!("{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = raw(receiver.addr(), request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{target}: {answer}");
    }
    assert!(receiver.after(0, 10).is_empty(), "{:?}", receiver.after(0, 10));
    let odd = "GET /a/\u{fc}?\u{fc}#x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(raw(receiver.addr(), odd).await.starts_with("HTTP/1.1 200"));
    let seen = &receiver.requests("a")[0];
    assert_eq!((seen.path.as_str(), seen.query.as_deref()), ("/a/\u{fc}", Some("\u{fc}#x")));
}

/// Malformed requests are what a developer of a sender most needs to see: kept as far as they
/// came, in the bin that they seem to be for, with the reason.
#[tokio::test]
async fn malformed_requests_are_kept_as_far_as_they_came() {
    let receiver = Receiver::start().await.unwrap();
    let chunks = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n";
    let answer = raw(receiver.addr(), chunks).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let seen = &receiver.requests("a")[0];
    assert_eq!((seen.problem, seen.body.as_ref()), (Some(Problem::Malformed), &b"abc"[..]));
    assert!(seen.reason.as_deref().unwrap().contains("\"zz\""), "{:?}", seen.reason);
    let long = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n";
    raw(receiver.addr(), long).await;
    let seen = &receiver.requests("a")[1];
    assert!(seen.reason.as_deref().unwrap().contains("longer than its size"), "{:?}", seen.reason);

    raw(receiver.addr(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    let seen = &receiver.requests("malformed")[0];
    assert!(seen.reason.as_deref().unwrap().contains("--tls"), "{:?}", seen.reason);
    assert_eq!(seen.head(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");

    let mut half = TcpStream::connect(receiver.addr()).await.unwrap();
    half.write_all(b"PUT /half/x?y HTTP/1.1\r\nHo").await.unwrap();
    half.shutdown().await.unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    while receiver.requests("half").is_empty() {
        assert!(std::time::Instant::now() < deadline, "never captured");
        tokio::task::yield_now().await;
    }
    let seen = &receiver.requests("half")[0];
    assert_eq!((seen.problem, seen.status), (Some(Problem::Incomplete), None));
    assert_eq!((seen.path.as_str(), seen.query.as_deref()), ("/half/x", Some("y")));
    assert_eq!(seen.head(), b"PUT /half/x?y HTTP/1.1\r\nHo");
    let listed = call(&receiver, "GET", "requests?bin=half", "").await.json();
    assert_eq!(listed["requests"][0]["problem"], "incomplete");
    assert!(listed["requests"][0]["reason"].as_str().unwrap().contains("head was complete"));
}

#[tokio::test]
async fn folded_lines_are_kept_folded() {
    let receiver = Receiver::start().await.unwrap();
    let head = "POST /a HTTP/1.1\r\nX-Folded: one\r\n  two\r\n\tthree\r\nNext: 1\r\n\
        Connection: close\r\n\r\n";
    assert!(raw(receiver.addr(), head).await.starts_with("HTTP/1.1 200"));
    let seen = &receiver.requests("a")[0];
    assert_eq!(seen.head(), head.as_bytes());
    assert_eq!(seen.headers.get("x-folded"), Some("one\r\n  two\r\n\tthree"));
    assert_eq!((seen.header("next"), seen.headers.len()), (Some("1"), 3));
}

/// Each moment stands where it happened, and the end says who made it.
#[tokio::test]
async fn a_timeline_tells_what_happened_when_and_who_closed() {
    let receiver = Receiver::start().await.unwrap();
    let pause = std::time::Duration::from_millis(30);
    receiver.on("a").respond(mock_receiver::Response::received().delay(pause));
    let mut sender = TcpStream::connect(receiver.addr()).await.unwrap();
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
    for part in ["POST /a HTTP/1.1\r\n", "Content-Length: 4\r\n\r\n", "body"] {
        pace.tick().await;
        sender.write_all(part.as_bytes()).await.unwrap();
    }
    read_answer(&mut sender).await;
    sender.write_all(b"GET /a HTTP/1.1\r\n\r\n").await.unwrap();
    read_answer(&mut sender).await;
    drop(sender);
    let deadline = std::time::Instant::now() + DEADLINE;
    let seen = loop {
        let seen = receiver.requests("a");
        if seen.get(1).is_some_and(|capture| capture.timeline.closed().is_some()) {
            break seen;
        }
        assert!(std::time::Instant::now() < deadline, "{:?}", seen[1].timeline);
        tokio::task::yield_now().await;
    };
    let first = &seen[0].timeline;
    let moments = [first.first_byte, first.head, first.body, first.answer_began().unwrap()];
    assert!(moments[0] >= pause, "{first:?}");
    assert!(moments.windows(2).all(|two| two[0] + pause / 2 <= two[1]), "{first:?}");
    assert!(first.answer_ended() >= first.answer_began() && first.closed().is_none(), "{first:?}");
    let second = &seen[1].timeline;
    assert!(second.first_byte >= first.answer_ended().unwrap() && second.tls.is_none());
    assert_eq!(second.closed_by(), Some(Closer::Sender), "{second:?}");
    assert!(second.closed() >= second.answer_ended());

    post(&receiver, "/b", "", "").await; // It asks us to close.
    let shown = call(&receiver, "GET", "requests?bin=b", "").await.json();
    let shown = &shown["requests"][0]["timeline"];
    assert_eq!(shown["closed_by"], "receiver", "{shown}");
    assert!(shown["answer_ended_ms"].as_f64() >= shown["head_ms"].as_f64(), "{shown}");
}

#[tokio::test]
async fn what_curl_sends_is_what_is_kept() {
    let receiver = Receiver::start().await.unwrap();
    let sent = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--data-binary", "@Cargo.toml"])
        .args(["-H", "X-Odd-CASE: v", "-H", "Transfer-Encoding: chunked"])
        .arg(receiver.url("curl"))
        .stdin(Stdio::null())
        .output();
    let Ok(output) = sent else {
        assert!(std::env::var_os("CI").is_none(), "curl is missing");
        println!("skipped: curl is missing");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), r#"{"received":true}"#);
    let seen = &receiver.wait("curl").within(DEADLINE).await.unwrap()[0];
    assert_eq!(seen.body, std::fs::read("Cargo.toml").unwrap());
    assert!(seen.headers.iter().any(|(name, _)| name == "X-Odd-CASE"), "{:?}", seen.headers);
}
