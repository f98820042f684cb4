//! `postrider enable`: delivers to an endpoint again whose receiver said that it wants nothing any
//! more.

use postrider::endpoint::Hold;
use serde::Serialize;

use super::config;
use super::past::{self, Names};
use crate::args::{Args, Enable};
use crate::output::Output;
use crate::{Exit, Failure};

#[derive(Serialize)]
struct Enabled<'a> {
    endpoint: &'a str,
    /// What held it.
    #[serde(flatten)]
    was: Option<Hold>,
}

pub(crate) async fn run(args: &Args, enable: &Enable, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let names = Names::new(&config);
    let id = names.find(&enable.endpoint)?;
    let bus = past::look(config).await?;
    let was = bus.hold(&id);
    bus.enable(&id).await?;
    past::close(bus).await?;
    output.json(&Enabled { endpoint: id.as_str(), was: was.clone() })?;
    let name = names.of(&id);
    match was {
        Some(Hold::Gone(gone)) if gone.failing_since.is_some() => output.line(format_args!(
            "{name} is enabled; it was disabled at {}, since nothing succeeded any more",
            gone.since
        ))?,
        Some(Hold::Gone(gone)) => output.line(format_args!(
            "{name} is enabled; its receiver wanted nothing any more since {}",
            gone.since
        ))?,
        _ => output.line(format_args!("{name} was enabled already"))?,
    }
    Ok(Exit::Done)
}
