//! The HTTP sink against real sockets: receivers here are scripts over raw TCP, so that they can
//! misbehave in any way, and see every byte.

mod auth;
mod batch;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod gzip;
mod matrix;
mod peer;
mod policy;
mod reuse;
mod settings;
mod status;
mod tls;
mod trust;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use postrider::clock::SystemClock;
use postrider::config::NetworkPolicy;
use postrider::delivery::{Ack, DeliveryId, Nack, Outcome};
use postrider::event::{Envelope, NewEvent};
use postrider::sink::{Attempt, CheckContext, Sink};
use postrider::{EndpointId, Timestamp};
use postrider_sinks::http::{HttpSettings, HttpSink, Options};

/// Longest that a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(10);

/// 2025-11-30T14:30:45.123Z
const TIME: Timestamp = Timestamp::from_millis(1_764_513_045_123);

fn endpoint() -> EndpointId {
    "orders".parse().unwrap()
}

/// Loopback allowed, as local work does it.
fn local() -> NetworkPolicy {
    NetworkPolicy::public_only().allow("127.0.0.0/8").unwrap().allow("::1").unwrap()
}

fn settings(url: &str) -> HttpSettings {
    HttpSettings::new(url)
}

fn sink(settings: &HttpSettings) -> HttpSink {
    sink_with(settings, &local(), |options| options)
}

fn sink_with(
    settings: &HttpSettings,
    network: &NetworkPolicy,
    change: impl FnOnce(Options) -> Options,
) -> HttpSink {
    let id = endpoint();
    HttpSink::with_options(settings, &CheckContext::new(&id, "orders", network), change).unwrap()
}

/// The event of id `evt_1`, type `match`, at [`TIME`].
fn event(payload: &str) -> Envelope {
    sealed(NewEvent::raw("match", payload.to_owned()).unwrap())
}

fn sealed(event: NewEvent) -> Envelope {
    event.id("evt_1".parse().unwrap()).time(TIME).seal(&SystemClock, 1 << 20).unwrap()
}

fn attempt(event: Envelope, timeout: Duration) -> Attempt {
    let delivery = DeliveryId::new(endpoint(), event.id().clone());
    // Another second than the event's, so that neither can stand in for the other.
    let now = TIME.after(Duration::from_mins(1));
    Attempt::new(delivery, Arc::new(event), 1, now, timeout)
}

/// Delivers one event with ample time.
async fn deliver(sink: &HttpSink) -> Outcome {
    deliver_within(sink, DEADLINE).await
}

async fn deliver_within(sink: &HttpSink, timeout: Duration) -> Outcome {
    let mut outcomes = sink.deliver(&[attempt(event("{}"), timeout)]).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// Delivers one event to a receiver that answers [`peer::OK`].
async fn delivers(sink: &HttpSink) {
    assert_eq!(deliver(sink).await, Ok(Ack::new().status(200).answer(b"ok")));
}

/// The nack of a delivery that must fail.
async fn refused(sink: &HttpSink) -> Nack {
    deliver(sink).await.unwrap_err()
}
