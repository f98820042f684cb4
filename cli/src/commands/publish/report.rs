//! What became of the events that were published: the account for people and the document for machines.

use std::collections::{BTreeMap, HashMap};
use std::io;

use postrider::config::Config;
use postrider::delivery::{AttemptRecord, Cause, DeliveryId, State};
use postrider::store::DeliveryRecord;
use postrider::{EndpointId, Receipt};
use serde::Serialize;

use crate::output::{Output, mark};

/// Lines of the account for people; what is alike is one line.
const LINES_MAX: usize = 20;

pub(in crate::commands) struct Account {
    endpoints: HashMap<EndpointId, Endpoint>,
    receipts: Vec<Receipt>,
    deliveries: Vec<Delivery>,
}

struct Endpoint {
    name: String,
    is_stdout: bool,
    is_enabled: bool,
}

/// The document for machines.
#[derive(Serialize)]
pub(in crate::commands) struct Document<'a> {
    accepted: Vec<Accepted>,
    deliveries: &'a [Delivery],
}

/// The document of a command that accepts nothing.
#[derive(Serialize)]
pub(in crate::commands) struct Deliveries<'a> {
    deliveries: &'a [Delivery],
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
    name: String,
    state: Stands,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The beginning of the receiver's last answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    answer: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stands {
    Delivered,
    Waiting,
    /// Not attempted: the endpoint is disabled, by the configuration or by its receiver.
    Held,
    Dead,
    Expired,
    /// For a stdout that nobody reads any more.
    Closed,
    /// Of an event published before, whose record is past retention.
    Unknown,
}

impl Stands {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Closed => "not written",
            Self::Unknown => "past retention",
        }
    }
}

impl Account {
    pub(in crate::commands) fn new(config: &Config) -> Self {
        let endpoints = config.endpoints.iter().map(|endpoint| {
            let known = Endpoint {
                name: endpoint.name.clone(),
                is_stdout: endpoint.sink.sink() == "stdout",
                is_enabled: config.enabled && endpoint.enabled,
            };
            (endpoint.id.clone(), known)
        });
        Self { endpoints: endpoints.collect(), receipts: Vec::new(), deliveries: Vec::new() }
    }

    pub(in crate::commands) fn accepted(&mut self, receipts: Vec<Receipt>) {
        self.receipts.extend(receipts);
    }

    /// Of every accepted event; of one that was published twice, twice.
    pub(in crate::commands) fn deliveries(&self) -> Vec<DeliveryId> {
        self.receipts.iter().flat_map(Receipt::deliveries).collect()
    }

    pub(in crate::commands) fn delivery(
        &mut self,
        id: &DeliveryId,
        record: Option<DeliveryRecord>,
        is_open: bool,
    ) {
        let endpoint = self.endpoints.get(id.endpoint());
        let mut delivery = Delivery {
            id: id.clone(),
            event: id.event().to_string(),
            endpoint: id.endpoint().to_string(),
            name: endpoint
                .map_or_else(|| id.endpoint().to_string(), |endpoint| endpoint.name.clone()),
            state: Stands::Unknown,
            attempts: 0,
            reason: None,
            status: None,
            answer: String::new(),
        };
        if let Some(record) = record {
            let last: Option<&AttemptRecord> = record.attempts.last();
            let is_closed = endpoint.is_some_and(|endpoint| {
                let has_gone = !is_open && endpoint.is_enabled;
                let was_closed = last.is_some_and(|last| last.cause == Some(Cause::Closed));
                endpoint.is_stdout && (was_closed || has_gone)
            });
            delivery.attempts = record.attempts_made;
            delivery.status = last.and_then(|attempt| attempt.status);
            delivery.answer = last.map(|attempt| attempt.answer.clone()).unwrap_or_default();
            let failure = last.map(|last| last.message.clone()).filter(|text| !text.is_empty());
            let or = |text: &str| Some(failure.clone().unwrap_or_else(|| text.to_owned()));
            (delivery.state, delivery.reason) = match record.state {
                State::Delivered => (Stands::Delivered, None),
                _ if is_closed => (Stands::Closed, Some("its reader closed stdout".to_owned())),
                State::Expired => (Stands::Expired, or("its deadline passed")),
                State::Dead { .. } => (Stands::Dead, failure),
                _ if !is_open => (Stands::Held, or("the endpoint is disabled")),
                _ => (Stands::Waiting, or("not attempted yet")),
            };
        }
        self.deliveries.push(delivery);
    }

    /// Tells people what was accepted, before the wait.
    pub(in crate::commands) fn show_accepted(&self, output: &Output) -> io::Result<()> {
        match &self.receipts[..] {
            [] => return Ok(()),
            [receipt] => output.line(format_args!("accepted {}", receipt.event()))?,
            receipts => output.line(format_args!("accepted {} events", receipts.len()))?,
        }
        let duplicates = self.receipts.iter().filter(|receipt| receipt.is_duplicate()).count();
        if duplicates > 0 {
            output
                .line(format_args!("  {duplicates} published before: nothing new is delivered"))?;
        }
        let unmatched =
            self.receipts.iter().filter(|receipt| receipt.endpoints().is_empty()).count();
        if unmatched > 0 {
            output.line(format_args!("  {unmatched} that no endpoint asks for"))?;
        }
        Ok(())
    }

    /// Tells people what became of the deliveries; those that are alike in one line.
    pub(in crate::commands) fn show_deliveries(&self, output: &Output) -> io::Result<()> {
        let mut alike: BTreeMap<(&str, Stands, Option<&str>), (usize, u32)> = BTreeMap::new();
        for delivery in &self.deliveries {
            let key = (&*delivery.name, delivery.state, delivery.reason.as_deref());
            let (count, attempts) = alike.entry(key).or_default();
            *count += 1;
            *attempts = delivery.attempts.max(*attempts);
        }
        let lines = alike.len();
        for ((name, state, reason), (count, attempts)) in alike.into_iter().take(LINES_MAX) {
            let mark = mark(state == Stands::Delivered);
            let count = if count > 1 { format!("{count} ") } else { String::new() };
            let times =
                if attempts > 1 { format!(" after {attempts} attempts") } else { String::new() };
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            output.line(format_args!("{mark} {name}: {count}{}{times}{reason}", state.as_str()))?;
        }
        if lines > LINES_MAX {
            output.line(format_args!(
                "  and {} more lines like these; --json has all",
                lines - LINES_MAX
            ))?;
        }
        Ok(())
    }

    pub(in crate::commands) fn document(&self) -> Document<'_> {
        let accepted = self.receipts.iter().map(|receipt| Accepted {
            id: receipt.event().to_string(),
            endpoints: receipt.endpoints().len(),
            duplicate: receipt.is_duplicate(),
        });
        Document { accepted: accepted.collect(), deliveries: &self.deliveries }
    }

    /// As [`document`](Self::document), of a command that accepts nothing.
    pub(in crate::commands) fn deliveries_document(&self) -> Deliveries<'_> {
        Deliveries { deliveries: &self.deliveries }
    }

    /// Why the command failed, if it did: something was given up, or ends with it.
    pub(in crate::commands) fn failure(&self, is_durable: bool) -> Option<String> {
        let of = |states: &[Stands]| {
            let mut found =
                self.deliveries.iter().filter(|delivery| states.contains(&delivery.state));
            let first = found.next()?;
            let count = found.count() + 1;
            let reason = first.reason.as_deref().unwrap_or("no reason known");
            let deliveries =
                if count == 1 { "1 delivery was" } else { &format!("{count} deliveries were") };
            Some((deliveries.to_owned(), format!("{}: {reason}", first.name)))
        };
        if let Some((deliveries, first)) = of(&[Stands::Dead, Stands::Expired]) {
            return Some(format!("{deliveries} given up ({first})"));
        }
        if is_durable {
            return None;
        }
        let (deliveries, first) = of(&[Stands::Waiting, Stands::Held])?;
        Some(format!(
            "{deliveries} not made within --wait and end with this command ({first}); set bus.data_dir \
             to keep them"
        ))
    }
}
