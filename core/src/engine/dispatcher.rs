//! The dispatcher: from "this endpoint may have work" to a worker that serves it.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::{LookAt, SLEEP_MAX, Shared, worker};
use crate::endpoint::EndpointId;
use crate::lane::Lane;
use crate::time::Timestamp;

/// A lane with work and no worker yet, waiting for its permit. The lane and not its id: the endpoint
/// may be removed and back by then, with another lane that gets a worker of its own.
type Waiting = Pin<Box<dyn Future<Output = (Weak<Lane>, OwnedSemaphorePermit)> + Send>>;

/// Runs until the engine is stopped.
pub(super) async fn run(shared: Arc<Shared>, mut inbox: mpsc::Receiver<LookAt>) {
    let mut timers = Timers::<Timestamp>::default();
    let mut paused = Timers::<Instant>::default();
    // Each lane has one place in the semaphore's queue, here or in its worker: they take turns.
    let mut waiting: FuturesUnordered<Waiting> = FuturesUnordered::new();
    loop {
        let pause_ends = paused.first();
        let sleep = timers.first().map(|at| at.since(shared.clock.now()).min(SLEEP_MAX));
        tokio::select! {
            () = shared.stop_claiming.cancelled() => return,
            ids = shared.store.ready() => {
                for id in ids {
                    waiting.extend(wake(&shared, &id));
                }
            }
            Some(look) = inbox.recv() => match look {
                LookAt::Due(id, at) => timers.set(id, at),
                LookAt::NotBefore(id, at) => paused.set(id, at),
            },
            () = shared.has_opened.notified() => {
                for id in shared.take_opened() {
                    waiting.extend(wake(&shared, &id));
                }
            }
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {
                let now = shared.clock.now();
                while let Some(id) = timers.pop_due(now) {
                    waiting.extend(wake(&shared, &id));
                }
            }
            () = async { tokio::time::sleep_until(pause_ends.unwrap_or_else(Instant::now)).await },
                if pause_ends.is_some() =>
            {
                while let Some(id) = paused.pop_due(Instant::now()) {
                    waiting.extend(wake(&shared, &id));
                }
            }
            Some((lane, permit)) = waiting.next() => {
                if let Some(lane) = lane.upgrade() {
                    shared.tasks.spawn(worker::run(Arc::clone(&shared), lane, permit));
                }
            }
        }
    }
}

/// Wakes a lane; one without a worker queues for a permit. What is owed to an endpoint that is
/// disabled or not configured is held: enabling it looks again.
fn wake(shared: &Shared, id: &EndpointId) -> Option<Waiting> {
    let lane = shared.lane(id)?;
    if !lane.is_served() || !lane.wake() {
        return None;
    }
    let (lane, permits) = (Arc::downgrade(&lane), Arc::clone(&shared.permits));
    Some(Box::pin(async move {
        (lane, permits.acquire_owned().await.expect("the semaphore is never closed"))
    }))
}

/// One timer for each endpoint at most.
struct Timers<T> {
    by_time: BTreeSet<(T, EndpointId)>,
    by_endpoint: HashMap<EndpointId, T>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_endpoint: HashMap::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    fn first(&self) -> Option<T> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Sets the endpoint's timer. An earlier one stays: notes of two workers may come in the wrong
    /// order, and a look too many finds nothing and sets the timer again.
    fn set(&mut self, id: EndpointId, at: T) {
        if let Some(old) = self.by_endpoint.get_mut(&id) {
            if *old <= at {
                return;
            }
            self.by_time.remove(&(*old, id.clone()));
            *old = at;
        } else {
            self.by_endpoint.insert(id.clone(), at);
        }
        self.by_time.insert((at, id));
    }

    fn pop_due(&mut self, now: T) -> Option<EndpointId> {
        if self.first()? > now {
            return None;
        }
        let (_, id) = self.by_time.pop_first()?;
        self.by_endpoint.remove(&id);
        Some(id)
    }
}
