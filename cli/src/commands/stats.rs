//! `postrider stats`: how deliveries went lately, for each endpoint.

use std::collections::{BTreeMap, BTreeSet};

use postrider::endpoint::Hold;
use postrider::stats::{Counts, LastFailure, Series, Totals, Window};
use postrider::{EndpointId, LeftAt, Timestamp};
use serde::Serialize;

use super::config;
use super::past::{self, Names, ago, held, now};
use crate::args::Args;
use crate::output::Output;
use crate::table::{Align, Table};
use crate::{Exit, Failure};

/// One endpoint, for machines. Times in milliseconds.
#[derive(Serialize)]
struct Endpoint<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(flatten)]
    hold: Option<Hold>,
    /// What is owed: due now, and later.
    due: u64,
    delayed: u64,
    totals: Totals,
    last_attempt: Option<Timestamp>,
    last_success: Option<Timestamp>,
    last_failure: Option<Failed<'a>>,
    windows: BTreeMap<&'static str, Part>,
}

#[derive(Serialize)]
struct Failed<'a> {
    at: Timestamp,
    status: Option<u16>,
    message: &'a str,
}

impl<'a> Failed<'a> {
    fn new(last: &'a LastFailure) -> Self {
        Self { at: last.at, status: last.status, message: &last.message }
    }
}

#[derive(Serialize)]
struct Part {
    succeeded: u64,
    failed: u64,
    dead: u64,
    expired: u64,
    success_rate: Option<f64>,
    p50: Option<u64>,
    p99: Option<u64>,
}

impl From<&Counts> for Part {
    fn from(counts: &Counts) -> Self {
        Self {
            succeeded: counts.succeeded,
            failed: counts.failed,
            dead: counts.dead,
            expired: counts.expired,
            success_rate: counts.success_rate(),
            p50: counts.latency.quantile(0.5),
            p99: counts.latency.quantile(0.99),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    endpoints: Vec<Endpoint<'a>>,
}

const WINDOWS: [(Window, &str); 3] =
    [(Window::Hour, "1h"), (Window::Day, "24h"), (Window::Week, "7d")];

pub(crate) async fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let names = Names::new(&config);
    let bus = past::look(config).await?;
    let now = now();
    let mut series: BTreeMap<EndpointId, Series> =
        bus.stats().await?.into_iter().map(|stats| (stats.endpoint, stats.series)).collect();
    let left = bus.backlog().await?;
    let mut ids: BTreeSet<EndpointId> = series.keys().cloned().collect();
    ids.extend(bus.endpoints().iter().map(|endpoint| endpoint.id().clone()));
    ids.extend(left.endpoints().iter().map(|left| left.endpoint.clone()));

    let mut report = Report { endpoints: Vec::with_capacity(ids.len()) };
    let all: Vec<(EndpointId, Series)> = ids
        .into_iter()
        .map(|id| {
            let series = series.remove(&id).unwrap_or_default();
            (id, series)
        })
        .collect();
    for (id, series) in &all {
        let owed = left.endpoints().iter().find(|left| left.endpoint == *id);
        let hold = bus.hold(id);
        show(names.of(id), series, owed, hold.as_ref(), now, output)?;
        report.endpoints.push(Endpoint {
            id: id.as_str(),
            name: names.of(id),
            hold,
            due: owed.map_or(0, |left| left.due),
            delayed: owed.map_or(0, |left| left.delayed),
            totals: series.totals(),
            last_attempt: series.last_attempt(),
            last_success: series.last_success(),
            last_failure: series.last_failure().map(Failed::new),
            windows: WINDOWS
                .map(|(window, name)| (name, Part::from(&series.window(window, now))))
                .into(),
        });
    }
    if all.is_empty() {
        output.line("no endpoints")?;
    }
    output.json(&report)?;
    past::close(bus).await?;
    Ok(Exit::Done)
}

fn show(
    name: &str,
    series: &Series,
    owed: Option<&LeftAt>,
    hold: Option<&Hold>,
    now: Timestamp,
    output: &Output,
) -> std::io::Result<()> {
    output.line(format_args!(
        "{name}  {}",
        sparkline(series.bars(Window::Day, now).iter().map(|bar| (bar.succeeded, bar.failed)))
    ))?;
    let mut table = Table::new([
        ("", Align::Right),
        ("DELIVERED", Align::Right),
        ("FAILED", Align::Right),
        ("SUCCESS", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
    ]);
    for (window, label) in WINDOWS {
        let counts = series.window(window, now);
        let millis = |share| {
            let found = counts.latency.quantile(share);
            found.map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"))
        };
        let rate = counts.success_rate();
        table.row([
            label.to_owned(),
            counts.succeeded.to_string(),
            counts.failed.to_string(),
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}%", rate * 100.0)),
            millis(0.5),
            millis(0.99),
        ]);
    }
    for line in table.lines() {
        output.line(format_args!("  {line}"))?;
    }
    if let Some(LastFailure { at, message, .. }) = series.last_failure() {
        output.line(format_args!("  last failure {}: {message}", ago(*at, now)))?;
    }
    if let Some(LeftAt { due, delayed, .. }) = owed {
        output.line(format_args!("  owed: {due} due, {delayed} later"))?;
    }
    match hold {
        Some(hold) => output.line(format_args!("  {}", held(hold))),
        None => Ok(()),
    }
}

/// The attempts of each bar by height, from how many succeeded and failed; a bar in which most failed
/// is marked.
fn sparkline(bars: impl Iterator<Item = (u64, u64)>) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bars: Vec<(u64, u64)> = bars.collect();
    let most = bars.iter().map(|(succeeded, failed)| succeeded + failed).max().unwrap_or(0);
    let height = |(succeeded, failed): &(u64, u64)| match succeeded + failed {
        0 => '·',
        _ if failed > succeeded => '×',
        // The highest is the most; anything is at least the lowest.
        count => HEIGHTS[(count * 8).div_ceil(most).clamp(1, 8) as usize - 1],
    };
    if most == 0 { String::new() } else { bars.iter().map(height).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_what_they_count() {
        assert_eq!(sparkline([(0, 0), (0, 0)].into_iter()), "");
        let bars = [(0, 0), (1, 0), (400, 0), (799, 1), (1, 2), (3, 3)];
        assert_eq!(sparkline(bars.into_iter()), "·▁▄█×▁");
    }
}
