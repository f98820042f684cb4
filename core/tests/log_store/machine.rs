//! Any calls, crashes among them, against the simple model of the promises. What fails shrinks to a
//! few steps.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State};
use postrider::event::EventId;
use postrider::store::{
    Accept, Accepted, Fence, Lease, LogStore, Note, Purged, Replayed, Settled, Settlement, Store,
    Target,
};
use postrider::testing::{Disk, Fail, sealed};
use postrider::{EndpointId, Error, NewEvent, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use super::crash::{is_long, seed};
use super::ledger::{ENDPOINTS, START};
use super::promises::{Change, Known, Promises, World};

/// Retention and dedup window of a store that frees what is settled.
const SHORT: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Step {
    Publish { batch: Vec<Event>, is_awaited: bool },
    Claim { endpoint: usize, max: usize },
    Settle { lease: Index, outcome: Outcome },
    Release { lease: Index },
    Replay { event: Index, endpoint: usize, note: Option<(u8, u16)> },
    Purge { event: Index, endpoint: usize },
    Keep { key: u8, value: Option<u16> },
    Wait { seconds: u64 },
    Write { is_synced: bool },
    Look,
    Reopen(End),
}

/// An event to be published: one of a few, so that some are published again.
#[derive(Clone, Debug)]
struct Event {
    number: u8,
    endpoints: [bool; 3],
    fill: usize,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Delivered,
    Retry(u64),
    Dead(DeadReason),
    Expired,
}

/// How the store ends before it is opened again.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    /// The process is killed at a call of the disk in the middle of writing, if one is told.
    Killed(Option<u64>),
    /// The same, and the machine loses power; the seed picks what is left of what was not synced.
    PowerCut(Option<u64>, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let endpoint = || 0..ENDPOINTS.len();
    let value = || prop_oneof![4 => 0..200_u16, 1 => 0..4000_u16];
    let fill = prop_oneof![3 => 0..200_usize, 1 => 0..4000_usize];
    let event = (0..12_u8, any::<[bool; 3]>(), fill).prop_map(|(number, endpoints, fill)| Event {
        number,
        endpoints,
        fill,
    });
    let reason =
        prop::sample::select(vec![DeadReason::Exhausted, DeadReason::Rejected, DeadReason::Gone]);
    let outcome = prop_oneof![
        3 => Just(Outcome::Delivered),
        2 => (0..90_u64).prop_map(Outcome::Retry),
        2 => reason.prop_map(Outcome::Dead),
        1 => Just(Outcome::Expired),
    ];
    let call = || prop::option::of(0..12_u64);
    let end = prop_oneof![
        Just(End::Closed),
        call().prop_map(End::Killed),
        (call(), any::<u8>()).prop_map(|(call, seed)| End::PowerCut(call, seed)),
    ];
    let note = prop::option::of((0..3_u8, value()));
    let step = prop_oneof![
        5 => (prop::collection::vec(event, 1..4), prop::bool::weighted(0.7))
            .prop_map(|(batch, is_awaited)| Step::Publish { batch, is_awaited }),
        4 => (endpoint(), 1..8_usize).prop_map(|(endpoint, max)| Step::Claim { endpoint, max }),
        6 => (any::<Index>(), outcome).prop_map(|(lease, outcome)| Step::Settle { lease, outcome }),
        1 => any::<Index>().prop_map(|lease| Step::Release { lease }),
        2 => (any::<Index>(), endpoint(), note)
            .prop_map(|(event, endpoint, note)| Step::Replay { event, endpoint, note }),
        2 => (any::<Index>(), endpoint())
            .prop_map(|(event, endpoint)| Step::Purge { event, endpoint }),
        1 => (0..3_u8, prop::option::of(value())).prop_map(|(key, value)| Step::Keep { key, value }),
        2 => (1..50_u64).prop_map(|seconds| Step::Wait { seconds }),
        2 => any::<bool>().prop_map(|is_synced| Step::Write { is_synced }),
        1 => Just(Step::Look),
        2 => end.prop_map(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

type Publishing = Pin<Box<dyn Future<Output = Result<Vec<Accepted>, Error>>>>;

/// A publisher that waits for its answer.
struct Waiting {
    answer: Publishing,
    expect: Vec<(Arc<[EndpointId]>, bool)>,
    ids: Vec<EventId>,
}

struct Machine {
    disk: Disk,
    store: Arc<LogStore>,
    frees: bool,
    now: Timestamp,
    promises: Promises,
    publishing: Vec<Waiting>,
    /// Every lease that was given.
    leases: Vec<Lease>,
    /// Those that are the newest of their delivery, and when they run out.
    newest: BTreeMap<DeliveryId, (Fence, Timestamp)>,
    /// Which life of a numbered event was last published, and when it began.
    lives: BTreeMap<u8, (u32, Timestamp)>,
}

fn open(disk: &Disk, frees: bool) -> Result<LogStore, String> {
    let builder = LogStore::builder("unused").files(Arc::new(disk.clone())).manual();
    let builder = builder.segment_bytes(16 << 10).cache_bytes(4000);
    let builder = if frees { builder.retention(SHORT).dedup_window(SHORT) } else { builder };
    let store = builder.open_blocking().map_err(|error| format!("open: {error:?}"))?;
    match store.recovery() {
        recovery if recovery.damaged.is_empty() => Ok(store),
        recovery => Err(format!("a crash looks like damage: {recovery:?}")),
    }
}

fn endpoint(number: usize) -> EndpointId {
    ENDPOINTS[number].parse().expect("a valid endpoint id")
}

#[allow(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
fn failed(error: Error) -> String {
    format!("the store fails: {error:?}")
}

fn check(is_so: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(why()) }
}

impl Machine {
    fn new(frees: bool) -> Result<Self, String> {
        let disk = Disk::default();
        Ok(Self {
            store: Arc::new(open(&disk, frees)?),
            disk,
            frees,
            now: START,
            promises: Promises::default(),
            publishing: Vec::new(),
            leases: Vec::new(),
            newest: BTreeMap::new(),
            lives: BTreeMap::new(),
        })
    }

    /// After how long what is settled may be gone.
    fn retention(&self) -> Duration {
        if self.frees { SHORT } else { Duration::MAX }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        self.now = self.now.after(Duration::from_millis(10));
        match step {
            Step::Publish { batch, is_awaited } => self.publish(batch, *is_awaited).await?,
            Step::Claim { endpoint: to, max } => self.claim(&endpoint(*to), *max).await?,
            Step::Settle { lease, outcome } => self.settle(*lease, *outcome).await?,
            Step::Release { lease } => self.release(*lease).await?,
            Step::Replay { event, endpoint: to, note } => {
                self.replay(*event, endpoint(*to), *note).await?;
            }
            Step::Purge { event, endpoint: to } => self.purge(*event, endpoint(*to)).await?,
            Step::Keep { key, value } => self.keep(*key, *value).await?,
            Step::Wait { seconds } => self.now = self.now.after(Duration::from_secs(*seconds)),
            Step::Write { is_synced } => {
                self.store.step(*is_synced);
                if *is_synced {
                    self.promises.acknowledge(self.promises.unsure());
                }
            }
            Step::Look => self.look().await?,
            Step::Reopen(end) => self.reopen(*end).await?,
        }
        self.answers().await
    }

    async fn look(&mut self) -> Result<(), String> {
        // Looking at an event writes, which lets more be seen: that comes first.
        self.store.step(false);
        self.answers().await?;
        let seen = World::of(&self.store, &self.promises.ids, self.now).await?;
        self.promises.check(&seen, self.retention(), self.now)
    }

    /// The event of this number; after the window another one, as nothing tells a duplicate then.
    fn id(&mut self, number: u8) -> EventId {
        let now = self.now;
        let (life, since) = self.lives.entry(number).or_insert((0, now));
        if self.frees && now.since(*since) >= SHORT {
            (*life, *since) = (*life + 1, now);
        }
        let id = format!("event-{number}-{life}").parse().expect("a valid id");
        self.promises.ids.insert(EventId::clone(&id));
        id
    }

    async fn publish(&mut self, batch: &[Event], is_awaited: bool) -> Result<(), String> {
        let (mut accepts, mut expect, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let (asked, mut new) = (self.promises.asked(), Vec::<Known>::new());
        for event in batch {
            let id = self.id(event.number);
            let payload = format!("\"{}\"", "x".repeat(event.fill));
            let sealed = sealed(NewEvent::raw("match", payload).unwrap().id(id.clone()));
            let wanted = (0..3).filter(|to| event.endpoints[*to]).map(endpoint);
            let endpoints: Arc<[EndpointId]> = wanted.collect();
            let first = new.iter().find(|known| *known.event.id() == id);
            if let Some(first) = first.or_else(|| asked.event(&id)) {
                expect.push((Arc::clone(&first.endpoints), true));
            } else {
                expect.push((Arc::clone(&endpoints), false));
                new.push(Known::new(Arc::clone(&sealed), Arc::clone(&endpoints), self.now));
            }
            ids.push(id);
            accepts.push(Accept { event: sealed, endpoints });
        }
        if !new.is_empty() {
            self.promises.push(Change::Accept(new));
        }
        let (store, now) = (Arc::clone(&self.store), self.now);
        let answer = Box::pin(async move { store.accept(accepts, now).await });
        self.publishing.push(Waiting { answer, expect, ids });
        self.answers().await?;
        if is_awaited {
            self.store.step(false);
            self.answers().await?;
            check(self.publishing.is_empty(), || "a publisher waits for ever".to_owned())?;
        }
        Ok(())
    }

    /// Hears the answers that publishers have got: from then on their events are sure.
    async fn answers(&mut self) -> Result<(), String> {
        for mut waiting in std::mem::take(&mut self.publishing) {
            let Poll::Ready(answer) = poll!(&mut waiting.answer) else {
                self.publishing.push(waiting);
                continue;
            };
            let answer = answer.map_err(failed)?.into_iter();
            let answer: Vec<_> = answer.map(|is| (is.endpoints, is.duplicate)).collect();
            let Waiting { expect, ids, .. } = waiting;
            check(answer == expect, || format!("{ids:?}: expected {expect:?}, got {answer:?}"))?;
            self.promises.acknowledge(self.promises.needed_for(&ids));
        }
        Ok(())
    }

    async fn claim(&mut self, to: &EndpointId, max: usize) -> Result<(), String> {
        let (now, until) = (self.now, self.now.after(LEASE));
        self.newest.retain(|id, (_, until)| id.endpoint() != to || *until > now);
        let visible = self.promises.visible();
        let mut due = visible.owed().remove(to).unwrap_or_default();
        due.retain(|id, standing| {
            let is_due = matches!(standing.state, State::Waiting { due } if due <= now);
            is_due && !self.newest.contains_key(id)
        });
        let claim = self.store.claim(to, max, now, until).await.map_err(failed)?;
        let (count, expect) = (claim.leases.len(), due.len().min(max));
        check(count == expect, || format!("{to}: {count} claimed, {expect} are due"))?;
        for lease in claim.leases {
            let id = &lease.delivery;
            let standing = due.remove(id).ok_or_else(|| format!("{id} is claimed and not due"))?;
            let event = visible.event(lease.event.id()).map(|known| &known.event);
            check((event, standing.attempts) == (Some(&lease.event), lease.attempts), || {
                format!("{id}: claimed {lease:?}, expected {event:?}, {standing:?}")
            })?;
            self.newest.insert(id.clone(), (lease.fence, until));
            self.leases.push(lease);
        }
        Ok(())
    }

    /// A lease that was given once, and what is to be said to it.
    fn lease(&mut self, chosen: Index) -> Option<(Lease, Settled)> {
        let lease = chosen.get(self.leases.get(..).filter(|all| !all.is_empty())?).clone();
        let is_newest =
            self.newest.get(&lease.delivery).is_some_and(|(fence, _)| *fence == lease.fence);
        if is_newest {
            self.newest.remove(&lease.delivery);
        }
        Some((lease, if is_newest { Settled::Applied } else { Settled::Stale }))
    }

    async fn settle(&mut self, chosen: Index, outcome: Outcome) -> Result<(), String> {
        let Some((lease, expect)) = self.lease(chosen) else { return Ok(()) };
        let decision = match outcome {
            Outcome::Delivered => Decision::Delivered,
            Outcome::Retry(s) => Decision::RetryAt(self.now.after(Duration::from_secs(s))),
            Outcome::Dead(reason) => Decision::Dead(reason),
            Outcome::Expired => Decision::Expired,
        };
        let has_attempt = decision != Decision::Expired;
        let attempt = has_attempt.then(|| AttemptRecord {
            number: lease.attempts + 1,
            at: self.now,
            took_ms: 3,
            cause: (decision != Decision::Delivered).then_some(Cause::Status),
            message: "why".to_owned(),
            status: None,
            answer: String::new(),
        });
        let id = lease.delivery;
        let settlement = Settlement { delivery: id.clone(), fence: lease.fence, attempt, decision };
        let settled = self.store.settle(&[settlement]).await.map_err(failed)?;
        check(settled == [expect], || format!("settling {id}: {settled:?}"))?;
        if expect == Settled::Applied {
            self.promises.push(Change::Settle { id, decision, has_attempt });
        }
        Ok(())
    }

    async fn release(&mut self, chosen: Index) -> Result<(), String> {
        let Some((Lease { delivery, fence, .. }, expect)) = self.lease(chosen) else {
            return Ok(());
        };
        let released = self.store.release(&[(delivery.clone(), fence)]).await.map_err(failed)?;
        check(released == [expect], || format!("releasing {delivery}: {released:?}"))
    }

    /// An event that may be seen, as a target, and the newest delivery to `to`.
    async fn target(
        &self,
        chosen: Index,
        to: EndpointId,
    ) -> Result<Option<(Target, Option<(u32, State)>)>, String> {
        let visible = self.promises.visible();
        let Some(known) = visible.events.get(..).filter(|all| !all.is_empty()) else {
            return Ok(None);
        };
        let known = chosen.get(known);
        let found = self.store.event(known.event.id()).await.map_err(failed)?;
        let newest =
            known.newest().remove(&to).map(|(run, standing)| (run, standing.state.clone()));
        Ok(found.map(|found| (Target::new(&found, to), newest)))
    }

    /// Asks for a change and writes until it is answered.
    async fn ask<T>(
        &mut self,
        change: Option<Change>,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, String> {
        let (mut ask, is_written) = (std::pin::pin!(ask), change.is_some());
        if let Some(change) = change {
            self.promises.push(change);
        }
        for _ in 0..3 {
            if let Poll::Ready(answer) = poll!(&mut ask) {
                if is_written {
                    self.promises.acknowledge(self.promises.unsure());
                }
                return answer.map_err(failed);
            }
            self.store.step(false);
        }
        Err("a change is never answered".to_owned())
    }

    async fn replay(
        &mut self,
        chosen: Index,
        to: EndpointId,
        note: Option<(u8, u16)>,
    ) -> Result<(), String> {
        let Some((target, newest)) = self.target(chosen, to).await? else { return Ok(()) };
        let note = note.map(|(key, value)| some_note(key, Some(value)));
        let (expect, made) = match newest {
            Some((_, state)) if !state.is_final() => (Replayed::Owed, Vec::new()),
            newest => {
                let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
                let id = id.with_run(newest.map_or(0, |(run, _)| run) + 1);
                (Replayed::Made(id.clone()), vec![id])
            }
        };
        let (store, now) = (Arc::clone(&self.store), self.now);
        let is_nothing = made.is_empty() && note.is_none();
        let change = (!is_nothing).then(|| Change::Replay { made, note: note.clone() });
        let targets = [target];
        let replayed = self.ask(change, store.replay(&targets, note, now)).await?;
        check(replayed == [expect], || format!("replaying {targets:?}: {replayed:?}"))
    }

    async fn purge(&mut self, chosen: Index, to: EndpointId) -> Result<(), String> {
        let Some((target, newest)) = self.target(chosen, to).await? else { return Ok(()) };
        let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
        let (expect, change) = match newest {
            Some((run, State::Dead { .. } | State::Expired)) => {
                (Purged::Done, Some(Change::Purge(vec![id.with_run(run)])))
            }
            Some(_) => (Purged::NotDead, None),
            None => (Purged::Gone, None),
        };
        let (store, now, targets) = (Arc::clone(&self.store), self.now, [target]);
        let purged = self.ask(change, store.purge(&targets, now)).await?;
        check(purged == [expect], || format!("purging {targets:?}: {purged:?}"))
    }

    async fn keep(&mut self, key: u8, value: Option<u16>) -> Result<(), String> {
        let (note, store) = (some_note(key, value), Arc::clone(&self.store));
        // There is nothing to be written where there is nothing to be removed.
        let is_change = note.value.is_some() || self.promises.asked().notes.contains_key(&note.key);
        self.ask(is_change.then(|| Change::Keep(note.clone())), store.keep(note)).await
    }

    /// Ends the store and opens it again on what is left.
    async fn reopen(&mut self, end: End) -> Result<(), String> {
        match end {
            End::Closed => {
                self.store.close().await.map_err(failed)?;
                self.answers().await?;
                self.promises.acknowledge(self.promises.unsure());
            }
            End::Killed(call) | End::PowerCut(call, _) => {
                if let Some(call) = call {
                    let (from, kind) = (self.disk.calls() + 1 + call, std::io::ErrorKind::Other);
                    self.disk.fail(Some(Fail { from, count: u64::MAX, kind }));
                    self.store.step(true);
                    // Who is answered is answered; who gets an error knows nothing.
                    for mut waiting in std::mem::take(&mut self.publishing) {
                        if let Poll::Ready(Ok(_)) = poll!(&mut waiting.answer) {
                            self.promises.acknowledge(self.promises.needed_for(&waiting.ids));
                        }
                    }
                }
            }
        }
        self.publishing.clear();
        self.newest.clear();
        self.disk.fail(None);
        if let End::PowerCut(_, seed) = end {
            self.disk = self.disk.after_power_cut(seed.into());
        }
        self.store = Arc::new(open(&self.disk, self.frees)?);
        let seen = World::of(&self.store, &self.promises.ids, self.now).await?;
        self.promises.check_reopened(&seen, self.retention(), self.now)
    }

    /// In the end everything that is owed can be had, after a power cut too.
    async fn finish(&mut self) -> Result<(), String> {
        self.reopen(End::PowerCut(None, 0)).await?;
        self.now = self.now.after(Duration::from_secs(1000));
        for to in 0..ENDPOINTS.len() {
            self.claim(&endpoint(to), 1000).await?;
        }
        Ok(())
    }
}

fn some_note(key: u8, value: Option<u16>) -> Note {
    let key = format!("note-{key}");
    match value {
        Some(len) => Note::new(key, vec![b'n'; usize::from(len)]).expect("a valid note"),
        None => Note::removed(key),
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if is_long() { 3_000 } else { 150 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever is called, and however the store ends in between: what was acknowledged stays, in
    /// order, and what is owed, settled, purged, noted or a duplicate is what the model says.
    #[test]
    fn the_log_keeps_its_promises(frees: bool, steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let done: Result<(), String> = runtime.block_on(async {
            let mut machine = Machine::new(frees)?;
            for step in &steps {
                machine.step(step).await?;
            }
            machine.finish().await
        });
        if let Err(why) = done {
            prop_assert!(false, "{why}");
        }
    }
}
