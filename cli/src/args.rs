//! The command line: its shape and help. Values are checked by the commands.
#![expect(clippy::doc_markdown, reason = "the comments are the help that a terminal shows")]

mod past;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use postrider::config::HumanDuration;
use postrider::{EventId, Timestamp};

pub(crate) use past::{
    Dead, DeadCommand, DeadPurge, DeadReplay, Deliveries, Enable, Events, Filters, How, Look,
    Replay, Retry,
};

/// The heading of the options that each command has, so that they do not stand among its own.
const EVERYWHERE: &str = "Options of every command";

/// Delivers events to webhooks, files and the terminal, and never loses one.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 it failed, 2 wrong usage or invalid configuration.")]
pub(crate) struct Args {
    /// The configuration [default: postrider.toml, postrider.json or webhook_config.json in this
    /// folder, the first that exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) config: Option<PathBuf>,

    /// Writes JSON for machines to stdout; logs stay on stderr
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,

    /// Says nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,

    /// Says more: -v every attempt that failed, -vv every attempt, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = EVERYWHERE)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes a commented postrider.toml to start from
    Init(Init),
    /// Validates the configuration: every error at once, with file, line and remedy
    Check(Check),
    /// Accepts events and delivers them
    Publish(Publish),
    /// Lists events, or shows one with its payload and attempts
    Events(Events),
    /// Lists deliveries, or shows one with its attempts
    Deliveries(Deliveries),
    /// Counts what was given up, by endpoint and reason; replays or purges it
    Dead(Dead),
    /// Makes single deliveries again
    Retry(Retry),
    /// Sends past events again
    Replay(Replay),
    /// Shows how deliveries went in the last hour, day and week
    Stats,
    /// Delivers again to an endpoint whose receiver said that it wants nothing any more
    Enable(Enable),
    /// Prints the addresses that events are sent from, for receivers that let in listed ones only
    Egress,
    /// Checks a data folder that no process has open, and salvages a damaged one
    Doctor(Doctor),
    /// Makes signing secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Prints the JSON Schema of the configuration
    Schema,
    /// Prints the reference of the configuration as Markdown
    ConfigReference,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Prints a new secret (whsec_) for an endpoint's `secrets`
    New {
        /// Prints an ed25519 key instead: the secret one (whsk_), then the public one (whpk_) that
        /// receivers verify with
        #[arg(long)]
        ed25519: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The file to write: TOML [default: --config, else postrider.toml]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replaces a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Asks each enabled endpoint whether it can be reached; sends no event
    #[arg(long)]
    pub(crate) connect: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing in FOLDER is ever changed. Leftovers, and the torn end that a crash \
                        leaves, are no damage.\n\
                        Exit codes: 0 healthy, 1 damaged or it failed, 2 wrong usage or invalid \
                        configuration."
)]
pub(crate) struct Doctor {
    /// The data folder [default: bus.data_dir of the configuration]
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Makes a new folder of everything that is whole, and lists what is not
    #[arg(long, value_name = "INTO")]
    pub(crate) repair: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// The event's type, such as match or model.uploaded
    #[arg(value_name = "TYPE", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) kind: Option<String>,

    /// The payload: JSON, @FILE, or - for standard input [default: {}]
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "file", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,

    /// The event's id; publishing one again delivers nothing new [default: a new UUIDv7]
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    pub(crate) id: Option<EventId>,

    /// The ordering key
    #[arg(long, value_name = "KEY", conflicts_with = "file")]
    pub(crate) key: Option<String>,

    /// When the event happened, as RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "file")]
    pub(crate) timestamp: Option<Timestamp>,

    /// When the event is worthless: no attempt starts after it
    #[arg(long, value_name = "TIME", conflicts_with = "file")]
    pub(crate) expires_at: Option<Timestamp>,

    /// Publishes the events of a file, one JSON object a line: {"type","data"} with "id", "key",
    /// "timestamp" and "expires_at" where wanted; - for standard input
    #[arg(long, value_name = "EVENTS.ndjson")]
    pub(crate) file: Option<PathBuf>,

    /// Accepts and delivers nothing; shows which endpoints would get the events, and why the others
    /// would not
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,

    /// How long to wait for deliveries
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: HumanDuration,
}

impl Publish {
    pub(crate) fn wait(&self) -> Duration {
        self.wait.0
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Args;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
