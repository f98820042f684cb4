//! A worker: serves one lane while it has something in flight or to claim.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument;

use super::attempt::{attempt, says_gone};
use super::permit::PermitQueue;
use super::{
    LEASE, LEASE_TICK, LookAt, SLEEP_MAX, STORE_WAIT_MAX, STORE_WAIT_MIN, Shared, hold, order,
};
use crate::delivery::{Decision, DeliveryId};
use crate::endpoint::Gone;
use crate::endpoint::Order;
use crate::error::{Error, ErrorKind};
use crate::lane::{Lane, May, Serving};
use crate::stats::Window;
use crate::store::{Fence, Lease, Next, Settled, Settlement};
use crate::time::Timestamp;

/// How long attempts fail before the store is asked for earlier ones.
const FAILING_ASKED_AFTER: Duration = Duration::from_mins(1);
/// Most deliveries that one claim takes for a sink that takes batches.
const CLAIM_MAX: usize = 4096;

type Leases = Vec<(DeliveryId, Fence)>;
/// What a call comes back with: what served it, and a settlement for each of its leases.
type Called = (Arc<Serving>, Vec<Settlement>);

/// Serves `lane` until nothing is in flight and nothing more is due; `permit` is for its first call.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>, permit: OwnedSemaphorePermit) {
    let worker = Worker {
        shared,
        lane,
        calls: JoinSet::new(),
        under_way: HashMap::new(),
        leases_until: Timestamp::MAX,
        unsettled: Vec::new(),
        broken: Vec::new(),
        is_gone_unnoted: false,
        keeps_order: false,
        had_no_room: false,
        is_order_unsure: false,
        lingers_until: None,
        is_behind: false,
        store_asks_again: None,
        store_wait: STORE_WAIT_MIN,
    };
    worker.serve(permit).await;
}

struct Worker {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    calls: JoinSet<Called>,
    /// The leases of each call, to extend them and to give them back.
    under_way: HashMap<Id, Leases>,
    /// When the first of these leases runs out, by the wall clock, or earlier.
    leases_until: Timestamp,
    /// Outcomes that the store has not taken yet.
    unsettled: Vec<Settlement>,
    /// Leases of calls that broke, to be given back.
    broken: Leases,
    /// Whether the store does not know yet that the receiver wants nothing any more.
    is_gone_unnoted: bool,
    /// Whether the lane has lines.
    keeps_order: bool,
    /// Whether the last claim left out what was never tried, since too much waits in the lines.
    had_no_room: bool,
    /// A claim failed: it may have left leases that the lines do not know of.
    is_order_unsure: bool,
    /// Until when what came first waits for more to fill its batch.
    lingers_until: Option<Instant>,
    /// Whether the last claim left something behind that was due: then nothing waits.
    is_behind: bool,
    /// While the store fails: when to ask it again. Nothing is claimed until then.
    store_asks_again: Option<Instant>,
    /// How long to wait after the next failure.
    store_wait: Duration,
}

impl Worker {
    async fn serve(mut self, first: OwnedSemaphorePermit) {
        let shared = Arc::clone(&self.shared);
        let lane = Arc::clone(&self.lane);
        let mut queue = PermitQueue::new(&shared.permits);
        let mut permit = Some(first);
        let mut next = Next::Now;
        let mut tick = tokio::time::interval_at(Instant::now() + LEASE_TICK, LEASE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(done) = self.calls.try_join_next_with_id() {
                self.finish(done);
            }
            // Before the settlement, so that a crash between them repeats the attempt and loses nothing.
            self.disable().await;
            self.note_gone().await;
            if let Some(retry_at) = self.settle().await {
                next = next.or_at(retry_at);
            }

            self.release_broken().await;

            let serving = lane.serving();
            let is_served = lane.is_served() && !shared.stop_claiming.is_cancelled();
            let may_claim = self.keep_order(&serving, is_served).await
                && is_served
                && self.store_asks_again.is_none();
            if self.had_no_room && lane.with_lines(|lines| lines.room()) > 0 {
                self.had_no_room = false;
                next = Next::Now;
            }
            if !may_claim {
                self.lingers_until = None;
            }
            let calls = self.calls.len();
            let free = self.free(&serving);
            let may_start = self.keeps_order && lane.with_lines(|lines| lines.startable()) > 0;
            let may = if may_claim && free > 0 && (may_start || self.is_due(next)) {
                let rate = serving.rate();
                let wanted = free.saturating_mul(serving.batch_max);
                if lane.drops() {
                    May::Claim(wanted)
                } else {
                    let may = lane.pace().may(rate, wanted, calls, Instant::now());
                    self.linger(may, &serving)
                }
            } else {
                May::AfterACall
            };
            let (wants, deliveries) = match may {
                May::Claim(most) => (true, most),
                _ => (false, 0),
            };
            let not_before = match may {
                May::NotBefore(at) => Some(at),
                _ => None,
            };
            if !wants {
                // A permit is not kept while waiting for something else.
                permit = None;
                queue.leave();
            } else if let Some(first) = permit.take().or_else(|| queue.try_acquire()) {
                next = self.claim(&serving, first, free, deliveries, next).await;
                continue;
            }

            let has_ended = self.calls.is_empty()
                && self.unsettled.is_empty()
                && self.broken.is_empty()
                && !self.is_gone_unnoted
                && !self.has_parked()
                && self.lingers_until.is_none();
            if has_ended && !wants && self.store_asks_again.is_none() {
                if lane.try_idle() {
                    let next = match (not_before, next) {
                        (Some(at), _) => LookAt::NotBefore(lane.id().clone(), at),
                        (None, Next::At(at)) => LookAt::Due(lane.id().clone(), at),
                        (None, _) => return,
                    };
                    return self.leave(next).await;
                }
                // Woken meanwhile: look once more with fresh eyes.
                lane.begin_look();
                next = Next::Now;
                continue;
            }
            drop(serving);

            let sleep_until = match (self.store_asks_again.or(not_before), next) {
                (Some(at), _) => Some(at),
                // What is due waits for a permit or a call; a timer of no time would make it spin.
                (None, Next::At(at)) if may_claim && free > 0 && !self.is_due(next) => {
                    Some(Instant::now() + at.since(shared.clock.now()).min(SLEEP_MAX))
                }
                _ => None,
            };
            tokio::select! {
                () = shared.abort.cancelled() => return self.abort().await,
                Some(done) = self.calls.join_next_with_id() => self.finish(done),
                granted = queue.acquire(), if wants => permit = Some(granted),
                () = lane.woken() => {
                    lane.begin_look();
                    next = Next::Now;
                }
                // In a block of its own, so that no timer is made where there is nothing to wait for.
                () = async { tokio::time::sleep_until(sleep_until.unwrap_or_else(Instant::now)).await },
                    if sleep_until.is_some() => self.store_asks_again = None,
                _ = tick.tick() => {
                    self.extend().await;
                }
            }
        }
    }

    /// Puts off the first claim after an idle time, where the sink takes batches and wants to wait
    /// for more.
    fn linger(&mut self, may: May, serving: &Serving) -> May {
        let May::Claim(_) = may else { return may };
        if serving.linger.is_zero() || serving.batch_max == 1 || self.is_behind {
            return may;
        }
        let now = Instant::now();
        let until = *self.lingers_until.get_or_insert(now + serving.linger);
        if now < until { May::NotBefore(until) } else { may }
    }

    /// Further calls that may be under way.
    fn free(&self, serving: &Serving) -> usize {
        let calls_max = self.lane.pace().calls_max(&serving.endpoint.policy);
        calls_max.min(self.shared.lane_permits_max).saturating_sub(self.calls.len())
    }

    fn is_due(&self, next: Next) -> bool {
        next.is_due(self.shared.clock.now())
    }

    /// Claims at most so many `deliveries` for at most `free` calls and starts them.
    async fn claim(
        &mut self,
        serving: &Arc<Serving>,
        first: OwnedSemaphorePermit,
        free: usize,
        deliveries: usize,
        next: Next,
    ) -> Next {
        let shared = Arc::clone(&self.shared);
        let batch_max = serving.batch_max;
        // As many further permits as are free right now; waiting for more would let calls idle.
        let mut permits = vec![first];
        let free = free.min(deliveries.div_ceil(batch_max));
        while permits.len() < free
            && let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned()
        {
            permits.push(permit);
        }
        let max = permits.len().saturating_mul(batch_max).min(CLAIM_MAX.max(batch_max));
        let max = max.min(deliveries);
        let now = shared.clock.now();
        let holds_leases = !self.under_way.is_empty() || self.has_parked();
        if self.leases_until <= now && holds_leases {
            // The clock has jumped past the leases of what is under way here: without this, the
            // claim would start it a second time.
            if !self.extend().await {
                self.store_asks_again = Some(Instant::now() + self.store_wait);
                return Next::Now;
            }
        }
        if !holds_leases {
            self.leases_until = Timestamp::MAX;
        }
        self.leases_until = self.leases_until.min(now.after(LEASE));
        self.lane.begin_look();
        let span = tracing::debug_span!("claim", endpoint = %self.lane.id(), event = tracing::field::Empty);
        let claim = async {
            if self.keeps_order {
                return order::claim(&shared, &self.lane, max, next, now).await;
            }
            shared.store.claim(self.lane.id(), max, now, now.after(LEASE)).await
        };
        let claim = claim.instrument(span.clone());
        let claim = match claim.await {
            Ok(claim) => claim,
            Err(error) => {
                self.is_order_unsure = self.keeps_order;
                self.store_failed("claim deliveries", &error);
                return Next::Now;
            }
        };
        self.store_wait = STORE_WAIT_MIN;
        (self.lingers_until, self.is_behind) = (None, claim.next == Next::Now);
        self.lane.pace().took(serving.rate(), claim.leases.len(), Instant::now());
        if let Some(first) = claim.leases.first() {
            span.record("event", tracing::field::display(first.event.id()));
        }
        self.had_no_room = self.keeps_order && self.lane.with_lines(|lines| lines.room()) == 0;
        let mut leases = claim.leases.into_iter();
        for permit in permits {
            let batch: Vec<Lease> = leases.by_ref().take(batch_max).collect();
            if batch.is_empty() {
                break;
            }
            self.start(Arc::clone(serving), batch, permit);
        }
        claim.next
    }

    fn start(&mut self, serving: Arc<Serving>, batch: Vec<Lease>, permit: OwnedSemaphorePermit) {
        let leases = batch.iter().map(|lease| (lease.delivery.clone(), lease.fence)).collect();
        let (shared, lane) = (Arc::clone(&self.shared), Arc::clone(&self.lane));
        let call = self.calls.spawn(async move {
            let settlements = attempt(&shared, &lane, &serving.endpoint, batch).await;
            drop(permit);
            (serving, settlements)
        });
        self.under_way.insert(call.id(), leases);
    }

    fn finish(&mut self, done: Result<(Id, Called), JoinError>) {
        match done {
            Ok((id, (serving, settlements))) => {
                self.under_way.remove(&id);
                let gone = settlements.iter().find_map(|it| says_gone(it, self.shared.clock.now()));
                if let Some(gone) = gone {
                    self.set_gone(&serving, &gone, "its receiver wants nothing any more");
                }
                self.unsettled.extend(settlements);
            }
            // The call catches its sink's panics, so this is a bug of ours: give the leases back.
            Err(error) => {
                self.broken.extend(self.under_way.remove(&error.id()).into_iter().flatten());
                tracing::error!(endpoint = %self.lane.id(), %error, "the task of an attempt failed");
            }
        }
    }

    /// Whether claims may go on as far as the order is concerned; makes the lines of a lane that is to
    /// keep one, and gives back what they hold where the rule has changed or the lane is closed.
    async fn keep_order(&mut self, serving: &Serving, is_served: bool) -> bool {
        let policy = &serving.endpoint.policy;
        let rule = self.lane.lines().as_ref().map(|lines| lines.rule());
        self.keeps_order = rule.is_some();
        let wanted =
            (policy.order != Order::None && is_served).then_some((policy.order, policy.on_dead));
        if rule == wanted && !self.is_order_unsure {
            return true;
        }
        // What is under way began without the new lines, or belongs to the old ones.
        let is_busy =
            !(self.calls.is_empty() && self.unsettled.is_empty() && self.broken.is_empty());
        if is_busy || self.store_asks_again.is_some() {
            return false;
        }
        let parked = self.parked();
        if !parked.is_empty()
            && let Err(error) = self.shared.store.release(&parked).await
        {
            self.store_failed("give leases back", &error);
            if !error.is_closed() {
                return false;
            }
        }
        *self.lane.lines() = None;
        self.keeps_order = false;
        self.had_no_room = false;
        self.is_order_unsure = false;
        let Some((order, on_dead)) = wanted else { return true };
        match order::load(&self.shared, self.lane.id(), order, on_dead).await {
            Ok(lines) => *self.lane.lines() = Some(Box::new(lines)),
            Err(error) => {
                self.store_failed("look for what goes first", &error);
                return false;
            }
        }
        self.keeps_order = true;
        true
    }

    /// The leases that wait in the lines.
    fn parked(&self) -> Leases {
        self.lane.lines().as_ref().map(|lines| lines.leases()).unwrap_or_default()
    }

    fn has_parked(&self) -> bool {
        self.keeps_order && self.lane.with_lines(|lines| lines.has_parked())
    }

    fn note_given_back<'l>(&self, leases: impl IntoIterator<Item = &'l (DeliveryId, Fence)>) {
        if self.keeps_order {
            self.lane.with_lines(|lines| lines.given_back(leases));
        }
    }

    /// Disables the endpoint where every attempt has failed for too long.
    async fn disable(&mut self) {
        let Some(last) = self.unsettled.last() else { return };
        let serving = self.lane.serving();
        let Some(limit) = serving.endpoint.policy.disable_after else { return };
        if !self.lane.is_open() || self.store_asks_again.is_some() {
            return;
        }
        let now = Instant::now();
        let Some(known) = self.lane.pace().failing_for(now) else { return };
        // Attempts of an earlier process count, too. Not asked for every little failure.
        let asks = known >= FAILING_ASKED_AFTER.min(limit) && self.lane.pace().asks_for_failing();
        if asks && let Some(time) = self.failing_before().await {
            self.lane.pace().fails_for(time, now);
        }
        let Some(failing) = self.lane.pace().failing_for(now).filter(|it| *it >= limit) else {
            return;
        };
        let wall = self.shared.clock.now();
        let failing_ms = i64::try_from(failing.as_millis()).unwrap_or(i64::MAX);
        let gone = Gone {
            since: wall,
            status: last.attempt.as_ref().and_then(|attempt| attempt.status),
            delivery: last.delivery.clone(),
            failing_since: Some(Timestamp::from_millis(
                wall.as_millis().saturating_sub(failing_ms),
            )),
        };
        self.set_gone(&serving, &gone, &format!("every attempt has failed for {failing:?}"));
    }

    /// Disables the endpoint that `serving` calls, and tells of it, if that is news.
    fn set_gone(&mut self, serving: &Serving, gone: &Gone, why: &str) {
        if self.lane.set_gone(serving, gone.clone()) {
            self.is_gone_unnoted = true;
            self.shared.desk.gone(&serving.endpoint, gone);
            tracing::warn!(endpoint = %self.lane.id(), "endpoint disabled: {why}");
        }
    }

    /// For how long every attempt has failed by the store's statistics: since the end of the first of
    /// their bars after the last success in which one failed.
    async fn failing_before(&self) -> Option<Duration> {
        if !self.shared.keeps_history {
            return None;
        }
        let stats = match self.shared.store.stats().await {
            Ok(stats) => stats,
            Err(error) => {
                let endpoint = self.lane.id();
                tracing::warn!(%endpoint, error = error.chain(), "statistics not read");
                return None;
            }
        };
        let series = stats.into_iter().find(|it| it.endpoint == *self.lane.id())?.series;
        let now = self.shared.clock.now();
        let last_success = series.last_success();
        let bars = series.bars(Window::Week, now);
        let first = bars.windows(2).find(|bars| {
            let is_after = last_success.is_none_or(|success| bars[0].from > success);
            bars[0].failed > 0 && is_after
        })?;
        Some(now.since(first[1].from))
    }

    /// Has the store remember that the receiver wants nothing any more.
    async fn note_gone(&mut self) {
        if !self.is_gone_unnoted || self.store_asks_again.is_some() {
            return;
        }
        match hold::keep(&self.shared, &self.lane).await {
            Ok(()) => self.is_gone_unnoted = false,
            Err(error) if error.kind() == ErrorKind::Store => {
                self.store_failed("note that an endpoint is gone", &error);
            }
            // No other try will do better: after a restart the receiver is asked once more.
            Err(error) => {
                let endpoint = self.lane.id();
                tracing::warn!(%endpoint, error = error.chain(), "not noted that the endpoint is gone");
                self.is_gone_unnoted = false;
            }
        }
    }

    /// Gives back the leases of calls that broke.
    async fn release_broken(&mut self) {
        if !self.broken.is_empty() && self.store_asks_again.is_none() {
            match self.shared.store.release(&self.broken).await {
                Ok(_) => {
                    self.note_given_back(&self.broken);
                    self.broken.clear();
                }
                Err(error) => self.store_failed("give leases back", &error),
            }
        }
    }

    /// Hands outcomes to the store; keeps them where it fails. Returns the earliest retry, which
    /// the last claim could not tell of.
    async fn settle(&mut self) -> Option<Timestamp> {
        if self.unsettled.is_empty() || self.store_asks_again.is_some() {
            return None;
        }
        let span = tracing::debug_span!(
            "settle",
            endpoint = %self.lane.id(),
            event = %self.unsettled[0].delivery.event(),
            attempts = self.unsettled.len(),
        );
        let settled = match self.shared.store.settle(&self.unsettled).instrument(span).await {
            Ok(settled) => settled,
            Err(error) => {
                self.store_failed("settle attempts", &error);
                return None;
            }
        };
        self.store_wait = STORE_WAIT_MIN;
        let mut earliest: Option<Timestamp> = None;
        for (settlement, settled) in self.unsettled.drain(..).zip(settled) {
            if self.keeps_order {
                self.lane.with_lines(|lines| lines.settled(&settlement, settled));
            }
            if settled == Settled::Stale {
                // The store may have taken an earlier try of this settlement, or handed the
                // delivery out again: only it knows what is first now.
                self.is_order_unsure |= self.keeps_order;
                tracing::warn!(
                    endpoint = %self.lane.id(), event = %settlement.delivery.event(),
                    "lease ran out before the attempt ended; its outcome was dropped"
                );
            } else if let Decision::RetryAt(at) = settlement.decision {
                earliest = Some(earliest.map_or(at, |earliest| earliest.min(at)));
            }
        }
        self.shared.tick();
        earliest
    }

    fn store_failed(&mut self, what: &str, error: &Error) {
        if error.is_closed() {
            // Nobody will take these outcomes any more; their leases run out.
            self.unsettled.clear();
            self.is_gone_unnoted = false;
            self.shared.stop_claiming.cancel();
            return;
        }
        let endpoint = self.lane.id();
        tracing::error!(%endpoint, error = error.chain(), wait = ?self.store_wait, "store failed to {what}");
        self.store_asks_again = Some(Instant::now() + self.store_wait);
        self.store_wait = (self.store_wait * 2).min(STORE_WAIT_MAX);
    }

    /// Lengthens the leases of what is under way; `false` where the store failed.
    async fn extend(&mut self) -> bool {
        let mut leases: Leases = self.under_way.values().flatten().cloned().collect();
        let under_way = leases.len();
        leases.extend(self.parked());
        if leases.is_empty() {
            return true;
        }
        let until = self.shared.clock.now().after(LEASE);
        match self.shared.store.extend(&leases, until).await {
            Ok(extended) => {
                // What is under way tells of it when it is settled.
                let parked = leases.iter().zip(extended).skip(under_way);
                let lost: Vec<_> = parked
                    .filter_map(|(lease, extended)| (extended == Settled::Stale).then_some(lease))
                    .collect();
                // Why, only the store knows: what is first is read anew.
                self.is_order_unsure |= !lost.is_empty();
                self.note_given_back(lost);
                self.leases_until = until;
                true
            }
            Err(error) => {
                let endpoint = self.lane.id();
                tracing::warn!(%endpoint, error = error.chain(), "leases not extended");
                false
            }
        }
    }

    /// Drops what is in flight and gives its leases back; settles what has ended.
    async fn abort(mut self) {
        self.calls.abort_all();
        while let Some(done) = self.calls.join_next_with_id().await {
            match done {
                Err(error) if error.is_cancelled() => {}
                done => self.finish(done),
            }
        }
        let mut leases: Leases = self.under_way.drain().flat_map(|(_, leases)| leases).collect();
        leases.append(&mut self.broken);
        leases.extend(self.parked());
        *self.lane.lines() = None;
        let endpoint = self.lane.id();
        if !leases.is_empty() {
            tracing::info!(%endpoint, attempts = leases.len(), "attempts broken off by shutdown");
            if let Err(error) = self.shared.store.release(&leases).await {
                tracing::warn!(%endpoint, error = error.chain(), "leases not given back");
            }
        }
        self.store_asks_again = None;
        self.note_gone().await;
        // Where the note failed, the outcome is still better kept.
        self.store_asks_again = None;
        self.settle().await;
    }

    /// Tells the dispatcher when to look again. A lane that was removed does so too: the endpoint may
    /// be back by then, with a lane that does not know of this retry.
    async fn leave(self, look: LookAt) {
        tokio::select! {
            () = self.shared.stop_claiming.cancelled() => {}
            // Fails only where the dispatcher has ended, which is a shutdown too.
            _ = self.shared.notes.send(look) => {}
        }
    }
}
