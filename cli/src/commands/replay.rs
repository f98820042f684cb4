//! `postrider replay`: sends past events again, with a count, a bar and an end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use postrider::config::Config;
use postrider::replay::{Job, JobId, JobState, Preview, Request};
use postrider::{Bus, Left};
use serde::Serialize;
use tokio::time::Instant;

use super::config;
use super::past::{self, Names, deliveries, events};
use super::publish::GRACE;
use crate::args::{Args, How, Replay};
use crate::output::{self, Output, mark};
use crate::table::{Align, Table};
use crate::{Exit, Failure};

/// How often is looked how far the job is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long deliveries are waited for once the job has ended.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: &Args, replay: &Replay, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    if replay.list {
        return list(config, output).await;
    }
    if let Some(id) = replay.cancel {
        return cancel(config, id, output).await;
    }
    if let Some(id) = replay.resume {
        let names = Names::new(&config);
        let bus = past::deliver(config, output).await?;
        let job = bus.replay_job(id).await?;
        return follow(bus, job, replay.how.wait(), &names, output).await;
    }
    let request = request(replay, &Names::new(&config))?;
    let is_everything = replay.filters.is_empty() && replay.state.is_empty();
    if is_everything && !replay.how.dry_run && !replay.yes && output::can_ask() {
        let found = count(config.clone(), &request).await?;
        if !output::ask(format_args!("make {} again?", deliveries(found.total())))? {
            return Err(Failure::failed("nothing was sent"));
        }
    }
    send(config, request, &replay.how, output).await
}

fn request(replay: &Replay, names: &Names) -> Result<Request, Failure> {
    let mut query = past::query(&replay.filters, names)?;
    query.states.clone_from(&replay.state);
    let to = replay.to.as_deref().map(|to| names.find(to)).transpose()?;
    if replay.never_delivered {
        query.missing = match (&to, &mut query.endpoints) {
            (Some(to), _) => Some(to.clone()),
            // It has no delivery there, so that is not asked for.
            (None, endpoints) if endpoints.len() == 1 => endpoints.pop(),
            _ => {
                return Err(Failure::invalid(
                    "--never-delivered needs the endpoint: name it with --to, or with one --endpoint",
                ));
            }
        };
    }
    let request = Request::new(query);
    Ok(match to {
        Some(to) => request.to(to),
        None => request,
    })
}

/// Makes a replay and waits for it, or counts what it would do.
pub(super) async fn send(
    config: Config,
    mut request: Request,
    how: &How,
    output: &Output,
) -> Result<Exit, Failure> {
    let names = Names::new(&config);
    request.rate = how.rate;
    if how.dry_run {
        return preview(config, &request, &names, output).await;
    }
    let bus = past::deliver(config, output).await?;
    let job = bus.replay(request).await?;
    follow(bus, job, how.wait(), &names, output).await
}

async fn count(config: Config, request: &Request) -> Result<Preview, Failure> {
    let bus = past::look(config).await?;
    let preview = bus.preview_replay(request).await?;
    past::close(bus).await?;
    Ok(preview)
}

async fn preview(
    config: Config,
    request: &Request,
    names: &Names,
    output: &Output,
) -> Result<Exit, Failure> {
    let preview = count(config, request).await?;
    output.json(&preview)?;
    let (total, found) = (deliveries(preview.total()), events(preview.events));
    output.line(format_args!("would make {total} of {found}"))?;
    for (endpoint, count) in &preview.deliveries {
        output.line(format_args!("  {}: {count}", names.of(endpoint)))?;
    }
    if preview.owed > 0 {
        output.line(format_args!("  {} owed already", preview.owed))?;
    }
    if preview.unserved > 0 {
        let unserved = preview.unserved;
        output.line(format_args!("  {unserved} to endpoints that are not configured any more"))?;
    }
    Ok(Exit::Done)
}

/// What became of a replay, for machines.
#[derive(Serialize)]
struct Report<'a> {
    replay: &'a Job,
    /// Deliveries that were given up meanwhile, at all endpoints.
    given_up: u64,
    /// What is still owed, at all endpoints.
    left: &'a Left,
}

/// Shows how far a job is until it has ended and what it made is delivered, or the time is over.
async fn follow(
    bus: Bus,
    mut job: Job,
    wait: Option<Duration>,
    names: &Names,
    output: &Output,
) -> Result<Exit, Failure> {
    let before = given_up(&bus).await?;
    let bar = bar(output);
    let until = wait.map(|wait| Instant::now() + wait);
    let watch = async {
        while !job.state.is_over() {
            show(&bar, &job);
            tokio::time::sleep(LOOK_EVERY).await;
            job = bus.replay_job(job.id).await?;
        }
        show(&bar, &job);
        let wait = until.map_or(FLUSH_WAIT, |until| until - Instant::now());
        bus.flush(wait).await.map(drop)
    };
    let is_interrupted = tokio::select! {
        watched = watch => {
            watched?;
            false
        }
        () = async { tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    bar.finish_and_clear();
    let id = job.id;
    let job = bus.replay_job(id).await?;
    let given_up = given_up(&bus).await?.saturating_sub(before);
    let left = bus.shutdown(GRACE).await?;

    output.json(&Report { replay: &job, given_up, left: &left })?;
    told(&job, output)?;
    for left in left.endpoints() {
        let (name, count) = (names.of(&left.endpoint), deliveries(left.due + left.delayed));
        let held = if left.held { ", held" } else { "" };
        output.line(format_args!("  {name}: {count} still owed{held}"))?;
    }
    match &job.state {
        JobState::Failed { reason } => Err(Failure::failed(format!("the replay failed: {reason}"))),
        _ if given_up > 0 => {
            let what =
                format!("{} given up meanwhile; postrider dead counts them", deliveries(given_up));
            Err(Failure::failed(what))
        }
        _ if is_interrupted => Err(Failure::failed("interrupted")),
        _ => Ok(Exit::Done),
    }
}

/// How many deliveries were ever given up, at all endpoints.
async fn given_up(bus: &Bus) -> Result<u64, Failure> {
    let totals = bus.stats().await?.into_iter().map(|it| it.series.totals());
    Ok(totals.map(|totals| totals.dead + totals.expired).sum())
}

/// What a job has done, for people.
fn told(job: &Job, output: &Output) -> std::io::Result<()> {
    let counts = &job.counts;
    let (made, found) = (deliveries(counts.made), events(counts.found));
    let is_done = job.state == JobState::Done;
    let state = match &job.state {
        JobState::Done => "",
        JobState::Cancelled => ", cancelled",
        JobState::Failed { .. } => ", failed",
        _ => ", not done yet",
    };
    output.line(format_args!("{} made {made} of {found}{state}", mark(is_done)))?;
    let skipped = [
        (counts.owed, "owed already"),
        (counts.unserved, "to endpoints that are not configured any more"),
        (counts.gone, "past retention"),
        (counts.too_often, "sent there 1,000 times already"),
    ];
    for (count, why) in skipped.into_iter().filter(|(count, _)| *count > 0) {
        output.line(format_args!("  {count} skipped: {why}"))?;
    }
    if !job.state.is_over() {
        if let JobState::Waiting { reason } = &job.state {
            output.line(format_args!("  it waits: {reason}"))?;
        }
        output.line(format_args!(
            "  it goes on with each command that delivers; to wait for it: postrider replay --resume {}",
            job.id
        ))?;
    }
    Ok(())
}

/// A bar on a terminal's stderr; nothing elsewhere.
fn bar(output: &Output) -> ProgressBar {
    let target =
        if output.is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}")
        .expect("the template is right");
    // indicatif draws nothing where stderr is no terminal.
    ProgressBar::with_draw_target(Some(1_000), target).with_style(style)
}

fn show(bar: &ProgressBar, job: &Job) {
    bar.set_position((job.share_done() * 1_000.0) as u64);
    let skipped = match job.counts.skipped() {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    let waits = match &job.state {
        JobState::Waiting { reason } => format!(", waits: {reason}"),
        _ => String::new(),
    };
    bar.set_message(format!("{} made{skipped}{waits}", deliveries(job.counts.made)));
}

#[derive(Serialize)]
struct Jobs<'a> {
    replays: &'a [Job],
}

async fn list(config: Config, output: &Output) -> Result<Exit, Failure> {
    let bus = past::look(config).await?;
    let jobs = bus.replays().await?;
    past::close(bus).await?;
    output.json(&Jobs { replays: &jobs })?;
    if jobs.is_empty() {
        output.line("no replays")?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new([
        ("REPLAY", Align::Left),
        ("MADE AT", Align::Left),
        ("STATE", Align::Left),
        ("DONE", Align::Right),
        ("DELIVERIES", Align::Right),
        ("SKIPPED", Align::Right),
    ]);
    for job in &jobs {
        let state = match &job.state {
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
            JobState::Failed { .. } => "failed",
            // Nothing runs while only looking.
            _ => "not done yet",
        };
        table.row([
            job.id.to_string(),
            job.made_at.to_string(),
            state.to_owned(),
            format!("{:.0}%", job.share_done() * 100.0),
            job.counts.made.to_string(),
            job.counts.skipped().to_string(),
        ]);
    }
    table.show(output)?;
    Ok(Exit::Done)
}

async fn cancel(config: Config, id: JobId, output: &Output) -> Result<Exit, Failure> {
    let bus = past::look(config).await?;
    let job = bus.cancel_replay(id).await?;
    past::close(bus).await?;
    output.json(&job)?;
    told(&job, output)?;
    Ok(Exit::Done)
}
