//! `postrider dead`: what was given up, by endpoint and reason; replayed or purged.

use postrider::delivery::{State, StateKind};
use postrider::replay::Request;
use postrider::store::Query;
use postrider::{Bus, Timestamp};
use serde::Serialize;

use super::past::{self, Names, deliveries, stands};
use super::{config, replay};
use crate::args::{Args, Dead, DeadCommand, DeadPurge, DeadReplay};
use crate::output::{self, Output};
use crate::table::{Align, Table};
use crate::{Exit, Failure};

/// What was given up at one endpoint for one reason, for machines.
#[derive(Serialize)]
struct Group<'a> {
    endpoint: &'a str,
    name: &'a str,
    #[serde(flatten)]
    state: &'a State,
    count: u64,
    oldest: Timestamp,
    newest: Timestamp,
}

#[derive(Serialize)]
struct Report<'a> {
    dead: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Purged {
    purged: u64,
}

pub(crate) async fn run(args: &Args, dead: &Dead, output: &Output) -> Result<Exit, Failure> {
    match &dead.command {
        None => list(args, output).await,
        Some(DeadCommand::Replay(replay)) => replay_dead(args, replay, output).await,
        Some(DeadCommand::Purge(purge)) => purge_dead(args, purge, output).await,
    }
}

async fn list(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let names = Names::new(&config);
    let bus = past::look(config).await?;
    let dead = bus.dead_letters().await?;
    past::close(bus).await?;
    let groups = dead.iter().map(|it| Group {
        endpoint: it.endpoint.as_str(),
        name: names.of(&it.endpoint),
        state: &it.state,
        count: it.count,
        oldest: it.oldest,
        newest: it.newest,
    });
    output.json(&Report { dead: groups.collect() })?;
    if dead.is_empty() {
        output.line("nothing was given up")?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new([
        ("ENDPOINT", Align::Left),
        ("REASON", Align::Left),
        ("COUNT", Align::Right),
        ("OLDEST", Align::Left),
        ("NEWEST", Align::Left),
    ]);
    for it in &dead {
        let reason = stands(&it.state).trim_start_matches("dead: ");
        table.row([
            names.of(&it.endpoint).to_owned(),
            reason.to_owned(),
            it.count.to_string(),
            it.oldest.to_string(),
            it.newest.to_string(),
        ]);
    }
    table.show(output)?;
    Ok(Exit::Done)
}

async fn replay_dead(args: &Args, it: &DeadReplay, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let mut query = past::query(&it.filters, &Names::new(&config))?;
    // What expired would expire again at once.
    query.states = vec![StateKind::Dead];
    query.reasons.clone_from(&it.reason);
    replay::send(config, Request::new(query), &it.how, output).await
}

async fn purge_dead(args: &Args, it: &DeadPurge, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let mut query = past::query(&it.filters, &Names::new(&config))?;
    query.states = vec![StateKind::Dead, StateKind::Expired];
    query.reasons.clone_from(&it.reason);
    let bus = past::look(config).await?;
    let purged = purge(&bus, &query, it.yes).await;
    past::close(bus).await?;
    let purged = purged?;
    output.json(&Purged { purged })?;
    output.line(match purged {
        0 => "nothing was given up".to_owned(),
        _ => format!("purged {}", deliveries(purged)),
    })?;
    Ok(Exit::Done)
}

/// Purges what the query finds, if there is somebody to ask after they have said so.
async fn purge(bus: &Bus, query: &Query, is_sure: bool) -> Result<u64, Failure> {
    if !is_sure && output::can_ask() {
        // A replay of the same would be as many, but for endpoints that are not configured any more.
        let found = bus.preview_replay(&Request::new(query.clone())).await?;
        let count = found.total() + found.unserved;
        if count == 0 {
            return Ok(0);
        }
        if !output::ask(format_args!("set {} aside for good?", deliveries(count)))? {
            return Err(Failure::failed("nothing was purged"));
        }
    }
    Ok(bus.purge(query).await?)
}
