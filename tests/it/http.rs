//! Webhooks: from publish to a receiver that shares no code with us.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use mock_receiver::{Capture, Receiver, Response};
use postrider::delivery::{Cause, DeadReason, State};
use postrider::{Bus, NewEvent, Receipt};
use postrider_tests::{DEADLINE, bus, config, eventually};

fn endpoint(url: &str, more: &str) -> String {
    format!("[[endpoints]]\nname = 'My App'\nurl = '{url}'\n{more}")
}

fn event(payload: &str) -> NewEvent {
    NewEvent::raw("match", payload.to_owned()).unwrap()
}

async fn state(bus: &Bus, receipt: &Receipt) -> (State, Vec<Option<Cause>>) {
    let delivery = receipt.deliveries().next().unwrap();
    let record = bus.delivery(&delivery).await.unwrap().unwrap();
    (record.state, record.attempts.iter().map(|attempt| attempt.cause).collect())
}

/// All attempts carried the same id and the same bytes.
fn assert_identical(captures: &[Capture], receipt: &Receipt) {
    for capture in captures {
        assert_eq!(capture.body, captures[0].body);
        assert_eq!(capture.header("webhook-id"), Some(receipt.event().to_string().as_str()));
    }
}

/// The request is what the design says, to the byte, whatever the payload's own spelling.
#[tokio::test]
async fn a_webhook_is_exact() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("app") + "/hook?a=1&b=%20";
    let bus =
        bus(&endpoint(&url, "headers = { Authorization = 'Bearer t', X-Custom-Header = 'v' }"))
            .await;
    let payload = " {\"big\": 1152921506151679042,\n\"b\":1.0e2, \"a\":\"\\u00e9\u{e9}\" } ";
    let time = "2025-11-30T14:30:45.123Z".parse().unwrap();
    let receipt = bus.publish(event(payload).time(time)).await.unwrap();
    let seen = receiver.wait("app").count(1).within(DEADLINE).await.unwrap().remove(0);
    let expect =
        format!(r#"{{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{payload}}}"#);
    assert_eq!(seen.text().unwrap(), expect);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/app/hook"));
    assert_eq!(seen.query.as_deref(), Some("a=1&b=%20"));
    let check = |name: &str, value: &str| assert_eq!(seen.header(name), Some(value), "{name}");
    check("content-type", "application/json");
    check("webhook-id", &receipt.event().to_string());
    check("user-agent", concat!("Postrider/", env!("CARGO_PKG_VERSION")));
    check("authorization", "Bearer t");
    check("x-custom-header", "v");
    let sent: i64 = seen.header("webhook-timestamp").unwrap().parse().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    assert!(
        (now - 60..=now).contains(&sent),
        "the time of the attempt in seconds: {sent}, now {now}"
    );
    assert_eq!(seen.header("webhook-signature"), None, "no secret, no signature");
    bus.flush(DEADLINE).await.unwrap();
    assert_eq!(state(&bus, &receipt).await, (State::Delivered, vec![None]));
}

/// Each format, to the byte.
#[tokio::test]
async fn formats() {
    let receiver = Receiver::start().await.unwrap();
    let formats = ["guide", "standard", "cloudevents", "cloudevents-binary", "raw"];
    let endpoints = formats.map(|format| {
        format!(
            "[[endpoints]]\nname = '{format}'\nurl = '{}'\nformat = '{format}'\n",
            receiver.url(format)
        )
    });
    let bus = bus(&endpoints.concat()).await;
    let time = "2025-11-30T14:30:45.123Z".parse().unwrap();
    let id = "0193a5c0-7c3d-7d8e-9f00-0123456789ab";
    bus.publish(event(r#"{"a": 1}"#).time(time).id(id.parse().unwrap())).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    let one =
        |bin: &str| receiver.requests(bin).pop().unwrap_or_else(|| panic!("nothing in {bin}"));
    let time = r#""timestamp":"2025-11-30T14:30:45.123Z""#;
    assert_eq!(
        one("guide").text().unwrap(),
        format!(r#"{{"event":"match",{time},"data":{{"a": 1}}}}"#)
    );
    assert_eq!(
        one("standard").text().unwrap(),
        format!(r#"{{"type":"match",{time},"data":{{"a": 1}}}}"#)
    );
    assert_eq!(one("raw").text().unwrap(), r#"{"a": 1}"#);
    let structured = one("cloudevents");
    let kind = structured.header("content-type").unwrap();
    assert!(kind.starts_with("application/cloudevents+json"), "{kind}");
    let json: serde_json::Value = structured.json().unwrap();
    assert_eq!(json["specversion"], "1.0");
    assert_eq!((&json["id"], &json["type"]), (&id.into(), &"match".into()));
    assert_eq!(
        (&json["time"], &json["data"]["a"]),
        (&"2025-11-30T14:30:45.123Z".into(), &1.into())
    );
    let binary = one("cloudevents-binary");
    assert_eq!(binary.text().unwrap(), r#"{"a": 1}"#);
    let check = |name: &str, value: &str| assert_eq!(binary.header(name), Some(value), "{name}");
    check("ce-specversion", "1.0");
    check("ce-id", id);
    check("ce-type", "match");
    check("ce-time", "2025-11-30T14:30:45.123Z");
    check("content-type", "application/json");
}

/// A 500 is tried again with the same id and the same bytes.
#[tokio::test]
async fn a_500_is_retried_identically() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([500, 503, 200]);
    let bus = bus(&endpoint(&receiver.url("app"), "")).await;
    let receipt = bus.publish(event("{}")).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    let seen = receiver.requests("app");
    assert_eq!(seen.len(), 3);
    assert_identical(&seen, &receipt);
    let causes = vec![Some(Cause::Status), Some(Cause::Status), None];
    assert_eq!(state(&bus, &receipt).await, (State::Delivered, causes));
}

/// A receiver that is not there yet gets the event when it comes up.
#[tokio::test]
async fn a_refused_connection_is_retried() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let bus = bus(&endpoint(
        &format!("http://{free}/app"),
        "retry = { schedule = ['50ms', '50ms', '50ms', '1s', '1s', '1s', '1s', '1s'], jitter = 0.0 }",
    ))
    .await;
    let receipt = bus.publish(event("{}")).await.unwrap();
    eventually("refused", async || {
        let (state, causes) = state(&bus, &receipt).await;
        (causes.len() >= 2, (state, causes))
    })
    .await;
    let receiver = Receiver::builder().listen(free).start().await.unwrap();
    let seen = receiver.wait("app").count(1).within(DEADLINE).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert_eq!(receiver.requests("app").len(), 1, "delivered once");
    assert_identical(&seen, &receipt);
    let (state, causes) = state(&bus, &receipt).await;
    assert_eq!(state, State::Delivered);
    assert_eq!(causes[0], Some(Cause::Connect));
}

/// A receiver that hangs past the timeout is tried again, and no longer is waited for it.
#[tokio::test]
async fn a_hanging_receiver_is_retried() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond(Response::hang()).then(200);
    let bus = bus(&endpoint(&receiver.url("app"), "timeout = '300ms'")).await;
    let started = std::time::Instant::now();
    let receipt = bus.publish(event("{}")).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let seen = receiver.requests("app");
    assert_eq!(seen.len(), 2);
    assert_identical(&seen, &receipt);
    assert_eq!(state(&bus, &receipt).await, (State::Delivered, vec![Some(Cause::Timeout), None]));
}

/// A connection that is reset half-way is retried.
#[tokio::test]
async fn a_reset_is_retried() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond(Response::reset()).then(200);
    let bus = bus(&endpoint(&receiver.url("app"), "")).await;
    let receipt = bus.publish(event("{}")).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert_eq!(receiver.requests("app").len(), 2);
    assert_eq!(state(&bus, &receipt).await, (State::Delivered, vec![Some(Cause::Closed), None]));
}

/// A 410 ends it: the delivery is dead with that reason, and what follows is held, not lost.
#[tokio::test]
async fn a_410_disables_the_endpoint() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond(410);
    let bus = bus(&endpoint(&receiver.url("app"), "")).await;
    let first = bus.publish(event("1")).await.unwrap();
    bus.flush(DEADLINE).await.unwrap();
    let dead = State::Dead { reason: DeadReason::Gone };
    assert_eq!(state(&bus, &first).await, (dead, vec![Some(Cause::Status)]));
    bus.publish(event("2")).await.unwrap();
    let left = bus.flush(Duration::from_millis(200)).await.unwrap();
    assert!(left.endpoints()[0].held && left.total() == 1, "{left:?}");
    assert_eq!(receiver.requests("app").len(), 1);
}

/// A redirect is a failure that names the location; nothing is sent there.
#[tokio::test]
async fn redirects_are_not_followed() {
    let receiver = Receiver::start().await.unwrap();
    let other = receiver.url("other");
    receiver.on("app").respond(Response::status(302).header("location", &other));
    let bus = bus(&endpoint(&receiver.url("app"), "retry = { schedule = [] }")).await;
    let receipt = bus.publish(event("{}")).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert!(receiver.requests("other").is_empty());
    let delivery = receipt.deliveries().next().unwrap();
    let record = bus.delivery(&delivery).await.unwrap().unwrap();
    assert_eq!(record.state, State::Dead { reason: DeadReason::Exhausted });
    assert!(record.attempts[0].message.contains(&other), "{:?}", record.attempts[0]);
}

/// Without leave in the configuration nothing on this machine is connected to, by address or name.
#[tokio::test]
async fn private_addresses_are_refused_by_default() {
    let receiver = Receiver::start().await.unwrap();
    let port = receiver.addr().port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433"] {
        let toml = endpoint(&format!("http://{host}:{port}/app"), "");
        let loaded = postrider::config::Config::loader()
            .registry(&postrider_sinks::registry())
            .text(postrider::config::Format::Toml, toml)
            .environment(false)
            .load();
        let errors = loaded.expect_err("refused when the configuration is read").to_string();
        assert!(
            errors.contains("endpoints[0].url") && errors.contains("allow"),
            "{host}: {errors}"
        );
    }
    assert!(receiver.requests("app").is_empty());
    let allowed = config(&format!(
        "{}\n[network]\nallow = ['127.0.0.1']",
        endpoint(&receiver.url("app"), "")
    ));
    let bus = Bus::open(allowed).await.unwrap();
    bus.publish(event("{}")).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert_eq!(receiver.requests("app").len(), 1);
}

/// A thousand events over sixteen connections: each exactly once, all connections used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_events_arrive_exactly_once() {
    let receiver = Receiver::start().await.unwrap();
    let bus = bus(&endpoint(&receiver.url("app"), "concurrency = 16")).await;
    bus.publish_all((0..1000).map(|n| event(&n.to_string()))).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert_eq!(receiver.assert_exactly_once_by("app", "webhook-id"), 1000);
    let connections = receiver.requests("app").iter().map(|seen| seen.connection).max().unwrap();
    assert!(connections <= 16, "{connections} connections");
}
