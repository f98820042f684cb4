//! The lines of a lane that keeps an order: of each key, what goes first and what waits behind it.
//!
//! Pure state. Of a line only the first may be under way; it stays first while it waits for a retry,
//! and where the endpoint says so also when it is dead.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use crate::delivery::{Decision, DeliveryId};
use crate::endpoint::{OnDead, Order};
use crate::event::{Envelope, EventId};
use crate::store::{Fence, Lease, Settled, Settlement};

/// Most claimed deliveries of one lane that wait behind others.
pub(crate) const PARKED_MAX: usize = 4096;
/// Most bytes of their events; the last one may pass it.
pub(crate) const PARKED_BYTES_MAX: usize = 16 << 20;
/// Most keys of one lane with a first one that is under way, waits or is dead, before nothing fresh
/// is claimed.
pub(crate) const LINES_MAX: usize = 65_536;

/// A key by its hash: two that share one are kept in order together, which harms neither.
type Key = u64;

#[derive(Debug)]
enum Stands {
    /// Claimed, not started.
    Parked(Lease),
    InFlight(Fence),
    /// To be claimed again: for a retry, or since its lease was given back or ran out.
    Waiting,
    /// Given up, and in the way.
    Dead,
}

#[derive(Debug)]
struct Member {
    event: EventId,
    stands: Stands,
}

type Line = VecDeque<Member>;

/// Where the head of a line stands when a lane begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// It was tried and will be claimed again.
    Waiting,
    /// It is dead and in the way.
    Dead,
}

/// What a lane that keeps an order knows of its keys.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    order: Order,
    on_dead: OnDead,
    by_key: HashMap<Key, Line>,
    /// Of everything in `by_key`, in which.
    members: HashMap<EventId, Key>,
    /// Lines whose first may start.
    ready: VecDeque<Key>,
    /// Claimed and not in any order.
    loose: VecDeque<Lease>,
    parked: usize,
    parked_bytes: usize,
}

impl Lines {
    pub(crate) fn new(order: Order, on_dead: OnDead) -> Self {
        Self { order, on_dead, ..Self::default() }
    }

    /// The rule that it was made for.
    pub(crate) fn rule(&self) -> (Order, OnDead) {
        (self.order, self.on_dead)
    }

    fn key(&self, event: &Envelope) -> Option<Key> {
        let key = match self.order {
            Order::None => return None,
            Order::Key => event.key()?,
            Order::All => "",
        };
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Adds what was tried before, in the order of acceptance, before anything is claimed.
    pub(crate) fn restore(&mut self, event: &Envelope, head: Head) {
        let Some(key) = self.key(event) else { return };
        let stands = match head {
            Head::Waiting => Stands::Waiting,
            Head::Dead => Stands::Dead,
        };
        if self.members.insert(event.id().clone(), key).is_none() {
            let member = Member { event: event.id().clone(), stands };
            self.by_key.entry(key).or_default().push_back(member);
        }
    }

    /// How many fresh deliveries may be claimed.
    pub(crate) fn room(&self) -> usize {
        if self.parked_bytes >= PARKED_BYTES_MAX {
            return 0;
        }
        let lines = LINES_MAX.saturating_sub(self.by_key.len());
        PARKED_MAX.saturating_sub(self.parked).min(lines)
    }

    /// How many may start now.
    pub(crate) fn startable(&self) -> usize {
        self.loose.len() + self.ready.len()
    }

    /// Whether it holds leases.
    pub(crate) fn has_parked(&self) -> bool {
        self.parked > 0
    }

    /// Takes in what was claimed, in the order in which it was claimed.
    pub(crate) fn arrive(&mut self, leases: Vec<Lease>) {
        for lease in leases {
            self.parked += 1;
            self.parked_bytes += lease.event.weight();
            let Some(key) = self.key(&lease.event) else {
                self.loose.push_back(lease);
                continue;
            };
            let event = lease.event.id().clone();
            let line = self.by_key.entry(key).or_default();
            if self.members.insert(event.clone(), key).is_none() {
                line.push_back(Member { event, stands: Stands::Parked(lease) });
                if line.len() == 1 {
                    self.ready.push_back(key);
                }
                continue;
            }
            // A retry, a replay of a dead one in the way, or one whose lease ran out.
            let at = line.iter().position(|member| member.event == event);
            let at = at.expect("every member is in its line");
            let was = std::mem::replace(&mut line[at].stands, Stands::Parked(lease));
            if let Stands::Parked(older) = was {
                self.parked -= 1;
                self.parked_bytes -= older.event.weight();
            } else if at == 0 {
                self.ready.push_back(key);
            }
        }
    }

    /// Takes out at most `max` that may start now: never two of one key. They count as under way.
    pub(crate) fn take(&mut self, max: usize) -> Vec<Lease> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let lease = if let Some(lease) = self.loose.pop_front() {
                lease
            } else if let Some(key) = self.ready.pop_front() {
                let Some(first) = self.by_key.get_mut(&key).and_then(|line| line.front_mut())
                else {
                    continue;
                };
                match std::mem::replace(&mut first.stands, Stands::Waiting) {
                    Stands::Parked(lease) => {
                        first.stands = Stands::InFlight(lease.fence);
                        lease
                    }
                    other => {
                        first.stands = other;
                        continue;
                    }
                }
            } else {
                break;
            };
            self.parked -= 1;
            self.parked_bytes -= lease.event.weight();
            taken.push(lease);
        }
        taken
    }

    /// What the store has answered to the end of an attempt.
    pub(crate) fn settled(&mut self, settlement: &Settlement, settled: Settled) {
        let Some((key, at)) = self.position(settlement.delivery.event()) else { return };
        let member = &mut self.by_key.get_mut(&key).expect("it was found there")[at];
        if !matches!(member.stands, Stands::InFlight(fence) if fence == settlement.fence) {
            // Claimed again meanwhile; the newer lease tells.
            return;
        }
        match settlement.decision {
            _ if settled == Settled::Stale => member.stands = Stands::Waiting,
            Decision::RetryAt(_) => member.stands = Stands::Waiting,
            Decision::Dead(_) if self.on_dead == OnDead::Block => member.stands = Stands::Dead,
            Decision::Delivered | Decision::Dead(_) | Decision::Expired => self.remove(key, at),
        }
    }

    /// Leases of calls that broke were given back, or leases ran out: they are to be claimed again.
    pub(crate) fn given_back<'l>(
        &mut self,
        leases: impl IntoIterator<Item = &'l (DeliveryId, Fence)>,
    ) {
        let fences: HashSet<Fence> = leases.into_iter().map(|(_, fence)| *fence).collect();
        if fences.is_empty() {
            return;
        }
        let (mut parked, mut bytes) = (0, 0);
        let mut leave = |lease: &Lease| {
            parked += 1;
            bytes += lease.event.weight();
        };
        for member in self.by_key.values_mut().flatten() {
            match &member.stands {
                Stands::Parked(lease) if fences.contains(&lease.fence) => leave(lease),
                Stands::InFlight(fence) if fences.contains(fence) => {}
                _ => continue,
            }
            member.stands = Stands::Waiting;
        }
        self.loose.retain(|lease| {
            let stays = !fences.contains(&lease.fence);
            if !stays {
                leave(lease);
            }
            stays
        });
        self.parked -= parked;
        self.parked_bytes -= bytes;
        let lines = &self.by_key;
        self.ready.retain(|key| {
            let first = lines.get(key).and_then(|line| line.front());
            first.is_some_and(|first| matches!(first.stands, Stands::Parked(_)))
        });
    }

    /// Somebody has set a dead delivery of the event aside. Returns whether it was in the way.
    pub(crate) fn purged(&mut self, event: &EventId) -> bool {
        let Some((key, at)) = self.position(event) else { return false };
        if !matches!(self.by_key[&key][at].stands, Stands::Dead) {
            return false;
        }
        self.remove(key, at);
        true
    }

    /// The leases that it holds.
    pub(crate) fn leases(&self) -> Vec<(DeliveryId, Fence)> {
        let in_lines = self.by_key.values().flatten().filter_map(|member| match &member.stands {
            Stands::Parked(lease) => Some(lease),
            _ => None,
        });
        in_lines.chain(&self.loose).map(|lease| (lease.delivery.clone(), lease.fence)).collect()
    }

    fn position(&self, event: &EventId) -> Option<(Key, usize)> {
        let key = *self.members.get(event)?;
        let at = self.by_key.get(&key)?.iter().position(|member| member.event == *event)?;
        Some((key, at))
    }

    fn remove(&mut self, key: Key, at: usize) {
        let Entry::Occupied(mut line) = self.by_key.entry(key) else { return };
        if let Some(member) = line.get_mut().remove(at) {
            self.members.remove(&member.event);
        }
        match line.get().front() {
            None => drop(line.remove()),
            Some(Member { stands: Stands::Parked(_), .. }) if at == 0 => self.ready.push_back(key),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::DeadReason;
    use crate::event::NewEvent;
    use crate::testing::sealed;
    use crate::time::Timestamp;

    /// What a store would say: leases with rising fences.
    #[derive(Default)]
    struct Source {
        fence: u64,
    }

    impl Source {
        fn lease(&mut self, name: &str, key: Option<&str>) -> Lease {
            self.fence += 1;
            let event = NewEvent::raw("match", "{}").unwrap().id(name.parse().unwrap());
            let event = match key {
                Some(key) => event.key(key),
                None => event,
            };
            let event: Arc<Envelope> = sealed(event);
            let delivery = DeliveryId::new("a".parse().unwrap(), event.id().clone());
            Lease { delivery, event, attempts: 0, fence: Fence(self.fence) }
        }
    }

    fn names(leases: &[Lease]) -> Vec<String> {
        leases.iter().map(|lease| lease.event.id().to_string()).collect()
    }

    fn ended(lines: &mut Lines, lease: &Lease, decision: Decision) {
        let (delivery, fence) = (lease.delivery.clone(), lease.fence);
        let settlement = Settlement { delivery, fence, attempt: None, decision };
        lines.settled(&settlement, Settled::Applied);
    }

    #[test]
    fn of_a_key_only_the_first_starts_and_others_pass_it() {
        let (mut lines, mut source) = (Lines::new(Order::Key, OnDead::Park), Source::default());
        let keys = [("1", Some("a")), ("2", Some("a")), ("3", None), ("4", Some("b"))];
        lines.arrive(keys.iter().map(|(name, key)| source.lease(name, *key)).collect());
        let first = lines.take(9);
        assert_eq!(names(&first), ["3", "1", "4"]);
        assert_eq!(lines.startable(), 0);
        // A retry of the first still holds the second up.
        ended(&mut lines, &first[1], Decision::RetryAt(Timestamp::MAX));
        assert!(lines.take(9).is_empty());
        lines.arrive(vec![source.lease("1", Some("a"))]);
        let again = lines.take(9);
        assert_eq!(names(&again), ["1"]);
        ended(&mut lines, &again[0], Decision::Delivered);
        assert_eq!(names(&lines.take(9)), ["2"]);
    }

    #[test]
    fn all_is_one_line() {
        let (mut lines, mut source) = (Lines::new(Order::All, OnDead::Park), Source::default());
        lines.arrive(vec![source.lease("1", None), source.lease("2", Some("b"))]);
        let first = lines.take(9);
        assert_eq!(names(&first), ["1"]);
        ended(&mut lines, &first[0], Decision::Dead(DeadReason::Rejected));
        assert_eq!(names(&lines.take(9)), ["2"]);
    }

    #[test]
    fn a_dead_one_blocks_its_line_until_it_is_purged_or_delivered() {
        let (mut lines, mut source) = (Lines::new(Order::Key, OnDead::Block), Source::default());
        lines.arrive((1..5).map(|n| source.lease(&n.to_string(), Some("a"))).collect());
        let first = lines.take(9);
        ended(&mut lines, &first[0], Decision::Dead(DeadReason::Rejected));
        assert!(lines.take(9).is_empty());
        assert!(lines.purged(first[0].event.id()));
        assert!(!lines.purged(first[0].event.id()), "once");
        let second = lines.take(9);
        assert_eq!(names(&second), ["2"]);
        ended(&mut lines, &second[0], Decision::Dead(DeadReason::Exhausted));
        // Replayed.
        lines.arrive(vec![source.lease("2", Some("a"))]);
        let replayed = lines.take(9);
        assert_eq!(names(&replayed), ["2"]);
        ended(&mut lines, &replayed[0], Decision::Delivered);
        assert_eq!(names(&lines.take(9)), ["3"]);
    }

    #[test]
    fn a_lease_that_was_lost_in_the_line_keeps_its_place() {
        let (mut lines, mut source) = (Lines::new(Order::Key, OnDead::Park), Source::default());
        lines.arrive((1..4).map(|n| source.lease(&n.to_string(), Some("a"))).collect());
        let first = lines.take(9);
        let parked = lines.leases();
        assert_eq!(parked.len(), 2);
        lines.given_back(&parked[..1]);
        ended(&mut lines, &first[0], Decision::Delivered);
        assert!(lines.take(9).is_empty(), "2 is first, and to be claimed again");
        lines.arrive(vec![source.lease("2", Some("a"))]);
        assert_eq!(names(&lines.take(9)), ["2"]);
    }

    #[test]
    fn what_it_holds_is_counted_whatever_happens() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for on_dead in [OnDead::Park, OnDead::Block] {
            let (mut lines, mut source) = (Lines::new(Order::Key, on_dead), Source::default());
            let mut started: Vec<Lease> = Vec::new();
            let mut lost: Vec<Lease> = Vec::new();
            for step in 0..5_000 {
                match rng.u8(0..6) {
                    0 | 1 => {
                        let key = [None, Some("a"), Some("b"), Some("c")][rng.usize(0..4)];
                        lines.arrive(vec![source.lease(&step.to_string(), key)]);
                    }
                    2 => started.extend(lines.take(rng.usize(0..4))),
                    3 if !started.is_empty() => {
                        let lease = started.swap_remove(rng.usize(..started.len()));
                        let decision = match rng.u8(0..3) {
                            0 => Decision::Dead(DeadReason::Rejected),
                            1 => Decision::RetryAt(Timestamp::MAX),
                            _ => Decision::Delivered,
                        };
                        ended(&mut lines, &lease, decision);
                        if matches!(decision, Decision::RetryAt(_)) {
                            lost.push(lease);
                        }
                    }
                    4 if lines.has_parked() => {
                        let leases = lines.leases();
                        lines.given_back(&leases[..rng.usize(0..=leases.len().min(3))]);
                    }
                    _ => {
                        if let Some(lease) = lost.pop() {
                            let again =
                                source.lease(&lease.event.id().to_string(), lease.event.key());
                            lines.arrive(vec![again]);
                        }
                    }
                }
                assert_eq!(lines.parked, lines.leases().len(), "step {step}");
                let busy: Vec<&str> = started.iter().filter_map(|it| it.event.key()).collect();
                let keys: HashSet<&str> = busy.iter().copied().collect();
                assert_eq!(busy.len(), keys.len(), "step {step}: two of one key are under way");
            }
            let leases = lines.leases();
            lines.given_back(&leases);
            assert_eq!((lines.parked, lines.parked_bytes), (0, 0));
        }
    }
}
