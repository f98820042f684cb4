//! What was asked of the past: deliveries made again, deliveries set aside, notes. The part of the
//! promises that is about them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use postrider::delivery::{DeliveryId, State};
use postrider::event::EventId;
use postrider::store::{
    DeliveryRecord, EventRecord, LogStore, Note, Purged, Replayed, Store, Target,
};
use postrider::{EndpointId, Error};

use super::ledger::{ENDPOINTS, Workload};

/// Deliveries and a note that were asked for in one call.
#[derive(Clone)]
struct Call {
    made: BTreeSet<DeliveryId>,
    purged: BTreeSet<DeliveryId>,
    note: Option<Note>,
    is_acknowledged: bool,
}

/// What was asked for, in order.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    calls: Vec<Call>,
}

impl Asked {
    /// This without the answers that came after `before`.
    pub(crate) fn as_before(&self, before: &Self) -> Self {
        let mut asked = self.clone();
        for (at, call) in asked.calls.iter_mut().enumerate() {
            call.is_acknowledged =
                before.calls.get(at).is_some_and(|before| before.is_acknowledged);
        }
        asked
    }

    fn ids(&self, of: impl Fn(&Call) -> &BTreeSet<DeliveryId>) -> BTreeMap<DeliveryId, bool> {
        let mut ids: BTreeMap<DeliveryId, bool> = BTreeMap::new();
        for call in &self.calls {
            for id in of(call) {
                *ids.entry(id.clone()).or_default() |= call.is_acknowledged;
            }
        }
        ids
    }

    /// Deliveries of an event that were made again for sure.
    pub(crate) fn made_of(&self, event: &EventId) -> impl Iterator<Item = &DeliveryId> {
        let calls = self.calls.iter().filter(|call| call.is_acknowledged);
        calls.flat_map(|call| &call.made).filter(move |id| id.event() == event)
    }

    /// Holds an event to what was asked.
    pub(crate) fn check_event(&self, event: &EventRecord) -> Result<(), String> {
        let made = self.ids(|call| &call.made);
        let purged = self.ids(|call| &call.purged);
        let there: BTreeMap<&DeliveryId, &DeliveryRecord> =
            event.deliveries.iter().map(|delivery| (&delivery.id, delivery)).collect();
        for (id, delivery) in &there {
            if id.run() > 0 && !made.contains_key(id) {
                return Err(format!("{id} was never asked for"));
            }
            let older = DeliveryId::clone(id).with_run(id.run().saturating_sub(1));
            if id.run() > 0 && there.get(&older).is_some_and(|older| !older.state.is_final()) {
                return Err(format!("{id} is there, {older} is not settled"));
            }
            if delivery.state == State::Purged && !purged.contains_key(id) {
                return Err(format!("{id} is purged, nobody asked for it"));
            }
        }
        let is_mine =
            |(id, is_sure): &(&DeliveryId, &bool)| **is_sure && id.event() == event.event.id();
        for (id, _) in made.iter().filter(is_mine) {
            if !there.contains_key(id) {
                return Err(format!("{id} was acknowledged and is not there"));
            }
        }
        for (id, _) in purged.iter().filter(is_mine) {
            if there.get(id).is_none_or(|delivery| delivery.state != State::Purged) {
                return Err(format!("{id} was purged and is {:?}", there.get(id)));
            }
        }
        Ok(())
    }

    /// Holds notes to what was asked, and a call to be done as a whole.
    pub(crate) async fn check_notes(&self, store: &LogStore) -> Result<(), String> {
        let notes = store.notes().await.map_err(|error| format!("notes: {error:?}"))?;
        let notes: BTreeMap<Box<str>, Bytes> =
            notes.into_iter().filter_map(|note| Some((note.key, note.value?))).collect();
        let mut expect: BTreeMap<&str, Vec<Option<&Bytes>>> = BTreeMap::new();
        for call in &self.calls {
            let Some(note) = &call.note else { continue };
            let values = expect.entry(&note.key).or_insert_with(|| vec![None]);
            if call.is_acknowledged {
                values.clear();
            }
            values.push(note.value.as_ref());
        }
        if let Some(key) = notes.keys().find(|key| !expect.contains_key(&***key)) {
            return Err(format!("note {key} was never asked for"));
        }
        for (key, values) in &expect {
            if !values.contains(&notes.get(*key)) {
                return Err(format!(
                    "acknowledged note {key} is {:?}, not {values:?}",
                    notes.get(*key)
                ));
            }
        }
        for call in &self.calls {
            let is_kept = call.note.as_ref().is_some_and(|note| {
                note.value.is_some() && notes.get(&note.key) == note.value.as_ref()
            });
            self.check_whole(store, call, is_kept).await?;
        }
        Ok(())
    }

    async fn check_whole(
        &self,
        store: &LogStore,
        call: &Call,
        is_kept: bool,
    ) -> Result<(), String> {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for id in &call.made {
            let event =
                store.event(id.event()).await.map_err(|error| format!("look: {error:?}"))?;
            // Where the event is gone, nothing tells.
            let Some(event) = event else { continue };
            let is_there = event.deliveries.iter().any(|delivery| delivery.id == *id);
            if is_there { there.push(id) } else { missing.push(id) }
        }
        if !missing.is_empty() && (is_kept || !there.is_empty()) {
            return Err(format!("a replay is there in part: {there:?} without {missing:?}"));
        }
        Ok(())
    }

    /// What the store tells now holds from here on. Returns the deliveries that were asked for, not
    /// acknowledged, and are not there.
    pub(crate) async fn settle_on(&mut self, store: &LogStore) -> Vec<DeliveryId> {
        let mut lost = Vec::new();
        for call in self.calls.iter().filter(|call| !call.is_acknowledged) {
            for id in &call.made {
                if store.delivery(id).await.unwrap().is_none() {
                    lost.push(id.clone());
                }
            }
        }
        let notes = store.notes().await.unwrap();
        let mut keys: BTreeSet<Box<str>> = BTreeSet::new();
        let mut purged = BTreeSet::new();
        for call in &mut self.calls {
            call.made.retain(|id| !lost.contains(id));
            for id in std::mem::take(&mut call.purged) {
                let found = store.delivery(&id).await.unwrap();
                if found.is_some_and(|found| found.state == State::Purged) {
                    purged.insert(id);
                }
            }
            keys.extend(call.note.take().map(|note| note.key));
            call.is_acknowledged = true;
        }
        let none = |note| Call {
            made: BTreeSet::new(),
            purged: BTreeSet::new(),
            note: Some(note),
            is_acknowledged: true,
        };
        for key in keys {
            let found = notes.iter().find(|note| note.key == key);
            self.calls.push(none(found.cloned().unwrap_or_else(|| Note::removed(key))));
        }
        let note = None;
        self.calls.push(Call { made: BTreeSet::new(), purged, note, is_acknowledged: true });
        lost
    }
}

impl Workload {
    /// Some deliveries to be changed, and what is known of the newest to the same endpoint.
    async fn some_targets(&mut self) -> Result<Vec<(Target, Option<DeliveryRecord>)>, Error> {
        let mut targets: Vec<(Target, Option<DeliveryRecord>)> = Vec::new();
        for _ in 0..self.rng.usize(1..8) {
            let Some(id) = self.some_event() else { break };
            let endpoint: EndpointId = ENDPOINTS[self.rng.usize(0..3)].parse().unwrap();
            let Some(event) = self.store.event(&id).await? else { continue };
            let target = Target::new(&event, endpoint);
            if targets.iter().any(|(other, _)| *other == target) {
                continue;
            }
            let mut mine = event.deliveries.into_iter();
            let newest = mine.rfind(|delivery| *delivery.id.endpoint() == target.endpoint);
            targets.push((target, newest));
        }
        Ok(targets)
    }

    fn some_note(&mut self) -> Note {
        let key = ["x", "y", "z"][self.rng.usize(0..3)];
        let mut value = vec![0; self.rng.usize(8..1000)];
        self.rng.fill(&mut value);
        if self.rng.u8(0..4) == 0 { Note::removed(key) } else { Note::new(key, value).unwrap() }
    }

    /// Asks for something and writes until it is answered.
    async fn ask<T: Send + 'static>(
        &mut self,
        call: Call,
        ask: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.ledger.asked.calls.push(call);
        let task = tokio::spawn(ask);
        while !task.is_finished() {
            tokio::task::yield_now().await;
            self.store.step(false);
        }
        let answer = task.await.unwrap()?;
        self.ledger.asked.calls.last_mut().unwrap().is_acknowledged = true;
        Ok(answer)
    }

    pub(crate) async fn replay(&mut self) -> Result<(), Error> {
        let targets = self.some_targets().await?;
        let note = self.rng.bool().then(|| self.some_note());
        let expect: Vec<Replayed> = targets
            .iter()
            .map(|(target, newest)| match newest {
                Some(newest) if !newest.state.is_final() => Replayed::Owed,
                newest => {
                    let run = newest.as_ref().map_or(0, |newest| newest.id.run()) + 1;
                    let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
                    Replayed::Made(id.with_run(run))
                }
            })
            .collect();
        let made = expect.iter().filter_map(|replayed| match replayed {
            Replayed::Made(id) => Some(id.clone()),
            _ => None,
        });
        let made = made.collect();
        let call =
            Call { made, purged: BTreeSet::new(), note: note.clone(), is_acknowledged: false };
        let (store, now) = (Arc::clone(&self.store), self.now);
        let targets: Vec<Target> = targets.into_iter().map(|(target, _)| target).collect();
        let answers =
            self.ask(call, async move { store.replay(&targets, note, now).await }).await?;
        let call = self.ledger.asked.calls.last_mut().unwrap();
        for (answer, expect) in answers.into_iter().zip(expect) {
            match (answer, expect) {
                // Its segment was freed since it was looked up.
                (Replayed::Gone, Replayed::Made(id)) if self.frees => drop(call.made.remove(&id)),
                (Replayed::Gone, _) if self.frees => {}
                (answer, expect) => assert_eq!(answer, expect),
            }
        }
        Ok(())
    }

    pub(crate) async fn purge(&mut self) -> Result<(), Error> {
        let targets = self.some_targets().await?;
        let dead = targets
            .iter()
            .filter_map(|(_, newest)| newest.as_ref())
            .filter(|newest| matches!(newest.state, State::Dead { .. } | State::Expired));
        let purged: BTreeSet<DeliveryId> = dead.map(|newest| newest.id.clone()).collect();
        let count = purged.len();
        let call = Call { made: BTreeSet::new(), purged, note: None, is_acknowledged: false };
        let (store, now) = (Arc::clone(&self.store), self.now);
        let targets: Vec<Target> = targets.into_iter().map(|(target, _)| target).collect();
        let answers = self.ask(call, async move { store.purge(&targets, now).await }).await?;
        let done = answers.iter().filter(|answer| **answer == Purged::Done).count();
        assert!(done == count || self.frees, "{done} of {count} purged");
        Ok(())
    }

    pub(crate) async fn keep(&mut self) -> Result<(), Error> {
        let note = self.some_note();
        let (made, purged) = (BTreeSet::new(), BTreeSet::new());
        let call = Call { made, purged, note: Some(note.clone()), is_acknowledged: false };
        let store = Arc::clone(&self.store);
        self.ask(call, async move { store.keep(note).await }).await
    }
}
