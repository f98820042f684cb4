//! A lane: one endpoint's private share of the engine.
//!
//! A lane is plain state. A task serves it only while it has something in flight or to claim; an
//! idle lane costs its bytes and nothing else.

mod order;
mod pace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub use pace::PAUSE_ASKED_MAX;
pub(crate) use pace::{May, Pace};

use crate::endpoint::{Endpoint, EndpointId, Gone, Hold, WhenDisabled};
use crate::rate::Rate;
use crate::sink::Sink;
pub(crate) use order::{Head, Lines, PARKED_MAX};

/// Longest that a lane waits for more to fill a batch.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// What serves an endpoint now: replaced as a whole when the endpoint is reconfigured.
///
/// Whoever calls the sink holds the `Arc` meanwhile, so that the end of the last one marks the end of
/// the last call.
pub(crate) struct Serving {
    pub(crate) endpoint: Endpoint,
    /// [`Sink::batch_max`], asked once: at least 1.
    pub(crate) batch_max: usize,
    /// [`Sink::batch_linger`], asked once.
    pub(crate) linger: Duration,
    /// Dropped with the last `Arc`; [`Retired`] waits for that.
    _in_use: oneshot::Sender<()>,
}

impl Serving {
    fn new(endpoint: Endpoint, in_use: oneshot::Sender<()>) -> Self {
        let sink = &endpoint.sink;
        let asked = catch_unwind(AssertUnwindSafe(|| (sink.batch_max(), sink.batch_linger())));
        let (batch_max, linger) = asked.unwrap_or_else(|_| {
            tracing::error!(endpoint = %endpoint.id, "sink panicked when asked for batch_max; taken as 1");
            (1, Duration::ZERO)
        });
        let linger = linger.min(LINGER_MAX);
        Self { endpoint, batch_max: batch_max.max(1), linger, _in_use: in_use }
    }

    /// How fast deliveries may come: the slower of what the endpoint says and what its sink says now.
    pub(crate) fn rate(&self) -> Option<Rate> {
        let own = self.endpoint.policy.rate;
        let sinks = catch_unwind(AssertUnwindSafe(|| self.endpoint.sink.rate_max()));
        let sinks = sinks.unwrap_or_else(|_| {
            tracing::error!(endpoint = %self.endpoint.id, "sink panicked when asked for rate_max; taken as none");
            None
        });
        match (own, sinks) {
            (Some(own), Some(sinks)) => Some(own.slower(sinks)),
            (own, sinks) => own.or(sinks),
        }
    }
}

/// A sink that gets no new calls.
pub(crate) struct Retired {
    pub(crate) endpoint: EndpointId,
    pub(crate) sink: Arc<dyn Sink>,
    calls: Vec<oneshot::Receiver<()>>,
}

impl Retired {
    /// Waits until the last call into the sink has ended.
    pub(crate) async fn unused(&mut self) {
        for ended in &mut self.calls {
            // Nothing is ever sent: the channel ends with the sender.
            let _ = ended.await;
        }
    }
}

/// One endpoint's lane.
pub(crate) struct Lane {
    id: EndpointId,
    serving: ArcSwap<Serving>,
    /// The other ends of what calls the sink of now: it, and what it was under former policies.
    /// Taken when the sink is retired.
    calls: Mutex<Vec<oneshot::Receiver<()>>>,
    /// Set when the receiver asked never to be sent anything again; cleared by reconfiguring.
    gone: Mutex<Option<Gone>>,
    /// Whether `gone` is set: changed under its lock, read without.
    is_gone: AtomicBool,
    /// Set while the endpoint is not configured.
    is_removed: AtomicBool,
    /// Attempts that failed in a row, not counting those of alerts.
    failures: AtomicU32,
    /// Where the endpoint keeps an order: made when it is first served, and forgotten when it is no longer.
    lines: Mutex<Option<Box<Lines>>>,
    pace: Mutex<Pace>,
    task: AtomicU8,
    woken: Notify,
}

/// No task serves the lane.
const IDLE: u8 = 0;
/// A task serves it and will look for work again only if told to.
const RUNNING: u8 = 1;
/// A task serves it and has been told to look for work again.
const WOKEN: u8 = 2;

impl Lane {
    /// `gone`: what its receiver has said before.
    pub(crate) fn new(endpoint: Endpoint, gone: Option<Gone>) -> Self {
        let (in_use, last_call_ended) = oneshot::channel();
        Self {
            id: endpoint.id.clone(),
            serving: ArcSwap::from_pointee(Serving::new(endpoint, in_use)),
            calls: Mutex::new(vec![last_call_ended]),
            is_gone: AtomicBool::new(gone.is_some()),
            gone: Mutex::new(gone),
            is_removed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            lines: Mutex::default(),
            pace: Mutex::default(),
            task: AtomicU8::new(IDLE),
            woken: Notify::new(),
        }
    }

    pub(crate) fn id(&self) -> &EndpointId {
        &self.id
    }

    pub(crate) fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// Serves the endpoint anew; returns the sink that is no longer used, if it is another one, and
    /// whether its receiver counts as gone no more.
    pub(crate) fn replace(&self, endpoint: Endpoint) -> (Option<Retired>, bool) {
        let (in_use, last_call_ended) = oneshot::channel();
        let old = self.serving();
        let is_same_sink = Arc::ptr_eq(&old.endpoint.sink, &endpoint.sink);
        let is_touched = !is_same_sink || old.endpoint.enabled != endpoint.enabled;
        let retired = if is_same_sink { None } else { self.retire() };
        if !is_same_sink {
            // What the former receiver could take says nothing about this one.
            *self.pace() = Pace::default();
            self.failures.store(0, Ordering::Relaxed);
        }
        self.serving.store(Arc::new(Serving::new(endpoint, in_use)));
        // A receiver that has said "gone" stays gone until somebody touches this endpoint. Cleared
        // after the new one serves, so that a late answer of the old one cannot set it again.
        let is_back = is_touched && self.clear_gone();
        // Of the same sink, calls that began under its former policy may still run.
        let mut calls = self.calls();
        calls.retain_mut(|ended| ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        calls.push(last_call_ended);
        (retired, is_back)
    }

    /// The endpoint is no longer served: what is owed to it is held from now on.
    pub(crate) fn remove(&self) -> Option<Retired> {
        self.is_removed.store(true, Ordering::Release);
        self.retire()
    }

    /// Serves an endpoint again that was removed. Returns whether its receiver had said "gone".
    pub(crate) fn put_back(&self, endpoint: Endpoint) -> bool {
        // Its former sink was retired when it was removed.
        let (_, is_back) = self.replace(endpoint);
        let was_gone = self.clear_gone();
        self.is_removed.store(false, Ordering::Release);
        is_back || was_gone
    }

    fn retire(&self) -> Option<Retired> {
        let calls = std::mem::take(&mut *self.calls());
        let sink = Arc::clone(&self.serving.load().endpoint.sink);
        (!calls.is_empty()).then(|| Retired { endpoint: self.id.clone(), sink, calls })
    }

    fn calls(&self) -> MutexGuard<'_, Vec<oneshot::Receiver<()>>> {
        self.calls.lock().expect("no code panics while it holds this lock")
    }

    /// What it knows of its keys, where it keeps an order.
    pub(crate) fn lines(&self) -> MutexGuard<'_, Option<Box<Lines>>> {
        self.lines.lock().expect("no code panics while it holds this lock")
    }

    /// Looks at the lines of a lane that keeps an order; without one it has none and nothing is kept.
    pub(crate) fn with_lines<T>(&self, look: impl FnOnce(&mut Lines) -> T) -> T {
        look(self.lines().get_or_insert_default())
    }

    fn lock_gone(&self) -> MutexGuard<'_, Option<Gone>> {
        self.gone.lock().expect("no code panics while it holds this lock")
    }

    fn put_gone(&self, slot: &mut Option<Gone>, gone: Option<Gone>) {
        self.is_gone.store(gone.is_some(), Ordering::Release);
        *slot = gone;
    }

    /// The receiver that `serving` calls wants nothing any more. Returns whether that is news: one
    /// that was replaced meanwhile says nothing about its successor.
    pub(crate) fn set_gone(&self, serving: &Serving, gone: Gone) -> bool {
        let is_current = || Arc::ptr_eq(&self.serving.load().endpoint.sink, &serving.endpoint.sink);
        let mut slot = self.lock_gone();
        if !is_current() || slot.is_some() {
            return false;
        }
        self.put_gone(&mut slot, Some(gone));
        // Replaced in this very moment: the mark was meant for the old one.
        if !is_current() {
            self.put_gone(&mut slot, None);
            return false;
        }
        true
    }

    /// The receiver is to be tried again. Returns whether that is news.
    pub(crate) fn clear_gone(&self) -> bool {
        let mut slot = self.lock_gone();
        let was_gone = slot.is_some();
        self.put_gone(&mut slot, None);
        // It has its time anew.
        self.pace().forgive();
        was_gone
    }

    /// What its receiver said last, where it wants nothing any more.
    pub(crate) fn gone(&self) -> Option<Gone> {
        self.lock_gone().clone()
    }

    /// Why its deliveries are not attempted.
    pub(crate) fn hold(&self) -> Option<Hold> {
        if !self.serving.load().endpoint.enabled {
            return Some(Hold::Disabled);
        }
        self.gone().map(Hold::Gone)
    }

    /// Whether its deliveries are attempted; otherwise they are held.
    pub(crate) fn is_open(&self) -> bool {
        self.serving.load().endpoint.enabled
            && !self.is_gone.load(Ordering::Acquire)
            && !self.is_removed.load(Ordering::Acquire)
    }

    /// Whether what is owed to it is claimed: to be attempted, or to be given up.
    pub(crate) fn is_served(&self) -> bool {
        self.is_open() || self.drops()
    }

    /// Whether what is owed to it is given up instead of attempted or held.
    pub(crate) fn drops(&self) -> bool {
        !self.is_open()
            && !self.is_removed.load(Ordering::Acquire)
            && self.serving.load().endpoint.policy.when_disabled == WhenDisabled::Drop
    }

    /// Attempts that failed in a row, not counting those of alerts.
    pub(crate) fn failures(&self) -> &AtomicU32 {
        &self.failures
    }

    /// How fast it may go.
    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().expect("no code panics while it holds this lock")
    }

    /// Until when it starts nothing, because its receiver failed or asked for it.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.pace().paused_until(Instant::now())
    }

    /// Whether a task serves it, or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        self.task.load(Ordering::Acquire) != IDLE
    }

    /// Tells the lane that there may be work. Returns whether a task must be started for it.
    pub(crate) fn wake(&self) -> bool {
        if self.task.swap(WOKEN, Ordering::AcqRel) == IDLE {
            return true;
        }
        self.woken.notify_one();
        false
    }

    /// The task is about to look for work: whoever wakes the lane from now on means later work.
    pub(crate) fn begin_look(&self) {
        self.task.store(RUNNING, Ordering::Release);
    }

    /// The task has nothing left to do. `false` where it was woken meanwhile and must look again.
    pub(crate) fn try_idle(&self) -> bool {
        self.task.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Waits until the lane is woken while its task runs.
    ///
    /// # Cancel safety
    /// Safe; the state tells of a wake-up that was dropped.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}
