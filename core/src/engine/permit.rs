//! A place in the queue for one of the bus-wide permits that survives being polled in a `select!`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Acquire = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

/// Waits for one permit. The semaphore serves in the order of asking; a plain `acquire` in a
/// `select!` would go to the end of the queue each time another branch wins.
pub(super) struct PermitQueue {
    permits: Arc<Semaphore>,
    place: Option<Acquire>,
}

impl PermitQueue {
    pub(super) fn new(permits: &Arc<Semaphore>) -> Self {
        Self { permits: Arc::clone(permits), place: None }
    }

    /// A permit that is free now, and for which nobody waits: the semaphore hands what comes back
    /// to those in its queue first.
    pub(super) fn try_acquire(&mut self) -> Option<OwnedSemaphorePermit> {
        if self.place.is_some() {
            return None;
        }
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Waits for a permit.
    ///
    /// # Cancel safety
    /// Safe: the place in the queue is kept for the next call.
    pub(super) async fn acquire(&mut self) -> OwnedSemaphorePermit {
        let permits = &self.permits;
        let place = self.place.get_or_insert_with(|| {
            let permits = Arc::clone(permits);
            Box::pin(async move {
                permits.acquire_owned().await.expect("the semaphore is never closed")
            })
        });
        let permit = place.await;
        self.place = None;
        permit
    }

    /// Gives the place up, and with it a permit that was granted but not fetched.
    pub(super) fn leave(&mut self) {
        self.place = None;
    }
}
