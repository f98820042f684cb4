//! What stands between the bus and its store: calls that fail, panic or take long, stores that lie,
//! and the log's writer as a task in simulated time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use postrider::delivery::{Decision, DeliveryId};
use postrider::event::EventId;
use postrider::stats::EndpointStats;
use postrider::store::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, EventRecord,
    Fence, Found, Lease, LogStore, Note, Page, Purged, Query, Replayed, Settled, Settlement, Store,
    Target,
};
use postrider::testing::envelope;
use postrider::{EndpointId, Error, ErrorKind, Timestamp};
use tokio::sync::Notify;

use super::plan::{For, Mutation, random};
use super::world::World;

/// Lets calls fail as the plan says, until the world is calm; lies where it is a mutation.
pub(crate) struct Faults<S> {
    pub(crate) store: S,
    pub(crate) world: Arc<World>,
    /// What the calls of this life are told apart by.
    pub(crate) life: u64,
    pub(crate) calls: AtomicU64,
}

/// What happens to a call.
#[derive(PartialEq, Eq)]
enum Fault {
    None,
    /// It is done, and an error reported all the same.
    After,
}

impl<S: Store> Faults<S> {
    async fn enter(&self, may_fail_after: bool) -> Result<Fault, Error> {
        let plan = &self.world.plan;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut rng = random(plan.seed, &[For::Store as u64, self.life, call]);
        if self.world.lock().is_calm {
            return Ok(Fault::None);
        }
        if plan.store_takes_ms > 0 && rng.u8(0..10) == 0 {
            self.world.lock().has_store_failed = true;
            // tidy: allow(sleep): time is simulated
            tokio::time::sleep(Duration::from_millis(rng.u64(0..plan.store_takes_ms))).await;
        }
        if rng.u8(0..100) >= plan.store_fails {
            return Ok(Fault::None);
        }
        self.world.lock().has_store_failed = true;
        match rng.u8(0..6) {
            0 => panic!("simulated"),
            1 | 2 if may_fail_after => Ok(Fault::After),
            _ => Err(failure()),
        }
    }

    /// Whether a lie is told now.
    fn lies(&self, mutation: Mutation) -> bool {
        let is_told = || self.calls.load(Ordering::Relaxed) % 4 == 3;
        self.world.plan.mutation == Some(mutation) && is_told()
    }
}

fn failure() -> Error {
    Error::new(ErrorKind::Store, "use the store: simulated")
}

fn after<T>(fault: &Fault, done: Result<T, Error>) -> Result<T, Error> {
    if *fault == Fault::After { Err(failure()) } else { done }
}

#[async_trait]
impl<S: Store> Store for Faults<S> {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        // After an error nothing of it may be there, so none is reported afterwards; and a publisher
        // is no place for a panic.
        let plan = &self.world.plan;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut rng = random(plan.seed, &[For::Store as u64, self.life, call]);
        if !self.world.lock().is_calm {
            if rng.u8(0..100) < plan.store_fails {
                return Err(failure());
            }
            if plan.store_takes_ms > 0 {
                // tidy: allow(sleep): time is simulated
                tokio::time::sleep(Duration::from_millis(rng.u64(0..100))).await;
            }
        }
        if self.lies(Mutation::ForgetsAccept) {
            let accepted = batch.into_iter().map(|accept| accept.endpoints);
            let accepted = accepted.map(|endpoints| Accepted { endpoints, duplicate: false });
            return Ok(accepted.collect());
        }
        self.store.accept(batch, now).await
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        let fault = self.enter(true).await?;
        let mut claim = self.store.claim(endpoint, max, now, until).await;
        if let Ok(claim) = &mut claim
            && claim.leases.len() < max
            && self.lies(Mutation::Invents)
        {
            let event = envelope("match", r#"{"n":1000000,"x":""}"#);
            let delivery = DeliveryId::new(endpoint.clone(), event.id().clone());
            claim.leases.push(Lease { delivery, event, attempts: 0, fence: Fence(0) });
        }
        after(&fault, claim)
    }

    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        let fault = self.enter(true).await?;
        after(&fault, self.store.claim_tried(endpoint, max, now, until).await)
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        let fault = self.enter(true).await?;
        after(&fault, self.store.extend(leases, until).await)
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        let fault = self.enter(true).await?;
        if self.lies(Mutation::ForgetsSettle) {
            return Ok(vec![Settled::Applied; batch.len()]);
        }
        let mut batch = batch.to_vec();
        for settlement in &mut batch {
            if self.lies(Mutation::RetriesEarly)
                && let Decision::RetryAt(due) = &mut settlement.decision
            {
                *due = Timestamp::MIN;
            }
        }
        after(&fault, self.store.settle(&batch).await)
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        let fault = self.enter(true).await?;
        after(&fault, self.store.release(leases).await)
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
        let fault = self.enter(true).await?;
        after(&fault, self.store.find(query, page).await)
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        self.store.stats().await
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.store.dead().await
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        // After an error nothing of it may be there.
        self.enter(false).await?;
        self.store.replay(targets, note, now).await
    }

    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        self.enter(false).await?;
        self.store.purge(targets, now).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        let fault = self.enter(true).await?;
        after(&fault, self.store.keep(note).await)
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        self.store.notes().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.close().await
    }
}

/// The log, built `manual`: a task writes what waits, as the writer's thread does in real time.
pub(crate) struct Stepped {
    log: Arc<LogStore>,
    has_work: Arc<Notify>,
}

impl Stepped {
    /// Starts the task on the current runtime; it ends with it.
    pub(crate) fn new(log: LogStore, mut rng: Rng) -> Self {
        let (log, has_work) = (Arc::new(log), Arc::new(Notify::new()));
        let stepped = Self { log: Arc::clone(&log), has_work: Arc::clone(&has_work) };
        tokio::spawn(async move {
            loop {
                has_work.notified().await;
                pause(rng.u64(0..50)).await;
                log.step(false);
                if rng.bool() {
                    // Nobody may come meanwhile.
                    let limit = Duration::from_millis(rng.u64(0..1000));
                    let _ = tokio::time::timeout(limit, has_work.notified()).await;
                }
                log.step(true);
            }
        });
        stepped
    }

    /// A call that waits for what the task writes.
    async fn written<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        poll_fn(|context| {
            let polled = call.as_mut().poll(context);
            if polled.is_pending() {
                self.has_work.notify_one();
            }
            polled
        })
        .await
    }
}

async fn pause(ms: u64) {
    // tidy: allow(sleep): time is simulated
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[async_trait]
impl Store for Stepped {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        self.written(self.log.accept(batch, now)).await
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.log.claim(endpoint, max, now, until).await
    }

    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.log.claim_tried(endpoint, max, now, until).await
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        self.log.extend(leases, until).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        let settled = self.log.settle(batch).await;
        self.has_work.notify_one();
        settled
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        self.log.release(leases).await
    }

    async fn ready(&self) -> Vec<EndpointId> {
        self.log.ready().await
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        self.log.backlog(now).await
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        self.log.event(id).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        self.log.delivery(id).await
    }

    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.written(self.log.find(query, page)).await
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        self.log.stats().await
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.log.dead().await
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        self.written(self.log.replay(targets, note, now)).await
    }

    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        self.written(self.log.purge(targets, now)).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        self.written(self.log.keep(note)).await
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        self.log.notes().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.log.close().await
    }
}
