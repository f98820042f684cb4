//! The program: its arguments, exit codes (0 done, 1 it failed, 2 wrong usage) and commands.

mod client;
mod look;
mod more;
mod serve;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use mock_receiver::Matcher;
use serde_json::{Map, Value, json};

/// Captures webhooks byte for byte, answers them, and lets you look.
///
/// Without a command it runs the receiver: any request to /BIN or /BIN/any/path of the capture
/// address is kept in bin BIN and answered 200 {"received":true}; what was kept is read from the
/// admin address. It ends on ctrl-c or SIGTERM.
#[derive(Parser)]
#[command(name = "mock-receiver", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Args)]
struct ServeArguments {
    /// Where to capture; port 0 takes any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4010", value_parser = address)]
    listen: SocketAddr,
    /// Where to serve the admin API; port 0 takes any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4011", value_parser = address)]
    admin: SocketAddr,
    /// What bins answer: a TOML, YAML or JSON file
    #[arg(long, value_name = "FILE")]
    scenario: Vec<std::path::PathBuf>,
    /// Pass requests of a bin on to this URL, and its answers back; may be given several times
    #[arg(long, value_name = "BIN=URL", value_parser = forward)]
    forward: Vec<(String, String)>,
    /// Speak TLS on the capture address, with a certificate for its loopback names
    #[arg(long)]
    tls: bool,
    /// Open a further address whose TLS handshake is bad in this way; may be given several times
    #[arg(long, value_name = "FAULT", value_parser = tls_fault)]
    bad_tls: Vec<mock_receiver::TlsFault>,
    /// Keep captures in this folder across restarts; made when there is none
    #[arg(long, value_name = "DIR")]
    store: Option<std::path::PathBuf>,
    /// The bearer token of the admin API; made when not given
    #[arg(long, env = "MOCK_RECEIVER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A secret with which senders sign; several while one is rotated out, the current one first
    #[arg(long, value_name = "SECRET", env = "MOCK_RECEIVER_SECRET", hide_env_values = true)]
    secret: Vec<String>,
    /// Machine output: a line with the addresses and the token, then one line per request
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Waits until a running receiver has enough requests; exit code 1 if they do not come
    Wait {
        #[command(flatten)]
        remote: Remote,
        /// The bin
        #[arg(long)]
        bin: String,
        /// How many requests
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// For how long: 500ms, 10s, 2m
        #[arg(long, default_value = "10s", value_parser = duration)]
        timeout: Duration,
        /// Which requests count, as in the API: '{"event":"match"}'
        #[arg(long, value_name = "JSON", value_parser = matcher)]
        r#match: Option<Matcher>,
    },
    /// Lists what a running receiver has captured
    Ls {
        #[command(flatten)]
        remote: Remote,
        /// Only this bin
        #[arg(long)]
        bin: Option<String>,
        /// Only these, for example: method:POST -status:2xx body:"refund"
        #[arg(long)]
        filter: Option<String>,
    },
    /// Shows one request: its head as sent, its body, and what is known of its signatures
    Show {
        #[command(flatten)]
        remote: Remote,
        /// The number of the request
        seq: u64,
    },
    /// Shows what came by message: attempts, gaps, answers, what came again
    Deliveries {
        #[command(flatten)]
        remote: Remote,
        /// The bin
        #[arg(long)]
        bin: String,
        /// What holds the id: a header, or a JSON pointer (/data/id); else the usual ones
        #[arg(long)]
        key: Option<String>,
        /// The gaps that are expected, and what differs from them is said: 5s,5m,30m
        #[arg(long)]
        schedule: Option<String>,
    },
    /// Checks what a running receiver has captured; exit code 1 and an account if it does not hold
    Assert(AssertArguments),
    /// Says in what two requests differ
    Diff {
        #[command(flatten)]
        remote: Remote,
        /// The number of the one
        a: u64,
        /// The number of the other
        b: u64,
    },
    /// Writes requests for other tools
    Export {
        #[command(flatten)]
        remote: Remote,
        /// How
        #[arg(long, value_enum, default_value = "har")]
        format: more::Format,
        /// Only this bin
        #[arg(long)]
        bin: Option<String>,
        /// Only these, as in ls
        #[arg(long)]
        filter: Option<String>,
        /// Where curl is to send
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4010")]
        to: String,
        /// Only the requests with these numbers
        #[arg(conflicts_with_all = ["bin", "filter"])]
        seqs: Vec<u64>,
    },
}

#[derive(Args)]
#[group(skip)]
struct AssertArguments {
    #[command(flatten)]
    remote: Remote,
    /// The bin
    #[arg(long)]
    bin: String,
    /// What holds the id of a message: a header, or a JSON pointer (/data/id)
    #[arg(long)]
    key: Option<String>,
    /// Only these requests, as in wait
    #[arg(long, value_name = "JSON", value_parser = matcher)]
    r#match: Option<Matcher>,
    /// Each message was answered with 2xx once and did not come again
    #[arg(long)]
    exactly_once: bool,
    /// Messages were taken over in the order of this header or JSON pointer
    #[arg(long, value_name = "KEY")]
    ordered_by: Option<String>,
    /// Messages were tried again after these gaps: 5s,5m,30m
    #[arg(long, value_name = "GAPS", value_delimiter = ',', value_parser = duration)]
    backoff: Vec<Duration>,
    /// How far from a gap is still right, as a part of it
    #[arg(long, default_value_t = 0.2, requires = "backoff")]
    tolerance: f64,
    /// Each request has a signature that holds with this secret
    #[arg(long, value_name = "SECRET")]
    signed_with: Option<String>,
    /// Nothing more comes for this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    none_within: Option<Duration>,
    /// Where to write report.html and report.har if a check does not hold
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

impl AssertArguments {
    /// The body of the call.
    fn document(&self) -> Value {
        let mut document = Map::new();
        let mut put = |name: &str, value: Value| drop(document.insert(name.to_owned(), value));
        put("bin", json!(self.bin));
        put("exactly_once", json!(self.exactly_once));
        if let Some(matcher) = &self.r#match {
            put("match", json!(matcher));
        }
        if !self.backoff.is_empty() {
            let millis: Vec<_> = self.backoff.iter().map(Duration::as_millis).collect();
            put("backoff", json!({ "schedule_ms": millis, "tolerance": self.tolerance }));
        }
        let within = self.none_within.map(|within| json!(within.as_millis()));
        for (name, value) in [
            ("key", self.key.as_ref().map(|key| json!(key))),
            ("ordered_by", self.ordered_by.as_ref().map(|key| json!(key))),
            ("signed_with", self.signed_with.as_ref().map(|secret| json!(secret))),
            ("none_within_ms", within),
        ] {
            if let Some(value) = value {
                put(name, value);
            }
        }
        document.into()
    }
}

/// A running receiver.
#[derive(Args)]
struct Remote {
    /// Its admin address
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4011", value_parser = address)]
    admin: SocketAddr,
    /// Its token, which it printed at its start
    #[arg(long, env = "MOCK_RECEIVER_TOKEN", hide_env_values = true)]
    token: String,
    /// Machine output: one JSON document per line
    #[arg(long)]
    json: bool,
}

/// The whole program.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse(); // Wrong usage ends here, with code 2.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime to be had: {error}")),
    };
    let done = runtime.block_on(async {
        match arguments.command {
            None => serve::serve(arguments.serve).await,
            Some(Command::Wait { remote, bin, count, timeout, r#match }) => {
                look::wait(&remote, &bin, count, timeout, r#match.as_ref()).await
            }
            Some(Command::Ls { remote, bin, filter }) => {
                look::ls(&remote, bin.as_deref(), filter.as_deref()).await
            }
            Some(Command::Show { remote, seq }) => look::show(&remote, seq).await,
            Some(Command::Deliveries { remote, bin, key, schedule }) => {
                more::deliveries(&remote, &bin, key.as_deref(), schedule.as_deref()).await
            }
            Some(Command::Assert(asked)) => {
                let waits = asked.none_within.unwrap_or_default();
                more::assert(&asked.remote, asked.document(), waits, asked.report.as_deref()).await
            }
            Some(Command::Diff { remote, a, b }) => more::diff(&remote, a, b).await,
            Some(Command::Export { remote, format, bin, filter, to, seqs }) => {
                let (bin, filter) = (bin.as_deref(), filter.as_deref());
                let wanted = more::Wanted { seqs: &seqs, bin, filter };
                more::export(&remote, format, wanted, &to).await
            }
        }
    });
    // A thread that is still busy writing to a reader that does not read must not keep us.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("mock-receiver: {message}");
    ExitCode::FAILURE
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'));
    bare.parse().map_err(|_| "expected IP:PORT, for example 127.0.0.1:4010".to_owned())
}

fn forward(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(bin, url)| !bin.is_empty() && !url.is_empty());
    let (bin, url) = pair.ok_or("expected BIN=URL, for example app=http://127.0.0.1:3000")?;
    Ok((bin.to_owned(), url.to_owned()))
}

fn tls_fault(text: &str) -> Result<mock_receiver::TlsFault, String> {
    let all = mock_receiver::TlsFault::ALL;
    all.into_iter().find(|fault| fault.as_str() == text).ok_or_else(|| {
        format!("expected one of {}", all.map(mock_receiver::TlsFault::as_str).join(", "))
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|byte: char| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    number
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a number and ms, s, m or h, for example 10s".to_owned())
}

fn matcher(text: &str) -> Result<Matcher, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Text that cannot play tricks on a terminal: control characters but line ends and tabs are
/// written out.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' => safe.push(char),
            char if char.is_control() => safe.extend(char.escape_default()),
            char => safe.push(char),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "s", "10", "-1s", "1d", "1.5s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_is_not_played_with() {
        assert_eq!(printable("a\u{1b}[2J\tb\n"), "a\\u{1b}[2J\tb\n");
    }
}
