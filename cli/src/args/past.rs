//! The arguments of commands that look at what was published, and send it again.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use postrider::config::HumanDuration;
use postrider::delivery::{DeadReason, DeliveryId, StateKind};
use postrider::replay::{JobId, Rate};
use postrider::route::Pattern;
use postrider::{EventId, Timestamp};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

/// A moment: RFC 3339, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(ago))
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ago) = text.parse::<HumanDuration>() {
            return Ok(Self::Ago(ago.0));
        }
        text.parse().map(Self::At).map_err(|_| {
            "expected a time such as 2025-11-30T14:30:45Z, or how long ago, such as 2h or 7d"
                .to_owned()
        })
    }
}

fn read<'de, T: Deserialize<'de>>(text: &'de str) -> T {
    let text: StrDeserializer<'de, ValueError> = text.into_deserializer();
    T::deserialize(text).expect("only the words of the list come here")
}

fn states() -> impl TypedValueParser<Value = StateKind> {
    let words = ["waiting", "leased", "delivered", "dead", "expired", "purged", "unmatched"];
    PossibleValuesParser::new(words).map(|word| read(&word))
}

fn reasons() -> impl TypedValueParser<Value = DeadReason> {
    PossibleValuesParser::new(["exhausted", "rejected", "gone"]).map(|word| read(&word))
}

/// Which events. Lists may be given with commas or by several flags.
#[derive(Debug, Default, Args)]
pub(crate) struct Filters {
    /// Of this type or pattern, such as match or model.*
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<Pattern>,

    /// With a delivery to this endpoint
    #[arg(long, value_name = "ID|NAME", value_delimiter = ',')]
    pub(crate) endpoint: Vec<String>,

    /// Accepted at this time or later: 2025-11-30T14:30:45Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,

    /// Accepted before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
}

impl Filters {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { types, endpoint, since, until } = self;
        types.is_empty() && endpoint.is_empty() && since.is_none() && until.is_none()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Shows this event with its payload and every attempt
    #[arg(value_name = "ID")]
    pub(crate) id: Option<EventId>,
    #[command(flatten)]
    pub(crate) look: Look,
}

#[derive(Debug, Args)]
pub(crate) struct Deliveries {
    /// Shows this delivery with every attempt
    #[arg(value_name = "ENDPOINT.EVENT")]
    pub(crate) id: Option<DeliveryId>,
    #[command(flatten)]
    pub(crate) look: Look,
}

#[derive(Debug, Args)]
pub(crate) struct Look {
    #[command(flatten)]
    pub(crate) filters: Filters,

    /// With a delivery in this state
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    pub(crate) state: Vec<StateKind>,

    /// Shows at most so many, the newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    pub(crate) command: Option<DeadCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Sends dead deliveries again, each to its own endpoint
    Replay(DeadReplay),
    /// Sets dead and expired deliveries aside for good; they stay in history
    Purge(DeadPurge),
}

#[derive(Debug, Args)]
pub(crate) struct DeadReplay {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// Given up for this reason
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reasons())]
    pub(crate) reason: Vec<DeadReason>,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct DeadPurge {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// Given up for this reason
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reasons())]
    pub(crate) reason: Vec<DeadReason>,
    /// Does not ask on a terminal
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Deliveries, as `postrider deliveries` and `publish` name them
    #[arg(value_name = "ENDPOINT.EVENT", required = true)]
    pub(crate) ids: Vec<DeliveryId>,

    /// How long to wait for deliveries
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: HumanDuration,
}

impl Retry {
    pub(crate) fn wait(&self) -> Duration {
        self.wait.0
    }
}

/// What a replay that is there already was asked for long ago.
const NEW_REPLAY: [&str; 10] = [
    "types",
    "endpoint",
    "since",
    "until",
    "state",
    "to",
    "never_delivered",
    "dry_run",
    "rate",
    "yes",
];

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) filters: Filters,

    /// With a delivery in this state
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    pub(crate) state: Vec<StateKind>,

    /// To this endpoint, whether the events went there before or not [default: each to where it went]
    #[arg(long, value_name = "ID|NAME")]
    pub(crate) to: Option<String>,

    /// Only what the endpoint of --to (or --endpoint) has never got
    #[arg(long)]
    pub(crate) never_delivered: bool,

    #[command(flatten)]
    pub(crate) how: How,

    /// Does not ask on a terminal before it sends everything again
    #[arg(long)]
    pub(crate) yes: bool,

    /// Lists replays
    #[arg(long, group = "job", conflicts_with_all = NEW_REPLAY)]
    pub(crate) list: bool,

    /// Ends a replay; what it has made stays owed
    #[arg(long, value_name = "ID", group = "job", conflicts_with_all = NEW_REPLAY)]
    pub(crate) cancel: Option<JobId>,

    /// Goes on with a replay that was broken off
    #[arg(long, value_name = "ID", group = "job", conflicts_with_all = NEW_REPLAY)]
    pub(crate) resume: Option<JobId>,
}

/// How a replay goes.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Counts what it would send, and sends nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Most deliveries made a second, minute or hour [default: as fast as the store takes them]
    #[arg(long, value_name = "N/s")]
    pub(crate) rate: Option<Rate>,

    /// How long to wait for the replay and its deliveries; what is left then goes on with --resume
    /// [default: until the replay has ended, and 30s more]
    #[arg(long, value_name = "DURATION")]
    wait: Option<HumanDuration>,
}

impl How {
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.wait.map(|wait| wait.0)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// The endpoint
    #[arg(value_name = "ID|NAME")]
    pub(crate) endpoint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_so_long_ago() {
        let now: Timestamp = "2025-11-30T14:30:45Z".parse().unwrap();
        let check = |text: &str, expect: Option<&str>| {
            let found = text.parse::<Moment>().ok().map(|moment| moment.before(now).to_string());
            assert_eq!(found.as_deref(), expect, "{text:?}");
        };
        check("2h", Some("2025-11-30T12:30:45.000Z"));
        check("1d 30m", Some("2025-11-29T14:00:45.000Z"));
        check("2025-11-30T15:30:45+01:00", Some("2025-11-30T14:30:45.000Z"));
        check("yesterday", None);
        check("12", None);
    }
}
