//! The receiver's consent: asked for first, and nothing sent without it.

use std::time::Duration;

use postrider::config::{Config, Format as Text, Secret};
use postrider::delivery::{Cause, Nack, Verdict};
use postrider::sink::Sink as _;
use postrider_sinks::http::HttpSettings;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::peer::{OK, Peer, Seen};
use crate::{DEADLINE, attempt, delivers, event, refused, settings, sink};

const ALLOWED: &str =
    "200 OK\r\nwebhook-allowed-origin: Events.example.com\r\nwebhook-allowed-rate: 90";

/// Answers the first `OPTIONS` with the first of `answers`, further ones with the next, and the last
/// for ever; anything else with [`OK`].
async fn receiver(answers: &[&str]) -> Peer {
    let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Peer::start(move |mut connection| {
        let (answers, asked) = (answers.clone(), std::sync::Arc::clone(&asked));
        async move {
            while let Some(seen) = connection.request().await {
                if !seen.head.starts_with("OPTIONS ") {
                    connection.send(OK).await;
                    continue;
                }
                let turn = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let answer = &answers[turn.min(answers.len() - 1)];
                let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                connection.send(answer.as_bytes()).await;
            }
        }
    })
    .await
}

fn with_handshake(url: &str, more: &Value) -> HttpSettings {
    let mut handshake = json!({ "origin": "events.example.com" });
    handshake.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut settings = settings(url);
    settings.handshake = Some(serde_json::from_value(handshake).unwrap());
    settings
}

fn methods(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.head.split(' ').next().unwrap()).collect()
}

#[tokio::test]
async fn the_question_to_the_byte_and_the_origin_with_each_delivery() {
    let peer = receiver(&[ALLOWED]).await;
    let mut settings = with_handshake(&peer.url(), &json!({ "rate_per_minute": 120 }));
    settings.url = settings.url.replace("http://", "http://user:hunter2@");
    settings.headers.insert("x-key".to_owned(), Secret::new("hunter2"));
    settings.secrets = vec![Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let sink = sink(&settings);
    delivers(&sink).await;
    delivers(&sink).await;
    let seen = peer.seen();
    assert_eq!(methods(&seen), ["OPTIONS", "POST", "POST"]);
    // No credentials, and nothing of an event: the place has not agreed yet.
    let expect = [
        "OPTIONS /hook HTTP/1.1",
        &format!("host: {}", peer.address),
        &format!("user-agent: Postrider/{}", env!("CARGO_PKG_VERSION")),
        "webhook-request-origin: events.example.com",
        "webhook-request-rate: 120",
        "",
        "",
    ];
    assert_eq!(seen[0].head.replace("content-length: 0\r\n", ""), expect.join("\r\n"));
    for delivery in &seen[1..] {
        assert_eq!(delivery.header("webhook-request-origin"), "events.example.com");
        assert_eq!(delivery.header("x-key"), "hunter2");
    }
}

#[tokio::test]
async fn many_deliveries_at_once_ask_once_and_share_a_refusal() {
    for (answer, posts) in [(ALLOWED, 16), ("405 No", 0)] {
        let peer = receiver(&[answer]).await;
        let sink = std::sync::Arc::new(sink(&with_handshake(&peer.url(), &json!({}))));
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let sink = std::sync::Arc::clone(&sink);
            calls.spawn(async move { sink.deliver(&[attempt(event("{}"), DEADLINE)]).await });
        }
        let outcomes: Vec<_> = calls.join_all().await.concat();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), posts);
        let seen = peer.seen();
        assert_eq!(methods(&seen).iter().filter(|method| **method == "OPTIONS").count(), 1);
        assert_eq!(seen.len(), 1 + posts);
    }
}

/// Each refusal is retried, says why, and nothing is sent; a consent that comes later counts.
#[tokio::test]
async fn without_consent_nothing_is_sent() {
    let check = async |answer: &str, why: &str| {
        let peer = receiver(&[answer, ALLOWED]).await;
        let mut settings = with_handshake(&peer.url(), &json!({}));
        settings.permanent = vec![serde_json::from_str("\"4xx\"").unwrap()];
        let sink = sink(&settings);
        let status = answer[..3].parse().unwrap();
        let message = format!("the receiver does not consent to deliveries: {why}");
        let nack = refused(&sink).await;
        assert_eq!(nack, Nack::retry(Cause::Status, message).status(status), "{answer}");
        assert_eq!(methods(&peer.seen()), ["OPTIONS"], "{answer}");
        delivers(&sink).await;
        assert_eq!(methods(&peer.seen()), ["OPTIONS", "OPTIONS", "POST"], "{answer}");
    };
    let origin = "webhook-allowed-origin: events.example.com";
    check("405 No", "OPTIONS was answered 405 Method Not Allowed").await;
    check("410 No", "OPTIONS was answered 410 Gone").await;
    check(&format!("403 No\r\n{origin}"), "OPTIONS was answered 403 Forbidden").await;
    check("200 OK", "the answer to OPTIONS has no webhook-allowed-origin").await;
    let other = "200 OK\r\nwebhook-allowed-origin: example.com";
    check(other, "it allows the origin \"example.com\"").await;
    for rate in ["0", "fast", "-1", "1.5"] {
        let answer = format!("200 OK\r\n{origin}\r\nwebhook-allowed-rate: {rate}");
        check(&answer, &format!("its webhook-allowed-rate is {rate:?}")).await;
    }
}

#[tokio::test]
async fn a_receiver_that_is_busy_is_asked_when_it_says() {
    let peer = receiver(&["503 No\r\nretry-after: 7"]).await;
    let nack = refused(&sink(&with_handshake(&peer.url(), &json!({})))).await;
    assert_eq!(nack.verdict(), Verdict::Retry { after: Some(Duration::from_secs(7)) });
    let message = "the receiver does not consent to deliveries: OPTIONS was answered 503 Service \
                   Unavailable";
    let wish = Nack::retry(Cause::Status, message).after(Duration::from_secs(7));
    assert_eq!(nack, wish.slow().status(503));
}

#[tokio::test]
async fn a_batch_without_consent_is_not_sent() {
    let peer = receiver(&["405 No", ALLOWED]).await;
    let mut settings = with_handshake(&peer.url(), &json!({}));
    settings.batch = Some(serde_json::from_value(json!({})).unwrap());
    let sink = sink(&settings);
    let batch = [attempt(event("1"), DEADLINE), attempt(event("2"), DEADLINE)];
    let outcomes = sink.deliver(&batch).await;
    assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert_eq!(methods(&peer.seen()), ["OPTIONS"]);
    let outcomes = sink.deliver(&batch).await;
    assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(methods(&peer.seen()), ["OPTIONS", "OPTIONS", "POST"]);
}

#[tokio::test]
async fn consent_is_asked_for_again_when_it_has_run_out() {
    let peer = receiver(&[ALLOWED, ALLOWED, "405 No"]).await;
    let sink = sink(&with_handshake(&peer.url(), &json!({ "every": "1m" })));
    // The clock stands still only while it is moved: sockets need real time.
    let pass = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    delivers(&sink).await;
    pass(50).await;
    delivers(&sink).await;
    assert_eq!(methods(&peer.seen()), ["OPTIONS", "POST", "POST"]);
    pass(11).await;
    delivers(&sink).await;
    assert_eq!(methods(&peer.seen())[3..], ["OPTIONS", "POST"]);
    pass(61).await;
    assert_eq!(refused(&sink).await.cause(), Cause::Status);
    assert_eq!(methods(&peer.seen())[5..], ["OPTIONS"]);
}

#[tokio::test]
async fn the_allowed_rate_is_what_the_lane_is_told() {
    let check = async |answer: &str, asked: Value, expect: Option<&str>| {
        let peer = receiver(&[answer]).await;
        let sink = sink(&with_handshake(&peer.url(), &asked));
        // Enough to ask, and no burst that nobody has allowed.
        assert_eq!(sink.rate_max(), Some("1/s".parse().unwrap()));
        delivers(&sink).await;
        assert_eq!(sink.rate_max(), expect.map(|rate| rate.parse().unwrap()), "{answer}");
    };
    let any = "200 OK\r\nwebhook-allowed-origin: *";
    check(ALLOWED, json!({}), Some("90/m")).await;
    check(ALLOWED, json!({ "rate_per_minute": 120 }), Some("90/m")).await;
    check(&format!("{any}\r\nwebhook-allowed-rate: *"), json!({}), None).await;
    check(&format!("{any}\r\nwebhook-allowed-rate: 99999999999"), json!({}), None).await;
    check(any, json!({ "rate_per_minute": 120 }), Some("120/m")).await;
    check(any, json!({}), None).await;
    let without = sink(&settings("http://127.0.0.1:9/"));
    assert_eq!(without.rate_max(), None);
}

#[test]
fn mistakes_name_their_key() {
    let load = |handshake: &str| {
        let url = "https://hooks.example/in";
        let text = format!("[[endpoints]]\nname = 'a'\nurl = '{url}'\nhandshake = {handshake}\n");
        let registry = postrider_sinks::registry();
        let loader = Config::loader().registry(&registry).text(Text::Toml, &text);
        loader.environment(false).load().map(drop).map_err(|errors| errors.to_string())
    };
    assert_eq!(load("{ origin = 'a.example', rate_per_minute = 1, every = '30d' }"), Ok(()));
    let long = format!("{{ origin = '{}' }}", "a.".repeat(127));
    for (wrong, key) in [
        ("{}", "handshake.origin"),
        ("{ origin = '' }", "handshake.origin"),
        ("{ origin = 'https://a.example' }", "handshake.origin"),
        ("{ origin = 'a..b' }", "handshake.origin"),
        (&long, "handshake.origin"),
        ("{ origin = 'a', every = '59s' }", "handshake.every"),
        ("{ origin = 'a', every = '31d' }", "handshake.every"),
        ("{ origin = 'a', rate_per_minute = 0 }", "handshake.rate_per_minute"),
        ("{ origin = 'a', callback = true }", "handshake.callback"),
    ] {
        let told = load(wrong).unwrap_err();
        assert!(told.contains(key), "{wrong}: {told}");
    }
}
