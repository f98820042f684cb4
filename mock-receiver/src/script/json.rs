//! Answers and scenarios as documents: what `PUT /api/v1/bins/{bin}` takes, `GET` shows and
//! scenario files hold. One model for JSON, TOML and YAML.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    Delay, Fault, Response, Rule, Scenario, Step,
    delay::DELAY_MAX,
    response::{RetryAfter, checked_header, checked_status},
    rule::Rate,
    template::Template,
};
use crate::Matcher;

/// How many answers a sequence may have.
const ANSWERS_MAX: usize = 10_000;
/// How many rules a scenario may have.
const RULES_MAX: usize = 1_000;
/// The longest time of a rate, and the longest that a sender is told to wait.
const SECS_MAX: u64 = 30 * 24 * 3600;

/// `{"seed":7,"rules":[…]}`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScenarioDocument {
    pub(super) seed: u64,
    pub(super) rules: Vec<RuleDocument>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuleDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    matcher: Matcher,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Vec<AnswerDocument>>,
    #[serde(skip_serializing_if = "is_default")]
    priority: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateDocument>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RateDocument {
    limit: u32,
    per_ms: u64,
}

/// An answer, or its status alone.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(crate) struct AnswerDocument(Fields);

#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// A body with places to fill in.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    delay_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<RetryAfterDocument>,
    #[serde(skip_serializing_if = "is_default")]
    hang: bool,
    #[serde(skip_serializing_if = "is_default")]
    reset: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    /// Among the answers of a rule: how likely it is, in the place of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Shown for an answer that a closure of the library decides; not accepted.
    #[serde(skip_deserializing, skip_serializing_if = "is_default")]
    closure: bool,
}

/// `{"secs":5}`, or `{"secs":5,"as":"date"}`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RetryAfterDocument {
    secs: u64,
    #[serde(default, rename = "as")]
    form: RetryAfterForm,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum RetryAfterForm {
    #[default]
    Seconds,
    Date,
}

/// One value, or several lines of the same name.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "a header's value must be a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'de> Deserialize<'de> for AnswerDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Answer;
        impl<'de> Visitor<'de> for Answer {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer, or its status alone")
            }

            fn visit_u64<E>(self, status: u64) -> Result<Fields, E> {
                let status = Some(u16::try_from(status).unwrap_or(u16::MAX));
                Ok(Fields { status, ..Fields::default() })
            }

            fn visit_i64<E: serde::de::Error>(self, status: i64) -> Result<Fields, E> {
                self.visit_u64(u64::try_from(status).unwrap_or(0))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fields, A::Error> {
                Fields::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Answer).map(Self)
    }
}

impl ScenarioDocument {
    /// The scenario that it describes; the error names the key.
    pub(crate) fn scenario(self) -> Result<Scenario, String> {
        if self.rules.len() > RULES_MAX {
            return Err(format!("rules: at most {RULES_MAX}, found {}", self.rules.len()));
        }
        let mut scenario = Scenario::new().seed(self.seed);
        for (at, rule) in self.rules.into_iter().enumerate() {
            let rule = rule.rule().map_err(|error| format!("rules[{at}].{error}"))?;
            scenario = scenario.rule(rule);
        }
        Ok(scenario)
    }

    /// The same as a document; a closure shows as `"closure":true`.
    pub(crate) fn of<'a>(seed: u64, rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        Self { seed, rules: rules.into_iter().map(RuleDocument::of).collect() }
    }
}

/// The scenario of `answer` or `answers`, one of which must be there.
pub(crate) fn of_answers(
    answer: Option<AnswerDocument>,
    answers: Option<Vec<AnswerDocument>>,
) -> Result<Scenario, String> {
    let rule = RuleDocument { answer, answers, ..RuleDocument::default() };
    rule.rule().map(|rule| Scenario::new().rule(rule))
}

impl RuleDocument {
    fn rule(self) -> Result<Rule, String> {
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
        let mut rule = Rule::when(self.matcher).priority(self.priority);
        (rule.name, rule.times) = (self.name, self.times);
        rule.weights = weights(&answers)?;
        rule.steps = answers
            .into_iter()
            .map(|(at, answer)| {
                answer.0.response().map(Step::Fixed).map_err(|error| format!("{at}.{error}"))
            })
            .collect::<Result<_, _>>()?;
        if let Some(RateDocument { limit, per_ms }) = self.rate {
            if limit == 0 || per_ms == 0 || per_ms > SECS_MAX * 1000 {
                let max = SECS_MAX * 1000;
                return Err(format!(
                    "rate: limit at least 1 and per_ms 1 to {max}, found {limit} and {per_ms}"
                ));
            }
            rule = rule.rate(limit, Duration::from_millis(per_ms));
        }
        Ok(rule)
    }

    fn of(rule: &Rule) -> Self {
        let answers = shown(&rule.steps, &rule.weights);
        let rate = rule
            .rate
            .map(|Rate { limit, per }| RateDocument { limit, per_ms: per.as_millis() as u64 });
        Self {
            name: rule.name.clone(),
            matcher: rule.matcher.clone(),
            answer: None,
            answers: Some(answers),
            priority: rule.priority,
            times: rule.times,
            rate,
        }
    }
}

/// Either every answer has a weight or none has.
fn weights(answers: &[(String, AnswerDocument)]) -> Result<Vec<u32>, String> {
    let weights: Vec<u32> = answers.iter().filter_map(|(_, answer)| answer.0.weight).collect();
    if !weights.is_empty() {
        let without = answers.iter().find(|(_, answer)| answer.0.weight.is_none());
        if let Some((at, _)) = without {
            return Err(format!("{at}.weight: missing, where other answers of the rule have one"));
        }
        if weights.iter().all(|&weight| weight == 0) {
            return Err("answers: at least one weight must be above 0".into());
        }
    }
    Ok(weights)
}

impl Fields {
    fn response(self) -> Result<Response, String> {
        let delay = self.checked_delay()?;
        let bodies = [&self.body, &self.body_base64, &self.template];
        let bodies = bodies.iter().filter(|body| body.is_some()).count();
        if self.hang || self.reset {
            let name = if self.hang { "hang" } else { "reset" };
            let more = self.status.is_some() || bodies > 0 || !self.headers.is_empty();
            if more || self.hang && self.reset || self.fault.is_some() {
                return Err(format!("{name}: is all that is done; only delay_ms may stand beside"));
            }
            let response = if self.hang { Response::hang() } else { Response::reset() };
            return Ok(response.delay(delay));
        }
        if bodies > 1 {
            return Err("body: only one of body, body_base64 and template may be given".into());
        }
        let default = if self.retry_after.is_some() { 429 } else { 200 };
        let status = checked_status(self.status.unwrap_or(default));
        let mut response = Response::of(status.map_err(|error| format!("status: {error}"))?);
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
        if let Some(RetryAfterDocument { secs, form }) = self.retry_after {
            if secs > SECS_MAX {
                return Err(format!("retry_after.secs: at most {SECS_MAX}, found {secs}"));
            }
            let as_date = form == RetryAfterForm::Date;
            response.retry_after = Some(RetryAfter { secs, as_date });
        }
        if let Some(fault) = &self.fault {
            fault.check().map_err(|error| format!("fault.{error}"))?;
        }
        response.fault = self.fault;
        if let Some(text) = self.template {
            let template = Template::parse(&text).map_err(|error| format!("template: {error}"))?;
            (response.template, response.body) = (Some(template), text.into());
        } else if let Some(text) = self.body_base64 {
            let body = STANDARD.decode(text).map_err(|error| format!("body_base64: {error}"))?;
            response.body = body.into();
        } else {
            response.body = self.body.unwrap_or_default().into();
        }
        Ok(response.delay(delay))
    }

    fn checked_delay(&self) -> Result<Delay, String> {
        let delay = match self.delay {
            Some(_) if self.delay_ms > 0 => {
                return Err("delay: only one of delay and delay_ms may be given".into());
            }
            Some(delay) => delay,
            None if u128::from(self.delay_ms) > DELAY_MAX.as_millis() => {
                let max = DELAY_MAX.as_millis();
                return Err(format!("delay_ms: at most {max}, found {}", self.delay_ms));
            }
            None => Delay::Fixed { ms: self.delay_ms },
        };
        delay.check().map_err(|error| format!("delay.{error}")).map(|()| delay)
    }

    fn of(step: &Step, weight: Option<u32>) -> Self {
        let Step::Fixed(response) = step else {
            return Self { closure: true, weight, ..Self::default() };
        };
        let (delay_ms, delay) = match response.delay {
            Delay::Fixed { ms } => (ms, None),
            other => (0, Some(other)),
        };
        let hang = response.fault == Some(Fault::Hang);
        let reset = response.fault == Some(Fault::Reset);
        if hang || reset {
            return Self { delay_ms, delay, hang, reset, weight, ..Self::default() };
        }
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
        let text = std::str::from_utf8(&response.body).ok().map(str::to_owned);
        let binary = text.is_none().then(|| STANDARD.encode(&response.body));
        let text = text.filter(|text| !text.is_empty());
        let (body, template) =
            if response.template.is_some() { (None, text) } else { (text, None) };
        let retry_after = response.retry_after.map(|RetryAfter { secs, as_date }| {
            let form = if as_date { RetryAfterForm::Date } else { RetryAfterForm::Seconds };
            RetryAfterDocument { secs, form }
        });
        Self {
            status: Some(response.status.as_u16()),
            headers,
            body,
            body_base64: binary,
            template,
            delay_ms,
            delay,
            retry_after,
            fault: response.fault.clone(),
            weight,
            ..Self::default()
        }
    }
}

/// The steps as `PUT` takes them.
pub(crate) fn shown(steps: &[Step], weights: &[u32]) -> Vec<AnswerDocument> {
    let weight = |at: usize| weights.get(at).copied();
    steps
        .iter()
        .enumerate()
        .map(|(at, step)| AnswerDocument(Fields::of(step, weight(at))))
        .collect()
}
