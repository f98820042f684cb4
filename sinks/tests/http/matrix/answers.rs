//! What receivers say: statuses, heads, bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::delivery::Cause;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::{
    Case, End, Script, answers, answers_once, ended, exhausted, run, script, taken, taken_second,
};
use crate::peer::OK;

fn with(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: 3\r\n\r\nwhy")
}

/// Sends `head`, then `piece` again and again with a pause, for as long as somebody listens.
fn goes_on(head: &'static str, piece: impl Into<Vec<u8>>, pause: Duration) -> Script {
    let piece = Arc::new(piece.into());
    script(move |mut connection| {
        let piece = Arc::clone(&piece);
        async move {
            connection.request().await;
            connection.send(head.as_bytes()).await;
            while connection.stream.write_all(&piece).await.is_ok() {
                // tidy: allow(sleep): the peer is slow on purpose
                sleep(pause).await;
            }
        }
    })
}

/// Answers the first request with `first`, all others with [`OK`].
fn first(first: String) -> Script {
    let count = Arc::new(AtomicUsize::new(0));
    script(move |mut connection| {
        let (first, count) = (first.clone(), Arc::clone(&count));
        async move {
            while connection.request().await.is_some() {
                let made = count.fetch_add(1, Ordering::SeqCst);
                connection.send(if made == 0 { first.as_bytes() } else { OK }).await;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses() {
    let status = |status: u16| exhausted(Cause::Status, "the receiver answered").status(status);
    let elsewhere = "location: http://127.0.0.1:1/\r\n";
    run(vec![
        Case::new("200", answers(OK), taken(200)),
        Case::new("202 without a body", answers(with("202 A", "")), taken(202)),
        Case::new("204", answers("HTTP/1.1 204 No\r\n\r\n"), taken(204)),
        Case::new("299", answers(with("299 X", "")), taken(299)),
        Case::new("301", answers(with("301 M", elsewhere)), status(301)),
        Case::new("302 to itself", answers(with("302 M", "location: /hook\r\n")), status(302)),
        Case::new("304", answers("HTTP/1.1 304 Not Modified\r\n\r\n"), status(304)),
        Case::new("308", answers(with("308 M", elsewhere)), status(308)),
        Case::new("400", answers(with("400 B", "")), status(400)),
        Case::new("401", answers(with("401 U", "")), status(401)),
        Case::new("404", answers(with("404 N", "")), status(404)),
        Case::new("408", answers_once(with("408 T", "")), status(408)),
        Case::new("410", answers(with("410 G", "")), ended(End::Gone, 410, "no more events")),
        Case::new("429", answers(with("429 S", "")), status(429)),
        Case::new("500", answers(with("500 I", "")), status(500)),
        Case::new("503", answers(with("503 S", "")), status(503)),
        Case::new("599", answers(with("599 X", "")), status(599)),
        Case::new("999", answers(with("999 X", "")), status(999)),
        Case::new("500, then 200", first(with("500 I", "")), taken_second()),
        Case::new("101", answers_once("HTTP/1.1 101 S\r\nupgrade: x\r\n\r\n"), status(101)),
        Case::new(
            "permanent code",
            answers(with("400 B", "")),
            ended(End::Rejected, 400, "permanent says that it is final"),
        )
        .with(|settings| settings.permanent = serde_json::from_str("[400]").unwrap()),
        Case::new(
            "permanent class",
            answers(with("501 N", "")),
            ended(End::Rejected, 501, "permanent says that it is final"),
        )
        .with(|settings| settings.permanent = serde_json::from_str(r#"["5xx"]"#).unwrap()),
        Case::new("503 is in no class", answers(with("503 S", "")), status(503))
            .with(|settings| settings.permanent = serde_json::from_str(r#"["5xx"]"#).unwrap()),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after() {
    let says = |value: &str| first(with("503 S", &format!("retry-after: {value}\r\n")));
    let later = |seconds| ended(End::Later(seconds), 503, "the receiver answered 503");
    run(vec![
        Case::new("an hour", says("3600"), later(3600)),
        Case::new("the year 2100", says("Fri, 01 Jan 2100 00:00:00 GMT"), later(3600)),
        Case::new("more than a number holds", says(&"9".repeat(40)), later(3600)),
        Case::new("at once", says("0"), taken_second()),
        Case::new("a past date", says("Sun, 06 Nov 1994 08:49:37 GMT"), taken_second()),
        Case::new("negative", says("-3600"), taken_second()),
        Case::new("no number", says("tomorrow"), taken_second()),
        Case::new("a fraction", says("3600.5"), taken_second()),
        Case::new("no date", says("Fri, 99 Jan 2100 00:00:00 GMT"), taken_second()),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads() {
    let invalid = || exhausted(Cause::Protocol, "is not valid HTTP");
    let late = || exhausted(Cause::Timeout, "timed out waiting for the answer");
    let (pause, short) = (Duration::from_millis(10), Duration::from_millis(1));
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(200 << 10));
    let hints = format!("HTTP/1.1 103 E\r\n\r\n{}", std::str::from_utf8(OK).unwrap());
    let settings_frame = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy";
    let same_twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nxy";
    run(vec![
        Case::new("garbage", answers_once([0xff, 0, 0x13, b'\n', b'\r', 0x80]), invalid()),
        Case::new("another protocol", answers_once("SSH-2.0-x\r\n"), invalid()),
        Case::new("HTTP/2 frames", answers_once(settings_frame), invalid()),
        Case::new("HTTP/9.9", answers_once("HTTP/9.9 200 OK\r\n\r\n"), invalid()),
        Case::new("no number", answers_once("HTTP/1.1 2x0 OK\r\n\r\n"), invalid()),
        Case::new("no colon", answers_once("HTTP/1.1 200 OK\r\nx\r\n\r\n"), invalid()),
        Case::new("129 fields", answers_once(fields), invalid()),
        Case::new("a field of 200 KiB", answers_once(large), invalid()),
        Case::new(
            "endless head",
            goes_on("HTTP/1.1 200 OK\r\na: ", [b'b'; 4096], short),
            invalid(),
        ),
        Case::new("two lengths", answers_once(twice), invalid()),
        Case::new("one length twice", answers(same_twice), taken(200)),
        Case::new(
            "negative length",
            answers_once("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
            invalid(),
        ),
        Case::new("hints before the answer", answers(hints), taken(200)),
        Case::new("flood of 100", goes_on("", b"HTTP/1.1 100 C\r\n\r\n", short), late()),
        Case::new("flood of 103", goes_on("", b"HTTP/1.1 103 E\r\n\r\n", short), late()),
        Case::new("dripping head", goes_on("HTTP/1.1 200 OK\r\na: ", b"b", pause), late()),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let sized = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    let broken = || exhausted(Cause::Closed, "before the body of the answer was complete");
    let late = || exhausted(Cause::Timeout, "timed out reading the answer").status(200);
    let invalid = || exhausted(Cause::Protocol, "is not valid HTTP").status(200);
    let pause = Duration::from_millis(10);
    let endless = goes_on(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "4\r\nabcd\r\n".repeat(1000),
        Duration::ZERO,
    );
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n\
                2\r\nok\r\n0\r\n\r\n";
    run(vec![
        Case::new(
            "length too large, closed",
            answers_once(format!("{sized}ok")),
            broken().status(200),
        ),
        Case::new("length too large, open", answers(format!("{sized}ok")), late()),
        Case::new("length too small", answers(&OK.repeat(2)[..]), taken(200)),
        Case::new("204 with a body", answers_once("HTTP/1.1 204 No\r\n\r\nbody"), taken(204)),
        Case::new("until closed", answers_once("HTTP/1.1 200 OK\r\n\r\nok"), taken(200)),
        Case::new("length and chunks", answers_once(both), taken(200)),
        Case::new(
            "chunks that break off",
            answers_once(format!("{chunked}9\r\nhalf")),
            broken().status(200),
        ),
        Case::new(
            "no last chunk",
            answers_once(format!("{chunked}2\r\nok\r\n")),
            broken().status(200),
        ),
        Case::new("size of a chunk", answers_once(format!("{chunked}zz\r\nok\r\n")), invalid()),
        Case::new(
            "chunk of 2^68",
            answers_once(format!("{chunked}fffffffffffffffff\r\nx")),
            invalid(),
        ),
        Case::new(
            "chunk extensions",
            answers_once(format!("{chunked}2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(100 << 10))),
            invalid(),
        ),
        Case::new(
            "trailers",
            answers(format!("{chunked}2\r\nok\r\n0\r\nx: y\r\n\r\n")),
            taken(200),
        ),
        Case::new("dripping", goes_on(sized, b"x", pause), late()),
        Case::new("dripping chunks", goes_on(chunked, b"1\r\nx\r\n", pause), late()),
        Case::new("endless", endless, taken(200)),
        Case::new(
            "gzip that is none",
            answers("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok"),
            taken(200),
        ),
        Case::new(
            "failure whose text hangs",
            answers("HTTP/1.1 410 Gone\r\ncontent-length: 1000\r\n\r\nby"),
            ended(End::Gone, 410, "no more events"),
        ),
    ])
    .await;
}
