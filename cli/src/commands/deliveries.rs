//! `postrider deliveries`: what became of each event at each endpoint.

use postrider::Bus;
use postrider::delivery::DeliveryId;

use super::config;
use super::events::each;
use super::past::{self, Delivery, Names, hold_of, show_attempts, stands, why};
use crate::args::{Args, Deliveries, Look};
use crate::output::Output;
use crate::table::{Align, Table};
use crate::{Exit, Failure};

pub(crate) async fn run(
    args: &Args,
    deliveries: &Deliveries,
    output: &Output,
) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let names = Names::new(&config);
    let bus = past::look(config).await?;
    let done = match &deliveries.id {
        Some(id) => one(&bus, id, &names, output).await,
        None => list(&bus, &deliveries.look, &names, output).await,
    };
    past::close(bus).await?;
    done
}

async fn one(bus: &Bus, id: &DeliveryId, names: &Names, output: &Output) -> Result<Exit, Failure> {
    let unknown = || Failure::failed(format!("there is no delivery {id}, or it is past retention"));
    let event = bus.event(id.event()).await?.ok_or_else(unknown)?;
    let delivery = event.deliveries.iter().find(|it| it.id == *id).ok_or_else(unknown)?;
    output.json(&Delivery::new(&event, delivery, names))?;
    let (kind, name) = (event.event.event_type(), names.of(id.endpoint()));
    output.line(format_args!("{kind} to {name}: {}", stands(&delivery.state)))?;
    output.line(format_args!("  {id}"))?;
    output.line(format_args!("  accepted {}", event.accepted_at))?;
    let made = delivery.attempts_made;
    if made as usize > delivery.attempts.len() {
        let kept = delivery.attempts.len();
        output.line(format_args!(
            "  {made} attempts, of which the first and the last {kept} are kept"
        ))?;
    }
    show_attempts(&delivery.attempts, output)?;
    if delivery.attempts.is_empty() {
        output.line("  not attempted yet")?;
    }
    if let Some(held) = hold_of(delivery, bus) {
        output.line(format_args!("  {held}"))?;
    }
    Ok(Exit::Done)
}

async fn list(bus: &Bus, look: &Look, names: &Names, output: &Output) -> Result<Exit, Failure> {
    let mut query = past::query(&look.filters, names)?;
    query.states.clone_from(&look.state);
    let mut table = Table::new([
        ("ACCEPTED", Align::Left),
        ("DELIVERY", Align::Left),
        ("TYPE", Align::Left),
        ("STATE", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("WHY", Align::Left),
    ]);
    let limit = look.limit as usize;
    let mut count = 0;
    let mut has_more = each(bus, &query, limit, |event| {
        for delivery in event.deliveries.iter().take(limit - count) {
            count += 1;
            output.json(&Delivery::new(event, delivery, names))?;
            table.row([
                event.accepted_at.to_string(),
                delivery.id.to_string(),
                event.event.event_type().to_string(),
                stands(&delivery.state).to_owned(),
                delivery.attempts_made.to_string(),
                why(delivery, bus),
            ]);
        }
        Ok(count < limit)
    })
    .await?;
    has_more |= count == limit;
    if count == 0 {
        output.line("no deliveries")?;
        return Ok(Exit::Done);
    }
    table.show(output)?;
    if has_more {
        output.line(format_args!("there may be more: --limit shows more than {limit}"))?;
    }
    Ok(Exit::Done)
}
