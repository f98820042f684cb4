//! `postrider publish --dry-run`: which endpoints would get the events, and why the others not.

use std::collections::BTreeMap;

use postrider::NewEvent;
use postrider::config::Config;
use serde::Serialize;

use crate::output::{Output, mark};
use crate::{Exit, Failure};

/// Lines for people; what is alike is one line.
const LINES_MAX: usize = 100;

#[derive(Serialize)]
struct Document<'a> {
    dry_run: bool,
    events: Vec<Planned<'a>>,
}

#[derive(Serialize)]
struct Planned<'a> {
    r#type: &'a str,
    endpoints: Vec<Verdict<'a>>,
}

#[derive(Serialize)]
struct Verdict<'a> {
    endpoint: String,
    name: &'a str,
    matches: bool,
    /// Whether it would be delivered; else held until the endpoint is enabled.
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) fn run(config: &Config, events: &[NewEvent], output: &Output) -> Result<Exit, Failure> {
    let planned: Vec<Planned<'_>> = events.iter().map(|event| plan(config, event)).collect();
    output.line("dry run: nothing is accepted")?;
    let mut alike: BTreeMap<(usize, &str, Option<&str>), usize> = BTreeMap::new();
    for event in &planned {
        for (place, verdict) in event.endpoints.iter().enumerate() {
            let key = (place, event.r#type, verdict.reason.as_deref());
            *alike.entry(key).or_default() += 1;
        }
    }
    let lines = alike.len();
    for ((place, kind, reason), count) in alike.into_iter().take(LINES_MAX) {
        let endpoint = &config.endpoints[place];
        let mark = mark(reason.is_none());
        let count = if count > 1 { format!("{count} x ") } else { String::new() };
        let held = if config.enabled && endpoint.enabled { "" } else { " (held: it is disabled)" };
        let reason = reason.map_or_else(|| held.to_owned(), |reason| format!(": {reason}"));
        output.line(format_args!("{mark} {}: {count}{kind}{reason}", endpoint.name))?;
    }
    if lines > LINES_MAX {
        output.line(format_args!("  and {} more lines; --json has all", lines - LINES_MAX))?;
    }
    output.json(&Document { dry_run: true, events: planned })?;
    Ok(Exit::Done)
}

fn plan<'a>(config: &'a Config, event: &'a NewEvent) -> Planned<'a> {
    let endpoints = config.endpoints.iter().map(|endpoint| {
        let reason = endpoint.asks_for(event).err().map(|why| why.to_string());
        Verdict {
            endpoint: endpoint.id.to_string(),
            name: &endpoint.name,
            matches: reason.is_none(),
            enabled: config.enabled && endpoint.enabled,
            reason,
        }
    });
    Planned { r#type: event.event_type().as_str(), endpoints: endpoints.collect() }
}
