//! Which answer for which request: rules, and a bin's scenario of them.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Answers, Response,
    answers::{Step, steps},
};
use crate::{Matcher, capture::Record};

type Test = dyn Fn(&Record) -> bool + Send + Sync;

/// One rule of a [`Scenario`]: which requests, and what they are answered.
///
/// ```
/// use mock_receiver::{Matcher, Rule};
/// use std::time::Duration;
///
/// Rule::when(Matcher::new().method("POST").path("/orders/{id}"))
///     .respond([500, 500, 200])                   // One per request; the last repeats.
///     .times(10)                                  // Then the rule is used up.
///     .rate(5, Duration::from_secs(1));           // Beyond that: 429 with `retry-after`.
/// Rule::any().weighted([(9, 200), (1, 503)]);     // By chance, from the scenario's seed.
/// ```
#[derive(Clone)]
pub struct Rule {
    pub(crate) name: Option<String>,
    pub(crate) matcher: Matcher,
    test: Option<Arc<Test>>,
    pub(crate) steps: Vec<Step>,
    /// One per step, or none: then the steps are a sequence.
    pub(crate) weights: Vec<u32>,
    pub(crate) priority: i32,
    pub(crate) times: Option<u64>,
    pub(crate) rate: Option<Rate>,
}

/// So many requests in so much time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) limit: u32,
    pub(crate) per: Duration,
}

impl Rule {
    /// For every request; answers 200 `{"received":true}` unless told otherwise.
    pub fn any() -> Self {
        Self::when(Matcher::new())
    }

    /// For the requests that match.
    pub fn when(matcher: Matcher) -> Self {
        let (steps, weights) = (vec![Step::Fixed(Response::received())], Vec::new());
        let (name, test, times, rate) = (None, None, None, None);
        Self { name, matcher, test, steps, weights, priority: 0, times, rate }
    }

    /// Of those, only the ones for which this is true. It is called under the bin's lock: keep it
    /// quick, and do not use the receiver in it.
    pub fn and(mut self, test: impl Fn(&Record) -> bool + Send + Sync + 'static) -> Self {
        self.test = Some(Arc::new(test));
        self
    }

    /// A name, shown by the API.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What it answers; see [`Answers`].
    pub fn respond(mut self, answers: impl Answers) -> Self {
        (self.steps, self.weights) = (steps(answers), Vec::new());
        self
    }

    /// One of these, by chance: each as likely as its weight says. The scenario's seed decides.
    pub fn weighted<R: Into<Response>>(
        mut self,
        answers: impl IntoIterator<Item = (u32, R)>,
    ) -> Self {
        let (weights, steps) = answers
            .into_iter()
            .map(|(weight, response)| (weight, Step::Fixed(response.into())))
            .unzip();
        (self.weights, self.steps) = (weights, steps);
        self
    }

    /// Rules of higher priority are asked first; within the same, in the order given. Default 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// After so many requests it is as if the rule were not there. Default: never.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Beyond so many requests in so much time (a token bucket that begins full) the answer is
    /// 429 with the `retry-after` that the sender should keep to. Default: no limit.
    pub fn rate(mut self, limit: u32, per: Duration) -> Self {
        self.rate = Some(Rate { limit: limit.max(1), per: per.max(Duration::from_millis(1)) });
        self
    }

    /// Whether it is no more than a sequence of answers to any request.
    pub(crate) fn is_plain(&self) -> bool {
        let bare = self.name.is_none() && self.times.is_none() && self.rate.is_none();
        bare && self.is_catch_all() && self.weights.is_empty() && self.priority == 0
    }

    pub(crate) fn is_catch_all(&self) -> bool {
        self.matcher == Matcher::new() && self.test.is_none()
    }

    fn matches(&self, request: &Record) -> bool {
        self.is_catch_all()
            || self.matcher.matches(request) && self.test.as_ref().is_none_or(|test| test(request))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, matcher, priority, .. } = self;
        let mut debug = f.debug_struct("Rule");
        debug.field("name", name).field("matcher", matcher).field("priority", priority);
        debug.finish_non_exhaustive()
    }
}

/// What a bin answers: rules, and the seed of everything that is left to chance.
///
/// Of the rules that match a request the first answers, by priority and then in the order given;
/// where none does, the answer is 200 `{"received":true}`.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub(crate) seed: u64,
    pub(crate) rules: Vec<Rule>,
}

impl Scenario {
    /// Without rules, with seed 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// What chance begins with: the same seed, the same choices in the same order. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds a rule.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The answers that a bin gives to any request.
    pub(crate) fn of(steps: Vec<Step>) -> Self {
        Self::new().rule(Rule { steps, ..Rule::any() })
    }
}

/// A rule at work.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) rule: Rule,
    /// The step that answers next; beyond the last, the last does.
    pub(super) next: usize,
    used: u64,
    /// What is left in the bucket, and when that was so.
    tokens: f64,
    at: Instant,
}

/// What a rule does about a request.
pub(super) enum Choice {
    Step(Option<Step>),
    /// Too many: come back in that time.
    Limited(Duration),
}

impl Active {
    pub(super) fn new(rule: Rule) -> Self {
        let tokens = rule.rate.map_or(0.0, |rate| f64::from(rate.limit));
        Self { rule, next: 0, used: 0, tokens, at: Instant::now() }
    }

    /// Whether it is this rule's turn.
    pub(super) fn applies(&self, request: &Record) -> bool {
        self.is_left() && self.rule.matches(request)
    }

    /// The same when only the head is there; `None` where the head cannot tell.
    pub(super) fn applies_to_head(&self, request: &Record) -> Option<bool> {
        if !self.is_left() {
            return Some(false);
        }
        let tells = !self.rule.matcher.needs_body() && self.rule.test.is_none();
        tells.then(|| self.rule.matches(request))
    }

    fn is_left(&self) -> bool {
        self.rule.times.is_none_or(|times| self.used < times)
    }

    /// What comes next, without taking it.
    pub(super) fn peek(&self) -> Option<&Step> {
        let sequence = self.rule.weights.is_empty();
        let step = self.rule.steps.get(self.next).or(self.rule.steps.last());
        step.filter(|_| sequence)
    }

    /// Takes what comes next.
    pub(super) fn take(&mut self, random: &mut fastrand::Rng) -> Choice {
        if let Some(wait) = self.limited(Instant::now()) {
            return Choice::Limited(wait);
        }
        self.used += 1;
        if self.rule.weights.is_empty() {
            let step = self.peek().cloned();
            self.next = (self.next + 1).min(self.rule.steps.len());
            return Choice::Step(step);
        }
        let all = self.rule.weights.iter().map(|&weight| u64::from(weight)).sum::<u64>();
        let mut left = random.u64(..all.max(1));
        let chosen = self.rule.weights.iter().position(|&weight| {
            let here = left < u64::from(weight);
            left = left.saturating_sub(u64::from(weight));
            here
        });
        Choice::Step(self.rule.steps.get(chosen.unwrap_or(0)).cloned())
    }

    fn limited(&mut self, now: Instant) -> Option<Duration> {
        let Rate { limit, per } = self.rule.rate?;
        let per_token = per.as_secs_f64() / f64::from(limit);
        let fresh = now.duration_since(self.at).as_secs_f64() / per_token;
        (self.tokens, self.at) = ((self.tokens + fresh).min(f64::from(limit)), now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.tokens) * per_token))
    }
}
