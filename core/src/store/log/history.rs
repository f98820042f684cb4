//! Making deliveries of past events, setting dead ones aside, and forgetting what went with its
//! segment.

use std::collections::HashSet;
use std::time::Duration;

use super::facts::{Chosen, PurgeBody, ReplayBody, size_max};
use super::format::{RECORD_HEADER, kind};
use super::group::Member;
use super::record;
use super::segment::Segment;
use super::stands::Ended;
use super::state::{Limits, NAME_FIXED_MAX, State};
use super::store::Found;
use crate::delivery::DeliveryId;
use crate::error::Error;
use crate::store::{DeadLetters, Note, Purged, RUNS_MAX, Replayed, Target};
use crate::time::Timestamp;

/// A target with its event, as far as it was read back.
pub(super) type Known<'a> = (&'a Target, Option<&'a Found>);

/// What became of a try to change the past.
pub(super) enum Change<T> {
    /// Encoded; done once the write is.
    Wait(T, Member),
    /// Nothing to be written.
    Done(T),
    /// Try again when there is room in the buffer.
    Busy,
}

/// What a replay will do.
#[derive(Default)]
struct Plan {
    answers: Vec<Replayed>,
    runs: Vec<Chosen>,
    chosen: HashSet<(u32, u64)>,
    events: HashSet<u64>,
    bytes: u64,
    names: usize,
}

impl State {
    fn is_busy(&self, limits: Limits) -> bool {
        self.is_paused || self.tail.buffered > limits.buffer
    }

    fn wait(&mut self) -> Member {
        self.group.get_or_insert_default().join()
    }

    /// Whether the newest delivery of an event is to be made yet. Costs what is leased where a lane
    /// has not got it otherwise, so `leased` is made once for all.
    fn is_owed(&self, lane: u32, event: u64, leased: &HashSet<(u32, u64)>) -> bool {
        let owed = &self.lanes[lane as usize];
        owed.fresh.contains(event)
            || owed.waiting_events().contains(event)
            || leased.contains(&(lane, event))
            || self.replaying.contains(&(lane, event))
    }

    /// Whether an event that was read is still there.
    fn is_there(&self, (target, found): Known<'_>) -> bool {
        let event = target.place.number();
        found.is_some_and(|found| *found.event.id() == target.event)
            && event < self.visible
            && self.segments.of_event(event).is_some()
    }

    /// Makes new deliveries and keeps a note, if that can be done now.
    pub(super) fn replay(
        &mut self,
        targets: &[Known<'_>],
        note: Option<&Note>,
        now: Timestamp,
        limits: Limits,
    ) -> Result<Change<Vec<Replayed>>, Error> {
        self.check_usable()?;
        if let Some(note) = note {
            self.notes.check(note)?;
        }
        if self.is_busy(limits) {
            return Ok(Change::Busy);
        }
        self.now = now;
        let leases = self.leases.values().chain(&self.unreadable);
        let leased = leases.map(|lease| (lease.lane, lease.event)).collect();
        let mut plan = Plan::default();
        for known in targets {
            let answer = self.plan_run(*known, &leased, &mut plan);
            plan.answers.push(answer);
        }
        let Plan { answers, runs, chosen, events, bytes, names } = plan;
        if !runs.is_empty() {
            let what = format!("replay {} deliveries", runs.len());
            self.check_backlog(&what, events.len() as u64, bytes, limits)?;
        } else if note.is_none() {
            return Ok(Change::Done(answers));
        }

        let next = self.next_event;
        let room = RECORD_HEADER as usize + size_max(runs.len(), note) + names;
        self.tail.make_room(room, next, self.now, &mut self.segments);
        let synced = self.tail.proof();
        for run in &runs {
            let id = self.lanes[run.target as usize].id.clone();
            self.tail.name_endpoint(run.target, id.as_str(), next, &mut self.segments);
        }
        let body = ReplayBody { synced, at: now, runs, note: note.cloned() };
        let place = self.tail.append(kind::REPLAY, next, &mut self.segments, |out, base| {
            body.put(out, base);
        });
        // Their segments are kept from now on; they can be claimed once they are durable.
        for run in &body.runs {
            self.owe_run(run);
        }
        self.replaying.extend(chosen);
        self.pending.runs.extend(body.runs);
        if let Some(note) = body.note {
            self.notes.apply(note, place.segment);
        }
        Ok(Change::Wait(answers, self.wait()))
    }

    fn plan_run(
        &mut self,
        known: Known<'_>,
        leased: &HashSet<(u32, u64)>,
        plan: &mut Plan,
    ) -> Replayed {
        let (target, Some(found)) = known else { return Replayed::Gone };
        if !self.is_there(known) {
            return Replayed::Gone;
        }
        let event = target.place.number();
        let lane = self.lane_number(&target.endpoint);
        if plan.chosen.contains(&(lane, event)) || self.is_owed(lane, event, leased) {
            return Replayed::Owed;
        }
        let run = self.lanes[lane as usize].run(event) + 1;
        if run > RUNS_MAX {
            return Replayed::TooOften;
        }
        let size = record::event_size_max(&found.event, found.targets.len()) as u32;
        let is_first = plan.events.insert(event);
        if is_first {
            plan.bytes += u64::from(size);
        }
        // An event that was for nobody counts from now on.
        let counts = is_first
            && found.targets.is_empty()
            && !self.replaying.iter().any(|(_, replayed)| *replayed == event)
            && self.lanes.iter().all(|lane| lane.run(event) == 0);
        plan.names += NAME_FIXED_MAX + target.endpoint.as_str().len();
        plan.chosen.insert((lane, event));
        plan.runs.push(Chosen { event, target: lane, run, bytes: if counts { size } else { 0 } });
        let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
        Replayed::Made(id.with_run(run))
    }

    /// Counts a new delivery for the segment of its event.
    pub(super) fn owe_run(&mut self, run: &Chosen) {
        if let Some(segment) = self.segments.of_event(run.event) {
            self.segments.change_load(segment, |load| {
                load.events += u64::from(run.bytes > 0);
                load.bytes += u64::from(run.bytes);
                load.deliveries += 1;
                load.owed += 1;
            });
        }
    }

    /// New deliveries are durable: they may be claimed.
    pub(super) fn begin_runs(&mut self, runs: &[Chosen]) {
        self.runs_begun += runs.len() as u64;
        for run in runs {
            self.replaying.remove(&(run.target, run.event));
            self.lanes[run.target as usize].begin_run(run.event, run.run);
            self.insert_fresh(run.target, run.event);
        }
    }

    /// Sets dead deliveries aside, if that can be done now.
    pub(super) fn purge(
        &mut self,
        targets: &[Known<'_>],
        now: Timestamp,
        limits: Limits,
    ) -> Result<Change<Vec<Purged>>, Error> {
        self.check_usable()?;
        if self.is_busy(limits) {
            return Ok(Change::Busy);
        }
        self.now = now;
        let (mut runs, mut names) = (Vec::new(), 0);
        let answers: Vec<Purged> = targets
            .iter()
            .map(|known| {
                let (target, Some(found)) = *known else { return Purged::Gone };
                let Some(&lane) = self.lane_of.get(&target.endpoint) else { return Purged::Gone };
                let event = target.place.number();
                let run = self.lanes[lane as usize].run(event);
                if !self.is_there(*known) || (run == 0 && !found.targets.contains(&lane)) {
                    return Purged::Gone;
                }
                let is_dead = self.lanes[lane as usize].ended(event).is_dead();
                if !is_dead || self.replaying.contains(&(lane, event)) {
                    return Purged::NotDead;
                }
                self.lanes[lane as usize].set_ended(event, Ended::Purged);
                names += NAME_FIXED_MAX + target.endpoint.as_str().len();
                runs.push(Chosen { event, target: lane, run, bytes: 0 });
                Purged::Done
            })
            .collect();
        if runs.is_empty() {
            return Ok(Change::Done(answers));
        }
        let next = self.next_event;
        let room = RECORD_HEADER as usize + size_max(runs.len(), None) + names;
        self.tail.make_room(room, next, self.now, &mut self.segments);
        let synced = self.tail.proof();
        for run in &runs {
            let id = self.lanes[run.target as usize].id.clone();
            self.tail.name_endpoint(run.target, id.as_str(), next, &mut self.segments);
        }
        let body = PurgeBody { synced, at: now, runs };
        let place = self.tail.append(kind::PURGE, next, &mut self.segments, |out, base| {
            body.put(out, base);
        });
        let segment = self.segments.get_mut(place.segment).expect("it was just appended to");
        body.runs.iter().for_each(|run| segment.note_settled(run.event));
        Ok(Change::Wait(answers, self.wait()))
    }

    /// Keeps or removes a note, if that can be done now.
    pub(super) fn keep(&mut self, note: &Note, limits: Limits) -> Result<Change<()>, Error> {
        self.check_usable()?;
        self.notes.check(note)?;
        if self.is_busy(limits) {
            return Ok(Change::Busy);
        }
        // One that is not there may still be in the file: its removal may not be synced yet.
        self.append_note(note.clone());
        Ok(Change::Wait((), self.wait()))
    }

    /// What was given up and neither replayed nor purged.
    pub(super) fn dead(&self) -> Vec<DeadLetters> {
        let mut dead = Vec::new();
        for lane in &self.lanes {
            let Some(stands) = &lane.stands else { continue };
            for ended in Ended::KEPT.into_iter().filter(|ended| ended.is_dead()) {
                let events = stands.events(ended);
                let Some((first, last)) = events.and_then(|e| e.min().zip(e.max())) else {
                    continue;
                };
                let (oldest, newest) = (self.segments.time_of(first), self.segments.time_of(last));
                let count = events.map_or(0, roaring::RoaringTreemap::len);
                let endpoint = lane.id.clone();
                dead.push(DeadLetters::new(endpoint, ended.state(), count, oldest, newest));
            }
        }
        dead
    }

    /// The oldest segments in which nothing is owed and whose retention has passed.
    pub(super) fn freeable(&self, keep: Duration) -> impl Iterator<Item = u32> + '_ {
        let is_free = move |segment: &&Segment| {
            segment.header.number < self.checkpoint.segment
                && segment.load.owed == 0
                && self.now.since(segment.last_time) >= keep
        };
        self.segments.list().iter().take_while(is_free).map(|segment| segment.header.number)
    }

    /// Takes the oldest segment out, and what was known of its events. Returns its number, and how
    /// many deliveries went with it that were given up and not purged.
    pub(super) fn forget_oldest(&mut self) -> (u32, u64) {
        let (segment, gone) = self.segments.pop_front();
        let mut dead = 0;
        let copied = &self.segments.copied;
        for stands in self.lanes.iter_mut().filter_map(|lane| lane.stands.as_mut()) {
            for (from, to) in &gone {
                dead += stands.forget(*from, *to, |event| !copied.contains(event));
            }
        }
        (segment.header.number, dead)
    }

    /// Forgets the events of segments that were freed after a checkpoint was written.
    pub(super) fn forget_freed(&mut self) {
        let Some(first) = self.segments.list().first() else { return };
        let (number, base) = (first.header.number, first.header.base);
        let gone = self.segments.moved.extract_if(.., |_, run| run.place.segment < number);
        for (from, run) in gone {
            self.segments.copied.remove_range(from..=run.last);
        }
        let copied = &self.segments.copied;
        for stands in self.lanes.iter_mut().filter_map(|lane| lane.stands.as_mut()) {
            stands.forget(0, base, |event| !copied.contains(event));
        }
    }
}
