//! Answers as JSON: what `PUT /api/v1/bins/{bin}` takes and `GET` shows.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Kind, Response, Step,
    response::{DELAY_MAX, checked_header, checked_status},
};

/// `{"answer":{…}}` or `{"answers":[{…},…]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BinDocument {
    answer: Option<Answer>,
    answers: Option<Vec<Answer>>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    delay_ms: u64,
    #[serde(skip_serializing_if = "is_false")]
    hang: bool,
    #[serde(skip_serializing_if = "is_false")]
    reset: bool,
    /// Shown for an answer that a closure of the library decides; not accepted.
    #[serde(skip_deserializing, skip_serializing_if = "is_false")]
    closure: bool,
}

/// One value, or several lines of the same name.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "a header's value must be a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
fn is_false(value: &bool) -> bool {
    !value
}

/// How many answers a sequence may have.
const ANSWERS_MAX: usize = 10_000;

impl BinDocument {
    /// The steps it describes; the error names the key.
    pub(crate) fn steps(self) -> Result<Vec<Step>, String> {
        let answers = match (self.answer, self.answers) {
            (Some(answer), None) => vec![("answer".to_owned(), answer)],
            (None, Some(answers)) if answers.is_empty() => {
                return Err("answers: at least one; to answer by default, DELETE the bin".into());
            }
            (None, Some(answers)) if answers.len() > ANSWERS_MAX => {
                return Err(format!("answers: at most {ANSWERS_MAX}, found {}", answers.len()));
            }
            (None, Some(answers)) => answers
                .into_iter()
                .enumerate()
                .map(|(at, answer)| (format!("answers[{at}]"), answer))
                .collect(),
            _ => return Err("exactly one of \"answer\" and \"answers\" must be given".into()),
        };
        answers
            .into_iter()
            .map(|(at, answer)| {
                answer.response().map(Step::Fixed).map_err(|error| format!("{at}.{error}"))
            })
            .collect()
    }
}

impl Answer {
    fn response(self) -> Result<Response, String> {
        let delay = Duration::from_millis(self.delay_ms);
        if delay > DELAY_MAX {
            let max = DELAY_MAX.as_millis();
            return Err(format!("delay_ms: at most {max}, found {}", self.delay_ms));
        }
        if self.hang || self.reset {
            let name = if self.hang { "hang" } else { "reset" };
            let status = self.status.is_some() || self.body.is_some() || !self.headers.is_empty();
            if status || self.hang && self.reset {
                return Err(format!("{name}: is all that is done; only delay_ms may stand beside"));
            }
            let kind = if self.hang { Kind::Hang } else { Kind::Reset };
            return Ok(Response::of(kind).delay(delay));
        }
        let status = checked_status(self.status.unwrap_or(200));
        let mut response =
            Response::of(Kind::Status(status.map_err(|error| format!("status: {error}"))?));
        for (name, values) in self.headers {
            let values = match values {
                OneOrMany::One(value) => vec![value],
                OneOrMany::Many(values) => values,
            };
            for value in values {
                let header = checked_header(&name, &value);
                response.headers.push(header.map_err(|error| format!("headers: {error}"))?);
            }
        }
        Ok(response.body(self.body.unwrap_or_default()).delay(delay))
    }

    fn shown(step: &Step) -> Self {
        let Step::Fixed(response) = step else {
            return Self { closure: true, ..Self::default() };
        };
        let mut headers: BTreeMap<String, OneOrMany> = BTreeMap::new();
        for (name, value) in &response.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let entry = headers.entry(name.as_str().to_owned());
            entry
                .and_modify(|values| match values {
                    OneOrMany::Many(values) => values.push(value.clone()),
                    OneOrMany::One(first) => {
                        *values = OneOrMany::Many(vec![std::mem::take(first), value.clone()]);
                    }
                })
                .or_insert(OneOrMany::One(value));
        }
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Self {
            status: response.status_sent(),
            headers,
            body: (!body.is_empty()).then_some(body),
            delay_ms: response.delay.as_millis() as u64,
            hang: response.kind == Kind::Hang,
            reset: response.kind == Kind::Reset,
            closure: false,
        }
    }
}

/// The steps as `PUT` takes them.
pub(crate) fn shown(steps: &[Step]) -> serde_json::Value {
    let answers: Vec<Answer> = steps.iter().map(Answer::shown).collect();
    serde_json::to_value(answers).unwrap_or_default()
}
