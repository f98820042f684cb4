//! `postrider doctor`: is a data folder whole, and what can be saved of it?

use std::path::{Path, PathBuf};

use postrider::Timestamp;
use postrider::store::log::doctor::{Doctor, Problem, Report, Salvage, Severity};
use serde_json::{Value, json};

use super::config;
use crate::args::{Args, Doctor as Options};
use crate::output::{Output, bad, mark, note};
use crate::{Exit, Failure};

pub(crate) fn run(args: &Args, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let folder = folder(args, options, output)?;
    let doctor = Doctor::new(&folder);
    let Some(into) = &options.repair else {
        let report = doctor.examine()?;
        show(&report, output)?;
        output.json(&document(&report))?;
        return exit(&report, "--repair INTO saves what is whole to a new folder");
    };
    let salvage = doctor.repair(into)?;
    show(&salvage.found, output)?;
    show_salvage(&salvage, into, output)?;
    let mut whole = document(&salvage.found);
    whole["salvage"] = json!({
        "saved": document(&salvage.saved),
        "lost": salvage.lost.iter().map(problem).collect::<Vec<_>>(),
        "deliveries_lost": salvage.deliveries_lost,
        "repeats": salvage.repeats,
    });
    output.json(&whole)?;
    exit(&salvage.found, &format!("what is whole is in {}", into.display()))
}

fn exit(report: &Report, then: &str) -> Result<Exit, Failure> {
    if report.is_damaged() {
        return Err(Failure::failed(format!("{} is damaged; {then}", report.folder.display())));
    }
    Ok(Exit::Done)
}

fn folder(args: &Args, options: &Options, output: &Output) -> Result<PathBuf, Failure> {
    if let Some(folder) = &options.folder {
        return Ok(folder.clone());
    }
    let config = config(args, output)?;
    if let Some(store) = &config.store {
        return Err(Failure::invalid(format!(
            "events are kept by {} in {}: doctor looks at data folders only; name one to look at it",
            store.name(),
            store.target()
        )));
    }
    config.bus.data_dir.ok_or_else(|| {
        Failure::invalid("which folder? name one, or set bus.data_dir in the configuration")
    })
}

fn show(report: &Report, output: &Output) -> Result<(), Failure> {
    let is_damaged = report.is_damaged();
    let state = if is_damaged { "is damaged" } else { "is healthy" };
    output.line(format_args!("{} {} {state}", mark(!is_damaged), report.folder.display()))?;
    let line = |what: &str, value: String| output.line(format_args!("  {what:<12}{value}"));
    line("events", format!("{}{}", report.events, times(report.times)))?;
    if report.events_lost > 0 {
        line("lost", bad(&count(report.events_lost, "event")))?;
    }
    let records: Vec<String> =
        report.records().iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if !records.is_empty() {
        line("records", records.join(", "))?;
    }
    line(
        "files",
        format!(
            "{}, {}, {} bytes",
            count(report.segments.len() as u64, "segment"),
            count(report.others.len() as u64, "other"),
            report.bytes
        ),
    )?;
    for segment in &report.segments {
        output.line(format_args!(
            "    {}  {:>10} of {:>10} bytes  {:>8}{}",
            name(&segment.file),
            segment.end,
            segment.bytes,
            count(segment.events, "event"),
            times(segment.times)
        ))?;
    }
    let width = report.owed.iter().map(|owed| owed.endpoint.as_str().len()).max().unwrap_or(0);
    for (at, owed) in report.owed.iter().enumerate() {
        let lost = if owed.lost > 0 {
            bad(&format!(", {} of a lost event", owed.lost))
        } else {
            String::new()
        };
        let (all, endpoint) = (owed.fresh + owed.tried, owed.endpoint.as_str());
        let what = if at == 0 { "owed" } else { "" };
        line(what, format!("{endpoint:<width$}  {all:>8}, {} of them tried{lost}", owed.tried))?;
    }
    if report.owed.is_empty() {
        line("owed", "nothing".to_owned())?;
    }
    show_problems(&report.problems, output)
}

fn show_problems(problems: &[Problem], output: &Output) -> Result<(), Failure> {
    for problem in problems {
        let severity = match problem.severity {
            Severity::Damage => bad("damage"),
            Severity::Torn => note("torn"),
            _ => "leftover".to_owned(),
        };
        let place = match problem.bytes {
            0 => String::new(),
            bytes => format!(", byte {}, {bytes} long", problem.offset),
        };
        output.line(format_args!("{severity}: {}{place}", problem.file.display()))?;
        output.line(format_args!("  {}", problem.what))?;
        if let Some(events) = &problem.events {
            let (first, last) = (events.start(), events.end());
            let which =
                if first == last { format!(" {first}") } else { format!("s {first} to {last}") };
            output.line(format_args!("  held event{which}"))?;
        }
        for id in &problem.ids {
            output.line(format_args!("  lost: {id}"))?;
        }
    }
    Ok(())
}

fn show_salvage(salvage: &Salvage, into: &Path, output: &Output) -> Result<(), Failure> {
    let saved = &salvage.saved;
    let owed: u64 = saved.owed.iter().map(|owed| owed.fresh + owed.tried).sum();
    output.line(format_args!(
        "{} saved to {}: {}, {} owed",
        mark(true),
        into.display(),
        count(saved.events, "event"),
        deliveries(owed)
    ))?;
    if salvage.lost.is_empty() {
        return Ok(output.line("  nothing is lost")?);
    }
    let lost = count(salvage.found.events_lost, "event");
    output.line(format_args!("  not saved: {lost}, {}", deliveries(salvage.deliveries_lost)))?;
    if salvage.repeats {
        output.line(
            "  settlements may be lost: what they settled is owed again, and may arrive twice",
        )?;
    }
    output.line(format_args!(
        "  to use it, stop what uses {}, and set bus.data_dir to the new folder",
        salvage.found.folder.display()
    ))?;
    Ok(())
}

fn count(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn deliveries(count: u64) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") }
}

fn times(times: Option<(Timestamp, Timestamp)>) -> String {
    times.map_or_else(String::new, |(oldest, newest)| format!(", {oldest} to {newest}"))
}

fn name(file: &Path) -> String {
    file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The report for machines.
fn document(report: &Report) -> Value {
    let time = |times: Option<(Timestamp, Timestamp)>| {
        times.map(|(oldest, newest)| json!({ "oldest": oldest, "newest": newest }))
    };
    let segments = report.segments.iter().map(|segment| {
        json!({
            "file": segment.file,
            "number": segment.number,
            "bytes": segment.bytes,
            "end": segment.end,
            "whole": segment.is_whole,
            "records": segment.records,
            "events": segment.events,
            "accepted": time(segment.times),
        })
    });
    let others = report
        .others
        .iter()
        .map(|other| json!({ "file": other.file, "bytes": other.bytes, "what": other.what }));
    let owed = report.owed.iter().map(|owed| {
        json!({
            "endpoint": owed.endpoint.as_str(),
            "fresh": owed.fresh,
            "tried": owed.tried,
            "lost": owed.lost,
        })
    });
    json!({
        "folder": report.folder,
        "damaged": report.is_damaged(),
        "store": report.store.map(|store| format!("{store:016x}")),
        "events": report.events,
        "events_lost": report.events_lost,
        "accepted": time(report.times),
        "records": report.records(),
        "bytes": report.bytes,
        "owed": owed.collect::<Vec<_>>(),
        "segments": segments.collect::<Vec<_>>(),
        "others": others.collect::<Vec<_>>(),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

fn problem(problem: &Problem) -> Value {
    json!({
        "severity": match problem.severity {
            Severity::Damage => "damage",
            Severity::Torn => "torn",
            _ => "leftover",
        },
        "file": problem.file,
        "offset": problem.offset,
        "bytes": problem.bytes,
        "what": problem.what,
        "events": problem.events.as_ref().map(|events| [events.start(), events.end()]),
        "ids": problem.ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
