//! What was asked of a store and what it said: the promises that a reopened store is held to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State};
use postrider::event::{Envelope, EventId};
use postrider::store::{Accept, Lease, LogStore, Settled, Settlement, Store};
use postrider::testing::sealed;
use postrider::{EndpointId, Error, NewEvent, Timestamp};
use tokio::task::JoinHandle;

use super::asked::Asked;
use super::disk::Disk;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_764_513_045_123);
pub(crate) const ENDPOINTS: [&str; 3] = ["a", "b", "c"];

/// Events that were published together.
#[derive(Clone)]
struct Batch {
    events: Vec<(Arc<Envelope>, Arc<[EndpointId]>)>,
    is_acknowledged: bool,
}

/// The promises.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    batches: Vec<Batch>,
    /// How each delivery was settled for good, where it was.
    settled: HashMap<DeliveryId, Decision>,
    /// Attempts that were settled.
    attempts: HashMap<DeliveryId, u32>,
    pub(crate) asked: Asked,
    /// Whether settled events may be gone.
    frees: bool,
}

/// A store at work, step by step, and its ledger.
pub(crate) struct Workload {
    pub(crate) disk: Disk,
    pub(crate) store: Arc<LogStore>,
    pub(crate) ledger: Ledger,
    pub(crate) rng: Rng,
    pub(crate) now: Timestamp,
    publishing: Vec<(usize, JoinHandle<Result<(), Error>>)>,
    leases: Vec<Lease>,
    pub(crate) frees: bool,
}

pub(crate) fn open(disk: &Disk, frees: bool) -> Result<LogStore, Error> {
    let builder = LogStore::builder("unused").files(Arc::new(disk.clone())).manual();
    let builder = builder.segment_bytes(16 << 10).cache_bytes(20_000);
    let builder = if frees {
        builder.retention(Duration::ZERO).dedup_window(Duration::ZERO)
    } else {
        builder
    };
    builder.open_blocking()
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let disk = Disk::default();
        let frees = rng.bool();
        let store = Arc::new(open(&disk, frees).unwrap());
        Self {
            disk,
            store,
            ledger: Ledger { frees, ..Ledger::default() },
            rng,
            now: START,
            publishing: Vec::new(),
            leases: Vec::new(),
            frees,
        }
    }

    pub(crate) fn publish(&mut self) {
        let rng = &mut self.rng;
        let count = if rng.u8(0..4) == 0 { rng.usize(2..6) } else { 1 };
        let batch: Vec<Accept> = (0..count)
            .map(|_| {
                let fill_max = if rng.u8(0..8) == 0 { 3000 } else { 300 };
                let fill = "x".repeat(rng.usize(0..fill_max));
                let kind = ["match", "model.uploaded", "upload"][rng.usize(0..3)];
                let event = NewEvent::raw(kind, format!(r#"{{"fill":"{fill}"}}"#)).unwrap();
                let event = match rng.u8(0..8) {
                    0 => event.id(format!("own-{}", rng.u64(..)).parse().unwrap()).key("k"),
                    1 => event.attribute("source", "test").expires_at(self.now),
                    _ => event,
                };
                let endpoints = ENDPOINTS.iter().filter(|_| rng.bool());
                let endpoints = endpoints.map(|id| id.parse().unwrap()).collect();
                Accept { event: sealed(event), endpoints }
            })
            .collect();
        let events = batch.iter().map(|a| (Arc::clone(&a.event), Arc::clone(&a.endpoints)));
        self.ledger.batches.push(Batch { events: events.collect(), is_acknowledged: false });
        let (store, now) = (Arc::clone(&self.store), self.now);
        let task = tokio::spawn(async move { store.accept(batch, now).await.map(drop) });
        self.publishing.push((self.ledger.batches.len() - 1, task));
    }

    /// Lets publishers get as far as they can, and notes who was answered.
    pub(crate) async fn answers(&mut self) -> Vec<Error> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut errors = Vec::new();
        let mut waiting = Vec::new();
        for (batch, task) in std::mem::take(&mut self.publishing) {
            if task.is_finished() {
                match task.await.unwrap() {
                    Ok(()) => self.ledger.batches[batch].is_acknowledged = true,
                    Err(error) => errors.push(error),
                }
            } else {
                waiting.push((batch, task));
            }
        }
        self.publishing = waiting;
        errors
    }

    /// The id of an event that was acknowledged.
    pub(crate) fn some_event(&mut self) -> Option<EventId> {
        let sure = self.ledger.batches.iter().filter(|batch| batch.is_acknowledged);
        let events: Vec<_> = sure.flat_map(|batch| &batch.events).collect();
        self.rng.choice(events).map(|(event, _)| event.id().clone())
    }

    async fn claim(&mut self) -> Result<(), Error> {
        let endpoint: EndpointId = ENDPOINTS[self.rng.usize(0..3)].parse().unwrap();
        let max = self.rng.usize(1..20);
        let until = self.now.after(Duration::from_secs(30));
        let claim = self.store.claim(&endpoint, max, self.now, until).await?;
        for lease in &claim.leases {
            assert!(
                !self.ledger.settled.contains_key(&lease.delivery),
                "{:?} was settled and is claimed again without a crash",
                lease.delivery
            );
        }
        self.leases.extend(claim.leases);
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Error> {
        let count = self.rng.usize(0..=self.leases.len());
        let mut batch = Vec::new();
        for lease in self.leases.drain(..count) {
            let decision = match self.rng.u8(0..10) {
                0 => Decision::Dead(DeadReason::Exhausted),
                1 => Decision::Expired,
                2..5 => Decision::RetryAt(self.now.after(Duration::from_secs(self.rng.u64(0..60)))),
                _ => Decision::Delivered,
            };
            let attempt = (decision != Decision::Expired).then(|| AttemptRecord {
                number: lease.attempts + 1,
                at: self.now,
                took_ms: 3,
                cause: (decision != Decision::Delivered).then_some(Cause::Status),
                message: "x".repeat(self.rng.usize(0..200)),
                status: None,
                answer: String::new(),
            });
            let (delivery, fence) = (lease.delivery, lease.fence);
            batch.push(Settlement { delivery, fence, attempt, decision });
        }
        let settled = self.store.settle(&batch).await?;
        for (settlement, settled) in batch.into_iter().zip(settled) {
            if settled == Settled::Applied {
                if settlement.attempt.is_some() {
                    *self.ledger.attempts.entry(settlement.delivery.clone()).or_default() += 1;
                }
                if !matches!(settlement.decision, Decision::RetryAt(_)) {
                    self.ledger.settled.insert(settlement.delivery, settlement.decision);
                }
            }
        }
        Ok(())
    }

    /// Does something. Fails where the store does.
    pub(crate) async fn act(&mut self) -> Result<(), Error> {
        self.now = self.now.after(Duration::from_millis(self.rng.u64(0..5000)));
        match self.rng.u8(0..15) {
            12 => self.replay().await?,
            13 => self.purge().await?,
            14 => self.keep().await?,
            0..4 => self.publish(),
            4..6 => self.claim().await?,
            6..8 => self.settle().await?,
            8 => {
                let count = self.rng.usize(0..=self.leases.len());
                let given: Vec<_> = (self.leases.drain(..count))
                    .map(|lease| (lease.delivery, lease.fence))
                    .collect();
                self.store.release(&given).await?;
            }
            _ => {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                self.store.step(self.rng.bool());
            }
        }
        match self.answers().await.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Goes on until the store fails, which it must.
    pub(crate) async fn act_until_error(&mut self) -> Error {
        for _ in 0..100 {
            if let Err(error) = self.act().await {
                return error;
            }
        }
        panic!("the store goes on");
    }

    /// Opens the store again on what a crash of the process left.
    pub(crate) async fn reopen(&mut self, clean: bool) {
        if clean {
            self.store.close().await.unwrap();
        }
        self.answers().await;
        for (_, task) in self.publishing.drain(..) {
            task.abort();
        }
        self.leases.clear();
        let store = open(&self.disk, self.frees).unwrap();
        assert!(store.recovery().damaged.is_empty(), "{:?}", store.recovery());
        self.store = Arc::new(store);
        // What was not acknowledged is there or not; from here on it is one of the two.
        let mut known = Vec::new();
        for batch in &self.ledger.batches {
            let is_there = self.store.event(batch.events[0].0.id()).await.unwrap().is_some();
            if is_there || batch.is_acknowledged {
                known.push(Batch { is_acknowledged: true, events: batch.events.clone() });
            }
        }
        self.ledger.batches = known;
        for id in self.ledger.asked.settle_on(&self.store).await {
            self.ledger.settled.remove(&id);
            self.ledger.attempts.remove(&id);
        }
        // Settlements that were not written yet are lost with the process: what the log tells now
        // holds from here on.
        let settled: Vec<DeliveryId> = self.ledger.settled.keys().cloned().collect();
        for id in settled {
            let found = self.store.delivery(&id).await.unwrap();
            if found.is_some_and(|found| !found.state.is_final()) {
                self.ledger.settled.remove(&id);
            }
        }
        for (id, made) in &mut self.ledger.attempts {
            if let Some(found) = self.store.delivery(id).await.unwrap() {
                assert!(found.attempts_made <= *made, "{id}");
                *made = found.attempts_made;
            }
        }
    }
}

impl Ledger {
    /// This ledger without the answers that came after `before`.
    pub(crate) fn as_before(&self, before: &Ledger) -> Ledger {
        let mut ledger = self.clone();
        for (at, batch) in ledger.batches.iter_mut().enumerate() {
            batch.is_acknowledged =
                before.batches.get(at).is_some_and(|before| before.is_acknowledged);
        }
        ledger.asked = self.asked.as_before(&before.asked);
        ledger
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.batches.iter().filter(|batch| batch.is_acknowledged).count()
    }

    /// Holds what is on a damaged `disk` to the promises: at most `lost` events may be missing.
    pub(crate) async fn check_but(&self, disk: &Disk, lost: usize) -> Result<(), String> {
        let store = open(disk, self.frees).map_err(|error| format!("open: {error:?}"))?;
        let mut missing = 0;
        let mut there = 0;
        for batch in &self.batches {
            for (event, _) in &batch.events {
                match store.event(event.id()).await {
                    Ok(Some(found)) if found.event == *event => there += 1,
                    Ok(Some(_)) => return Err(format!("event {} came back altered", event.id())),
                    Ok(None) | Err(_) => missing += 1,
                }
            }
        }
        if lost > 0 && missing == 0 {
            return Err("the damage does not show".to_owned());
        }
        if missing > lost || there == 0 {
            return Err(format!("{missing} events are missing, {there} there"));
        }
        for endpoint in ENDPOINTS {
            let late = START.after(Duration::from_secs(1_000_000));
            let claim = store.claim(&endpoint.parse().unwrap(), 100_000, late, late).await;
            claim.map_err(|error| format!("claim: {error:?}"))?;
        }
        Ok(())
    }

    /// Holds what is on `disk` to the promises. Fails with the one that is broken.
    pub(crate) async fn check(&self, disk: &Disk) -> Result<(), String> {
        let store = open(disk, self.frees).map_err(|error| format!("open: {error:?}"))?;
        let recovery = store.recovery();
        if !recovery.damaged.is_empty() {
            return Err(format!("a crash looks like damage: {recovery:?}"));
        }
        let mut seen = Seen::default();
        for batch in &self.batches {
            self.check_batch(&store, batch, &mut seen).await?;
        }
        self.asked.check_notes(&store).await?;
        self.check_claims(&store, &seen).await
    }

    async fn check_batch(
        &self,
        store: &LogStore,
        batch: &Batch,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let (mut there, mut freed) = (0, 0);
        for (event, endpoints) in &batch.events {
            let id = event.id();
            let found = store.event(id).await.map_err(|error| format!("look: {error:?}"))?;
            let Some(found) = found else {
                let first = endpoints.iter().map(|e| DeliveryId::new(e.clone(), id.clone()));
                let made = first.chain(self.asked.made_of(id).cloned());
                let mut settled = made.map(|delivery| self.settled.contains_key(&delivery));
                // Of which nothing is owed may be freed at once, before its publisher is answered.
                freed += usize::from(self.frees && settled.all(|settled| settled));
                continue;
            };
            there += 1;
            if found.event != *event {
                return Err(format!("event {id} came back altered"));
            }
            seen.events.insert(id.clone());
            self.asked.check_event(&found)?;
            let first = found.deliveries.iter().filter(|delivery| delivery.id.run() == 0);
            let promised: Vec<_> = first.map(|delivery| delivery.id.endpoint()).collect();
            if promised != endpoints.iter().collect::<Vec<_>>() {
                return Err(format!("event {id} goes to {promised:?}, not to {endpoints:?}"));
            }
            let newest: BTreeMap<EndpointId, u32> =
                found.deliveries.iter().map(|d| (d.id.endpoint().clone(), d.id.run())).collect();
            for delivery in found.deliveries {
                let newest = newest[delivery.id.endpoint()];
                self.check_delivery(delivery, newest, seen)?;
            }
        }
        let all = batch.events.len();
        if batch.is_acknowledged && there + freed < all {
            return Err(format!(
                "an acknowledged batch has {there} of {all} events, {freed} freed"
            ));
        }
        if there != 0 && there + freed != all {
            return Err(format!("a batch is there in part: {there} of {all}, {freed} freed"));
        }
        Ok(())
    }

    fn check_delivery(
        &self,
        delivery: postrider::store::DeliveryRecord,
        newest: u32,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let id = &delivery.id;
        let made = self.attempts.get(id).copied().unwrap_or(0);
        if delivery.attempts_made > made {
            return Err(format!("{id}: {} attempts, {made} were made", delivery.attempts_made));
        }
        let kept = delivery.attempts.len() as u32;
        // An event that was copied forward keeps the attempts of the two newest runs.
        let is_old = id.run() + 2 <= newest && kept == 0;
        if kept != delivery.attempts_made.min(16) && !is_old {
            return Err(format!("{id}: {kept} attempts kept of {}", delivery.attempts_made));
        }
        let expect = match self.settled.get(id) {
            Some(Decision::Delivered) => Some(State::Delivered),
            Some(Decision::Dead(reason)) => Some(State::Dead { reason: *reason }),
            Some(Decision::Expired) => Some(State::Expired),
            _ => None,
        };
        match delivery.state {
            State::Waiting { .. } => {
                seen.owed.insert(delivery.id, delivery.attempts_made);
            }
            // Held to what was asked before.
            State::Purged => {}
            state if Some(&state) == expect.as_ref() => {}
            state => return Err(format!("{id} is {state:?}, it was settled as {expect:?}")),
        }
        Ok(())
    }

    /// What is claimed is what was seen to be owed, each once.
    async fn check_claims(&self, store: &LogStore, seen: &Seen) -> Result<(), String> {
        let late = START.after(Duration::from_secs(1_000_000));
        let mut claimed = BTreeMap::new();
        for endpoint in ENDPOINTS {
            let endpoint = endpoint.parse().unwrap();
            let claim = store.claim(&endpoint, 100_000, late, late.after(Duration::from_secs(9)));
            for lease in claim.await.map_err(|error| format!("claim: {error:?}"))?.leases {
                if !seen.events.contains(lease.event.id()) {
                    return Err(format!("{} was never published", lease.event.id()));
                }
                if claimed.insert(lease.delivery.clone(), lease.attempts).is_some() {
                    return Err(format!("{} is claimed twice", lease.delivery));
                }
            }
        }
        if claimed != seen.owed {
            return Err(format!("claimed {claimed:?}, owed {:?}", seen.owed));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    events: BTreeSet<EventId>,
    owed: BTreeMap<DeliveryId, u32>,
}
