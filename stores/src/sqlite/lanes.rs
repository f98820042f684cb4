//! Which endpoints may have something to claim that nobody here has been told of.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use postrider::store::Next;
use postrider::{EndpointId, Timestamp};
use tokio::sync::Notify;

/// What was last known of each endpoint's work, and what is to be announced.
#[derive(Default)]
pub(super) struct Lanes {
    inner: Mutex<Inner>,
    /// Wakes the one caller of `ready`.
    pub(super) work: Notify,
    /// Wakes those who wait for room.
    pub(super) space: Notify,
}

#[derive(Default)]
struct Inner {
    known: HashMap<EndpointId, Known>,
    announced: Vec<EndpointId>,
    /// Whether a claim has looked since the last comparison: it may have looked before another
    /// process wrote, and be noted after that was compared.
    is_unsure: bool,
}

/// Until when an endpoint needs no announcement; the order is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// It was announced, or its last claim left something: somebody will claim.
    Now,
    /// The last claim told that there is nothing before this time.
    At(Timestamp),
}

/// What a committed transaction did to the lanes.
pub(super) enum Effect {
    /// The endpoint got something to claim.
    Owed(EndpointId),
    /// A claim looked, and told when to look again.
    Looked(EndpointId, Next),
    /// Something was settled.
    Room,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// Takes what is to be announced.
    pub(super) fn take(&self) -> Vec<EndpointId> {
        std::mem::take(&mut self.lock().announced)
    }

    /// Notes what a transaction did, after it was committed and in the order of commits.
    pub(super) fn apply(&self, effects: Vec<Effect>) {
        let mut has_room = false;
        let mut inner = self.lock();
        for effect in effects {
            match effect {
                Effect::Owed(endpoint) => inner.note(endpoint, Known::Now),
                Effect::Looked(endpoint, next) => {
                    let known = match next {
                        Next::Now => Known::Now,
                        Next::At(at) => Known::At(at),
                        Next::Announced => Known::At(Timestamp::MAX),
                    };
                    inner.known.insert(endpoint, known);
                    inner.is_unsure = true;
                }
                Effect::Room => has_room = true,
            }
        }
        let has_work = !inner.announced.is_empty();
        drop(inner);
        if has_work {
            self.work.notify_one();
        }
        if has_room {
            self.space.notify_waiters();
        }
    }

    /// Whether to compare again although nobody has written.
    pub(super) fn take_unsure(&self) -> bool {
        std::mem::take(&mut self.lock().is_unsure)
    }

    /// Compares what the database owes (when each endpoint's first delivery is due; `None`: now)
    /// with what is known here: other processes write it too.
    pub(super) fn compare(&self, earliest: Vec<(EndpointId, Option<Timestamp>)>) {
        let mut inner = self.lock();
        for (endpoint, due) in earliest {
            inner.note(endpoint, due.map_or(Known::Now, Known::At));
        }
        if !inner.announced.is_empty() {
            self.work.notify_one();
        }
    }
}

impl Inner {
    /// Announces the endpoint if it has something sooner than is known of.
    fn note(&mut self, endpoint: EndpointId, found: Known) {
        match self.known.get_mut(&endpoint) {
            Some(known) if *known <= found => return,
            Some(known) => *known = Known::Now,
            None => {
                self.known.insert(endpoint.clone(), Known::Now);
            }
        }
        self.announced.push(endpoint);
    }
}
