//! The seam to where events, deliveries and leases live: one machine's memory or disk, or many
//! machines' broker.
//!
//! A store keeps facts and hands out leases. Policy (when to try again, how often, in what order)
//! is the engine's; a store never gives up, delays or repeats anything by itself. The contract is
//! written here and run against every store by `testing::store` (feature `test-util`).
//!
//! The life of a delivery in a store:
//!
//! ```text
//! accept ──► Waiting ──claim──► Leased ──settle──► Delivered | Dead | Expired
//!               ▲                  │                    │        │
//!               └── settle(RetryAt), release,           │        └─ purge ──► Purged
//!               │   lease ran out                       │
//! replay ───────┴── a new delivery, its run one more ◄──┘
//! ```

mod history;
pub mod log;
mod memory;
mod registry;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use history::{
    DeadLetters, Found, NOTE_BYTES_MAX, NOTE_KEY_BYTES_MAX, NOTES_MAX, Note, Order,
    PAGE_EVENTS_MAX, Page, Place, Purged, Query, RUNS_MAX, Replayed, Target,
};
pub use log::{LogStore, LogStoreBuilder};
pub use memory::{
    EVENTS_MAX_DEFAULT, MEMORY_BYTES_MAX_DEFAULT, MemoryStore, MemoryStoreBuilder, WhenFull,
};
pub use registry::{PreparedStore, Registry, StoreFactory};

use crate::delivery::{AttemptRecord, Decision, DeliveryId, State};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, EventId};
use crate::stats::EndpointStats;
use crate::time::Timestamp;

/// Most attempts kept with a delivery; older ones are dropped, the first is kept.
pub const ATTEMPTS_KEPT_MAX: usize = 16;

/// What an accepted write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Memory,
    /// The process, not the machine.
    Os,
    /// A power cut of the machine.
    Synced,
    /// The loss of a machine, not of all power.
    Replicated,
}

/// What a store truly gives, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What holds when `accept` returns.
    pub durability: Durability,
    /// Whether other processes may work on the same store at the same time.
    pub shared: bool,
    /// Whether publishing an id again returns the first receipt.
    pub dedup: bool,
    /// Whether it finds the past by query, replays it, keeps notes and counts statistics
    /// ([`Store::find`] and what follows it).
    pub history: bool,
}

impl Capabilities {
    /// What a store of one process gives, with dedup and history.
    pub const fn new(durability: Durability) -> Self {
        Self { durability, shared: false, dedup: true, history: true }
    }

    /// Whether other processes may work on the same store.
    #[must_use]
    pub const fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Whether publishing an id again returns the first receipt.
    #[must_use]
    pub const fn dedup(mut self, dedup: bool) -> Self {
        self.dedup = dedup;
        self
    }

    /// Whether it finds the past by query, replays it, keeps notes and counts statistics.
    #[must_use]
    pub const fn history(mut self, history: bool) -> Self {
        self.history = history;
        self
    }
}

/// An event and the endpoints it goes to, to be accepted.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The event.
    pub event: Arc<Envelope>,
    /// Whom it goes to, each once. Empty: the event is recorded as unmatched.
    pub endpoints: Arc<[EndpointId]>,
}

/// What became of an [`Accept`].
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Whom the event goes to; for a duplicate, whom the first one went to.
    pub endpoints: Arc<[EndpointId]>,
    /// Whether an event of this id was there already: nothing was written.
    pub duplicate: bool,
}

/// Outdates older leases of the same delivery: only the newest can settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// The time-limited right to work on a delivery.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Its event.
    pub event: Arc<Envelope>,
    /// Attempts that have been settled so far.
    pub attempts: u32,
    /// Proves that the lease is the newest.
    pub fence: Fence,
}

/// What `claim` found.
#[derive(Debug)]
pub struct Claim {
    /// At most as many as asked for, the longest due first.
    pub leases: Vec<Lease>,
    /// When there is more to claim.
    pub next: Next,
}

/// When an endpoint has more to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Now: more is due than was asked for.
    Now,
    /// Not before this time (a retry falls due or a lease runs out).
    At(Timestamp),
    /// Not before [`Store::ready`] names the endpoint.
    Announced,
}

impl Next {
    /// Whether a claim makes sense now.
    pub(crate) fn is_due(self, now: Timestamp) -> bool {
        match self {
            Self::Now => true,
            Self::At(at) => at <= now,
            Self::Announced => false,
        }
    }

    /// The sooner of this and a time.
    pub(crate) fn or_at(self, time: Timestamp) -> Self {
        match self {
            Self::Now => Self::Now,
            Self::At(at) => Self::At(at.min(time)),
            Self::Announced => Self::At(time),
        }
    }
}

/// The end of an attempt: record and decision in one write.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// From the lease.
    pub fence: Fence,
    /// What happened; `None` where the delivery ended without a try (its event had expired).
    pub attempt: Option<AttemptRecord>,
    /// What follows.
    pub decision: Decision,
}

/// Whether a settlement, release or extension counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It did.
    Applied,
    /// The lease was not the newest any more; nothing changed.
    Stale,
}

/// A delivery as it stands, for looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Which delivery.
    pub id: DeliveryId,
    /// Where it stands.
    pub state: State,
    /// Attempts settled so far.
    pub attempts_made: u32,
    /// The newest attempts, oldest first, at most 16 (the very first one is always kept).
    pub attempts: Vec<AttemptRecord>,
}

/// An event as it stands, for looking.
#[derive(Clone, Debug)]
pub struct EventRecord {
    /// Where it is among the events of its store.
    pub place: Place,
    /// The event.
    pub event: Arc<Envelope>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its deliveries; none: no endpoint asked for it. Those to one endpoint follow each other by
    /// their runs: the first, then what replays made.
    pub deliveries: Vec<DeliveryRecord>,
}

/// What is owed to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Due, not under way.
    pub ready: u64,
    /// Waiting for a later attempt.
    pub delayed: u64,
    /// Under a lease.
    pub leased: u64,
}

impl Backlog {
    /// All that is owed.
    pub fn owed(&self) -> u64 {
        self.ready + self.delayed + self.leased
    }
}

/// Where events, deliveries and leases live.
///
/// All methods may be called from many tasks at once. Times are passed in by the engine, so that a
/// store of one process needs no clock; a shared store may use its server's.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What the store truly gives.
    fn capabilities(&self) -> Capabilities;

    /// **Commit point.** Writes events with their endpoints, all or none, in the order given;
    /// returns when [`Capabilities::durability`] holds. `now` becomes their time of acceptance.
    ///
    /// An id that is known within the dedup window, or earlier in the same batch, is not written
    /// again.
    ///
    /// # Errors
    /// `Full` where a limit is reached and the store is set to refuse; `TooLarge` where the batch
    /// can never fit; `Store` where the write failed; `Closed`. After an error nothing of the batch
    /// was accepted.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the batch is accepted as a whole or not at all; publishing again
    /// with the same ids settles which.
    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error>;

    /// Takes up to `max` due deliveries of `endpoint` under a lease until `until`: the longest due
    /// first, deliveries never tried in the order in which they were accepted. A lease that ran out
    /// before `now` is due again.
    ///
    /// # Cancel safety
    /// Leases of a dropped call run out by themselves.
    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error>;

    /// As [`claim`](Self::claim), but leaves out what was never tried; [`Claim::next`] too tells only of
    /// the rest. For an endpoint that keeps an order: its engine asks so when it can hold no more.
    ///
    /// # Errors
    /// `Unsupported` where [`Capabilities::history`] says so, or other processes share the store: no
    /// order is kept there. `Store`; `Closed`.
    ///
    /// # Cancel safety
    /// As [`claim`](Self::claim).
    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        let _ = (endpoint, max, now, until);
        Err(unsupported("claim only what was tried"))
    }

    /// Lengthens leases until `until`; one answer for each.
    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error>;

    /// **Commit point.** Ends leases: writes each attempt with its decision; one answer for each.
    /// Need not be durable at once: a settlement lost in a crash repeats the attempt.
    ///
    /// # Errors
    /// After an error it is unknown which were written; settling again is safe.
    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error>;

    /// Gives leases back untried: due again at once, no attempt counted.
    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error>;

    /// Waits until endpoints may have become claimable, and names them, each at least once after:
    /// the store was opened with something owed to it; an accept or release gave it something while
    /// its last claim had found nothing more.
    ///
    /// One caller at a time (the engine's dispatcher).
    ///
    /// # Cancel safety
    /// Safe: what has not been returned is returned by the next call.
    async fn ready(&self) -> Vec<EndpointId>;

    /// What is owed, only endpoints that are owed something, in no order. `now` tells due from
    /// delayed.
    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error>;

    /// An event with its deliveries, or `None` where it is unknown or past retention.
    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error>;

    /// One delivery, or `None`.
    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error>;

    /// Events by query, page by page, each with those of its newest deliveries that are looked for.
    ///
    /// A page looks at a bounded number of events (about 10,000), so that a rare thing takes several
    /// calls and none takes long. An event that is accepted meanwhile is on a later page or on none;
    /// none is told twice.
    ///
    /// # Errors
    /// `Unsupported` where [`Capabilities::history`] says so; `Store`; `Closed`.
    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        let _ = (query, page);
        Err(unsupported("find events"))
    }

    /// What became of attempts lately, for each endpoint that ever had one, in no order.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        Err(unsupported("tell statistics"))
    }

    /// What was given up and neither replayed nor purged, by endpoint and reason, in no order.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        Err(unsupported("tell dead letters"))
    }

    /// **Commit point.** Makes new deliveries of past events, due now, and keeps `note`, all in one
    /// write as durable as [`accept`](Self::accept); one answer for each target. At most
    /// [`PAGE_EVENTS_MAX`] targets; one that is named twice is made once. An endpoint need not be
    /// one to which the event went before. The new delivery's [run](DeliveryId::run) is one more
    /// than the last, 1 where there was none. It may be claimed before or after deliveries of younger
    /// events.
    ///
    /// # Errors
    /// `Full` where a backlog limit is reached, whatever the store does for publishers; as for
    /// [`find`](Self::find). After an error nothing was made and the note is as it was.
    ///
    /// # Cancel safety
    /// Dropped before it returns, all of it is done or nothing.
    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        let _ = (targets, note, now);
        Err(unsupported("replay events"))
    }

    /// **Commit point.** Sets dead and expired deliveries aside for good: they are no longer among
    /// the dead, and stay in history as [`State::Purged`]. As durable as [`accept`](Self::accept);
    /// one answer for each target. At most [`PAGE_EVENTS_MAX`] targets.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        let _ = (targets, now);
        Err(unsupported("purge deliveries"))
    }

    /// **Commit point.** Keeps or removes a note, as durably as [`accept`](Self::accept).
    ///
    /// # Errors
    /// `Full` where there are [`NOTES_MAX`]; as for [`find`](Self::find).
    async fn keep(&self, note: Note) -> Result<(), Error> {
        let _ = note;
        Err(unsupported("keep a note"))
    }

    /// Every note, by key.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    async fn notes(&self) -> Result<Vec<Note>, Error> {
        Err(unsupported("read notes"))
    }

    /// Makes everything durable and refuses further calls. Idempotent.
    async fn close(&self) -> Result<(), Error>;
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what}: this store keeps no history"))
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.capabilities())
    }
}

/// Keeps the first attempt and the newest, at most [`ATTEMPTS_KEPT_MAX`].
pub fn push_attempt(attempts: &mut Vec<AttemptRecord>, attempt: AttemptRecord) {
    if attempts.len() >= ATTEMPTS_KEPT_MAX {
        attempts.remove(1);
    }
    // Nearly every delivery has one attempt; a vector left to itself makes room for four.
    attempts.reserve_exact(1);
    attempts.push(attempt);
}
