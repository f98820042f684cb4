//! `GET` and `PUT bins/{bin}`: what a bin answers.

use hyper::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::{Problem, Reply, json_reply};
use crate::{
    Fault,
    receiver::Shared,
    script::json::{AnswerDocument, ScenarioDocument, of_answers},
    store::{TooManyBins, Totals},
    token,
};

/// What `PUT` takes: what is given is set, the rest stays. One of `answer`, `answers` and
/// `scenario` says what is answered; `"fault":null` takes a fault away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BinDocument {
    answer: Option<AnswerDocument>,
    answers: Option<Vec<AnswerDocument>>,
    scenario: Option<ScenarioDocument>,
    #[serde(default)]
    fault: Given<Fault>,
    #[serde(default)]
    notes: Given<String>,
}

/// The longest notes of a bin.
const NOTES_BYTES_MAX: usize = 4096;

/// A member that can be left out, or taken away with `null`.
#[derive(Default)]
enum Given<T> {
    #[default]
    Not,
    As(Option<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::As)
    }
}

/// Sets all that is given, or nothing.
pub(super) fn set(shared: &Shared, bin: &str, document: BinDocument) -> Result<(), Problem> {
    let BinDocument { answer, answers, scenario, fault, notes } = document;
    let other = matches!(fault, Given::As(_)) || matches!(notes, Given::As(_));
    let scenario = match (scenario, answer, answers) {
        (None, None, None) if other => None,
        (None, answer, answers) => Some(of_answers(answer, answers)),
        (Some(scenario), None, None) => {
            Some(scenario.scenario().map_err(|error| format!("scenario.{error}")))
        }
        (Some(_), _, _) => {
            let why = "scenario: its rules say what is answered; leave out answer and answers";
            Some(Err(why.to_owned()))
        }
    };
    let scenario = scenario.transpose().map_err(Problem::bad_request)?;
    if let Given::As(Some(fault)) = &fault {
        fault.check().map_err(|error| Problem::bad_request(format!("fault.{error}")))?;
    }
    if let Given::As(Some(notes)) = &notes
        && notes.len() > NOTES_BYTES_MAX
    {
        let found = notes.len();
        let why = format!("notes: at most {NOTES_BYTES_MAX} bytes, found {found}");
        return Err(Problem::bad_request(why));
    }
    let full = |full: TooManyBins| Problem::new(StatusCode::INSUFFICIENT_STORAGE, full.to_string());
    if let Some(scenario) = scenario {
        shared.scripts.set(bin, scenario).map_err(full)?;
    }
    if let Given::As(fault) = fault {
        shared.scripts.fault(bin, fault).map_err(full)?;
    }
    if let Given::As(notes) = notes {
        shared.scripts.note(bin, notes).map_err(full)?;
    }
    Ok(())
}

/// A bin whose name nobody can guess: 16 random bytes.
pub(super) fn make(shared: &Shared) -> Result<Reply, Problem> {
    let unmade = |error: &dyn std::fmt::Display| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    };
    let bin = token::made().map_err(|error| unmade(&error))?;
    let bin = bin.get(..22).unwrap_or(&bin);
    shared.store.bin(bin).map_err(|error| unmade(&error))?;
    let mut reply = json_reply(&json!({ "bin": bin, "url": shared.url(bin) }))?;
    *reply.status_mut() = StatusCode::CREATED;
    Ok(reply)
}

pub(super) fn show(shared: &Shared, bin: &str) -> Result<Reply, Problem> {
    let script = shared.scripts.find(bin).map(|script| script.shown());
    let totals = shared.store.totals(Some(bin));
    let secrets = shared.keyring.of(bin).len();
    let forward = shared.forwards.find(bin).map(|target| target.to_string());
    let set_up = script.is_some() || shared.keyring.has(bin) || forward.is_some();
    if totals.is_none() && !set_up {
        return Err(Problem::not_found(format!(
            "bin {bin:?} has captured nothing and has no answer of its own"
        )));
    }
    let Totals { held, evicted } = totals.unwrap_or_default();
    let mut document = json!({
        "bin": bin,
        "url": shared.url(bin),
        "total": held,
        "evicted": evicted,
        "answers": null,
        "next_answer": null,
        "scenario": null,
        "fault": null,
        "notes": null,
        "secrets": secrets,
        "forward": forward,
    });
    if let Some(shown) = script {
        document["answers"] = json!(shown.answers);
        document["next_answer"] = json!(shown.next);
        document["scenario"] = json!(shown.scenario);
        document["fault"] = json!(shown.fault);
        document["notes"] = json!(shown.notes);
    }
    json_reply(&document)
}
