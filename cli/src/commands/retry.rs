//! `postrider retry`: makes single deliveries again.

use std::time::Duration;

use super::config;
use super::past;
use super::publish::report::Account;
use super::publish::{GRACE, settled};
use crate::args::{Args, Retry};
use crate::output::Output;
use crate::{Exit, Failure};

pub(crate) async fn run(args: &Args, retry: &Retry, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let mut account = Account::new(&config);
    let bus = past::deliver(config, output).await?;
    let mut made = Vec::new();
    let mut refused = Vec::new();
    for id in &retry.ids {
        match bus.retry(id).await {
            Ok(id) => made.push(id),
            // The others are made all the same.
            Err(error) => refused.push(error),
        }
    }
    // Also where the store has failed meanwhile, what is known is told first, then what went wrong.
    let waited = settled(&bus, retry.wait(), &made, &mut account).await;
    bus.drain(GRACE).await;
    let closed = bus.shutdown(Duration::ZERO).await;

    account.show_deliveries(output)?;
    output.json(&account.deliveries_document())?;
    if !refused.is_empty() {
        let refused = refused.iter().map(|error| format!("failed to {}", error.chain()));
        return Err(Failure::failed(refused.collect::<Vec<_>>().join("\n")));
    }
    let is_interrupted = waited?;
    closed?;
    if let Some(failure) = account.failure(true) {
        return Err(Failure::failed(failure));
    }
    if is_interrupted {
        return Err(Failure::failed("interrupted"));
    }
    Ok(Exit::Done)
}
