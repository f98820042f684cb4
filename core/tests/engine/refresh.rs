//! Refresh: an application renews what has run out, before every attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, Nack, State};
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, BusBuilder, Endpoint, Event, NewEvent, refresh};
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Match {
    best_model: String,
    model_url: String,
}

impl Event for Match {
    const TYPE: &'static str = "match";
}

fn found() -> Match {
    Match { best_model: "ray_ban.glb".into(), model_url: "https://x/?expires=0".into() }
}

fn builder(sink: &RecordingSink) -> BusBuilder {
    let clock = Arc::new(TestClock::following_tokio());
    Bus::builder().clock(clock).endpoint(Endpoint::builder("shop", sink.clone()).build())
}

/// Signs the URL anew, each time with a higher number.
fn sign() -> impl refresh::Refresh {
    let count = AtomicU32::new(0);
    refresh::typed(move |event: Match| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(Match { model_url: format!("https://x/?expires={number}"), ..event }) }
    })
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_renewed_and_the_stored_event_is_not() {
    let sink = RecordingSink::scripted([Step::fail(), Step::fail()]);
    let bus = builder(&sink).refresh(["match"], sign()).unwrap().open().await.unwrap();
    let receipt = bus.publish(&found()).await.unwrap();
    bus.flush(3600 * SECOND).await.unwrap();
    bus.publish(NewEvent::raw("other", "{ }").unwrap()).await.unwrap();
    bus.flush(3600 * SECOND).await.unwrap();
    let attempts = sink.attempts();
    let of_match = attempts.iter().filter(|attempt| attempt.event.id() == receipt.event());
    let urls: Vec<String> =
        of_match.map(|attempt| attempt.event.decode::<Match>().unwrap().model_url).collect();
    assert_eq!(urls, ["https://x/?expires=1", "https://x/?expires=2", "https://x/?expires=3"]);
    let kept = bus.event(receipt.event()).await.unwrap().unwrap();
    assert_eq!(kept.event.decode::<Match>().unwrap(), found());
    let other = attempts.iter().find(|attempt| attempt.event.id() != receipt.event()).unwrap();
    assert_eq!(other.event.payload_str(), "{ }", "to the byte");
}

async fn one_failure(refresh: impl refresh::Refresh) -> (State, AttemptRecord) {
    let sink = RecordingSink::default();
    let bus = builder(&sink).refresh(["match"], refresh).unwrap().payload_bytes_max(200);
    let bus = bus.open().await.unwrap();
    let receipt = bus.publish(&found()).await.unwrap();
    // tidy: allow(sleep): the clock is paused
    tokio::time::sleep(12 * SECOND).await;
    assert!(sink.attempts().is_empty(), "what could not be renewed is not sent");
    let event = bus.event(receipt.event()).await.unwrap().unwrap();
    let delivery = &event.deliveries[0];
    (delivery.state.clone(), delivery.attempts[0].clone())
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_a_failed_attempt_with_its_reason() {
    let check = |state: &State, record: &AttemptRecord, retried: bool, cause, words: &str| {
        assert_eq!(matches!(state, State::Waiting { .. }), retried, "{state:?}");
        assert_eq!(record.cause, Some(cause));
        assert!(record.message.contains(words), "{}", record.message);
    };
    let failing = refresh::typed(|_: Match| async {
        Err(Nack::retry(Cause::Refresh, "sign the model's URL: no credentials"))
    });
    let (state, record) = one_failure(failing).await;
    check(&state, &record, true, Cause::Refresh, "no credentials");

    let panicking = refresh::typed(|event: Match| async move {
        assert!(event.model_url.is_empty(), "a bug");
        Ok(event)
    });
    let (state, record) = one_failure(panicking).await;
    check(&state, &record, true, Cause::Panic, "a bug");

    let hanging = refresh::typed(|_: Match| std::future::pending());
    let (state, record) = one_failure(hanging).await;
    check(&state, &record, true, Cause::Timeout, "no outcome within the timeout of 10s");

    let endless = refresh::typed(|event: Match| async {
        Ok(Match { model_url: "x".repeat(1_000), ..event })
    });
    let (state, record) = one_failure(endless).await;
    check(&state, &record, false, Cause::Refresh, "expected at most 200 bytes");
}

/// The rest of its batch is sent.
#[tokio::test(start_paused = true)]
async fn one_event_of_a_batch_that_cannot_be_renewed_holds_no_other_up() {
    let sink = RecordingSink::default().batches(10);
    let bus = builder(&sink).refresh(
        ["match"],
        refresh::typed(|event: Match| async move {
            match event.best_model.as_str() {
                "bad" => Err(Nack::reject(Cause::Refresh, "unknown model")),
                _ => Ok(Match { model_url: "new".into(), ..event }),
            }
        }),
    );
    let bus = bus.unwrap().open().await.unwrap();
    let models = ["a", "bad", "b", "bad", "c"];
    let events = models.map(|model| Match { best_model: model.into(), ..found() });
    bus.publish_all(events).await.unwrap();
    bus.flush(60 * SECOND).await.unwrap();
    let sent: Vec<Match> = sink.events().iter().map(|event| event.decode().unwrap()).collect();
    assert_eq!(sent.iter().map(|event| &*event.best_model).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(sent.iter().all(|event| event.model_url == "new"));
    let dead = bus.dead_letters().await.unwrap();
    assert_eq!(dead.iter().map(|dead| dead.count).sum::<u64>(), 2);
}
