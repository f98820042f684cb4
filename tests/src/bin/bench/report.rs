//! Rows for people and for programs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::Scale;
use crate::measure::{Pairs, Spread, Took};

/// What a ratio to the limit, or a value itself, should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    ValueAtMost(f64),
    ValueAtLeast(f64),
}

impl Goal {
    /// `None`: there is no ratio.
    fn is_met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(bound) => ratio.map(|ratio| ratio <= bound),
            Self::AtLeast(bound) => ratio.map(|ratio| ratio >= bound),
            Self::ValueAtMost(bound) => Some(value <= bound),
            Self::ValueAtLeast(bound) => Some(value >= bound),
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::ValueAtMost(bound) => format!("<= {bound} {unit}"),
            Self::ValueAtLeast(bound) => format!(">= {bound} {unit}"),
        }
    }
}

/// One figure, as it stands in the JSON file.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    case: String,
    /// The median of the subject's slices.
    value: f64,
    unit: &'static str,
    /// The median of the limit's slices.
    limit: Option<f64>,
    /// The median of the pairs' ratios, which is not quite the ratio of the medians.
    ratio: Option<f64>,
    goal: Option<String>,
    met: Option<bool>,
}

/// Prints rows as they come and keeps them for the file.
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(scale: &Scale, seed: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or("unknown");
        println!(
            "{cores} cores, load {load} at the start, {} pairs of slices for each figure, \
             POSTRIDER_SEED={seed}",
            scale.pairs
        );
        println!(
            "ratio: to the limit, median of the pairs with quartiles; cpu: all threads, kernel time too"
        );
        Self { rows: Vec::new() }
    }

    /// Begins a benchmark: what is measured against which limit, and with what numbers.
    #[expect(clippy::unused_self, reason = "only a report may print")]
    pub(crate) fn begin(&mut self, bench: &str, about: &str) {
        println!("\n{bench}: {about}");
        println!(
            "  {:<40} {:>10} {:>10}  {:<10} {:>20}  goal",
            "case", "value", "limit", "unit", "ratio"
        );
    }

    /// Time for each of `count` things.
    pub(crate) fn time(
        &mut self,
        bench: &'static str,
        case: &str,
        count: usize,
        pairs: &Pairs,
        goal: Option<Goal>,
    ) {
        let nanos = |took: Duration| took.as_nanos() as f64 / count as f64;
        self.row(bench, case.to_owned(), "ns/event", pairs, |took| nanos(took.wall), goal);
    }

    /// CPU time for each of `count` things.
    pub(crate) fn cpu(
        &mut self,
        bench: &'static str,
        case: &str,
        count: usize,
        pairs: &Pairs,
        goal: Option<Goal>,
    ) {
        let micros = |took: Duration| took.as_nanos() as f64 / 1e3 / count as f64;
        let case = format!("{case}, cpu");
        self.row(bench, case, "us/event", pairs, |took| micros(took.cpu), goal);
    }

    /// How many of `unit` a second, where a slice has `amount` of them.
    pub(crate) fn rate(
        &mut self,
        bench: &'static str,
        case: &str,
        unit: &'static str,
        amount: f64,
        pairs: &Pairs,
        goal: Option<Goal>,
    ) {
        let rate = |took: Took| amount / took.wall.as_secs_f64();
        self.row(bench, case.to_owned(), unit, pairs, rate, goal);
    }

    /// One figure that is no slice's, with the limit's where there is one.
    pub(crate) fn value(
        &mut self,
        bench: &'static str,
        case: &str,
        unit: &'static str,
        value: f64,
        limit: Option<f64>,
        goal: Option<Goal>,
    ) {
        let ratio = limit.map(|limit| Spread::of([value / limit]));
        self.push(bench, case.to_owned(), unit, value, limit.zip(ratio), goal);
    }

    fn row(
        &mut self,
        bench: &'static str,
        case: String,
        unit: &'static str,
        pairs: &Pairs,
        figure: impl Fn(Took) -> f64,
        goal: Option<Goal>,
    ) {
        let median = |slices: &[Took]| Spread::of(slices.iter().copied().map(&figure)).median;
        let limit = (!pairs.limit.is_empty()).then(|| {
            let both = pairs.subject.iter().zip(&pairs.limit);
            let ratio = Spread::of(both.map(|(subject, limit)| figure(*subject) / figure(*limit)));
            (median(&pairs.limit), ratio)
        });
        self.push(bench, case, unit, median(&pairs.subject), limit, goal);
    }

    fn push(
        &mut self,
        bench: &'static str,
        case: String,
        unit: &'static str,
        value: f64,
        limit: Option<(f64, Spread)>,
        goal: Option<Goal>,
    ) {
        let ratio = limit.map(|(_, ratio)| ratio.median);
        let met = goal.and_then(|goal| goal.is_met(value, ratio));
        let goal = goal.map(|goal| goal.text(unit));
        let judged = match (&goal, met) {
            (Some(goal), Some(true)) => format!("{goal} met"),
            (Some(goal), _) => format!("{goal} MISSED"),
            (None, _) => String::new(),
        };
        let (beside, shown) = match limit {
            None => ("-".to_owned(), String::new()),
            Some((limit, Spread { low, median, high })) if low < high => {
                (format!("{limit:.2}"), format!("{median:.2} ({low:.2}-{high:.2})"))
            }
            Some((limit, ratio)) => (format!("{limit:.2}"), format!("{:.2}", ratio.median)),
        };
        println!("  {case:<40} {value:>10.2} {beside:>10}  {unit:<10} {shown:>20}  {judged}");
        let limit = limit.map(|(limit, _)| limit);
        self.rows.push(Row { bench, case, value, unit, limit, ratio, goal, met });
    }

    /// Writes all rows as a JSON array.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(&self.rows)?;
        text.push('\n');
        fs::write(file, text)
    }
}
