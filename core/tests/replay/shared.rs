//! Several buses on one store: a job is run by one of them, and taken over when that one is gone.

use async_trait::async_trait;
use postrider::delivery::DeliveryId;
use postrider::replay::{JobState, Request};
use postrider::stats::EndpointStats;
use postrider::store::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, EventRecord,
    Fence, Found, Note, Page, Purged, Query, Replayed, Settled, Settlement, Store, Target,
};
use postrider::testing::RecordingSink;
use postrider::{EndpointId, Error, ErrorKind, EventId, Timestamp};

use super::{Faulty, SECOND, delivered, ended, endpoint, open, runs, store};

/// A store that gives less, or more, than it says, and outlives the bus that closes it.
#[derive(Clone)]
pub(super) struct Told {
    store: Faulty,
    is_shared: bool,
    history: bool,
}

impl Told {
    pub(super) fn outliving(store: Faulty) -> Self {
        Self { store, is_shared: false, history: true }
    }

    pub(super) fn without_history(store: Faulty) -> Self {
        Self { store, is_shared: false, history: false }
    }

    fn shared(store: Faulty) -> Self {
        Self { store, is_shared: true, history: true }
    }

    fn past(&self) -> Result<&Faulty, Error> {
        let refused = || Error::new(ErrorKind::Unsupported, "look back: there is no history");
        self.history.then_some(&self.store).ok_or_else(refused)
    }
}

#[async_trait]
impl Store for Told {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities().shared(self.is_shared).history(self.history)
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        self.store.accept(batch, now).await
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.store.claim(endpoint, max, now, until).await
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        self.store.extend(leases, until).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        self.store.settle(batch).await
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        self.store.release(leases).await
    }

    async fn ready(&self) -> Vec<EndpointId> {
        self.store.ready().await
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        self.store.backlog(now).await
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        self.store.event(id).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        self.store.delivery(id).await
    }

    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.past()?.find(query, page).await
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        self.past()?.stats().await
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.past()?.dead().await
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        self.past()?.replay(targets, note, now).await
    }

    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        self.past()?.purge(targets, now).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        self.past()?.keep(note).await
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        self.past()?.notes().await
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn slow() -> Request {
    Request::new(Query::new()).rate("5/s".parse().unwrap())
}

/// While one bus runs a job, another leaves it alone, and can have it ended.
#[tokio::test(start_paused = true)]
async fn one_bus_runs_a_job() {
    let (store, sink) = (store(), RecordingSink::default());
    drop(delivered(&store, &sink, 100).await);
    let shared = Told::shared(store.clone());
    let one = open(shared.clone(), [endpoint("a", &sink)]).await;
    let other = open(shared.clone(), [endpoint("a", &sink)]).await;
    let job = one.replay(slow()).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let told = other.replay_job(job.id).await.unwrap();
    assert!((45..=55).contains(&told.counts.made), "one went at the rate of one: {told:?}");
    assert_eq!(other.cancel_replay(job.id).await.unwrap().state, JobState::Running);
    tokio::time::sleep(SECOND).await;
    assert_eq!(one.replay_job(job.id).await.unwrap().state, JobState::Cancelled);
    assert!(store.notes().await.unwrap().iter().all(|note| !note.key.contains("cancel")));
}

/// A job whose process is gone is taken over by one of the others, and each delivery is made once.
#[tokio::test(start_paused = true)]
async fn a_job_that_was_left_behind_is_taken_over_by_one() {
    let (store, sink) = (store(), RecordingSink::default());
    drop(delivered(&store, &sink, 100).await);
    let shared = Told::shared(store.clone());
    let first = open(shared.clone(), [endpoint("a", &sink)]).await;
    let second = open(shared.clone(), [endpoint("a", &sink)]).await;
    let third = open(shared.clone(), [endpoint("a", &sink)]).await;
    let job = first.replay(slow()).await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    drop(first);
    let job = ended(&second, job.id).await;
    drop(third);
    assert_eq!((job.state, job.counts.made), (JobState::Done, 100));
    assert_eq!(runs(&store, "a").await, [1; 100]);
}

/// A bus that shuts down hands its jobs over at once.
#[tokio::test(start_paused = true)]
async fn a_shutdown_hands_a_job_over() {
    let (store, sink) = (store(), RecordingSink::default());
    drop(delivered(&store, &sink, 30).await);
    let shared = Told::shared(store.clone());
    let one = open(shared.clone(), [endpoint("a", &sink)]).await;
    let job = one.replay(slow()).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    one.shutdown(SECOND).await.unwrap();
    let other = open(shared.clone(), [endpoint("a", &sink)]).await;
    let started = tokio::time::Instant::now();
    assert_eq!(ended(&other, job.id).await.counts.made, 30);
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
    assert_eq!(runs(&store, "a").await, [1; 30]);
}
