//! The contract of a [`Store`], as a suite that every store must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{sealed, store_history};
use crate::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State};
use crate::endpoint::EndpointId;
use crate::error::ErrorKind;
use crate::event::{Envelope, NewEvent};
use crate::store::{Accept, Accepted, Fence, Lease, Next, Settled, Settlement, Store};
use crate::time::Timestamp;

/// Runs the contract; panics with the broken rule.
///
/// `open` makes an empty store; it is called once for each rule. It must hold at least 10,000 small
/// events.
///
/// # Panics
/// Where the store breaks a rule.
pub async fn contract<S, F>(open: impl Fn() -> F)
where
    S: Store,
    F: Future<Output = S>,
{
    keeps_what_it_accepts(&open().await).await;
    answers_duplicates_with_the_first_receipt(&open().await).await;
    claims_each_once_and_in_order(&open().await).await;
    claims_only_what_was_tried(&open().await).await;
    leases_run_out_and_outdate(&open().await).await;
    leases_are_extended_and_given_back(&open().await).await;
    settles_each_decision(&open().await).await;
    retries_come_when_due(&open().await).await;
    endpoints_are_apart(&open().await).await;
    announces_new_work(&open().await).await;
    keeps_the_first_and_newest_attempts(&open().await).await;
    many_hands_lose_and_double_nothing(Arc::new(open().await)).await;
    refuses_when_closed(&open().await).await;
    store_history::contract(&open).await;
}

/// When the contract's time begins.
pub(super) const T0: Timestamp = Timestamp::from_millis(1_764_513_045_123);

pub(super) fn at(seconds: u64) -> Timestamp {
    T0.after(Duration::from_secs(seconds))
}

pub(super) fn id(text: &str) -> EndpointId {
    text.parse().expect("a valid endpoint id")
}

pub(super) fn event(name: &str) -> Arc<Envelope> {
    let event = NewEvent::raw("match", format!(r#"{{"name":"{name}"}}"#)).expect("a valid event");
    sealed(event.id(name.parse().expect("a valid event id")))
}

pub(super) fn accept(event: &Arc<Envelope>, endpoints: &[&str]) -> Accept {
    Accept {
        event: Arc::clone(event),
        endpoints: endpoints.iter().map(|endpoint| id(endpoint)).collect(),
    }
}

pub(super) async fn publish(
    store: &impl Store,
    name: &str,
    endpoints: &[&str],
    now: Timestamp,
) -> Accepted {
    let accepted = store.accept(vec![accept(&event(name), endpoints)], now).await;
    accepted.expect("accept").pop().expect("one answer for each event")
}

pub(super) async fn claim(
    store: &impl Store,
    endpoint: &str,
    max: usize,
    now: Timestamp,
) -> (Vec<Lease>, Next) {
    let claim = store.claim(&id(endpoint), max, now, now.after(Duration::from_secs(30))).await;
    let claim = claim.expect("claim");
    assert!(claim.leases.len() <= max, "never more leases than asked for");
    (claim.leases, claim.next)
}

pub(super) fn names(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.event.id().to_string()).collect()
}

pub(super) fn record(number: u32, cause: Option<Cause>) -> AttemptRecord {
    AttemptRecord {
        number,
        at: T0,
        took_ms: 7,
        cause,
        message: cause.map(|_| format!("failure {number}")).unwrap_or_default(),
        status: Some(if cause.is_some() { 500 } else { 200 }),
        answer: "answer".to_owned(),
    }
}

pub(super) fn settlement(lease: &Lease, decision: Decision) -> Settlement {
    let cause = (decision != Decision::Delivered).then_some(Cause::Status);
    Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: Some(record(lease.attempts + 1, cause)),
        decision,
    }
}

pub(super) async fn settle(store: &impl Store, lease: &Lease, decision: Decision) -> Settled {
    let settled = store.settle(&[settlement(lease, decision)]).await.expect("settle");
    assert_eq!(settled.len(), 1, "one answer for each settlement");
    settled[0]
}

pub(super) async fn state(store: &impl Store, delivery: &DeliveryId) -> State {
    store.delivery(delivery).await.expect("look").expect("a known delivery").state
}

/// What is owed to `endpoint`: due, delayed, leased.
pub(super) async fn owed(store: &impl Store, endpoint: &str, now: Timestamp) -> (u64, u64, u64) {
    let backlog = store.backlog(now).await.expect("backlog");
    assert!(
        backlog.iter().all(|backlog| backlog.owed() > 0),
        "only endpoints that are owed something"
    );
    let found = backlog.iter().find(|backlog| backlog.endpoint == id(endpoint));
    found.map_or((0, 0, 0), |backlog| (backlog.ready, backlog.delayed, backlog.leased))
}

async fn keeps_what_it_accepts(store: &impl Store) {
    let payload = " {\"big\": 1152921506151679042, \"x\": 1.0e2}\n";
    let full = NewEvent::raw("model.uploaded", payload)
        .expect("a valid event")
        .key("k")
        .time(at(1))
        .expires_at(at(1000))
        .attribute("source", "contract");
    let full = sealed(full);
    let lone = event("lone");
    let batch = vec![accept(&full, &["a", "b"]), accept(&lone, &[])];
    let accepted = store.accept(batch, at(5)).await.expect("accept");
    assert_eq!(accepted.len(), 2, "one answer for each event");
    assert!(accepted.iter().all(|accepted| !accepted.duplicate));
    assert_eq!(*accepted[0].endpoints, [id("a"), id("b")]);

    let found = store.event(full.id()).await.expect("look").expect("an accepted event is found");
    assert_eq!(found.event, full, "an event comes back as it was accepted");
    assert_eq!(&found.event.payload()[..], payload.as_bytes(), "the payload keeps its bytes");
    assert_eq!(found.accepted_at, at(5));
    assert_eq!(found.deliveries.len(), 2);
    for (delivery, endpoint) in found.deliveries.iter().zip(["a", "b"]) {
        assert_eq!(delivery.id, DeliveryId::new(id(endpoint), full.id().clone()));
        assert!(matches!(delivery.state, State::Waiting { due } if due <= at(5)), "due at once");
        assert_eq!((delivery.attempts_made, delivery.attempts.len()), (0, 0));
    }
    let found =
        store.event(lone.id()).await.expect("look").expect("an unmatched event is recorded");
    assert!(found.deliveries.is_empty());
    assert!(store.event(&"unknown".parse().expect("an id")).await.expect("look").is_none());
    let unknown = DeliveryId::new(id("nobody"), full.id().clone());
    assert!(store.delivery(&unknown).await.expect("look").is_none());
    assert_eq!(owed(store, "a", at(5)).await, (1, 0, 0));
    let (leases, _) = claim(store, "a", 1, at(5)).await;
    assert_eq!(leases[0].event, full, "a claimed event is the accepted one");
}

async fn answers_duplicates_with_the_first_receipt(store: &impl Store) {
    if !store.capabilities().dedup {
        return;
    }
    assert!(!publish(store, "one", &["a"], at(0)).await.duplicate);
    let again = publish(store, "one", &["a", "b"], at(1)).await;
    assert!(again.duplicate, "an id is accepted once");
    assert_eq!(*again.endpoints, [id("a")], "a duplicate gets the first receipt");
    assert_eq!(owed(store, "b", at(1)).await, (0, 0, 0), "a duplicate makes no deliveries");
    let twice = event("two");
    let batch = vec![accept(&twice, &["a"]), accept(&twice, &["a"])];
    let accepted = store.accept(batch, at(2)).await.expect("accept");
    assert_eq!(
        (accepted[0].duplicate, accepted[1].duplicate),
        (false, true),
        "also within a batch"
    );
    let (leases, _) = claim(store, "a", 10, at(3)).await;
    assert_eq!(names(&leases), ["one", "two"]);
    assert_eq!(settle(store, &leases[0], Decision::Delivered).await, Settled::Applied);
    assert!(publish(store, "one", &["a"], at(4)).await.duplicate, "also after it was settled");
}

async fn claims_each_once_and_in_order(store: &impl Store) {
    assert!(
        matches!(claim(store, "a", 5, at(0)).await, (leases, Next::Announced) if leases.is_empty())
    );
    let expect: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    for name in &expect[..5] {
        publish(store, name, &["a"], at(1)).await;
    }
    let batch = expect[5..].iter().map(|name| accept(&event(name), &["a"])).collect();
    store.accept(batch, at(1)).await.expect("accept");
    let (first, next) = claim(store, "a", 4, at(2)).await;
    assert_eq!(next, Next::Now, "more is due");
    let (second, next) = claim(store, "a", 100, at(2)).await;
    assert_ne!(next, Next::Now, "nothing more is due");
    let found: Vec<String> = names(&first).into_iter().chain(names(&second)).collect();
    assert_eq!(found, expect, "in the order of acceptance, each once");
    assert_eq!(owed(store, "a", at(2)).await, (0, 0, 10));
    let fences: BTreeSet<Fence> = first.iter().chain(&second).map(|lease| lease.fence).collect();
    assert_eq!(fences.len(), 10, "each lease has a fence of its own");
    assert!(claim(store, "a", 100, at(3)).await.0.is_empty(), "a leased delivery is not claimed");
}

async fn claims_only_what_was_tried(store: &impl Store) {
    let until = at(99);
    let capabilities = store.capabilities();
    if !capabilities.history || capabilities.shared {
        let refused = store.claim_tried(&id("a"), 9, at(0), until).await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        return;
    }
    for name in ["tried", "given-back", "run-out", "fresh"] {
        publish(store, name, &["a"], at(0)).await;
    }
    let (leases, _) = claim(store, "a", 3, at(1)).await;
    settle(store, &leases[0], Decision::RetryAt(at(40))).await;
    store.release(&[(leases[1].delivery.clone(), leases[1].fence)]).await.expect("release");
    let mut tried = Vec::new();
    let mut next = Next::Now;
    for seconds in [2, 31, 40] {
        let claim = store.claim_tried(&id("a"), 9, at(seconds), until).await.expect("claim");
        tried.extend(names(&claim.leases));
        next = claim.next;
    }
    tried.sort();
    // Whether what was given back counts as tried is the store's business.
    tried.retain(|name| name != "given-back");
    assert_eq!(tried, ["run-out", "tried"]);
    assert_ne!(next, Next::Now, "what is fresh is not told of");
    let (rest, _) = claim(store, "a", 9, at(41)).await;
    assert!(names(&rest).contains(&"fresh".to_owned()), "a fresh one is still there");
}

async fn leases_run_out_and_outdate(store: &impl Store) {
    publish(store, "e", &["a"], at(0)).await;
    let (old, _) = claim(store, "a", 1, at(0)).await;
    assert!(
        matches!(state(store, &old[0].delivery).await, State::Leased { until } if until == at(30))
    );
    let (none, next) = claim(store, "a", 1, at(29)).await;
    assert!(none.is_empty());
    assert_eq!(next, Next::At(at(30)), "a claim tells when the lease runs out");
    let (new, _) = claim(store, "a", 1, at(30)).await;
    assert_eq!(names(&new), ["e"], "a lease that ran out is claimed again");
    assert_eq!(new[0].attempts, 0, "an attempt that was never settled does not count");
    assert_eq!(
        settle(store, &old[0], Decision::Delivered).await,
        Settled::Stale,
        "an old fence is refused"
    );
    let stale = [(old[0].delivery.clone(), old[0].fence)];
    assert_eq!(store.extend(&stale, at(99)).await.expect("extend"), [Settled::Stale]);
    assert_eq!(store.release(&stale).await.expect("release"), [Settled::Stale]);
    assert!(matches!(state(store, &new[0].delivery).await, State::Leased { .. }));
    assert_eq!(settle(store, &new[0], Decision::Delivered).await, Settled::Applied);
    assert_eq!(
        settle(store, &new[0], Decision::Delivered).await,
        Settled::Stale,
        "a lease settles once"
    );
    assert_eq!(state(store, &new[0].delivery).await, State::Delivered);
    let forged = Settlement { fence: Fence(u64::MAX), ..settlement(&new[0], Decision::Delivered) };
    assert_eq!(store.settle(&[forged]).await.expect("settle"), [Settled::Stale]);
}

async fn leases_are_extended_and_given_back(store: &impl Store) {
    publish(store, "first", &["a"], at(0)).await;
    publish(store, "second", &["a"], at(1)).await;
    let (leases, _) = claim(store, "a", 1, at(2)).await;
    let held = [(leases[0].delivery.clone(), leases[0].fence)];
    assert_eq!(store.extend(&held, at(100)).await.expect("extend"), [Settled::Applied]);
    assert_eq!(names(&claim(store, "a", 5, at(60)).await.0), ["second"], "an extended lease holds");
    assert_eq!(store.release(&held).await.expect("release"), [Settled::Applied]);
    let (again, _) = claim(store, "a", 5, at(61)).await;
    assert_eq!(names(&again), ["first"], "what is given back is due at once");
    assert_eq!(again[0].attempts, 0, "giving back counts no attempt");
    assert!(again[0].fence > leases[0].fence, "fences rise");
    let held = [(again[0].delivery.clone(), again[0].fence)];
    store.release(&held).await.expect("release");
    let before = Timestamp::from_millis(at(0).as_millis() - 3_600_000);
    let (again, _) = claim(store, "a", 5, before).await;
    assert_eq!(names(&again), ["first"], "also where the clock has jumped back");
}

async fn settles_each_decision(store: &impl Store) {
    let decisions = [
        ("delivered", Decision::Delivered, State::Delivered),
        (
            "exhausted",
            Decision::Dead(DeadReason::Exhausted),
            State::Dead { reason: DeadReason::Exhausted },
        ),
        (
            "rejected",
            Decision::Dead(DeadReason::Rejected),
            State::Dead { reason: DeadReason::Rejected },
        ),
        ("gone", Decision::Dead(DeadReason::Gone), State::Dead { reason: DeadReason::Gone }),
        ("expired", Decision::Expired, State::Expired),
        ("retry", Decision::RetryAt(at(50)), State::Waiting { due: at(50) }),
    ];
    for (name, ..) in &decisions {
        publish(store, name, &["a"], at(0)).await;
    }
    let (leases, _) = claim(store, "a", 10, at(1)).await;
    let batch: Vec<Settlement> = leases
        .iter()
        .zip(&decisions)
        .map(|(lease, (_, decision, _))| settlement(lease, *decision))
        .collect();
    let settled = store.settle(&batch).await.expect("settle");
    assert_eq!(settled, [Settled::Applied; 6]);
    for (settlement, (name, _, expect)) in batch.iter().zip(&decisions) {
        let found = store.delivery(&settlement.delivery).await.expect("look").expect("still known");
        assert_eq!(found.state, *expect, "{name}");
        assert_eq!(found.attempts_made, 1);
        assert_eq!(found.attempts, settlement.attempt.clone().into_iter().collect::<Vec<_>>());
    }
    assert_eq!(owed(store, "a", at(2)).await, (0, 1, 0), "only the retry is owed");

    publish(store, "never-tried", &["b"], at(3)).await;
    let (leases, _) = claim(store, "b", 1, at(3)).await;
    let untried = Settlement { attempt: None, ..settlement(&leases[0], Decision::Expired) };
    store.settle(&[untried]).await.expect("settle");
    let found = store.delivery(&leases[0].delivery).await.expect("look").expect("known");
    assert_eq!((found.state, found.attempts_made), (State::Expired, 0), "no attempt was made");
}

async fn retries_come_when_due(store: &impl Store) {
    for name in ["late", "soon", "fresh"] {
        publish(store, name, &["a"], at(0)).await;
    }
    let (leases, _) = claim(store, "a", 2, at(0)).await;
    settle(store, &leases[0], Decision::RetryAt(at(100))).await;
    settle(store, &leases[1], Decision::RetryAt(at(10))).await;
    let (fresh, next) = claim(store, "a", 10, at(9)).await;
    assert_eq!(names(&fresh), ["fresh"], "a retry is not claimed before it is due");
    settle(store, &fresh[0], Decision::Delivered).await;
    assert_eq!(next, Next::At(at(10)), "a claim tells when the next retry is due");
    assert_eq!(owed(store, "a", at(9)).await, (0, 2, 0));
    assert_eq!(owed(store, "a", at(10)).await, (1, 1, 0));
    publish(store, "newer", &["a"], at(11)).await;
    let (due, next) = claim(store, "a", 10, at(12)).await;
    assert_eq!(names(&due), ["soon", "newer"], "the longest due comes first");
    assert_eq!(due[0].attempts, 1, "the attempt counts");
    assert_eq!(next, Next::At(at(42)), "the leases run out before the next retry");
    settle(store, &due[0], Decision::RetryAt(at(10))).await;
    let (due, _) = claim(store, "a", 1, at(12)).await;
    assert_eq!((names(&due), due[0].attempts), (vec!["soon".to_owned()], 2), "a time past is due");
}

async fn endpoints_are_apart(store: &impl Store) {
    publish(store, "e", &["a", "b"], at(0)).await;
    let (a, _) = claim(store, "a", 1, at(0)).await;
    settle(store, &a[0], Decision::Dead(DeadReason::Rejected)).await;
    let (b, _) = claim(store, "b", 1, at(0)).await;
    assert_eq!(names(&b), ["e"], "one endpoint's end is not another's");
    let crossed = Settlement { fence: b[0].fence, ..settlement(&a[0], Decision::Delivered) };
    assert_eq!(
        store.settle(&[crossed]).await.expect("settle"),
        [Settled::Stale],
        "a fence fits its delivery"
    );
    settle(store, &b[0], Decision::Delivered).await;
    let found = store.event(a[0].event.id()).await.expect("look").expect("known");
    let states: Vec<State> = found.deliveries.into_iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [State::Dead { reason: DeadReason::Rejected }, State::Delivered]);
}

async fn announces_new_work(store: &impl Store) {
    let ready = async || {
        let ready = tokio::time::timeout(Duration::from_secs(10), store.ready()).await;
        ready.expect("new work is announced").into_iter().collect::<BTreeSet<_>>()
    };
    publish(store, "one", &["a", "b"], at(0)).await;
    let mut announced = ready().await;
    while announced.len() < 2 {
        announced.extend(ready().await);
    }
    assert_eq!(announced, [id("a"), id("b")].into());
    let (leases, _) = claim(store, "a", 10, at(0)).await;
    assert_eq!(claim(store, "a", 10, at(0)).await.1, Next::At(at(30)));
    publish(store, "two", &["a"], at(1)).await;
    assert!(ready().await.contains(&id("a")), "announced again after a claim found nothing more");
    claim(store, "a", 10, at(1)).await;
    store.release(&[(leases[0].delivery.clone(), leases[0].fence)]).await.expect("release");
    assert!(ready().await.contains(&id("a")), "announced when work is given back");
}

async fn keeps_the_first_and_newest_attempts(store: &impl Store) {
    publish(store, "e", &["a"], at(0)).await;
    let tries = 40;
    for number in 0..tries {
        let (leases, _) = claim(store, "a", 1, at(number)).await;
        assert_eq!(u64::from(leases[0].attempts), number, "attempts are counted");
        settle(store, &leases[0], Decision::RetryAt(at(number))).await;
    }
    let delivery = DeliveryId::new(id("a"), "e".parse().expect("an id"));
    let found = store.delivery(&delivery).await.expect("look").expect("known");
    assert_eq!(u64::from(found.attempts_made), tries);
    let numbers: Vec<u32> = found.attempts.iter().map(|attempt| attempt.number).collect();
    let newest = numbers.len() as u32 - 1;
    assert!(newest < crate::store::ATTEMPTS_KEPT_MAX as u32, "what is kept is bounded");
    let expect: Vec<u32> =
        [1].into_iter().chain(tries as u32 - newest + 1..=tries as u32).collect();
    assert_eq!(numbers, expect, "the first attempt and the newest are kept");
}

async fn many_hands_lose_and_double_nothing<S: Store>(store: Arc<S>) {
    const EACH: usize = 200;
    let endpoints = ["a", "b", "c"];
    let publishers = (0..4).map(|publisher| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..EACH {
                publish(&*store, &format!("p{publisher}-{number}"), &endpoints, at(0)).await;
                tokio::task::yield_now().await;
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let claimers = (0..6).map(|claimer| {
        let store = Arc::clone(&store);
        let endpoint = endpoints[claimer % endpoints.len()];
        tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut idle = 0;
            while idle < 2_000 {
                let (leases, _) = claim(&*store, endpoint, 7, at(1)).await;
                idle = if leases.is_empty() { idle + 1 } else { 0 };
                for lease in leases {
                    // Every third attempt fails and is due at once.
                    let fails = lease.attempts == 0 && lease.event.id().to_string().ends_with('3');
                    let decision =
                        if fails { Decision::RetryAt(at(0)) } else { Decision::Delivered };
                    assert_eq!(settle(&*store, &lease, decision).await, Settled::Applied);
                    if !fails {
                        seen.push(lease.delivery);
                    }
                }
                tokio::task::yield_now().await;
            }
            seen
        })
    });
    let claimers: Vec<_> = claimers.collect();
    for publisher in publishers {
        publisher.await.expect("a publisher ends well");
    }
    let mut delivered: BTreeMap<DeliveryId, usize> = BTreeMap::new();
    for claimer in claimers {
        for delivery in claimer.await.expect("a claimer ends well") {
            *delivered.entry(delivery).or_default() += 1;
        }
    }
    // Whoever gave up early on an idle store leaves work for these last rounds.
    for endpoint in endpoints {
        loop {
            let (leases, _) = claim(&*store, endpoint, 100, at(1)).await;
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                settle(&*store, &lease, Decision::Delivered).await;
                *delivered.entry(lease.delivery).or_default() += 1;
            }
        }
    }
    assert_eq!(delivered.len(), 4 * EACH * endpoints.len(), "nothing is lost");
    assert!(delivered.values().all(|count| *count == 1), "nothing is delivered twice");
    assert!(store.backlog(at(1)).await.expect("backlog").is_empty());
}

async fn refuses_when_closed(store: &impl Store) {
    publish(store, "e", &["a"], at(0)).await;
    let (leases, _) = claim(store, "a", 1, at(0)).await;
    store.close().await.expect("close");
    store.close().await.expect("closing twice is well");
    let accepted = store.accept(vec![accept(&event("late"), &["a"])], at(1)).await;
    assert!(accepted.expect_err("a closed store accepts nothing").is_closed());
    let claimed = store.claim(&id("a"), 1, at(1), at(2)).await;
    assert!(claimed.expect_err("a closed store leases nothing").is_closed());
    let settled = store.settle(&[settlement(&leases[0], Decision::Delivered)]).await;
    assert!(settled.expect_err("a closed store settles nothing").is_closed());
}
