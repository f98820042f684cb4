//! `postrider schema` and `postrider config-reference`: what the configuration may hold, generated
//! from the code that reads it.

use postrider::config;

use crate::output::Output;
use crate::{Exit, Failure};

pub(crate) fn schema(output: &Output) -> Result<Exit, Failure> {
    let schema = config::json_schema(&postrider_sinks::registry(), &postrider_stores::registry());
    let text = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::failed(format!("failed to write the schema: {error}")))?;
    output.text(text)?;
    Ok(Exit::Done)
}

pub(crate) fn reference(output: &Output) -> Result<Exit, Failure> {
    let page =
        config::reference_markdown(&postrider_sinks::registry(), &postrider_stores::registry());
    output.text(page.trim_end())?;
    Ok(Exit::Done)
}
