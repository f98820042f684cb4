//! What each answer means.

use std::time::Duration;

use postrider::delivery::{ANSWER_BYTES_MAX, Ack, Cause, Nack, Outcome, Verdict};

use crate::peer::Peer;
use crate::{TIME, deliver, refused, settings, sink};

async fn answered(answer: &str) -> Outcome {
    let peer = Peer::answering(answer).await;
    let outcome = deliver(&sink(&settings(&peer.url()))).await;
    assert_eq!(peer.seen().len(), 1, "sent more than once for {answer:?}");
    outcome
}

fn with(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: 3\r\n\r\nwhy")
}

#[tokio::test]
async fn every_2xx_is_taken_over() {
    for status in ["200 OK", "201 Created", "202 Accepted", "206 Partial", "299 Whatever"] {
        let code = status[..3].parse().unwrap();
        let expect = Ok(Ack::new().status(code).answer(b"why"));
        assert_eq!(answered(&with(status, "")).await, expect, "{status}");
    }
    assert_eq!(
        answered("HTTP/1.1 204 No Content\r\n\r\n").await,
        Ok(Ack::new().status(204)),
        "no body"
    );
}

#[tokio::test]
async fn informational_answers_are_passed_over() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n\
                  HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(answered(answer).await, Ok(Ack::new().status(200)));
}

#[tokio::test]
async fn gone_disables() {
    let expect = Nack::disable(Cause::Status, "the receiver answered 410: it wants no more events")
        .status(410)
        .answer(b"why");
    assert_eq!(answered(&with("410 Gone", "")).await, Err(expect));
}

#[tokio::test]
async fn other_failures_are_retried() {
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "404 Not Found",
        "408 Request Timeout",
        "413 Payload Too Large",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
        "599 <unknown status code>",
    ] {
        let code = status[..3].parse().unwrap();
        let expect = Nack::retry(Cause::Status, format!("the receiver answered {status}"))
            .status(code)
            .answer(b"why");
        // These pause the whole lane.
        let expect = if matches!(code, 429 | 502..=504) { expect.slow() } else { expect };
        assert_eq!(answered(&with(status, "")).await, Err(expect), "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_reported_in_both_forms() {
    let check = async |status: &str, value: &str, expect: Option<Duration>| {
        let headers = format!("retry-after: {value}\r\n");
        let nack = answered(&with(status, &headers)).await.unwrap_err();
        assert_eq!(nack.cause(), Cause::Status);
        let Verdict::Retry { after } = nack.verdict() else { panic!("{nack:?}") };
        match (after, expect) {
            // A date counts from when the answer came, which is a little after the attempt began.
            (Some(found), Some(expect)) => {
                assert!(
                    found <= expect && found + Duration::from_secs(5) > expect,
                    "{value}: {found:?}"
                );
            }
            (found, expect) => assert_eq!(found, expect, "{status} {value}"),
        }
    };
    check("503 Slow", "120", Some(Duration::from_mins(2))).await;
    check("429 Slow", "7", Some(Duration::from_secs(7))).await;
    check("500 Slow", "0", Some(Duration::ZERO)).await;
    check("302 Slow", "30", Some(Duration::from_secs(30))).await;
    // Attempts start one minute after TIME, 2025-11-30T14:30:45.123Z.
    assert_eq!(TIME.as_seconds(), 1_764_513_045);
    let date = "Sun, 30 Nov 2025 14:35:45 GMT";
    check("503 Slow", date, Some(Duration::from_millis(240_000 - 123))).await;
    check("503 Slow", "Sun, 30 Nov 2025 14:00:00 GMT", Some(Duration::ZERO)).await;
    for garbage in ["soon", "-5", "1.5", "Sun, 99 Nov 2025 14:35:45 GMT"] {
        check("503 Slow", garbage, None).await;
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_that_names_the_location() {
    let elsewhere = Peer::answering(crate::peer::OK).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://u:hunter2@{}/new?token=hunter2", elsewhere.address);
        let headers = format!("location: {location}\r\n");
        let nack = answered(&with(&format!("{status} Moved"), &headers)).await.unwrap_err();
        let message = format!(
            "the receiver answered {status} with the location http://••••@{}/new?••••; redirects \
             are not followed",
            elsewhere.address
        );
        assert_eq!(nack, Nack::retry(Cause::Status, message).status(status).answer(b"why"));
    }
    assert_eq!(elsewhere.connections(), 0);
    let nack = answered(&with("307 Moved", "location: /new?token=hunter2\r\n")).await.unwrap_err();
    assert!(nack.message().contains("the location /new;"), "{nack:?}");
    let nack = answered("HTTP/1.1 304 Not Modified\r\n\r\n").await.unwrap_err();
    assert_eq!(nack.message(), "the receiver answered 304 without a location");
}

#[tokio::test]
async fn switching_protocols_is_no_success() {
    let peer = Peer::answering_once(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    )
    .await;
    let nack = refused(&sink(&settings(&peer.url()))).await;
    assert_eq!(nack.cause(), Cause::Status, "{nack:?}");
}

#[tokio::test]
async fn the_beginning_of_a_long_answer_is_kept() {
    let long = "x".repeat(10_000);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    let expect = Ack::new().status(200).answer(&long.as_bytes()[..ANSWER_BYTES_MAX]);
    assert_eq!(answered(&answer).await, Ok(expect));
    let nack = answered(&answer.replace("200 OK", "500 No")).await.unwrap_err();
    let expect = Nack::retry(Cause::Status, "the receiver answered 500 Internal Server Error")
        .status(500)
        .answer(long.as_bytes());
    assert_eq!(nack, expect);
}

/// `permanent` makes a failure final, keeps its words and leaves 410 and successes as they are.
#[tokio::test]
async fn permanent_statuses_are_not_tried_again() {
    let verdict = async |permanent: &str, answer: &str| {
        let peer = Peer::answering(answer).await;
        let mut settings = settings(&peer.url());
        settings.permanent = serde_json::from_str(permanent).unwrap();
        deliver(&sink(&settings)).await.map_err(|nack| nack.verdict())
    };
    let (bad, busy) = (with("400 Bad", ""), with("429 Busy", "retry-after: 5\r\n"));
    let after = Some(Duration::from_secs(5));
    assert_eq!(verdict("[]", &bad).await, Err(Verdict::Retry { after: None }));
    assert_eq!(verdict("[401]", &bad).await, Err(Verdict::Retry { after: None }));
    assert_eq!(verdict("[401, 400]", &bad).await, Err(Verdict::Reject));
    assert_eq!(verdict(r#"["4xx"]"#, &bad).await, Err(Verdict::Reject));
    assert_eq!(verdict(r#"["4xx"]"#, &busy).await, Err(Verdict::Retry { after }));
    assert_eq!(verdict("[429]", &busy).await, Err(Verdict::Reject));
    assert_eq!(verdict(r#"["4xx", 410]"#, &with("410 Gone", "")).await, Err(Verdict::Disable));
    let taken = verdict(r#"["3xx", "4xx", "5xx"]"#, &with("200 OK", "")).await;
    assert_eq!(taken, Ok(Ack::new().status(200).answer(b"why")));

    let peer = Peer::answering(with("301 Moved", "location: /new\r\n")).await;
    let mut settings = settings(&peer.url());
    settings.permanent = serde_json::from_str(r#"["3xx"]"#).unwrap();
    let message = "the receiver answered 301 with the location /new; redirects are not followed; \
                   permanent says that it is final";
    let expect = Nack::reject(Cause::Status, message).status(301).answer(b"why");
    assert_eq!(refused(&sink(&settings)).await, expect);
}
