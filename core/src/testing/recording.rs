//! A sink that records what it gets and answers by a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::delivery::{Ack, Cause, Nack, Outcome};
use crate::error::Error;
use crate::event::Envelope;
use crate::sink::{Attempt, Sink};

/// One answer of a [`RecordingSink`].
#[derive(Clone, Debug)]
pub enum Step {
    /// Takes the event over.
    Ack,
    /// Reports this failure.
    Nack(Nack),
    /// Takes so long first, then takes it over.
    AckAfter(Duration),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Reports no outcome.
    Silence,
}

impl Step {
    /// A failure that is retried.
    pub fn fail() -> Self {
        Self::Nack(Nack::retry(Cause::Status, "scripted failure"))
    }
}

/// Records every attempt and answers by a script: one step for each attempt, then [`Step::Ack`].
///
/// Clones share one record.
#[derive(Clone, Default)]
pub struct RecordingSink {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    script: VecDeque<Step>,
    attempts: Vec<Attempt>,
    delivered: Vec<Arc<Envelope>>,
    in_flight: usize,
    in_flight_peak: usize,
    closed: usize,
    batch_max: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            script: VecDeque::new(),
            attempts: Vec::new(),
            delivered: Vec::new(),
            in_flight: 0,
            in_flight_peak: 0,
            closed: 0,
            batch_max: 1,
        }
    }
}

impl RecordingSink {
    /// A sink that answers by `script`.
    pub fn scripted(script: impl IntoIterator<Item = Step>) -> Self {
        let sink = Self::default();
        sink.state().script = script.into_iter().collect();
        sink
    }

    /// Takes batches of up to `max`.
    #[must_use]
    pub fn batches(self, max: usize) -> Self {
        self.state().batch_max = max;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Every attempt so far, oldest first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.state().attempts.clone()
    }

    /// The events taken over, in that order.
    pub fn events(&self) -> Vec<Arc<Envelope>> {
        self.state().delivered.clone()
    }

    /// The most attempts that were under way at once.
    pub fn in_flight_peak(&self) -> usize {
        self.state().in_flight_peak
    }

    /// How often it was closed.
    pub fn closed(&self) -> usize {
        self.state().closed
    }

    /// Waits until so many attempts have begun.
    pub async fn attempted(&self, count: usize) {
        self.wait(|state| state.attempts.len() >= count).await;
    }

    /// Waits until so many events were taken over.
    pub async fn delivered(&self, count: usize) {
        self.wait(|state| state.delivered.len() >= count).await;
    }

    async fn wait(&self, is_met: impl Fn(&State) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        while !is_met(&self.state()) {
            changed.changed().await.expect("the sender lives in self");
        }
    }

    fn begin(&self, attempt: &Attempt) -> (Step, InFlight<'_>) {
        let mut state = self.state();
        state.attempts.push(attempt.clone());
        state.in_flight += 1;
        state.in_flight_peak = state.in_flight_peak.max(state.in_flight);
        let step = state.script.pop_front().unwrap_or(Step::Ack);
        drop(state);
        self.inner.changed.send_replace(());
        (step, InFlight(self))
    }
}

/// Counts an attempt as under way until dropped, however it ends.
struct InFlight<'a>(&'a RecordingSink);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

#[async_trait]
impl Sink for RecordingSink {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for attempt in batch {
            let (step, _in_flight) = self.begin(attempt);
            match step {
                Step::Ack => {}
                Step::AckAfter(time) => tokio::time::sleep(time).await,
                Step::Nack(nack) => {
                    outcomes.push(Err(nack));
                    continue;
                }
                Step::Hang => std::future::pending().await,
                Step::Panic => panic!("scripted panic"),
                Step::Silence => continue,
            }
            self.state().delivered.push(Arc::clone(&attempt.event));
            outcomes.push(Ok(Ack::new()));
        }
        self.inner.changed.send_replace(());
        outcomes
    }

    fn batch_max(&self) -> usize {
        self.state().batch_max
    }

    async fn close(&self) -> Result<(), Error> {
        self.state().closed += 1;
        Ok(())
    }
}
