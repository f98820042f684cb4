//! `postrider`: events from the command line.
//!
//! Reads the arguments, starts logging on stderr, runs one command, and turns what became of it into
//! an exit code. Only this crate prints.

mod args;
mod commands;
mod output;
mod table;

use std::process::ExitCode;

use clap::Parser;
use postrider::ErrorKind;

use args::{Args, Command};
use output::Output;

/// How a command ended: the program's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: it failed; the reason is on stderr.
    Failed,
    /// 2: wrong usage or an invalid configuration. (Wrong usage also comes from clap, as 2.)
    Invalid,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Invalid => 2,
        })
    }
}

/// A command that ended badly, with what to say on stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// For machines, where there is more to tell than the message.
    pub(crate) errors: Option<serde_json::Value>,
}

impl Failure {
    /// It failed (1).
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), errors: None }
    }

    /// Wrong usage or an invalid configuration (2).
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { exit: Exit::Invalid, message: message.into(), errors: None }
    }
}

impl From<postrider::Error> for Failure {
    fn from(error: postrider::Error) -> Self {
        let message = format!("failed to {}", error.chain());
        match error.kind() {
            // No other try of the same words can succeed.
            ErrorKind::Config | ErrorKind::Invalid | ErrorKind::TooLarge => Self::invalid(message),
            _ => Self::failed(message),
        }
    }
}

impl From<postrider::config::ConfigErrors> for Failure {
    fn from(errors: postrider::config::ConfigErrors) -> Self {
        let count = errors.iter().len();
        let mistakes = if count == 1 { "1 mistake" } else { &format!("{count} mistakes") };
        let each = errors.iter().map(|error| {
            serde_json::json!({
                "place": error.place.to_string(),
                "line": error.place.line,
                "key": error.key,
                "message": error.message,
                "found": error.found,
                "remedy": error.remedy,
            })
        });
        let each: Vec<_> = each.collect();
        Self {
            errors: Some(serde_json::json!({ "errors": each })),
            ..Self::invalid(format!("the configuration has {mistakes}\n{errors}"))
        }
    }
}

/// A command that cannot write its output has nobody to tell more than the reason.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(format!("failed to write to stdout: {error}"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    output::log(&args);
    let output = Output::new(&args);
    let done = match &args.command {
        Command::Init(init) => commands::init::run(&args, init, &output),
        Command::Check(check) => run_async(commands::check::run(&args, check, &output)),
        Command::Publish(publish) => run_async(commands::publish::run(&args, publish, &output)),
        Command::Events(events) => run_async(commands::events::run(&args, events, &output)),
        Command::Deliveries(deliveries) => {
            run_async(commands::deliveries::run(&args, deliveries, &output))
        }
        Command::Dead(dead) => run_async(commands::dead::run(&args, dead, &output)),
        Command::Retry(retry) => run_async(commands::retry::run(&args, retry, &output)),
        Command::Replay(replay) => run_async(commands::replay::run(&args, replay, &output)),
        Command::Stats => run_async(commands::stats::run(&args, &output)),
        Command::Enable(enable) => run_async(commands::enable::run(&args, enable, &output)),
        Command::Egress => run_async(commands::egress::run(&args, &output)),
        Command::Doctor(doctor) => commands::doctor::run(&args, doctor, &output),
        Command::Secret(command) => commands::secret::run(command, &output),
        Command::Schema => commands::schema::schema(&output),
        Command::ConfigReference => commands::schema::reference(&output),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(errors) = &failure.errors {
                // What cannot be written is on stderr all the same.
                let _ = output.json(errors);
            }
            output::error(&failure.message);
            failure.exit.into()
        }
    }
}

fn run_async(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::failed(format!("failed to start the runtime: {error}")))?
        .block_on(command)
}
