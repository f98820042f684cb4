//! The commands, one file each.

pub(crate) mod check;
pub(crate) mod dead;
pub(crate) mod deliveries;
pub(crate) mod doctor;
pub(crate) mod egress;
pub(crate) mod enable;
pub(crate) mod events;
pub(crate) mod init;
mod past;
pub(crate) mod publish;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod stats;

use postrider::config::{Config, EndpointConfig, Loader};

use crate::Failure;
use crate::args::Args;
use crate::output::Output;

/// The configuration that the command works with; its warnings are said.
fn config(args: &Args, output: &Output) -> Result<Config, Failure> {
    let config = loader(args).load()?;
    for warning in &config.warnings {
        output.warning(warning);
    }
    Ok(config)
}

fn loader(args: &Args) -> Loader {
    let loader = Config::loader()
        .registry(&postrider_sinks::registry())
        .stores(&postrider_stores::registry());
    match &args.config {
        Some(file) => loader.file(file),
        // The current folder, so that messages name the file as people do.
        None => loader.find(""),
    }
}

/// Where an endpoint writes its events to stdout, people are told on stderr.
fn share_stdout(config: &Config, output: &Output) {
    let is_stdout = |it: &EndpointConfig| it.enabled && it.sink.sink() == "stdout";
    if config.endpoints.iter().any(is_stdout) {
        output.share_stdout();
    }
}
