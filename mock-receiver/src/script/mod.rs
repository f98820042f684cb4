//! What a bin answers.

mod answers;
mod delay;
pub(crate) mod derive;
mod fault;
pub(crate) mod file;
pub(crate) mod json;
mod response;
mod rule;
mod template;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

pub use answers::Answers;
pub(crate) use answers::{Decide, Step, steps};
pub(crate) use delay::DELAY_MAX;
pub use delay::Delay;
pub use fault::Fault;
use json::{AnswerDocument, ScenarioDocument};
pub(crate) use response::Answer;
pub use response::Response;
use rule::{Active, Choice};
pub use rule::{Rule, Scenario};

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

    fn made(&self, bin: &str) -> Result<Arc<Script>, TooManyBins> {
        if let Some(script) = self.find(bin) {
            return Ok(script);
        }
        let mut bins = self.bins.write().unwrap_or_else(PoisonError::into_inner);
        if !bins.contains_key(bin) && bins.len() >= BINS_MAX {
            return Err(TooManyBins);
        }
        Ok(bins.entry(bin.to_owned()).or_default().clone())
    }

    /// Puts a scenario in the place of what the bin had; its fault stays.
    pub(crate) fn set(&self, bin: &str, scenario: Scenario) -> Result<(), TooManyBins> {
        self.made(bin)?.set(scenario);
        Ok(())
    }

    /// Puts these steps behind those of the last rule.
    pub(crate) fn append(&self, bin: &str, steps: Vec<Step>) -> Result<(), TooManyBins> {
        let script = self.made(bin)?;
        let mut state = script.lock();
        match state.rules.last_mut() {
            // `next` is the old end where the last step was repeating: what follows answers next.
            Some(active) => active.rule.steps.extend(steps),
            None => state.set(Scenario::of(steps)),
        }
        Ok(())
    }

    /// What goes wrong with every answer of the bin from now on; `None`: nothing more.
    pub(crate) fn fault(&self, bin: &str, fault: Option<Fault>) -> Result<(), TooManyBins> {
        self.made(bin)?.lock().fault = fault;
        Ok(())
    }

    /// What people want to remember of the bin; `None`: nothing.
    pub(crate) fn note(&self, bin: &str, notes: Option<String>) -> Result<(), TooManyBins> {
        self.made(bin)?.lock().notes = notes;
        Ok(())
    }

    pub(crate) fn remove(&self, bin: &str) -> bool {
        self.bins.write().unwrap_or_else(PoisonError::into_inner).remove(bin).is_some()
    }
}

/// What is told of a scenario at work.
pub(crate) struct Shown {
    /// Where it is a plain sequence for every request: its answers, and which comes next.
    pub(crate) answers: Option<Vec<AnswerDocument>>,
    pub(crate) next: Option<usize>,
    pub(crate) scenario: ScenarioDocument,
    pub(crate) fault: Option<Fault>,
    pub(crate) notes: Option<String>,
}

/// What a scenario does about a request.
pub(crate) enum Scripted {
    /// The request is kept, and this is its answer.
    Answer(Answer),
    /// No rule answers: somebody else may, with what goes wrong with every answer of the bin.
    Passed(Box<Record>, Option<Fault>),
}

/// The scenario of one bin at work.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seed: u64,
    /// By priority.
    rules: Vec<Active>,
    random: fastrand::Rng,
    fault: Option<Fault>,
    notes: Option<String>,
}

impl State {
    fn set(&mut self, mut scenario: Scenario) {
        scenario.rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority)); // Stable.
        self.rules = scenario.rules.into_iter().map(Active::new).collect();
        self.seed = scenario.seed;
        self.random = fastrand::Rng::with_seed(scenario.seed);
    }
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, scenario: Scenario) {
        self.lock().set(scenario);
    }

    /// The scenario with the turn of its first rule, and the fault, as they are now.
    pub(crate) fn shown(&self) -> Shown {
        let state = self.lock();
        let scenario = ScenarioDocument::of(state.seed, state.rules.iter().map(|one| &one.rule));
        // One rule for everything, without more to it, is shown as its answers alone.
        let plain = match state.rules.as_slice() {
            [only] if only.rule.is_plain() => Some(only),
            _ => None,
        };
        let next = plain.map(|only| only.next.min(only.rule.steps.len().saturating_sub(1)));
        let answers = plain.map(|only| json::shown(&only.rule.steps, &[]));
        let (fault, notes) = (state.fault.clone(), state.notes.clone());
        Shown { answers, next, scenario, fault, notes }
    }

    /// The answer to a request whose head alone is there, where it does not wait for the body:
    /// that of the first rule that applies, if its turn is one of the early faults. Rules that
    /// need the body to tell are passed over.
    pub(crate) fn early(&self, record: &Record) -> Option<Answer> {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(fault) = state.fault.as_ref().filter(|fault| fault.is_early()) {
            let response = Response::received().fault(fault.clone());
            return Some(response.decide(record, &[], &mut state.random));
        }
        let active =
            state.rules.iter_mut().find(|rule| rule.applies_to_head(record) == Some(true))?;
        match active.peek()? {
            Step::Fixed(response) if response.fault.as_ref().is_some_and(Fault::is_early) => {}
            _ => return None,
        }
        let Choice::Step(Some(Step::Fixed(response))) = active.take(&mut state.random) else {
            return None;
        };
        Some(response.decide(record, &[], &mut state.random))
    }

    /// Decides the answer and keeps the capture, so that captures and answers of a bin are in
    /// the same order.
    ///
    /// With `passes`, a request that no rule answers is given back, and is not kept yet.
    pub(crate) fn answer(&self, mut record: Record, store: &Store, passes: bool) -> Scripted {
        let mut guard = self.lock();
        let state = &mut *guard;
        let fault = state.fault.clone();
        let active = state.rules.iter_mut().find(|rule| rule.applies(&record));
        if passes && active.is_none() {
            return Scripted::Passed(Box::new(record), fault);
        }
        let params = active.as_ref().map_or_else(Vec::new, |one| one.rule.matcher.params(&record));
        let choice = active.map_or(Choice::Step(None), |active| active.take(&mut state.random));
        let decided = |mut response: Response, record: &Record, random: &mut fastrand::Rng| {
            response.fault = fault.or(response.fault);
            response.decide(record, &params, random)
        };
        Scripted::Answer(match choice {
            Choice::Step(None) => {
                let answer = decided(Response::received(), &record, &mut state.random);
                keep(record, answer, store)
            }
            Choice::Limited(wait) => {
                // Whole seconds, rounded up: who keeps to them is let in.
                let wait = std::time::Duration::from_secs(wait.as_secs_f64().ceil() as u64);
                let answer = Response::too_many(wait, false);
                let answer = answer.decide(&record, &[], &mut state.random);
                keep(record, answer, store)
            }
            Choice::Step(Some(Step::Fixed(response))) => {
                let answer = decided(response, &record, &mut state.random);
                keep(record, answer, store)
            }
            Choice::Step(Some(Step::Closure(closure))) => {
                // Not under the script's lock: the closure may look at its receiver, or change it.
                let mut random = state.random.fork();
                drop(guard);
                let mut decide = closure.lock().unwrap_or_else(PoisonError::into_inner);
                let capture = Capture::new(record);
                let response = call(&mut **decide, &capture);
                record = capture.into_record();
                let answer = decided(response, &record, &mut random);
                keep(record, answer, store)
            }
        })
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

fn keep(mut record: Record, answer: Answer, store: &Store) -> Answer {
    record.status = answer.status_sent();
    store.push(record);
    answer
}

/// What a bin without a script does.
pub(crate) fn keep_default(record: Record, store: &Store) -> Answer {
    let answer = Response::received().decide(&record, &[], &mut fastrand::Rng::with_seed(0));
    keep(record, answer, store)
}
