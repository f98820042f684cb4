//! `postrider publish`: accepts events and delivers them.

mod events;

use std::collections::BTreeMap;

use postrider::config::Config;
use postrider::delivery::{DeliveryId, State};
use postrider::store::{DeliveryRecord, Durability, MemoryStore};
use postrider::{Bus, NewEvent, Receipt};
use serde::Serialize;

use super::config;
use crate::args::{Args, Publish};
use crate::output::{Output, mark};
use crate::{Exit, Failure};

/// Events that are published in one write.
const BATCH: usize = 500;
/// Deliveries that are shown one by one; of more, only the counts and the failures.
const SHOWN_MAX: usize = 20;

#[derive(Serialize)]
struct Report {
    accepted: Vec<Accepted>,
    deliveries: Vec<Delivery>,
}

#[derive(Serialize)]
struct Accepted {
    id: String,
    endpoints: usize,
    duplicate: bool,
}

/// How a delivery stands after the wait.
#[derive(Serialize)]
struct Delivery {
    id: DeliveryId,
    event: String,
    endpoint: String,
    state: &'static str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

pub(crate) async fn run(args: &Args, publish: &Publish, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    if config.endpoints.iter().any(|endpoint| endpoint.enabled && endpoint.sink.sink() == "stdout")
    {
        output.share_stdout();
    }
    let limits = (config.bus.batch_events_max, config.bus.batch_bytes_max.0);
    // Everything is read and checked before anything is accepted.
    let payload_bytes_max = usize::try_from(config.bus.payload_bytes_max.0).unwrap_or(usize::MAX);
    let events = events::read(publish, payload_bytes_max)?;
    let bus = open(config, &events).await?;
    let is_durable = bus.capabilities().durability > Durability::Memory;

    let mut receipts = Vec::with_capacity(events.len());
    let mut refused = None;
    for batch in batches(events, limits) {
        match bus.publish_all(batch).await {
            Ok(accepted) => receipts.extend(accepted),
            // What was accepted before is told all the same.
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    bus.flush(publish.wait()).await?;
    let mut deliveries = Vec::new();
    for receipt in &receipts {
        for id in receipt.deliveries() {
            deliveries.push(describe(&id, bus.delivery(&id).await?));
        }
    }
    bus.shutdown(std::time::Duration::ZERO).await?;

    show(&receipts, &deliveries, output)?;
    let dead = count(&deliveries, "dead") + count(&deliveries, "expired");
    let owed = count(&deliveries, "waiting");
    let accepted = receipts.iter().map(|receipt| Accepted {
        id: receipt.event().to_string(),
        endpoints: receipt.endpoints().len(),
        duplicate: receipt.is_duplicate(),
    });
    output.json(&Report { accepted: accepted.collect(), deliveries })?;
    if let Some(error) = refused {
        return Err(error.into());
    }
    if dead > 0 {
        return Err(Failure::failed(format!("{dead} deliveries were given up")));
    }
    if owed > 0 && !is_durable {
        return Err(Failure::failed(format!(
            "{owed} deliveries were not made within --wait and end with this command; set bus.data_dir \
             to keep them"
        )));
    }
    Ok(Exit::Done)
}

/// A bus for this command. Without a data folder it holds all of its events, which are in memory
/// anyway, until it has told what became of each.
async fn open(config: Config, events: &[NewEvent]) -> Result<Bus, Failure> {
    let bus = Bus::builder();
    if config.bus.data_dir.is_some() {
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

fn count(deliveries: &[Delivery], state: &str) -> usize {
    deliveries.iter().filter(|delivery| delivery.state == state).count()
}

fn describe(id: &DeliveryId, record: Option<DeliveryRecord>) -> Delivery {
    let mut delivery = Delivery {
        id: id.clone(),
        event: id.event().to_string(),
        endpoint: id.endpoint().to_string(),
        // Settled long before this command: a duplicate of something past retention.
        state: "unknown",
        attempts: 0,
        reason: None,
        status: None,
    };
    let Some(record) = record else { return delivery };
    delivery.attempts = record.attempts_made;
    let last = record.attempts.last();
    delivery.status = last.and_then(|attempt| attempt.status);
    let failure = last.map(|attempt| attempt.message.clone()).filter(|message| !message.is_empty());
    (delivery.state, delivery.reason) = match record.state {
        State::Delivered => ("delivered", None),
        State::Expired => {
            ("expired", Some(failure.unwrap_or_else(|| "its deadline passed".to_owned())))
        }
        State::Dead { .. } => ("dead", failure),
        _ => ("waiting", Some(failure.unwrap_or_else(|| "not attempted yet".to_owned()))),
    };
    delivery
}

/// The account for people: few deliveries one by one, many as counts and the failures.
fn show(receipts: &[Receipt], deliveries: &[Delivery], output: &Output) -> Result<(), Failure> {
    let duplicates = receipts.iter().filter(|receipt| receipt.is_duplicate()).count();
    let unmatched = receipts.iter().filter(|receipt| receipt.endpoints().is_empty()).count();
    match receipts {
        [receipt] => output.line(format_args!("accepted {}", receipt.event()))?,
        receipts => output.line(format_args!("accepted {} events", receipts.len()))?,
    }
    if duplicates > 0 {
        output.line(format_args!("  {duplicates} published before: nothing new is delivered"))?;
    }
    if unmatched > 0 {
        output.line(format_args!("  {unmatched} that no endpoint asks for"))?;
    }
    if deliveries.len() > SHOWN_MAX {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for delivery in deliveries {
            *counts.entry((&delivery.endpoint, delivery.state)).or_default() += 1;
        }
        for ((endpoint, state), count) in counts {
            let mark = mark(state == "delivered");
            output.line(format_args!("{mark} {endpoint}: {count} {state}"))?;
        }
    }
    let shown = deliveries
        .iter()
        .filter(|delivery| deliveries.len() <= SHOWN_MAX || delivery.state != "delivered");
    for delivery in shown.take(SHOWN_MAX) {
        let mark = mark(delivery.state == "delivered");
        let Delivery { endpoint, state, attempts, .. } = delivery;
        let times =
            if *attempts > 1 { format!(" after {attempts} attempts") } else { String::new() };
        let reason =
            delivery.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        output.line(format_args!("{mark} {endpoint}: {state}{times}{reason}"))?;
    }
    Ok(())
}
