//! `postrider publish`: accepts events and delivers them.

mod dry;
mod events;
pub(super) mod report;

use std::collections::HashSet;
use std::time::Duration;

use postrider::config::Config;
use postrider::delivery::DeliveryId;
use postrider::store::{Durability, MemoryStore};
use postrider::{Bus, Error, NewEvent};

use self::report::Account;
use super::config;
use crate::args::{Args, Publish};
use crate::output::Output;
use crate::{Exit, Failure};

/// Events that are published in one write.
const BATCH: usize = 500;

/// How long attempts that are under way at the end of the wait may take: what is broken off may have
/// reached its receiver, and is sent again.
pub(super) const GRACE: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: &Args, publish: &Publish, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    super::share_stdout(&config, output);
    let limits = (config.bus.batch_events_max, config.bus.batch_bytes_max.0);
    // Everything is read and checked before anything is accepted.
    let payload_bytes_max = usize::try_from(config.bus.payload_bytes_max.0).unwrap_or(usize::MAX);
    let events = events::read(publish, payload_bytes_max)?;
    if publish.dry_run {
        return dry::run(&config, &events, output);
    }
    let mut account = Account::new(&config);
    let bus = open(config, &events).await?;
    let is_durable = bus.capabilities().durability > Durability::Memory;

    let mut refused = None;
    for batch in batches(events, limits) {
        match bus.publish_all(batch).await {
            Ok(accepted) => account.accepted(accepted),
            // What was accepted before is told all the same.
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    account.show_accepted(output)?;
    // Also where the store has failed meanwhile, what is known is told first, then what went wrong.
    let published = account.deliveries();
    let waited = settled(&bus, publish.wait(), &published, &mut account).await;
    bus.drain(GRACE).await;
    let closed = bus.shutdown(Duration::ZERO).await;

    account.show_deliveries(output)?;
    output.json(&account.document())?;
    if let Some(error) = refused {
        return Err(error.into());
    }
    let is_interrupted = waited?;
    closed?;
    if let Some(failure) = account.failure(is_durable) {
        return Err(Failure::failed(failure));
    }
    if is_interrupted {
        return Err(Failure::failed("interrupted"));
    }
    Ok(Exit::Done)
}

/// Waits for deliveries and takes down how each of these stands; returns whether somebody broke the
/// wait off.
pub(super) async fn settled(
    bus: &Bus,
    wait: Duration,
    deliveries: &[DeliveryId],
    account: &mut Account,
) -> Result<bool, Error> {
    let is_interrupted = tokio::select! {
        flushed = bus.flush(wait) => {
            flushed?;
            false
        }
        _ = tokio::signal::ctrl_c() => true,
    };
    let mut seen = HashSet::new();
    for id in deliveries {
        if seen.insert(id) {
            let is_open = bus.is_open(id.endpoint()).unwrap_or(false);
            let record = bus.delivery(id).await?;
            account.delivery(id, record, is_open);
        }
    }
    Ok(is_interrupted)
}

/// A bus for this command. Without a data folder or store it holds all of its events, which are in memory
/// anyway, until it has told what became of each.
async fn open(config: Config, events: &[NewEvent]) -> Result<Bus, Failure> {
    let bus = Bus::builder();
    if config.bus.data_dir.is_some() || config.store.is_some() {
        return Ok(bus.config(config).open().await?);
    }
    let store = MemoryStore::builder().events_max(events.len()).bytes_max(usize::MAX).build();
    Ok(bus.config(config).store(store).open().await?)
}

/// Splits events into what one write takes.
fn batches(events: Vec<NewEvent>, (events_max, bytes_max): (usize, u64)) -> Vec<Vec<NewEvent>> {
    let mut batches: Vec<Vec<NewEvent>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        let length = event.payload().len() as u64;
        match batches.last_mut() {
            Some(batch) if batch.len() < events_max.min(BATCH) && bytes + length <= bytes_max => {
                bytes += length;
                batch.push(event);
            }
            _ => {
                bytes = length;
                batches.push(vec![event]);
            }
        }
    }
    batches
}
