//! `postrider check`: is the configuration right, and do its endpoints answer?

use postrider::Endpoint;
use postrider::config::Config;
use serde::Serialize;

use super::config;
use crate::args::{Args, Check};
use crate::output::{Output, mark};
use crate::{Exit, Failure};

#[derive(Serialize)]
struct Report<'a> {
    config: Option<String>,
    /// `None` without `bus.store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreLine>,
    endpoints: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct StoreLine {
    #[serde(rename = "type")]
    kind: &'static str,
    target: String,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    name: &'a str,
    enabled: bool,
    sink: &'static str,
    target: String,
    events: Vec<String>,
    /// `None` where it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reachable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn run(args: &Args, check: &Check, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let mut lines: Vec<Line<'_>> = config
        .endpoints
        .iter()
        .map(|endpoint| Line {
            id: endpoint.id.as_str(),
            name: &endpoint.name,
            enabled: config.enabled && endpoint.enabled,
            sink: endpoint.sink.sink(),
            target: endpoint.sink.target(),
            events: endpoint.events.iter().map(ToString::to_string).collect(),
            reachable: None,
            error: None,
        })
        .collect();
    if check.connect {
        ask(&config, &mut lines).await?;
    }

    match &config.path {
        Some(path) => output.line(format_args!("{} is valid", path.display()))?,
        None => output.line("no configuration file here; the defaults are valid")?,
    }
    let store = config.store.as_ref().map(|it| StoreLine { kind: it.name(), target: it.target() });
    if let Some(StoreLine { kind, target }) = &store {
        output.line(format_args!("events are kept by {kind} in {target}"))?;
    }
    for line in &lines {
        let mark = mark(line.error.is_none());
        let off = if line.enabled { "" } else { " (disabled: deliveries are held)" };
        output.line(format_args!("{mark} {}{off}", line.name))?;
        output.line(format_args!(
            "  {} to {}, events {}",
            line.sink,
            line.target,
            line.events.join(", ")
        ))?;
        match (&line.error, line.reachable) {
            (Some(error), _) => output.line(format_args!("  cannot be reached: {error}"))?,
            (None, Some(true)) => output.line("  can be reached")?,
            (None, _) => {}
        }
    }
    let unreachable = lines.iter().filter(|line| line.error.is_some()).count();
    let path = config.path.as_ref().map(|path| path.display().to_string());
    output.json(&Report { config: path, store, endpoints: lines })?;
    if unreachable > 0 {
        return Err(Failure::failed(format!("{unreachable} of the endpoints cannot be reached")));
    }
    Ok(Exit::Done)
}

/// Asks every enabled endpoint, all at once; each within its own timeout.
async fn ask(config: &Config, lines: &mut [Line<'_>]) -> Result<(), Failure> {
    let mut asked = Vec::new();
    for (number, endpoint) in config.endpoints.iter().enumerate() {
        if lines[number].enabled {
            let endpoint: Endpoint = endpoint.build(config)?;
            asked.push((number, tokio::spawn(async move { endpoint.check().await })));
        }
    }
    for (number, answer) in asked {
        let line = &mut lines[number];
        match answer.await {
            Ok(Ok(())) => line.reachable = Some(true),
            Ok(Err(nack)) => {
                line.reachable = Some(false);
                line.error = Some(nack.message().to_owned());
            }
            Err(_) => {
                line.reachable = Some(false);
                line.error = Some("its sink panicked".to_owned());
            }
        }
    }
    Ok(())
}
