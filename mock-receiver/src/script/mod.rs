//! What a bin answers.

mod answers;
pub(crate) mod json;
mod response;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

pub use answers::Answers;
pub(crate) use answers::{Decide, Step, steps};
pub(crate) use response::Kind;
pub use response::Response;

use crate::{
    Capture,
    capture::Record,
    store::{BINS_MAX, Store, TooManyBins},
};

/// The bins that have an answer of their own.
#[derive(Default)]
pub(crate) struct Scripts {
    bins: RwLock<HashMap<String, Arc<Script>>>,
}

impl Scripts {
    pub(crate) fn find(&self, bin: &str) -> Option<Arc<Script>> {
        self.bins.read().unwrap_or_else(PoisonError::into_inner).get(bin).cloned()
    }

    /// Puts these steps in the place of what the bin had, or behind it.
    pub(crate) fn set(&self, bin: &str, steps: Vec<Step>, append: bool) -> Result<(), TooManyBins> {
        let mut bins = self.bins.write().unwrap_or_else(PoisonError::into_inner);
        if !bins.contains_key(bin) && bins.len() >= BINS_MAX {
            return Err(TooManyBins);
        }
        let script = bins.entry(bin.to_owned()).or_default();
        let mut state = script.lock();
        if append {
            // `next` is the old end where the last step was repeating: what follows answers next.
            state.steps.extend(steps);
        } else {
            *state = State { steps, next: 0 };
        }
        Ok(())
    }

    pub(crate) fn remove(&self, bin: &str) -> bool {
        self.bins.write().unwrap_or_else(PoisonError::into_inner).remove(bin).is_some()
    }
}

/// The answers of one bin, one after the other; the last repeats.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
}

#[derive(Default, Clone)]
struct State {
    steps: Vec<Step>,
    /// The step that answers next; beyond the last, the last does.
    next: usize,
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steps, and which of them answers next.
    pub(crate) fn steps(&self) -> (Vec<Step>, usize) {
        let state = self.lock().clone();
        let last = state.steps.len().saturating_sub(1);
        (state.steps, state.next.min(last))
    }

    /// Decides the answer and keeps the capture, so that captures and answers of a bin are in
    /// the same order.
    pub(crate) fn answer(&self, mut record: Record, store: &Store) -> Response {
        let mut state = self.lock();
        let step = state.steps.get(state.next).or(state.steps.last()).cloned();
        state.next = (state.next + 1).min(state.steps.len());
        match step {
            None => keep(record, Response::received(), store),
            Some(Step::Fixed(response)) => keep(record, response, store),
            Some(Step::Closure(closure)) => {
                // Not under the script's lock: the closure may look at its receiver, or change it.
                drop(state);
                let mut decide = closure.lock().unwrap_or_else(PoisonError::into_inner);
                let capture = Capture::new(record);
                let response = call(&mut **decide, &capture);
                record = capture.into_record();
                keep(record, response, store)
            }
        }
    }
}

fn call(decide: &mut Decide, capture: &Capture) -> Response {
    catch_unwind(AssertUnwindSafe(|| decide(capture))).unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(bin = %capture.bin, "the closure that answers for a bin panicked");
        Response::status(500).body(format!("the closure of bin {} panicked: {why}\n", capture.bin))
    })
}

fn keep(mut record: Record, response: Response, store: &Store) -> Response {
    record.status = response.status_sent();
    store.push(record);
    response
}

/// What a bin without a script does.
pub(crate) fn keep_default(record: Record, store: &Store) -> Response {
    keep(record, Response::received(), store)
}
