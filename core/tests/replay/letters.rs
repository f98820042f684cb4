//! Dead letters, and single deliveries made again.

use postrider::delivery::{DeadReason, State, StateKind};
use postrider::replay::Request;
use postrider::store::{Page, Query};
use postrider::testing::RecordingSink;
use postrider::{Endpoint, ErrorKind};

use super::{DAY, ended, endpoint, event, open, rejected, store};

/// What was given up is counted until it is replayed or purged, and never forgotten.
#[tokio::test(start_paused = true)]
async fn dead_letters_are_replayed_or_purged() {
    let (a, b) = (RecordingSink::scripted(vec![rejected(); 6]), RecordingSink::default());
    let bus = open(store(), [endpoint("a", &a), endpoint("b", &b)]).await;
    bus.publish_all((0..5).map(event)).await.unwrap();
    bus.flush(DAY).await.unwrap();
    let dead = bus.dead_letters().await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].endpoint.as_str(), dead[0].count), ("a", 5));
    assert_eq!(dead[0].state, State::Dead { reason: DeadReason::Rejected });

    let one = Query::new().state(StateKind::Dead).of_type("other".parse().unwrap());
    assert_eq!(bus.purge(&one).await.unwrap(), 0);
    // The sixth answer is a refusal too: of the five that are sent again one stays dead.
    let job = bus.replay(Request::new(Query::new().state(StateKind::Dead))).await.unwrap();
    assert_eq!(ended(&bus, job.id).await.counts.made, 5);
    assert_eq!(bus.dead_letters().await.unwrap()[0].count, 1);

    assert_eq!(bus.purge(&Query::new()).await.unwrap(), 1);
    assert_eq!(bus.purge(&Query::new()).await.unwrap(), 0, "what is purged is purged");
    assert!(bus.dead_letters().await.unwrap().is_empty());
    let purged = bus.find(&Query::new().state(StateKind::Purged), Page::newest()).await.unwrap();
    assert_eq!(purged.events.len(), 1, "it stays in history");
    assert_eq!(b.attempts().len(), 5);
}

/// What is owed or delivered cannot be purged, nor be asked for.
#[tokio::test(start_paused = true)]
async fn purges_nothing_but_what_was_given_up() {
    let sink = RecordingSink::default();
    let bus = open(store(), [endpoint("a", &sink)]).await;
    bus.publish(event(1)).await.unwrap();
    bus.flush(DAY).await.unwrap();
    assert_eq!(bus.purge(&Query::new()).await.unwrap(), 0);
    for state in [StateKind::Delivered, StateKind::Waiting, StateKind::Unmatched] {
        let refused = bus.purge(&Query::new().state(state)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{state:?}");
    }
}

/// More than one page of dead letters is purged by one call.
#[tokio::test(start_paused = true)]
async fn purges_page_by_page() {
    let sinks: Vec<_> = (0..3).map(|_| RecordingSink::scripted(vec![rejected(); 900])).collect();
    let names = ["a", "b", "c"];
    let bus =
        open(store(), names.iter().zip(&sinks).map(|(name, sink)| endpoint(name, sink))).await;
    bus.publish_all((0..900).map(event)).await.unwrap();
    bus.flush(DAY).await.unwrap();
    assert_eq!(bus.purge(&Query::new()).await.unwrap(), 2_700);
}

/// One delivery is made again, whatever became of it; not while it is owed.
#[tokio::test(start_paused = true)]
async fn retries_one_delivery() {
    let sink = RecordingSink::scripted([rejected()]);
    let off = Endpoint::builder("off", sink.clone()).enabled(false).build();
    let bus = open(store(), [endpoint("a", &sink), off]).await;
    let receipt = bus.publish(event(1)).await.unwrap();
    bus.flush(DAY).await.unwrap();
    let ids: Vec<_> = receipt.deliveries().collect();
    let [first, held] = &ids[..] else { panic!("{ids:?}") };
    for run in 1..=2 {
        let again = bus.retry(first).await.unwrap();
        assert_eq!(again, first.clone().with_run(run));
        bus.flush(DAY).await.unwrap();
        assert_eq!(bus.delivery(&again).await.unwrap().unwrap().state, State::Delivered);
    }
    assert_eq!(sink.attempts().len(), 3);
    assert_eq!(bus.retry(held).await.unwrap_err().kind(), ErrorKind::Conflict);
    for unknown in [first.clone().with_run(9), "a.nothing".parse().unwrap()] {
        assert_eq!(bus.retry(&unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
