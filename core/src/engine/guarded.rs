//! The store as the engine calls it: a panic in it is an error like any.
//!
//! A worker or the dispatcher that died of somebody else's panic would leave its lanes unserved for
//! good.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::delivery::DeliveryId;
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::stats::EndpointStats;
use crate::store::{
    Claim, Fence, Found, Note, Page, Query, Replayed, Settled, Settlement, Store, Target,
};
use crate::time::Timestamp;

/// Wait after a store that panicked in `ready`, before it is asked again.
const READY_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Guarded(pub(crate) Arc<dyn Store>);

impl Guarded {
    pub(crate) async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        guard(async { self.0.claim(endpoint, max, now, until).await }).await
    }

    pub(crate) async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        guard(async { self.0.claim_tried(endpoint, max, now, until).await }).await
    }

    pub(crate) async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        guard(async { self.0.stats().await }).await
    }

    pub(crate) async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        guard(async { self.0.extend(leases, until).await }).await
    }

    pub(crate) async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        guard(async { self.0.settle(batch).await }).await
    }

    pub(crate) async fn release(
        &self,
        leases: &[(DeliveryId, Fence)],
    ) -> Result<Vec<Settled>, Error> {
        guard(async { self.0.release(leases).await }).await
    }

    pub(crate) async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        guard(async { self.0.find(query, page).await }).await
    }

    pub(crate) async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        guard(async { self.0.replay(targets, note, now).await }).await
    }

    pub(crate) async fn keep(&self, note: Note) -> Result<(), Error> {
        guard(async { self.0.keep(note).await }).await
    }

    pub(crate) async fn notes(&self) -> Result<Vec<Note>, Error> {
        guard(async { self.0.notes().await }).await
    }

    /// As [`Store::ready`], also cancel safe.
    pub(crate) async fn ready(&self) -> Vec<EndpointId> {
        loop {
            let asked = AssertUnwindSafe(async { self.0.ready().await }).catch_unwind().await;
            if let Ok(endpoints) = asked {
                return endpoints;
            }
            tracing::error!("the store panicked when asked what is ready");
            tokio::time::sleep(READY_WAIT).await;
        }
    }
}

async fn guard<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(call)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Store, "use the store: it panicked")))
}
