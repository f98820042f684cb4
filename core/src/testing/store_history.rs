//! The contract of a [`Store`], continued: history by query, replay, dead letters, notes and
//! statistics, for stores that say that they keep a history.

use std::collections::BTreeSet;
use std::future::Future;

use super::store::{accept, at, claim, id, names, owed, publish, settle, settlement, state};
use crate::delivery::{Cause, DeadReason, Decision, DeliveryId, State, StateKind};
use crate::endpoint::EndpointId;
use crate::event::EventId;
use crate::stats::Window;
use crate::store::{
    EventRecord, NOTES_MAX, Note, Order, Page, Place, Purged, Query, Replayed, Settled, Settlement,
    Store, Target,
};

/// As [`super::store::contract`].
pub(super) async fn contract<S, F>(open: impl Fn() -> F)
where
    S: Store,
    F: Future<Output = S>,
{
    if !open().await.capabilities().history {
        says_that_it_keeps_no_history(&open().await).await;
        return;
    }
    finds_by_each_condition(&open().await).await;
    pages_in_both_orders(&open().await).await;
    tells_attempts_when_asked(&open().await).await;
    replays_make_new_deliveries(&open().await).await;
    replays_what_never_went_to_an_endpoint(&open().await).await;
    replays_only_what_is_not_owed(&open().await).await;
    settles_the_run_that_was_leased(&open().await).await;
    tells_dead_letters_by_reason(&open().await).await;
    purges_the_dead_only(&open().await).await;
    keeps_notes(&open().await).await;
    counts_what_became_of_attempts(&open().await).await;
    refuses_history_when_closed(&open().await).await;
}

async fn says_that_it_keeps_no_history(store: &impl Store) {
    let error = store.find(&Query::new(), Page::newest()).await.expect_err("no history is kept");
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
}

/// Every page of a query, joined.
async fn find(store: &impl Store, query: &Query, mut page: Page) -> Vec<EventRecord> {
    let mut events = Vec::new();
    // A page may be empty while there is more; a store that never ends is at fault.
    for _ in 0..100_000 {
        let found = store.find(query, page).await.expect("find");
        assert!(found.events.len() <= page.events_max(), "never more than asked for");
        events.extend(found.events);
        match found.next {
            None => return events,
            next => page = page.after(next),
        }
    }
    panic!("the pages of a query do not end");
}

fn ids(events: &[EventRecord]) -> Vec<String> {
    events.iter().map(|event| event.event.id().to_string()).collect()
}

/// The deliveries that a query finds, in order of their ids.
async fn deliveries(store: &impl Store, query: &Query) -> Vec<String> {
    let events = find(store, query, Page::oldest()).await;
    let ids = events.iter().flat_map(|event| &event.deliveries);
    let ids: BTreeSet<String> = ids.map(|delivery| delivery.id.to_string()).collect();
    ids.into_iter().collect()
}

async fn record(store: &impl Store, name: &str) -> EventRecord {
    let id: EventId = name.parse().expect("an id");
    store.event(&id).await.expect("look").expect("a known event")
}

async fn target(store: &impl Store, name: &str, endpoint: &str) -> Target {
    Target::new(&record(store, name).await, id(endpoint))
}

fn run(endpoint: &str, event: &str, run: u32) -> DeliveryId {
    DeliveryId::new(id(endpoint), event.parse().expect("an id")).with_run(run)
}

/// Publishes an event for one endpoint and brings its delivery to an end.
async fn ended(store: &impl Store, name: &str, endpoint: &str, decision: Decision, seconds: u64) {
    publish(store, name, &[endpoint], at(seconds)).await;
    let (leases, _) = claim(store, endpoint, 1, at(seconds)).await;
    assert_eq!(names(&leases), [name]);
    assert_eq!(settle(store, &leases[0], decision).await, Settled::Applied);
}

const EXHAUSTED: Decision = Decision::Dead(DeadReason::Exhausted);
const REJECTED: Decision = Decision::Dead(DeadReason::Rejected);

/// Events in every state: of endpoint `a` each under its state's name, of `b` two more.
async fn every_state(store: &impl Store) {
    let other = crate::NewEvent::raw("model.uploaded", "{}").expect("a valid event");
    let other = super::sealed(other.id("unmatched".parse().expect("an id")));
    store.accept(vec![accept(&other, &[])], at(0)).await.expect("accept");
    ended(store, "delivered", "a", Decision::Delivered, 10).await;
    ended(store, "exhausted", "a", EXHAUSTED, 20).await;
    ended(store, "rejected", "a", REJECTED, 30).await;
    ended(store, "expired", "a", Decision::Expired, 40).await;
    ended(store, "delayed", "a", Decision::RetryAt(at(1_000)), 50).await;
    ended(store, "purged", "a", EXHAUSTED, 60).await;
    let purged = target(store, "purged", "a").await;
    assert_eq!(store.purge(&[purged], at(60)).await.expect("purge"), [Purged::Done]);
    publish(store, "leased", &["a"], at(70)).await;
    claim(store, "a", 1, at(70)).await;
    ended(store, "b-delivered", "b", Decision::Delivered, 80).await;
    publish(store, "both", &["b", "a"], at(90)).await;
}

async fn finds_by_each_condition(store: &impl Store) {
    every_state(store).await;
    let all = find(store, &Query::new(), Page::oldest()).await;
    let expect = [
        "unmatched",
        "delivered",
        "exhausted",
        "rejected",
        "expired",
        "delayed",
        "purged",
        "leased",
        "b-delivered",
        "both",
    ];
    assert_eq!(ids(&all), expect, "everything, in the order of acceptance");
    for found in &all {
        let looked_up = store.event(found.event.id()).await.expect("look").expect("known");
        assert_eq!(found.event, looked_up.event);
        assert_eq!((found.accepted_at, found.place), (looked_up.accepted_at, looked_up.place));
        assert_eq!(found.deliveries, looked_up.deliveries, "what `find` tells, `event` tells");
    }

    let q = Query::new;
    let cases: [(Query, &[&str]); 14] = [
        (q().state(StateKind::Unmatched), &["unmatched"]),
        (q().state(StateKind::Delivered), &["delivered", "b-delivered"]),
        (q().state(StateKind::Delivered).endpoint(id("b")), &["b-delivered"]),
        (q().state(StateKind::Dead), &["exhausted", "rejected"]),
        (q().reason(DeadReason::Rejected), &["rejected"]),
        (
            q().state(StateKind::Expired).state(StateKind::Dead),
            &["exhausted", "rejected", "expired"],
        ),
        (q().state(StateKind::Waiting), &["delayed", "both"]),
        (q().state(StateKind::Leased), &["leased"]),
        (q().state(StateKind::Purged), &["purged"]),
        (q().endpoint(id("b")), &["b-delivered", "both"]),
        (q().since(at(20)).until(at(40)), &["exhausted", "rejected"]),
        (q().of_type("model.*".parse().expect("a pattern")), &["unmatched"]),
        (q().missing(id("b")).since(at(60)), &["purged", "leased"]),
        (
            q().missing(id("a")).since(at(20)),
            &["exhausted", "rejected", "expired", "purged", "b-delivered"],
        ),
    ];
    for (query, expect) in &cases {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            for limit in [1, 100] {
                let mut page = Page::oldest().limit(limit);
                page.order = order;
                let mut found = ids(&find(store, query, page).await);
                if order == Order::NewestFirst {
                    found.reverse();
                }
                assert_eq!(found, *expect, "{query:?}, {order:?}, {limit} to a page");
            }
        }
    }
    let both = find(store, &q().endpoint(id("b")).state(StateKind::Waiting), Page::newest()).await;
    assert_eq!(both.len(), 1);
    let found: Vec<&DeliveryId> = both[0].deliveries.iter().map(|delivery| &delivery.id).collect();
    assert_eq!(found, [&run("b", "both", 0)], "only the deliveries that were looked for");
    let unknown = q().endpoint(id("unknown"));
    assert!(find(store, &unknown, Page::newest()).await.is_empty());
}

async fn pages_in_both_orders(store: &impl Store) {
    let all: Vec<String> = (0..25).map(|number| format!("e{number}")).collect();
    for (number, name) in (0..).zip(&all) {
        // The clock goes back now and then: the order is that of acceptance.
        let now = at(if number % 7 == 3 { 0 } else { number });
        publish(store, name, &["a"], now).await;
    }
    for limit in [1, 7, 25, 1_000] {
        let oldest = find(store, &Query::new(), Page::oldest().limit(limit)).await;
        assert_eq!(ids(&oldest), all, "oldest first, {limit} to a page");
        let mut newest = ids(&find(store, &Query::new(), Page::newest().limit(limit)).await);
        newest.reverse();
        assert_eq!(newest, all, "newest first, {limit} to a page");
    }
    let early = find(store, &Query::new().until(at(2)), Page::oldest()).await;
    assert_eq!(ids(&early), ["e0", "e1", "e3", "e10", "e17", "e24"], "by time, exactly");

    let first = store.find(&Query::new(), Page::newest().limit(5)).await.expect("find");
    publish(store, "late", &["a"], at(99)).await;
    let rest = find(store, &Query::new(), Page::newest().after(first.next)).await;
    assert_eq!(ids(&rest)[0], "e19", "what came meanwhile moves no page");
    let ends = store.find(&Query::new(), Page::oldest().after(Some(Place::new(u64::MAX)))).await;
    assert!(ends.expect("find").events.is_empty(), "a place beyond the end finds nothing");
}

async fn tells_attempts_when_asked(store: &impl Store) {
    publish(store, "e", &["a"], at(0)).await;
    for seconds in 0..3 {
        let (leases, _) = claim(store, "a", 1, at(seconds)).await;
        settle(store, &leases[0], Decision::RetryAt(at(seconds))).await;
    }
    let (leases, _) = claim(store, "a", 1, at(3)).await;
    settle(store, &leases[0], Decision::Delivered).await;
    let found = find(store, &Query::new(), Page::newest()).await;
    let delivery = &found[0].deliveries[0];
    let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!((delivery.attempts_made, numbers), (4, vec![1, 2, 3, 4]));
    let bare = find(store, &Query::new(), Page::newest().without_attempts()).await;
    assert!(bare[0].deliveries[0].attempts.is_empty(), "left out when not asked for");
    assert_eq!(bare[0].deliveries[0].state, State::Delivered);
}

async fn replays_make_new_deliveries(store: &impl Store) {
    publish(store, "e", &["a", "b"], at(0)).await;
    for endpoint in ["a", "b"] {
        let (leases, _) = claim(store, endpoint, 1, at(0)).await;
        let decision = if endpoint == "a" { EXHAUSTED } else { Decision::Delivered };
        settle(store, &leases[0], decision).await;
    }
    assert!(claim(store, "a", 1, at(1)).await.0.is_empty());
    while tokio::time::timeout(std::time::Duration::from_millis(1), store.ready()).await.is_ok() {}
    let again = [target(store, "e", "a").await, target(store, "e", "a").await];
    let note = Note::new("job", "1").expect("a note");
    let replayed = store.replay(&again, Some(note.clone()), at(10)).await.expect("replay");
    assert_eq!(replayed, [Replayed::Made(run("a", "e", 1)), Replayed::Owed], "each once");
    assert_eq!(store.notes().await.expect("notes"), [note], "the note came with it");
    assert_eq!(store.ready().await, [id("a")], "new work is announced");
    assert_eq!(owed(store, "a", at(10)).await, (1, 0, 0));
    assert_eq!(
        state(store, &run("a", "e", 0)).await,
        State::Dead { reason: DeadReason::Exhausted }
    );
    assert!(
        matches!(state(store, &run("a", "e", 1)).await, State::Waiting { due } if due <= at(10))
    );

    let (leases, _) = claim(store, "a", 5, at(11)).await;
    assert_eq!((names(&leases), leases[0].attempts), (vec!["e".to_owned()], 0), "it begins anew");
    assert_eq!(leases[0].delivery, run("a", "e", 1));
    assert_eq!(settle(store, &leases[0], Decision::RetryAt(at(20))).await, Settled::Applied);
    let (leases, _) = claim(store, "a", 5, at(20)).await;
    assert_eq!((&leases[0].delivery, leases[0].attempts), (&run("a", "e", 1), 1));
    settle(store, &leases[0], Decision::Delivered).await;

    let found = record(store, "e").await;
    let expect = [
        (run("a", "e", 0), State::Dead { reason: DeadReason::Exhausted }, 1),
        (run("a", "e", 1), State::Delivered, 2),
        (run("b", "e", 0), State::Delivered, 1),
    ];
    let told = found.deliveries.iter().map(|d| (d.id.clone(), d.state.clone(), d.attempts_made));
    assert_eq!(told.collect::<Vec<_>>(), expect, "every run is told");
    for delivery in &found.deliveries {
        let alone = store.delivery(&delivery.id).await.expect("look").expect("known");
        assert_eq!(alone, *delivery);
        assert_eq!(delivery.attempts.len(), delivery.attempts_made as usize);
    }
    assert!(store.delivery(&run("a", "e", 2)).await.expect("look").is_none());
    assert_eq!(deliveries(store, &Query::new()).await, ["a~1.e", "b.e"], "the newest run counts");
    assert!(deliveries(store, &Query::new().state(StateKind::Dead)).await.is_empty());
    assert!(store.dead().await.expect("dead").is_empty(), "replayed with success: not dead");

    for number in 2..5 {
        let again = [target(store, "e", "a").await];
        let replayed = store.replay(&again, None, at(30)).await.expect("replay");
        assert_eq!(replayed, [Replayed::Made(run("a", "e", number))]);
        let (leases, _) = claim(store, "a", 5, at(30)).await;
        settle(store, &leases[0], REJECTED).await;
    }
    assert_eq!(record(store, "e").await.deliveries.len(), 6);
    assert_eq!(deliveries(store, &Query::new().state(StateKind::Dead)).await, ["a~4.e"]);
}

async fn replays_what_never_went_to_an_endpoint(store: &impl Store) {
    publish(store, "unmatched", &[], at(0)).await;
    ended(store, "e", "a", Decision::Delivered, 1).await;
    let new = [target(store, "unmatched", "new").await, target(store, "e", "new").await];
    let replayed = store.replay(&new, None, at(5)).await.expect("replay");
    let made = |event| Replayed::Made(run("new", event, 1));
    assert_eq!(replayed, [made("unmatched"), made("e")]);
    let (leases, _) = claim(store, "new", 5, at(5)).await;
    assert_eq!(leases.len(), 2);
    for lease in &leases {
        settle(store, lease, Decision::Delivered).await;
    }
    let told: Vec<String> =
        record(store, "e").await.deliveries.iter().map(|d| d.id.to_string()).collect();
    assert_eq!(told, ["a.e", "new~1.e"]);
    assert!(deliveries(store, &Query::new().state(StateKind::Unmatched)).await.is_empty());
    assert!(find(store, &Query::new().missing(id("new")), Page::newest()).await.is_empty());
}

async fn replays_only_what_is_not_owed(store: &impl Store) {
    publish(store, "waiting", &["a"], at(0)).await;
    publish(store, "leased", &["b"], at(0)).await;
    claim(store, "b", 1, at(0)).await;
    ended(store, "delayed", "c", Decision::RetryAt(at(99)), 0).await;
    let mut targets = Vec::new();
    for (name, endpoint) in [("waiting", "a"), ("leased", "b"), ("delayed", "c")] {
        targets.push(target(store, name, endpoint).await);
    }
    let gone = Target { event: "unknown".parse().expect("an id"), ..targets[0].clone() };
    targets.push(gone);
    targets.push(Target { place: Place::new(u64::MAX), ..targets[0].clone() });
    let replayed = store.replay(&targets, None, at(1)).await.expect("replay");
    let expect = [Replayed::Owed, Replayed::Owed, Replayed::Owed, Replayed::Gone, Replayed::Gone];
    assert_eq!(replayed, expect);
    assert_eq!(owed(store, "a", at(1)).await, (1, 0, 0), "nothing was doubled");
    let none = store.replay(&[], Some(Note::new("k", "v").expect("a note")), at(1)).await;
    assert!(none.expect("replay").is_empty(), "nothing but a note");
    assert_eq!(store.notes().await.expect("notes").len(), 1);
}

async fn settles_the_run_that_was_leased(store: &impl Store) {
    ended(store, "e", "a", EXHAUSTED, 0).await;
    let again = [target(store, "e", "a").await];
    store.replay(&again, None, at(1)).await.expect("replay");
    let (leases, _) = claim(store, "a", 1, at(1)).await;
    for other in [0, 2] {
        let delivery = leases[0].delivery.clone().with_run(other);
        let stale = [(delivery.clone(), leases[0].fence)];
        assert_eq!(store.extend(&stale, at(99)).await.expect("extend"), [Settled::Stale]);
        assert_eq!(store.release(&stale).await.expect("release"), [Settled::Stale]);
        let forged = Settlement { delivery, ..settlement(&leases[0], Decision::Delivered) };
        assert_eq!(store.settle(&[forged]).await.expect("settle"), [Settled::Stale]);
    }
    let held = [(leases[0].delivery.clone(), leases[0].fence)];
    assert_eq!(store.release(&held).await.expect("release"), [Settled::Applied]);
    let (leases, _) = claim(store, "a", 1, at(2)).await;
    assert_eq!(leases[0].delivery, run("a", "e", 1), "given back, it is the same run");
    let (again, _) = claim(store, "a", 1, at(32)).await;
    assert_eq!(again[0].delivery, run("a", "e", 1), "and when its lease ran out");
    assert_eq!(settle(store, &leases[0], Decision::Delivered).await, Settled::Stale);
    assert_eq!(settle(store, &again[0], Decision::Delivered).await, Settled::Applied);
}

async fn tells_dead_letters_by_reason(store: &impl Store) {
    ended(store, "x1", "a", EXHAUSTED, 10).await;
    ended(store, "x2", "a", EXHAUSTED, 20).await;
    ended(store, "r", "a", REJECTED, 30).await;
    ended(store, "ok", "a", Decision::Delivered, 40).await;
    ended(store, "late", "b", Decision::Expired, 50).await;
    let mut groups = store.dead().await.expect("dead");
    groups.sort_by_key(|group| (group.endpoint.clone(), std::cmp::Reverse(group.count)));
    let told: Vec<(EndpointId, State, u64)> =
        groups.iter().map(|g| (g.endpoint.clone(), g.state.clone(), g.count)).collect();
    let dead = |reason| State::Dead { reason };
    let expect = [
        (id("a"), dead(DeadReason::Exhausted), 2),
        (id("a"), dead(DeadReason::Rejected), 1),
        (id("b"), State::Expired, 1),
    ];
    assert_eq!(told, expect);
    for group in &groups {
        assert!(group.oldest <= group.newest && group.newest <= at(50));
    }
    assert!(groups[0].oldest <= at(10) && groups[0].newest <= at(20));
}

async fn purges_the_dead_only(store: &impl Store) {
    ended(store, "dead", "a", EXHAUSTED, 0).await;
    ended(store, "expired", "a", Decision::Expired, 1).await;
    ended(store, "ok", "a", Decision::Delivered, 2).await;
    publish(store, "owed", &["a"], at(3)).await;
    let mut targets = Vec::new();
    for name in ["dead", "expired", "ok", "owed"] {
        targets.push(target(store, name, "a").await);
    }
    targets.push(target(store, "ok", "stranger").await);
    let purged = store.purge(&targets, at(4)).await.expect("purge");
    let expect = [Purged::Done, Purged::Done, Purged::NotDead, Purged::NotDead, Purged::Gone];
    assert_eq!(purged, expect);
    assert!(store.dead().await.expect("dead").is_empty());
    assert_eq!(
        deliveries(store, &Query::new().state(StateKind::Purged)).await,
        ["a.dead", "a.expired"],
        "they stay in history"
    );
    assert_eq!(record(store, "dead").await.deliveries[0].attempts.len(), 1, "with their attempts");
    assert_eq!(store.purge(&targets[..1], at(5)).await.expect("purge"), [Purged::NotDead]);
    let replayed = store.replay(&targets[..1], None, at(6)).await.expect("replay");
    assert_eq!(replayed, [Replayed::Made(run("a", "dead", 1))], "a purged one can be sent again");
}

async fn keeps_notes(store: &impl Store) {
    assert!(store.notes().await.expect("notes").is_empty());
    let note = |key: &str, value: &str| Note::new(key, value.to_owned()).expect("a note");
    store.keep(note("b", "1")).await.expect("keep");
    store.keep(note("a", "")).await.expect("keep");
    store.keep(note("b", "2")).await.expect("keep");
    assert_eq!(store.notes().await.expect("notes"), [note("a", ""), note("b", "2")], "by key");
    store.keep(Note::removed("a")).await.expect("remove");
    store.keep(Note::removed("never-there")).await.expect("removing nothing is well");
    assert_eq!(store.notes().await.expect("notes"), [note("b", "2")]);
    // All at once, so that a durable store may share its syncs.
    let many = (1..NOTES_MAX).map(|number| store.keep(note(&format!("n{number}"), "x")));
    for kept in futures_util::future::join_all(many).await {
        kept.expect("keep");
    }
    let over = store.keep(note("one-too-many", "x")).await;
    assert!(over.expect_err("notes are bounded").is_full());
    let over = store.replay(&[], Some(note("one-too-many", "x")), at(0)).await;
    assert!(over.expect_err("also beside a replay").is_full());
    store.keep(note("b", "3")).await.expect("one that is there may change");
    store.keep(Note::removed("n1")).await.expect("remove");
    store.keep(note("fits", "now")).await.expect("there is room again");
}

async fn counts_what_became_of_attempts(store: &impl Store) {
    ended(store, "one", "a", Decision::Delivered, 0).await;
    ended(store, "two", "a", EXHAUSTED, 0).await;
    publish(store, "three", &["a", "b"], at(0)).await;
    let (leases, _) = claim(store, "a", 1, at(0)).await;
    let expired = Settlement { attempt: None, ..settlement(&leases[0], Decision::Expired) };
    store.settle(&[expired]).await.expect("settle");
    let stats = store.stats().await.expect("stats");
    let found: Vec<&EndpointId> = stats.iter().map(|stats| &stats.endpoint).collect();
    assert_eq!(found, [&id("a")], "only endpoints that had an attempt");
    let series = &stats[0].series;
    let totals = series.totals();
    assert_eq!((totals.succeeded, totals.failed, totals.dead, totals.expired), (1, 1, 1, 1));
    for window in Window::ALL {
        let counts = series.window(window, at(60));
        assert_eq!((counts.succeeded, counts.failed), (1, 1), "{window:?}");
        assert_eq!((counts.dead, counts.expired), (1, 1), "{window:?}");
        assert_eq!(counts.causes, [(Cause::Status, 1)]);
        assert_eq!(counts.latency.quantile(0.5), Some(6));
    }
    assert_eq!(series.last_failure().map(|last| &last.message[..]), Some("failure 1"));
}

async fn refuses_history_when_closed(store: &impl Store) {
    ended(store, "e", "a", EXHAUSTED, 0).await;
    let again = [target(store, "e", "a").await];
    store.close().await.expect("close");
    let is_closed = |refused: Option<crate::Error>| {
        assert!(refused.expect("a closed store answers nothing").is_closed());
    };
    is_closed(store.find(&Query::new(), Page::newest()).await.err());
    is_closed(store.stats().await.err());
    is_closed(store.dead().await.err());
    is_closed(store.replay(&again, None, at(1)).await.err());
    is_closed(store.purge(&again, at(1)).await.err());
    is_closed(store.keep(Note::removed("k")).await.err());
    is_closed(store.notes().await.err());
}
