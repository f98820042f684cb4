//! `postrider events`: what was published, and what became of it.

use postrider::store::{EventRecord, Found, Page, Query};
use postrider::{Bus, EventId, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::config;
use super::past::{self, Delivery, Names, hold_of, show_attempts, stands};
use crate::args::{Args, Events, Look};
use crate::output::Output;
use crate::table::{Align, Table};
use crate::{Exit, Failure};

/// An event, for machines.
#[derive(Serialize)]
struct Event<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    /// When it happened, as its publisher says.
    timestamp: Timestamp,
    accepted_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// Only of an event that is looked at alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    deliveries: Vec<Delivery<'a>>,
}

impl<'a> Event<'a> {
    fn new(event: &'a EventRecord, names: &'a Names) -> Self {
        let envelope = &event.event;
        let deliveries = event.deliveries.iter().map(|it| Delivery::new(event, it, names));
        Self {
            id: envelope.id().to_string(),
            kind: envelope.event_type().as_str(),
            timestamp: envelope.time(),
            accepted_at: event.accepted_at,
            key: envelope.key(),
            expires_at: envelope.expires_at(),
            data: None,
            deliveries: deliveries.collect(),
        }
    }
}

pub(crate) async fn run(args: &Args, events: &Events, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let names = Names::new(&config);
    let bus = past::look(config).await?;
    let done = match &events.id {
        Some(id) => one(&bus, id, &names, output).await,
        None => list(&bus, &events.look, &names, output).await,
    };
    past::close(bus).await?;
    done
}

async fn one(bus: &Bus, id: &EventId, names: &Names, output: &Output) -> Result<Exit, Failure> {
    let event = bus.event(id).await?.ok_or_else(|| {
        Failure::failed(format!("there is no event {id}, or it is past retention"))
    })?;
    let envelope = &event.event;
    let mut document = Event::new(&event, names);
    document.data = serde_json::from_str(envelope.payload_str()).ok();
    output.json(&document)?;

    output.line(format_args!("{} {}", envelope.event_type(), envelope.id()))?;
    output.line(format_args!("  accepted {}", event.accepted_at))?;
    if let Some(key) = envelope.key() {
        output.line(format_args!("  key {key}"))?;
    }
    if let Some(time) = envelope.expires_at() {
        output.line(format_args!("  expires {time}"))?;
    }
    output.line(format_args!("  data {}", envelope.payload_str()))?;
    if event.deliveries.is_empty() {
        output.line("  no endpoint asked for it")?;
    }
    for delivery in &event.deliveries {
        let name = names.of(delivery.id.endpoint());
        output.line(format_args!("  {name}: {} ({})", stands(&delivery.state), delivery.id))?;
        show_attempts(&delivery.attempts, output)?;
        if let Some(held) = hold_of(delivery, bus) {
            output.line(format_args!("    {held}"))?;
        }
    }
    Ok(Exit::Done)
}

async fn list(bus: &Bus, look: &Look, names: &Names, output: &Output) -> Result<Exit, Failure> {
    let mut query = past::query(&look.filters, names)?;
    query.states.clone_from(&look.state);
    let mut table =
        Table::new(["ACCEPTED", "EVENT", "TYPE", "DELIVERIES"].map(|it| (it, Align::Left)));
    let limit = look.limit as usize;
    let mut count = 0;
    let has_more = each(bus, &query, limit, |event| {
        count += 1;
        output.json(&Event::new(event, names))?;
        table.row([
            event.accepted_at.to_string(),
            event.event.id().to_string(),
            event.event.event_type().to_string(),
            became(event, names),
        ]);
        Ok(count < limit)
    })
    .await?;
    if count == 0 {
        output.line("no events")?;
        return Ok(Exit::Done);
    }
    table.show(output)?;
    if has_more {
        output.line(format_args!("there may be more: --limit shows more than {limit}"))?;
    }
    Ok(Exit::Done)
}

/// Calls `see` with what a query finds, the newest first, until it says no. Returns whether there may
/// be more.
pub(super) async fn each(
    bus: &Bus,
    query: &Query,
    limit: usize,
    mut see: impl FnMut(&EventRecord) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut page = Page::newest().limit(limit);
    loop {
        let Found { events, next, .. } = bus.find(query, page).await?;
        let count = events.len();
        for (number, event) in events.iter().enumerate() {
            if !see(event)? {
                return Ok(number + 1 < count || next.is_some());
            }
        }
        match next {
            Some(next) => page = page.after(Some(next)),
            None => return Ok(false),
        }
    }
}

/// What became of an event, in words: endpoints that are alike together.
fn became(event: &EventRecord, names: &Names) -> String {
    if event.deliveries.is_empty() {
        return "no endpoint asked for it".to_owned();
    }
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    for delivery in &event.deliveries {
        let (stands, name) = (stands(&delivery.state), names.of(delivery.id.endpoint()));
        match parts.iter_mut().find(|(state, _)| *state == stands) {
            Some((_, names)) => names.push(name),
            None => parts.push((stands, vec![name])),
        }
    }
    // What is not well is what somebody looks for.
    parts.sort_by_key(|(state, _)| *state == "delivered");
    let parts = parts.iter().map(|(state, names)| format!("{state} ({})", names.join(", ")));
    parts.collect::<Vec<_>>().join(", ")
}
