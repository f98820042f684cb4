//! A simple model of what the log promises. What was asked for is a list of changes; of its end,
//! which nothing tells to be durable, a crash may take any part, and never one from the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{Decision, DeliveryId, State};
use postrider::event::{Envelope, EventId};
use postrider::store::{LogStore, Note, Page, Query, Store};
use postrider::{EndpointId, Timestamp};

use super::ledger::START;

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    pub(crate) attempts: u32,
}

impl Standing {
    fn fresh() -> Self {
        Self { state: State::Waiting { due: START }, attempts: 0 }
    }

    /// What is due is due, under a lease or not.
    fn at(&self, now: Timestamp) -> Self {
        let is_due = match self.state {
            State::Waiting { due } => due <= now,
            State::Leased { .. } => true,
            _ => false,
        };
        let state = if is_due { State::Waiting { due: START } } else { self.state.clone() };
        Self { state, attempts: self.attempts }
    }
}

/// An event that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) event: Arc<Envelope>,
    pub(crate) endpoints: Arc<[EndpointId]>,
    pub(crate) accepted_at: Timestamp,
    /// By endpoint and run.
    pub(crate) deliveries: BTreeMap<(EndpointId, u32), Standing>,
}

impl Known {
    pub(crate) fn new(
        event: Arc<Envelope>,
        endpoints: Arc<[EndpointId]>,
        accepted_at: Timestamp,
    ) -> Self {
        let fresh = |endpoint: &EndpointId| ((endpoint.clone(), 0), Standing::fresh());
        let deliveries = endpoints.iter().map(fresh).collect();
        Self { event, endpoints, accepted_at, deliveries }
    }

    /// The newest delivery to each endpoint.
    pub(crate) fn newest(&self) -> BTreeMap<&EndpointId, (u32, &Standing)> {
        // Later runs come later and replace earlier ones.
        let runs = self.deliveries.iter();
        runs.map(|((endpoint, run), standing)| (endpoint, (*run, standing))).collect()
    }

    fn is_settled(&self) -> bool {
        self.newest().values().all(|(_, standing)| standing.state.is_final())
    }

    /// What is to be compared.
    fn told(&self, now: Timestamp) -> impl PartialEq + std::fmt::Debug {
        let standings = self.deliveries.iter();
        let standings = standings.map(|((to, run), standing)| (to.clone(), *run, standing.at(now)));
        (Arc::clone(&self.event), self.accepted_at, standings.collect::<Vec<_>>())
    }
}

/// One thing that was asked for: it is there as a whole or not at all.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Accept(Vec<Known>),
    Settle { id: DeliveryId, decision: Decision, has_attempt: bool },
    Replay { made: Vec<DeliveryId>, note: Option<Note> },
    Purge(Vec<DeliveryId>),
    Keep(Note),
}

/// All that a store tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// In order of acceptance.
    pub(crate) events: Vec<Known>,
    pub(crate) notes: BTreeMap<Box<str>, Bytes>,
}

impl World {
    pub(crate) fn event(&self, id: &EventId) -> Option<&Known> {
        self.events.iter().find(|known| known.event.id() == id)
    }

    /// A delivery of an event that was not freed.
    fn standing(&mut self, id: &DeliveryId) -> Option<&mut Standing> {
        let known = self.events.iter_mut().find(|known| known.event.id() == id.event())?;
        Some(known.deliveries.entry((id.endpoint().clone(), id.run())).or_insert(Standing::fresh()))
    }

    fn keep(&mut self, note: &Note) {
        match &note.value {
            Some(value) => drop(self.notes.insert(note.key.clone(), value.clone())),
            None => drop(self.notes.remove(&note.key)),
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Accept(events) => self.events.extend(events.iter().cloned()),
            Change::Settle { id, decision, has_attempt } => {
                let Some(standing) = self.standing(id) else { return };
                standing.attempts += u32::from(*has_attempt);
                standing.state = match *decision {
                    Decision::RetryAt(due) => State::Waiting { due },
                    Decision::Delivered => State::Delivered,
                    Decision::Dead(reason) => State::Dead { reason },
                    _ => State::Expired,
                };
            }
            Change::Replay { made, note } => {
                for id in made {
                    self.standing(id);
                }
                if let Some(note) = note {
                    self.keep(note);
                }
            }
            Change::Purge(ids) => {
                for id in ids {
                    if let Some(standing) = self.standing(id) {
                        standing.state = State::Purged;
                    }
                }
            }
            Change::Keep(note) => self.keep(note),
        }
    }

    /// Deliveries that are owed, by endpoint.
    pub(crate) fn owed(&self) -> BTreeMap<EndpointId, BTreeMap<DeliveryId, Standing>> {
        let mut owed: BTreeMap<EndpointId, BTreeMap<_, _>> = BTreeMap::new();
        for known in &self.events {
            for (to, (run, standing)) in known.newest() {
                if !standing.state.is_final() {
                    let id = DeliveryId::new(to.clone(), known.event.id().clone()).with_run(run);
                    owed.entry(to.clone()).or_default().insert(id, standing.clone());
                }
            }
        }
        owed
    }

    /// All that `store` tells of the events of these ids; fails where its answers disagree.
    pub(crate) async fn of(
        store: &LogStore,
        ids: &BTreeSet<EventId>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let failed = |error: postrider::Error| format!("look: {error:?}");
        let mut world = Self::default();
        let mut page = Page::oldest().limit(7);
        loop {
            let found = store.find(&Query::new(), page).await.map_err(failed)?;
            for found in found.events {
                let id = found.event.id();
                let looked = store.event(id).await.map_err(failed)?;
                let looked = looked.ok_or_else(|| format!("{id} is found and is not there"))?;
                let first = looked.deliveries.iter().filter(|delivery| delivery.id.run() == 0);
                let endpoints = first.map(|delivery| delivery.id.endpoint().clone()).collect();
                let mut known = Known::new(looked.event, endpoints, looked.accepted_at);
                known.deliveries = (looked.deliveries.into_iter())
                    .map(|delivery| {
                        let (state, attempts) = (delivery.state, delivery.attempts_made);
                        let to = (delivery.id.endpoint().clone(), delivery.id.run());
                        (to, Standing { state, attempts })
                    })
                    .collect();
                world.events.push(known);
            }
            if found.next.is_none() {
                break;
            }
            page = page.after(found.next);
        }
        for id in ids.iter().filter(|id| world.event(id).is_none()) {
            if store.event(id).await.map_err(failed)?.is_some() {
                return Err(format!("{id} is there and is not found"));
            }
        }
        let notes = store.notes().await.map_err(failed)?.into_iter();
        world.notes = notes.filter_map(|note| Some((note.key, note.value?))).collect();
        world.check_sums(store, now).await?;
        Ok(world)
    }

    /// What the store counts is what it tells one by one.
    async fn check_sums(&self, store: &LogStore, now: Timestamp) -> Result<(), String> {
        let failed = |error: postrider::Error| format!("sums: {error:?}");
        let backlog = store.backlog(now).await.map_err(failed)?.into_iter();
        let backlog: BTreeMap<_, _> = backlog.map(|of| (of.endpoint.clone(), of.owed())).collect();
        let owed = self.owed().into_iter();
        let owed: BTreeMap<_, _> = owed.map(|(to, owed)| (to, owed.len() as u64)).collect();
        if backlog != owed {
            return Err(format!("the backlog is {backlog:?}, {owed:?} are owed"));
        }
        let is_given_up = |state: &State| matches!(state, State::Dead { .. } | State::Expired);
        let mut given_up: BTreeMap<String, u64> = BTreeMap::new();
        for (to, (_, standing)) in self.events.iter().flat_map(Known::newest) {
            if is_given_up(&standing.state) {
                *given_up.entry(format!("{to} {:?}", standing.state)).or_default() += 1;
            }
        }
        let dead = store.dead().await.map_err(failed)?.into_iter();
        let dead: BTreeMap<_, _> =
            dead.map(|dead| (format!("{} {:?}", dead.endpoint, dead.state), dead.count)).collect();
        if dead == given_up {
            Ok(())
        } else {
            Err(format!("{dead:?} are dead, it tells of {given_up:?}"))
        }
    }

    /// Fails with the first thing in which `seen` is not this. An event of which nothing is owed may
    /// be gone after `retention`.
    fn compare(&self, seen: &Self, retention: Duration, now: Timestamp) -> Result<(), String> {
        let mut told = seen.events.iter();
        for known in &self.events {
            let id = known.event.id();
            if seen.event(id).is_none()
                && known.is_settled()
                && now.since(known.accepted_at) >= retention
            {
                continue;
            }
            let found = told.next().ok_or_else(|| format!("{id} is missing"))?;
            let (expect, found) = (known.told(now), found.told(now));
            if expect != found {
                return Err(format!("expected {expect:?}, found {found:?}"));
            }
        }
        if let Some(found) = told.next() {
            return Err(format!("{} is there and must not be", found.event.id()));
        }
        if self.notes != seen.notes {
            return Err(format!("expected the notes {:?}, found {:?}", self.notes, seen.notes));
        }
        Ok(())
    }
}

/// What was asked for, and how much of it is durable for sure.
#[derive(Default)]
pub(crate) struct Promises {
    sure: World,
    since: Vec<Change>,
    /// Every id that was ever published.
    pub(crate) ids: BTreeSet<EventId>,
}

impl Promises {
    pub(crate) fn push(&mut self, change: Change) {
        self.since.push(change);
    }

    /// How much was asked for that is not durable for sure.
    pub(crate) fn unsure(&self) -> usize {
        self.since.len()
    }

    /// Everything that was asked for so far, if the first `count` of what is not sure were.
    fn world(&self, count: usize) -> World {
        let mut world = self.sure.clone();
        self.since[..count].iter().for_each(|change| world.apply(change));
        world
    }

    /// Everything that was asked for.
    pub(crate) fn asked(&self) -> World {
        self.world(self.since.len())
    }

    /// What may be seen: settlements at once, events once they are durable.
    pub(crate) fn visible(&self) -> World {
        let mut world = self.sure.clone();
        let seen = self.since.iter().filter(|change| !matches!(change, Change::Accept(_)));
        seen.for_each(|change| world.apply(change));
        world
    }

    /// Up to which of what is not sure an event is among these ids.
    pub(crate) fn needed_for(&self, ids: &[EventId]) -> usize {
        let has_one = |change: &Change| matches!(change, Change::Accept(events) if events.iter().any(|known| ids.contains(known.event.id())));
        self.since.iter().rposition(has_one).map_or(0, |at| at + 1)
    }

    /// The first `count` of what is not sure are durable.
    pub(crate) fn acknowledge(&mut self, count: usize) {
        self.sure = self.world(count);
        self.since.drain(..count);
    }

    /// Holds what a store that goes on tells to what may be seen.
    pub(crate) fn check(
        &mut self,
        seen: &World,
        retention: Duration,
        now: Timestamp,
    ) -> Result<(), String> {
        self.visible().compare(seen, retention, now)?;
        self.forget(seen);
        Ok(())
    }

    /// Holds what a store tells that was opened again: all that is sure is there, and of the rest a
    /// beginning. That holds from here on.
    pub(crate) fn check_reopened(
        &mut self,
        seen: &World,
        retention: Duration,
        now: Timestamp,
    ) -> Result<(), String> {
        let mut fits = (0..=self.since.len()).rev();
        let check = |count: &usize| self.world(*count).compare(seen, retention, now).is_ok();
        let Some(count) = fits.find(check) else {
            let why = self.world(0).compare(seen, retention, now);
            let all = self.asked().compare(seen, retention, now);
            return Err(format!("reopened: by what is sure: {why:?}; by all: {all:?}"));
        };
        self.acknowledge(count);
        self.since.clear();
        self.forget(seen);
        Ok(())
    }

    /// What was freed stays away.
    fn forget(&mut self, seen: &World) {
        self.sure.events.retain(|known| seen.event(known.event.id()).is_some());
    }
}
