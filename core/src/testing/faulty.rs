//! A store that fails when told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::delivery::DeliveryId;
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::stats::EndpointStats;
use crate::store::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, EventRecord,
    Fence, Found, Note, Page, Purged, Query, Replayed, Settled, Settlement, Store, Target,
};
use crate::time::Timestamp;

/// A call of [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Store::accept`].
    Accept,
    /// [`Store::claim`].
    Claim,
    /// [`Store::extend`].
    Extend,
    /// [`Store::settle`].
    Settle,
    /// [`Store::release`].
    Release,
    /// [`Store::find`].
    Find,
    /// [`Store::replay`].
    Replay,
    /// [`Store::purge`].
    Purge,
    /// [`Store::keep`].
    Keep,
    /// [`Store::notes`].
    Notes,
}

#[derive(Clone, Copy)]
enum Fault {
    Fail,
    FailAfter,
    Panic,
}

/// Wraps a store: the next calls of a kind fail or panic, or all of them wait.
///
/// Clones are one store.
pub struct FaultyStore<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    faults: Mutex<HashMap<Call, Vec<Fault>>>,
    /// How many calls of each kind have begun.
    begun: watch::Sender<HashMap<Call, usize>>,
    held: watch::Sender<Option<Call>>,
}

impl<S> Clone for FaultyStore<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: Store> FaultyStore<S> {
    /// A store that does what `store` does until told otherwise.
    pub fn new(store: S) -> Self {
        let inner = Inner {
            store,
            faults: Mutex::default(),
            begun: watch::Sender::new(HashMap::new()),
            held: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Fails the next `count` calls, after those that are to fail already.
    pub fn fail(&self, call: Call, count: usize) {
        self.faults().entry(call).or_default().extend(vec![Fault::Fail; count]);
    }

    /// Does what the next `count` claims ask for, and fails all the same.
    pub fn fail_after_claim(&self, count: usize) {
        self.faults().entry(Call::Claim).or_default().extend(vec![Fault::FailAfter; count]);
    }

    /// Panics in the next `count` calls.
    pub fn panic(&self, call: Call, count: usize) {
        self.faults().entry(call).or_default().extend(vec![Fault::Panic; count]);
    }

    /// Lets calls of this kind wait until [`go`](Self::go).
    pub fn hold(&self, call: Call) {
        self.inner.held.send_replace(Some(call));
    }

    /// Lets every call go on.
    pub fn go(&self) {
        self.inner.held.send_replace(None);
    }

    /// Waits until `count` calls of this kind have begun.
    pub async fn begun(&self, call: Call, count: usize) {
        let mut begun = self.inner.begun.subscribe();
        let met = begun.wait_for(|begun| begun.get(&call).is_some_and(|begun| *begun >= count));
        met.await.expect("the sender lives in self");
    }

    fn faults(&self) -> MutexGuard<'_, HashMap<Call, Vec<Fault>>> {
        self.inner.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What happens to a call: `Ok(true)` where it is to fail after it was done.
    async fn enter(&self, call: Call) -> Result<bool, Error> {
        self.inner.begun.send_modify(|begun| *begun.entry(call).or_default() += 1);
        let mut held = self.inner.held.subscribe();
        held.wait_for(|held| *held != Some(call)).await.expect("the sender lives in self");
        let fault = self
            .faults()
            .get_mut(&call)
            .and_then(|faults| if faults.is_empty() { None } else { Some(faults.remove(0)) });
        match fault {
            None => Ok(false),
            Some(Fault::FailAfter) => Ok(true),
            Some(Fault::Fail) => {
                Err(Error::new(ErrorKind::Store, format!("{call:?}: injected failure")))
            }
            Some(Fault::Panic) => panic!("injected panic in {call:?}"),
        }
    }
}

#[async_trait]
impl<S: Store> Store for FaultyStore<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.store.capabilities()
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        self.enter(Call::Accept).await?;
        self.inner.store.accept(batch, now).await
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        let fails_after = self.enter(Call::Claim).await?;
        let claim = self.inner.store.claim(endpoint, max, now, until).await;
        if fails_after {
            return Err(Error::new(ErrorKind::Store, "claim: injected failure after the claim"));
        }
        claim
    }

    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.enter(Call::Claim).await?;
        self.inner.store.claim_tried(endpoint, max, now, until).await
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        self.enter(Call::Extend).await?;
        self.inner.store.extend(leases, until).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        self.enter(Call::Settle).await?;
        self.inner.store.settle(batch).await
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        self.enter(Call::Release).await?;
        self.inner.store.release(leases).await
    }

    async fn ready(&self) -> Vec<EndpointId> {
        self.inner.store.ready().await
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        self.inner.store.backlog(now).await
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        self.inner.store.event(id).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        self.inner.store.delivery(id).await
    }

    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.enter(Call::Find).await?;
        self.inner.store.find(query, page).await
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        self.inner.store.stats().await
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.inner.store.dead().await
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        self.enter(Call::Replay).await?;
        self.inner.store.replay(targets, note, now).await
    }

    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        self.enter(Call::Purge).await?;
        self.inner.store.purge(targets, now).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        self.enter(Call::Keep).await?;
        self.inner.store.keep(note).await
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        self.enter(Call::Notes).await?;
        self.inner.store.notes().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.store.close().await
    }
}
