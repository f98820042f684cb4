//! Recovery: what each record about deliveries, notes and totals changes.

use super::facts::{Chosen, PurgeBody, ReplayBody};
use super::lane::{Lane, Tried};
use super::moved::{Moved, MovedState};
use super::record::{Before, Place, SettleBody};
use super::recovery::Replay;
use super::stands::Ended;
use crate::delivery::Decision;
use crate::stats::Totals;

impl Replay<'_> {
    /// Takes a delivery out of what is owed. `false` where it was not.
    fn take(&mut self, target: u32, event: u64) -> bool {
        let Some(lane) = self.state.lanes.get_mut(target as usize) else { return false };
        let was_owed = lane.remove_fresh(event) || self.waiting.remove(&(target, event)).is_some();
        if was_owed {
            self.state.owe_less(event);
        }
        was_owed
    }

    /// The lane of a delivery whose event is there, and that is not of an older run than is known.
    fn lane_of(&mut self, target: u32, event: u64, run: u32) -> Option<&mut Lane> {
        // One that is still to come has no deliveries: its record is lost, and another gets its number.
        if event >= self.state.next_event {
            return None;
        }
        self.state.segments.of_event(event)?;
        let lane = self.state.lanes.get_mut(target as usize)?;
        (run >= lane.run(event)).then_some(lane)
    }

    pub(super) fn apply_settle(&mut self, place: Place, settle: &SettleBody) {
        let &SettleBody { event, target, run, decision, .. } = settle;
        let now = settle.at.unwrap_or(self.state.now);
        if let Some(lane) = self.state.lanes.get_mut(target as usize) {
            lane.count(settle.attempt.as_ref(), decision, now, place.segment);
        }
        let was_owed = self.take(target, event);
        if let Some(ended) = Ended::by(decision) {
            self.segment(place.segment).note_settled(event);
            if let Some(lane) = self.lane_of(target, event, run) {
                // Damage may have taken the record that made this run.
                if run > lane.run(event) {
                    lane.begin_run(event, run);
                }
                lane.set_ended(event, ended);
            }
            return;
        }
        // A settlement of what is gone tells nothing that anybody could act on.
        let Decision::RetryAt(due) = decision else { return };
        if !was_owed {
            return;
        }
        let first = settle.before.map_or(place, |before| before.first);
        let has_attempt = settle.attempt.is_some();
        let before = if has_attempt { Some(Before { last: place, first }) } else { settle.before };
        let tried = Tried { attempts: settle.attempts, before };
        self.waiting.insert((target, event), (due, tried));
        if let Some(segment) = self.state.segments.of_event(event) {
            self.state.segments.change_load(segment, |load| load.owed += 1);
        }
    }

    pub(super) fn apply_moved(&mut self, place: Place, bytes: u32, event: u64, moved: &Moved<'_>) {
        let mut owed = 0;
        for (at, delivery) in moved.deliveries.iter().enumerate() {
            let target = delivery.target;
            // Only the newest run to an endpoint says where it stands.
            if moved.deliveries.get(at + 1).is_some_and(|next| next.target == target) {
                continue;
            }
            self.take(target, event);
            let Some(lane) = self.lane(target) else { continue };
            if delivery.run > 0 {
                lane.begin_run(event, delivery.run);
            }
            match delivery.state {
                MovedState::Fresh => lane.insert_fresh(event),
                MovedState::Waiting(due) => {
                    let before = Before { last: place, first: place };
                    let before = (!delivery.attempts.is_empty()).then_some(before);
                    let tried = Tried { attempts: delivery.attempts_made, before };
                    self.waiting.insert((target, event), (due, tried));
                }
                MovedState::Ended(ended) => {
                    lane.set_ended(event, ended);
                    continue;
                }
            }
            owed += 1;
        }
        self.state.segments.note_moved(place, event, moved.continues);
        self.state.add_load(place.segment, bytes, owed, owed);
    }

    pub(super) fn apply_replay(&mut self, place: Place, replay: ReplayBody) {
        for run in &replay.runs {
            let Chosen { event, target, run: number, .. } = *run;
            // The event may be gone: what it was owed then was settled.
            if self.lane_of(target, event, number).is_none() {
                continue;
            }
            // Damage may have taken the record that settled what was owed before.
            self.take(target, event);
            let Some(lane) = self.lane(target) else { continue };
            lane.begin_run(event, number);
            lane.insert_fresh(event);
            self.state.owe_run(run);
        }
        if let Some(note) = replay.note {
            self.state.notes.apply(note, place.segment);
        }
    }

    pub(super) fn apply_purge(&mut self, place: Place, purge: &PurgeBody) {
        for run in &purge.runs {
            self.segment(place.segment).note_settled(run.event);
            if let Some(lane) = self.lane_of(run.target, run.event, run.run) {
                lane.set_ended(run.event, Ended::Purged);
            }
        }
    }

    pub(super) fn apply_totals(&mut self, place: Place, totals: &[(u32, Totals)]) {
        for (target, totals) in totals {
            if let Some(lane) = self.state.lanes.get_mut(*target as usize) {
                lane.series.get_or_insert_default().set_totals(*totals);
                lane.totals_from = place.segment;
            }
        }
    }
}
