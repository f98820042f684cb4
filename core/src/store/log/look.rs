//! Where deliveries stand: what is known, and what records tell of their attempts.

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::lane::Tried;
use super::moved::{MovedDelivery, MovedState};
use super::read::{self, Endings, Key};
use super::record::{Before, Place};
use super::segment::Extent;
use super::stands::Ended;
use super::state::State as Known;
use super::writer::Core;
use crate::delivery::{AttemptRecord, State};
use crate::time::Timestamp;

/// Events whose attempts are read at once.
const GROUP_EVENTS: usize = 32;

/// Where a delivery stands, as far as it is known without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Owed and never tried.
    Fresh,
    Waiting(Timestamp, Tried),
    Leased(Timestamp, Tried),
    Ended(Ended),
}

/// Where the newest delivery to one endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) target: u32,
    pub(super) run: u32,
    pub(super) status: Status,
}

impl Standing {
    /// State and attempts made; 0 where records would tell.
    pub(super) fn shown(&self, accepted_at: Timestamp) -> (State, u32) {
        match self.status {
            Status::Fresh => (State::Waiting { due: accepted_at }, 0),
            Status::Waiting(due, tried) => (State::Waiting { due }, tried.attempts),
            Status::Leased(until, tried) => (State::Leased { until }, tried.attempts),
            Status::Ended(ended) => (ended.state(), 0),
        }
    }
}

impl Known {
    /// Where the newest deliveries of events stand: first those to the endpoints that the events
    /// were for, then to others that they were sent to again. Costs what waits in lanes that an event
    /// waits in, once for all events.
    pub(super) fn standings(&self, events: &[(u64, &[u32])]) -> Vec<Vec<Standing>> {
        let leases = self.leases.values().chain(&self.unreadable);
        let leases: HashMap<(u32, u64), _> =
            leases.map(|lease| ((lease.lane, lease.event), lease)).collect();
        let replayed: Vec<(u32, &roaring::RoaringTreemap)> = (0..)
            .zip(&self.lanes)
            .filter_map(|(number, lane)| Some((number, lane.again()?)))
            .collect();
        let mut waiting: HashMap<u32, BTreeSet<u64>> = HashMap::new();
        let mut standings: Vec<Vec<Standing>> = Vec::with_capacity(events.len());
        for (event, targets) in events {
            let again = replayed
                .iter()
                .filter(|(number, again)| again.contains(*event) && !targets.contains(number));
            let targets = targets.iter().copied().chain(again.map(|(number, _)| *number));
            let standing = |target: u32| {
                let lane = &self.lanes[target as usize];
                let status = if lane.fresh.contains(*event) {
                    Status::Fresh
                } else if let Some(lease) = leases.get(&(target, *event)) {
                    Status::Leased(lease.until, lease.tried)
                } else {
                    if lane.waiting_events().contains(*event) {
                        waiting.entry(target).or_default().insert(*event);
                    }
                    Status::Ended(lane.ended(*event))
                };
                Standing { target, run: lane.run(*event), status }
            };
            standings.push(targets.map(standing).collect());
        }
        for (target, wanted) in &waiting {
            for (event, due, tried) in self.lanes[*target as usize].find_waiting(wanted) {
                let mine = events.iter().zip(&mut standings).filter(|((e, _), _)| *e == event);
                for standing in mine.flat_map(|(_, standings)| standings) {
                    if standing.target == *target {
                        standing.status = Status::Waiting(due, tried);
                    }
                }
            }
        }
        standings
    }
}

/// An event whose deliveries are to be told with their attempts.
pub(super) struct Look {
    pub(super) event: u64,
    pub(super) accepted_at: Timestamp,
    pub(super) standings: Vec<Standing>,
    /// What was known when the event was copied forward.
    pub(super) moved: Vec<MovedDelivery>,
}

/// A delivery as it stands.
pub(super) struct Seen {
    pub(super) target: u32,
    pub(super) run: u32,
    pub(super) state: State,
    pub(super) attempts_made: u32,
    pub(super) attempts: Vec<AttemptRecord>,
}

/// Which of the deliveries to one endpoint are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    All,
    Newest,
}

/// Reads what records tell of these events (in any order) and gives it to `tell`, event by event. What
/// is damaged is left out: the attempts of the newest delivery, or all of an older one.
///
/// # Errors
/// Where the disk cannot be read.
pub(super) fn read(core: &Core, looks: &[Look], runs: Runs) -> io::Result<Vec<Vec<Seen>>> {
    let mut seen = Vec::with_capacity(looks.len());
    for looks in looks.chunks(GROUP_EVENTS) {
        let is_written = |look: &&Look| {
            let ended = |standing: &Standing| matches!(standing.status, Status::Ended(_));
            look.standings.iter().any(|standing| ended(standing) || standing.run > 0)
        };
        let mut events: Vec<u64> = looks.iter().filter(is_written).map(|look| look.event).collect();
        events.sort_unstable();
        let extents = core.lock().segments.extents_settling(&events);
        let endings = read::endings(&extents, &events)?;
        for look in looks {
            seen.push(look.see(core, &endings, runs)?);
        }
    }
    Ok(seen)
}

impl Look {
    fn see(&self, core: &Core, endings: &Endings, runs: Runs) -> io::Result<Vec<Seen>> {
        let mut seen = Vec::with_capacity(self.standings.len());
        for standing in &self.standings {
            let (target, run) = (standing.target, standing.run);
            if runs == Runs::All {
                for run in 0..run {
                    seen.extend(self.see_ended(core, endings, (target, run), None)?);
                }
            }
            let tried = match standing.status {
                Status::Ended(ended) => {
                    let state = Some(ended.state());
                    seen.extend(self.see_ended(core, endings, (target, run), state)?);
                    continue;
                }
                Status::Fresh => Tried::default(),
                Status::Waiting(_, tried) | Status::Leased(_, tried) => tried,
            };
            let (state, attempts_made) = standing.shown(self.accepted_at);
            let attempts = attempts(core, tried.before, None, (target, run))?;
            seen.push(Seen { target, run, state, attempts_made, attempts });
        }
        Ok(seen)
    }

    /// A delivery that has ended; `None` where nothing is known of it. `state`: where it stands, if
    /// that is known.
    fn see_ended(
        &self,
        core: &Core,
        endings: &Endings,
        (target, run): (u32, u32),
        state: Option<State>,
    ) -> io::Result<Option<Seen>> {
        let key: Key = (self.event, target, run);
        let purged = endings.purged.contains(&key).then_some(State::Purged);
        // Of what had ended when the event was copied forward, the copy has the attempts; the records
        // may be gone.
        let copied = self.moved.iter().find(|moved| (moved.target, moved.run) == (target, run));
        let copied = copied.and_then(|moved| match moved.state {
            MovedState::Ended(ended) => Some((ended.state(), moved)),
            MovedState::Fresh | MovedState::Waiting(_) => None,
        });
        if let Some((ended, moved)) = copied {
            let (attempts_made, attempts) = (moved.attempts_made, moved.attempts.clone());
            let state = state.or(purged).unwrap_or(ended);
            return Ok(Some(Seen { target, run, state, attempts_made, attempts }));
        }
        let Some(settle) = endings.settled.get(&key) else {
            let nothing = |state| Seen { target, run, state, attempts_made: 0, attempts: vec![] };
            return Ok(state.map(nothing));
        };
        let ended = Ended::by(settle.decision).map(Ended::state);
        let Some(state) = state.or(purged).or(ended) else { return Ok(None) };
        let attempts = attempts(core, settle.before, settle.attempt.clone(), (target, run))?;
        Ok(Some(Seen { target, run, state, attempts_made: settle.attempts, attempts }))
    }
}

fn attempts(
    core: &Core,
    before: Option<Before>,
    newest: Option<AttemptRecord>,
    delivery: (u32, u32),
) -> io::Result<Vec<AttemptRecord>> {
    let extent_at = |place: Place| -> Option<Extent> {
        core.lock().segments.get(place.segment).and_then(|s| s.extent_at(place.offset))
    };
    read::attempts(before, newest, delivery, extent_at)
}
