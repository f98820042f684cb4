//! Several events in one request, coded bodies, and headers from attributes.

use std::io::Read as _;

use flate2::read::GzDecoder;
use postrider::delivery::{Ack, Cause, Outcome, Verdict};
use postrider::event::NewEvent;
use postrider::sign::{Key, SignedHeaders, TOLERANCE_DEFAULT, verify};
use postrider::sink::{Attempt, Sink as _};
use postrider_sinks::http::HttpSettings;
use serde_json::{Value, json};

use crate::peer::{OK, Peer, Seen};
use crate::{DEADLINE, TIME, attempt, sink};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn with(url: &str, more: &Value) -> HttpSettings {
    let mut all = json!({ "url": url });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn made(id: &str, payload: &str) -> Attempt {
    let event = NewEvent::raw("match", payload.to_owned()).unwrap().id(id.parse().unwrap());
    let event = event.time(TIME).seal(&postrider::clock::SystemClock, 1 << 20).unwrap();
    attempt(event, DEADLINE)
}

/// Delivers these payloads as `e0`, `e1`, …
async fn deliver(peer: &Peer, more: Value, payloads: &[&str]) -> Vec<Outcome> {
    let sink = sink(&with(&peer.url(), &more));
    let batch: Vec<Attempt> =
        payloads.iter().enumerate().map(|(n, payload)| made(&format!("e{n}"), payload)).collect();
    sink.deliver(&batch).await
}

fn body(seen: &Seen) -> &str {
    std::str::from_utf8(&seen.body).unwrap()
}

#[tokio::test]
async fn forms_to_the_byte() {
    let check = async |more: Value, kind: &str, expect: &str| {
        let peer = Peer::answering(OK).await;
        let outcomes = deliver(&peer, more, &["{\"n\":\n1.50}", "2"]).await;
        assert_eq!(outcomes, vec![Ok(Ack::new().status(200).answer(b"ok")); 2]);
        let seen = peer.only();
        assert_eq!(body(&seen), expect);
        assert_eq!(seen.header("content-type"), kind);
        // The same events, the same id.
        assert_eq!(seen.header("webhook-id"), "batch_713f90b7a0effea7b3d992979459e031");
    };
    let raw = |batch: Value| json!({ "format": "raw", "batch": batch });
    check(raw(json!({})), "application/json", "[{\"n\":\n1.50},2]").await;
    let lines = raw(json!({ "form": "ndjson" }));
    check(lines, "application/x-ndjson", "{\"n\": 1.50}\n2\n").await;
    let guide = concat!(
        r#"[{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{"n":"#,
        "\n1.50}},",
        r#"{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":2}]"#
    );
    check(json!({ "batch": {} }), "application/json", guide).await;
    let peer = Peer::answering(OK).await;
    deliver(&peer, json!({ "format": "cloudevents", "batch": {} }), &["1", "2"]).await;
    let seen = peer.only();
    let kind = "application/cloudevents-batch+json; charset=utf-8";
    assert_eq!(seen.header("content-type"), kind);
    let list: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
    let ids: Vec<&Value> = list.iter().map(|event| &event["id"]).collect();
    assert_eq!(ids, ["e0", "e1"]);
}

/// Requests are split by count and bytes; an event larger than the bound goes alone, and none is
/// forgotten.
#[tokio::test]
async fn bounds_split_requests() {
    let large = format!("\"{}\"", "x".repeat(100));
    let payloads = ["1", "2", "3", &large, "4", "5"];
    let check = async |batch: Value, expect: &[&str]| {
        let peer = Peer::answering(OK).await;
        let outcomes = deliver(&peer, json!({ "format": "raw", "batch": batch }), &payloads).await;
        assert!(outcomes.len() == 6 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let seen = peer.seen();
        let found: Vec<String> = seen.iter().map(|seen| body(seen).replace(&large, "L")).collect();
        assert_eq!(found, expect);
    };
    check(json!({ "events": 4 }), &["[1,2,3,L]", "[4,5]"]).await;
    check(json!({ "bytes": 8 }), &["[1,2,3]", "[L]", "[4,5]"]).await;
    check(json!({ "bytes": 6 }), &["[1,2]", "[3]", "[L]", "[4,5]"]).await;
    check(json!({ "events": 1 }), &["[1]", "[2]", "[3]", "[L]", "[4]", "[5]"]).await;
}

#[tokio::test]
async fn an_answer_is_about_all_events_or_about_each() {
    let answering = async |status: &str, text: &str, batch: Value| {
        let length = text.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{text}");
        let peer = Peer::answering(answer).await;
        deliver(&peer, json!({ "batch": batch, "permanent": [422] }), &["0", "1", "2", "3"]).await
    };
    let failed = answering("503 Busy", "", json!({})).await;
    assert!(failed.iter().all(|it| it.as_ref().is_err_and(|nack| nack.cause() == Cause::Status)));
    let each = || json!({ "answer": "per-event" });
    let text = r#"{"results":[
        {"id":"e3","status":200,"message":"fine"},{"id":"e0","status":503,"message":"later"},
        {"id":"e1","status":422},{"id":"other","status":200}]}"#;
    let outcomes = answering("207 Multi-Status", text, each()).await;
    let nack = |at: usize| outcomes[at].as_ref().unwrap_err();
    assert!(matches!(nack(0).verdict(), Verdict::Retry { .. }), "{outcomes:?}");
    assert_eq!(nack(1).verdict(), Verdict::Reject);
    assert!(nack(2).message().contains("does not name it"), "{outcomes:?}");
    assert_eq!(outcomes[3], Ok(Ack::new().status(200).answer(b"fine")));
    // A failure is about all, whatever it lists; a success that lists nothing is no success.
    let outcomes = answering("500 No", text, each()).await;
    assert!(outcomes.iter().all(Result::is_err));
    for text in ["ok", "{}", r#"{"results":[{"id":1}]}"#] {
        let outcomes = answering("200 OK", text, each()).await;
        let is_told = |it: &Outcome| {
            it.as_ref().is_err_and(|nack| nack.message().contains("does not list its events"))
        };
        assert!(outcomes.iter().all(is_told), "{text}: {outcomes:?}");
    }
}

/// One that cannot be brought into the form is dead alone; the others go.
#[tokio::test]
async fn an_impossible_event_does_not_hold_its_batch_up() {
    let peer = Peer::answering(OK).await;
    let template = json!({ "template": { "n": "{{ payload.a.b }}" } });
    let more = json!({ "format": "raw", "batch": {}, "transform": template });
    // Deeper than a template looks.
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let deep = format!(r#"{{"a":{{"b":{deep}}}}}"#);
    let outcomes = deliver(&peer, more, &[r#"{"a":{"b":1}}"#, &deep, r#"{"a":{"b":2}}"#]).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1].as_ref().unwrap_err().verdict(), Verdict::Reject);
    assert_eq!(body(&peer.only()), r#"[{"n":1},{"n":2}]"#);
}

#[tokio::test]
async fn coded_bodies_are_signed_as_they_are_read() {
    let peer = Peer::answering(OK).await;
    let payload = format!("\"{}\"", "many words ".repeat(200));
    let more = json!({ "compress": "gzip", "secrets": [SECRET], "format": "raw" });
    let sink = sink(&with(&peer.url(), &more));
    for payload in [payload.as_str(), "1"] {
        let outcome = sink.deliver(&[made("e", payload)]).await;
        assert_eq!(outcome, [Ok(Ack::new().status(200).answer(b"ok"))]);
    }
    let seen = peer.seen();
    assert_eq!(seen[0].header("content-encoding"), "gzip");
    assert!(seen[0].body.len() < 200, "{}", seen[0].body.len());
    assert_eq!(seen[0].header("content-length"), seen[0].body.len().to_string());
    let mut text = String::new();
    GzDecoder::new(&*seen[0].body).read_to_string(&mut text).unwrap();
    assert_eq!(text, payload);
    assert!(seen[1].headers("content-encoding").is_empty(), "a small one stays as it is");
    for (seen, text) in seen.iter().zip([text.as_str(), "1"]) {
        let headers = SignedHeaders {
            id: Some(seen.header("webhook-id")),
            timestamp: Some(seen.header("webhook-timestamp")),
            signature: Some(seen.header("webhook-signature")),
        };
        let now = TIME.after(std::time::Duration::from_mins(1));
        let key: Key = SECRET.parse().unwrap();
        verify(&[key], headers, text.as_bytes(), now, TOLERANCE_DEFAULT).unwrap();
    }
}

#[tokio::test]
async fn attributes_in_headers() {
    let peer = Peer::answering(OK).await;
    let headers = json!({ "X-Tenant": "tenant", "x-absent": "absent" });
    let sink = sink(&with(&peer.url(), &json!({ "attribute_headers": headers })));
    let send = async |value: &str| {
        let event = NewEvent::raw("match", "{}").unwrap().attribute("tenant", value);
        let event = event.id("e".parse().unwrap()).time(TIME);
        let event = event.seal(&postrider::clock::SystemClock, 1 << 20).unwrap();
        assert!(sink.deliver(&[attempt(event, DEADLINE)]).await[0].is_ok());
        let seen = peer.seen().pop().unwrap();
        assert!(seen.headers("x-absent").is_empty());
        seen.header("x-tenant").to_owned()
    };
    assert_eq!(send("acme-1").await, "acme-1");
    assert_eq!(send("a \"b\" %0D%0A: ~").await, "a \"b\" %0D%0A: ~");
    // A value that could break out of its header is not let into the bus.
    let evil = NewEvent::raw("match", "{}").unwrap().attribute("tenant", "a\r\nx-evil: 1");
    assert!(evil.seal(&postrider::clock::SystemClock, 1 << 20).is_err());
}

#[test]
fn mistakes_are_told() {
    use postrider::config::{Config, Format};
    let check = |more: &str, words: &str| {
        let text = format!("[[endpoints]]\nname = 'a'\nurl = 'https://a.example'\n{more}");
        let registry = postrider_sinks::registry();
        let loader = Config::loader().registry(&registry).text(Format::Toml, &text);
        let told = loader.environment(false).load().map(drop).unwrap_err().to_string();
        assert!(told.contains(words), "{more}: {told}");
    };
    check("batch = { events = 0 }", "batch.events: expected 1 to 1000, found 0");
    check("batch = { bytes = '1GB' }", "batch.bytes: expected 1B to 64MiB, found 1000000000B");
    check("batch = { linger = '1m' }", "batch.linger: expected at most 10s, found 1m");
    let binary = "batch: the format \"cloudevents-binary\" has one event in each request";
    check("format = 'cloudevents-binary'\nbatch = {}", binary);
    let header = |name: &str| format!("attribute_headers = {{ {name} = 'a' }}");
    check(&header("host"), "attribute_headers.host: taken from the url");
    check(&header("webhook-id"), "attribute_headers.webhook-id: set by Postrider");
    check(&header("authorization"), "not for the publisher of an event to say");
    check(&(header("x-a") + "\nbatch = {}"), "attribute_headers: a request of several events");
    check(&(header("x-a") + "\nheaders = { X-A = '1' }"), "attribute_headers.x-a: given twice");
    check("compress = 'br'", "compress: expected \"gzip\", found \"br\"");
    check("headers = { content-encoding = 'br' }", "belongs to the connection");
}
