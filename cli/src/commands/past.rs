//! What the commands share that look at what was published: opening the store, filters, and how
//! deliveries are shown.

use std::collections::HashMap;
use std::time::Duration;

use postrider::clock::{Clock, SystemClock};
use postrider::config::Config;
use postrider::delivery::{AttemptRecord, DeadReason, State};
use postrider::endpoint::Hold;
use postrider::store::{DeliveryRecord, EventRecord, Query};
use postrider::{Bus, EndpointId, Timestamp};
use serde::Serialize;

use crate::Failure;
use crate::args::Filters;
use crate::output::Output;

pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// The bus of a configuration, to look at what it holds; nothing is delivered.
pub(super) async fn look(config: Config) -> Result<Bus, Failure> {
    check_kept(&config)?;
    Ok(Bus::builder().config(config).without_delivery().open().await?)
}

/// Closes a bus that was only looked at, so that the next command finds its folder free and whole.
pub(super) async fn close(bus: Bus) -> Result<(), Failure> {
    bus.shutdown(Duration::ZERO).await?;
    Ok(())
}

/// The bus of a configuration, to send something again.
pub(super) async fn deliver(config: Config, output: &Output) -> Result<Bus, Failure> {
    check_kept(&config)?;
    super::share_stdout(&config, output);
    Ok(Bus::open(config).await?)
}

/// Whether there can be anything to look at.
fn check_kept(config: &Config) -> Result<(), Failure> {
    if config.store.is_some() {
        return Ok(());
    }
    let Some(folder) = &config.bus.data_dir else {
        return Err(Failure::failed(
            "there is no past to look at: without bus.data_dir or bus.store events are kept in memory \
             and end with the command that published them; set one of the two to keep them",
        ));
    };
    if !folder.exists() {
        let what = format!(
            "there is no past to look at: {} (bus.data_dir) does not exist; nothing has been published \
             there yet",
            folder.display()
        );
        return Err(Failure::failed(what));
    }
    Ok(())
}

/// The endpoints of a configuration by name.
pub(super) struct Names(HashMap<EndpointId, String>);

impl Names {
    pub(super) fn new(config: &Config) -> Self {
        let both = config.endpoints.iter().map(|it| (it.id.clone(), it.name.clone()));
        Self(both.collect())
    }

    /// The endpoint's name; its id where it is not configured (any more).
    pub(super) fn of<'a>(&'a self, id: &'a EndpointId) -> &'a str {
        self.0.get(id).map_or(id.as_str(), String::as_str)
    }

    /// The endpoint that somebody means: an id, or a name that only one has. An id that is not
    /// configured may still have a past.
    pub(super) fn find(&self, text: &str) -> Result<EndpointId, Failure> {
        let id = text.parse::<EndpointId>().ok();
        if let Some(id) = id.as_ref().filter(|id| self.0.contains_key(*id)) {
            return Ok(id.clone());
        }
        let mut named = self.0.iter().filter(|(_, name)| *name == text).map(|(id, _)| id);
        match (named.next(), named.next(), &id) {
            (Some(id), None, _) | (None, _, Some(id)) => Ok(id.clone()),
            (Some(_), Some(_), _) => Err(Failure::invalid(format!(
                "several endpoints are named {text:?}; name one by its id"
            ))),
            (None, _, None) => {
                Err(Failure::invalid(format!("no endpoint has the id or name {text:?}")))
            }
        }
    }
}

/// What the filters ask for, but for states.
pub(super) fn query(filters: &Filters, names: &Names) -> Result<Query, Failure> {
    let now = now();
    let mut query = Query::new();
    query.types.clone_from(&filters.types);
    query.since = filters.since.map(|moment| moment.before(now));
    query.until = filters.until.map(|moment| moment.before(now));
    for endpoint in &filters.endpoint {
        query.endpoints.push(names.find(endpoint)?);
    }
    Ok(query)
}

/// A delivery, for machines.
#[derive(Serialize)]
pub(super) struct Delivery<'a> {
    id: String,
    event: String,
    #[serde(rename = "type")]
    kind: &'a str,
    endpoint: &'a str,
    name: &'a str,
    #[serde(flatten)]
    state: &'a State,
    accepted_at: Timestamp,
    attempts_made: u32,
    /// Oldest first; the first and the newest.
    attempts: &'a [AttemptRecord],
}

impl<'a> Delivery<'a> {
    pub(super) fn new(event: &'a EventRecord, it: &'a DeliveryRecord, names: &'a Names) -> Self {
        Self {
            id: it.id.to_string(),
            event: event.event.id().to_string(),
            kind: event.event.event_type().as_str(),
            endpoint: it.id.endpoint().as_str(),
            name: names.of(it.id.endpoint()),
            state: &it.state,
            accepted_at: event.accepted_at,
            attempts_made: it.attempts_made,
            attempts: &it.attempts,
        }
    }
}

/// A state in a word or two.
pub(super) fn stands(state: &State) -> &'static str {
    match state {
        State::Waiting { .. } => "waiting",
        State::Leased { .. } => "under way",
        State::Delivered => "delivered",
        State::Dead { reason: DeadReason::Exhausted } => "dead: exhausted",
        State::Dead { reason: DeadReason::Rejected } => "dead: rejected",
        State::Dead { reason: DeadReason::Gone } => "dead: gone",
        State::Dead { reason: DeadReason::Disabled } => "dead: disabled",
        State::Dead { .. } => "dead",
        State::Expired => "expired",
        State::Purged => "purged",
        _ => "unknown",
    }
}

/// Why it stands so, in words.
pub(super) fn why(delivery: &DeliveryRecord, bus: &Bus) -> String {
    let failure = delivery.attempts.last().map(|last| last.message.as_str()).unwrap_or_default();
    if let Some(held) = hold_of(delivery, bus) {
        return held;
    }
    match &delivery.state {
        State::Waiting { due } if delivery.attempts_made > 0 => format!("until {due}: {failure}"),
        State::Delivered => String::new(),
        _ => failure.to_owned(),
    }
}

/// What holds a delivery that waits, in words.
pub(super) fn hold_of(delivery: &DeliveryRecord, bus: &Bus) -> Option<String> {
    let is_waiting = matches!(delivery.state, State::Waiting { .. });
    bus.hold(delivery.id.endpoint()).filter(|_| is_waiting).as_ref().map(held)
}

/// What holds an endpoint, in words.
pub(super) fn held(hold: &Hold) -> String {
    match hold {
        Hold::Gone(gone) if gone.failing_since.is_some() => format!(
            "held since {}: nothing succeeded any more; postrider enable tries it again",
            gone.since
        ),
        Hold::Gone(gone) => format!(
            "held since {}: its receiver wants nothing any more; postrider enable tries it again",
            gone.since
        ),
        _ => "held: disabled in the configuration".to_owned(),
    }
}

/// How long ago, in its largest unit.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(time).as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..172_800 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// `1 delivery`, `2 deliveries`.
pub(super) fn deliveries(count: u64) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") }
}

/// `1 event`, `2 events`.
pub(super) fn events(count: u64) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}

/// The attempts of a delivery, for people.
pub(super) fn show_attempts(attempts: &[AttemptRecord], output: &Output) -> std::io::Result<()> {
    for attempt in attempts {
        let AttemptRecord { number, at, took_ms, message, status, answer, .. } = attempt;
        let status = status.map(|status| format!(" {status}")).unwrap_or_default();
        let what = if attempt.succeeded() { "delivered" } else { message };
        output.line(format_args!("    {number}. {at}, {took_ms} ms:{status} {what}"))?;
        if !answer.is_empty() {
            output.line(format_args!("       answer: {}", first_line(answer)))?;
        }
    }
    Ok(())
}

/// The beginning of an answer, on one line and without characters that steer a terminal.
fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
