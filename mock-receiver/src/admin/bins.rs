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
}

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
    let BinDocument { answer, answers, scenario, fault } = document;
    let scenario = match (scenario, answer, answers) {
        (None, None, None) if matches!(fault, Given::As(_)) => None,
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
    let full = |full: TooManyBins| Problem::new(StatusCode::INSUFFICIENT_STORAGE, full.to_string());
    if let Some(scenario) = scenario {
        shared.scripts.set(bin, scenario).map_err(full)?;
    }
    if let Given::As(fault) = fault {
        shared.scripts.fault(bin, fault).map_err(full)?;
    }
    Ok(())
}

pub(super) fn show(shared: &Shared, bin: &str) -> Result<Reply, Problem> {
    let script = shared.scripts.find(bin).map(|script| script.shown());
    let totals = shared.store.totals(Some(bin));
    if script.is_none() && totals.is_none() {
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
    });
    if let Some(shown) = script {
        document["answers"] = json!(shown.answers);
        document["next_answer"] = json!(shown.next);
        document["scenario"] = json!(shown.scenario);
        document["fault"] = json!(shown.fault);
    }
    json_reply(&document)
}
