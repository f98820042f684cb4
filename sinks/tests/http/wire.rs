//! What goes over the wire, byte for byte.

use postrider::config::Secret;
use postrider::delivery::Ack;
use postrider::event::NewEvent;
use postrider::sign::{Key, SignedHeaders, TOLERANCE_DEFAULT, verify};
use postrider::sink::Sink;
use postrider_sinks::http::{Format, HttpSettings};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::peer::{OK, Peer, Seen};
use crate::{DEADLINE, attempt, delivers, event, sealed, settings, sink};

const SECRETS: [&str; 3] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
];

/// Sends one event to an endpoint that `change` has configured and returns what arrived.
async fn arrived(new: NewEvent, change: impl FnOnce(&mut HttpSettings)) -> Seen {
    let peer = Peer::answering(OK).await;
    let mut settings = settings(&peer.url());
    change(&mut settings);
    let sink = sink(&settings);
    let outcome = sink.deliver(&[attempt(sealed(new), DEADLINE)]).await;
    assert_eq!(outcome, [Ok(Ack::new().status(200).answer(b"ok"))]);
    peer.only()
}

fn raw(payload: &str) -> NewEvent {
    NewEvent::raw("match", payload.to_owned()).unwrap()
}

#[tokio::test]
async fn the_guides_request_to_the_byte() {
    let peer = Peer::answering(OK).await;
    let sink = sink(&settings(&format!("http://{}/a/b?x=1&y=%20z#part", peer.address)));
    // Spaces, key order and number forms are the publisher's and stay.
    let payload = "{ \"b\":1.50,\n\"a\" : 1e2, \"u\":\"\u{fc}\\u00fc\" }";
    let outcome = sink.deliver(&[attempt(event(payload), DEADLINE)]).await;
    assert_eq!(outcome, [Ok(Ack::new().status(200).answer(b"ok"))]);
    let seen = peer.only();
    let body =
        format!(r#"{{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{payload}}}"#);
    assert_eq!(String::from_utf8(seen.body).unwrap(), body);
    let expect = [
        "POST /a/b?x=1&y=%20z HTTP/1.1",
        &format!("host: {}", peer.address),
        "content-type: application/json",
        &format!("user-agent: Postrider/{}", env!("CARGO_PKG_VERSION")),
        "webhook-id: evt_1",
        "webhook-timestamp: 1764513105",
        &format!("content-length: {}", body.len()),
        "",
        "",
    ];
    assert_eq!(seen.head, expect.join("\r\n"));
}

#[tokio::test]
async fn every_secret_signs() {
    let seen = arrived(raw(r#"{"a":1}"#), |settings| {
        settings.secrets = SECRETS.map(Secret::new).into();
    })
    .await;
    let signatures = seen.header("webhook-signature");
    assert_eq!(signatures.split(' ').count(), 3, "{signatures}");
    let now = postrider::Timestamp::from_millis(1_764_513_105_000);
    let headers = SignedHeaders {
        id: Some(seen.header("webhook-id")),
        timestamp: Some(seen.header("webhook-timestamp")),
        signature: Some(signatures),
    };
    for secret in SECRETS {
        let key: Key = secret.parse().unwrap();
        assert_eq!(verify(&[key], headers, &seen.body, now, TOLERANCE_DEFAULT), Ok(()), "{secret}");
    }
}

#[tokio::test]
async fn own_headers_and_credentials() {
    let seen = arrived(raw("{}"), |settings| {
        settings.url = settings.url.replace("http://", "http://us%65r:p%40ss%C3%BC@");
        settings.headers = [
            ("X-Webhook-Secret", "your-secret-token-here"),
            ("User-Agent", "dashboard/2"),
            ("content-type", "application/vnd.example+json"),
        ]
        .map(|(name, value)| (name.to_owned(), Secret::new(value)))
        .into();
    })
    .await;
    assert_eq!(seen.header("x-webhook-secret"), "your-secret-token-here");
    assert_eq!(seen.header("user-agent"), "dashboard/2");
    assert_eq!(seen.header("content-type"), "application/vnd.example+json");
    // base64 of `user:p@ssü`.
    assert_eq!(seen.header("authorization"), "Basic dXNlcjpwQHNzw7w=");
    assert!(!seen.head.contains("us%65r"), "{}", seen.head);
}

#[tokio::test]
async fn standard_and_raw() {
    let payload = r#"{ "a" : 1 }"#;
    let seen = arrived(raw(payload), |settings| settings.format = Format::Standard).await;
    let body =
        format!(r#"{{"type":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{payload}}}"#);
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), body);
    assert_eq!(seen.header("content-type"), "application/json");

    let seen = arrived(raw(payload), |settings| settings.format = Format::Raw).await;
    assert_eq!(seen.body, payload.as_bytes());
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("webhook-id"), "evt_1");
}

fn attributed() -> NewEvent {
    raw(r#"{ "a" : 1 }"#)
        .key("B\u{e4}r \"7\"")
        .attribute("subject", "glasses 7%")
        .attribute("region", "eu")
        .attribute("not-a-ce-name", "x")
        .attribute("type", "forged")
}

#[tokio::test]
async fn cloud_events_structured() {
    let seen = arrived(attributed(), |settings| {
        settings.format = Format::CloudEvents;
        settings.source = "/dashboard".to_owned();
    })
    .await;
    assert_eq!(seen.header("content-type"), "application/cloudevents+json; charset=utf-8");
    let text = String::from_utf8(seen.body.clone()).unwrap();
    assert!(text.ends_with(r#","data":{ "a" : 1 }}"#), "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    let expect = json!({
        "specversion": "1.0",
        "id": "evt_1",
        "source": "/dashboard",
        "type": "match",
        "time": "2025-11-30T14:30:45.123Z",
        "datacontenttype": "application/json",
        "partitionkey": "B\u{e4}r \"7\"",
        "region": "eu",
        "subject": "glasses 7%",
        "data": { "a": 1 },
    });
    assert_eq!(document, expect);
    assert_eq!(text.matches("\"type\"").count(), 1);
}

#[tokio::test]
async fn cloud_events_binary() {
    let seen = arrived(attributed(), |settings| settings.format = Format::CloudEventsBinary).await;
    assert_eq!(seen.body, br#"{ "a" : 1 }"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_1"),
        ("ce-source", "postrider"),
        ("ce-type", "match"),
        ("ce-time", "2025-11-30T14:30:45.123Z"),
        ("ce-partitionkey", "B%C3%A4r%20%227%22"),
        ("ce-subject", "glasses%207%25"),
        ("ce-region", "eu"),
        ("webhook-id", "evt_1"),
    ] {
        assert_eq!(seen.header(name), value, "{}", seen.head);
    }
    assert!(!seen.head.contains("not-a-ce-name"), "{}", seen.head);
}

#[tokio::test]
async fn ipv6_literal() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return crate::common::skip("wire::ipv6_literal", "there is no IPv6 loopback");
    };
    let address = listener.local_addr().unwrap();
    let peer = Peer::listening(listener, |mut connection| async move {
        while connection.request().await.is_some() {
            connection.send(OK).await;
        }
    });
    delivers(&sink(&settings(&format!("http://[0:0::1]:{}/", address.port())))).await;
    assert_eq!(peer.only().header("host"), format!("[::1]:{}", address.port()));
}
