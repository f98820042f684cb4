//! `cargo xtask`: what one does with this repository. Each command drives the other packages from
//! outside, as a user would; nothing here is linked to them.

mod bench;
mod codegen;
mod demo;
mod fuzz;
mod process;
mod programs;
mod results;
mod scratch;
mod setup;
mod suite;
mod term;
mod tidy;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask COMMAND

  demo [--keep] [--events N]  send the guide's events through a bus to a webhook, a file and the
                              terminal, and check that each arrived exactly once
                                --keep      leave the receiver and a bus running until ctrl-c,
                                            with their addresses printed
                                --events N  1 to 100000 events (default 3)
  test [--long]               run everything; the last line says N passed, N failed, N skipped
                                --long      the same tests with larger numbers
  setup                       install what the tests need, or say which command does
  e2e [NAME]                  run the end-to-end tests whose name contains NAME
  bench [NAME] [--quick] [--json FILE]
                              run the benchmarks, each beside its limit
  fuzz [TARGET] [--seconds N] look for inputs that break the log's recovery and the parsers, each
                              target for N seconds (default 60)
  tidy                        check the house rules that can be read off the tree
  codegen [--check]           write the generated files, or check that they are current
  ci                          what CI runs: test

Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.";

/// Why a command did not succeed.
#[derive(Debug)]
enum Fail {
    /// The command line is wrong.
    Usage(String),
    /// The command ran and did not succeed; the text says why.
    Failed(String),
    /// The command did not succeed, and has said all about it.
    Told,
    /// Ctrl-c, or a request to end.
    Interrupted,
}

impl Fail {
    fn new(reason: impl fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(reason) | Self::Failed(reason) => f.write_str(reason),
            Self::Told => f.write_str("see above"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<lexopt::Error> for Fail {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

type Outcome<T = ()> = Result<T, Fail>;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
enum Command {
    Help,
    Demo(demo::Options),
    Test { long: bool },
    Setup,
    EndToEnd { name: Option<String> },
    Bench(bench::Options),
    Fuzz(fuzz::Options),
    Tidy,
    Codegen { check: bool },
}

fn main() -> ExitCode {
    let outcome =
        process::watch_signals().and_then(|()| parse(std::env::args_os().skip(1))).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fail::Usage(reason)) => {
            eprintln!("{} {reason}\n\n{HELP}", term::bad_err("error:"));
            ExitCode::from(2)
        }
        Err(Fail::Failed(reason)) => {
            eprintln!("{} {reason}", term::bad_err("failed:"));
            ExitCode::FAILURE
        }
        Err(Fail::Told) => ExitCode::FAILURE,
        Err(Fail::Interrupted) => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Help => {
            say!("{HELP}");
            Ok(())
        }
        Command::Demo(options) => demo::run(&options, &demo::build()?),
        Command::Test { long } => suite::run(long),
        Command::Setup => setup::run(),
        Command::EndToEnd { name } => suite::run_end_to_end(name.as_deref()),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Tidy => tidy::run(),
        Command::Codegen { check } => codegen::run(check, &codegen::build()?),
    }
}

/// Reads the command line, without the program's name.
fn parse(args: impl Iterator<Item = OsString>) -> Outcome<Command> {
    let mut args = lexopt::Parser::from_args(args);
    let name = match args.next()? {
        None => return Err(Fail::Usage("which command?".into())),
        Some(Short('h') | Long("help")) => return Ok(Command::Help),
        Some(Value(name)) => name.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let mut command = match name.as_str() {
        "help" => Command::Help,
        "demo" => Command::Demo(demo::Options::default()),
        "test" | "ci" => Command::Test { long: false },
        "setup" => Command::Setup,
        "e2e" => Command::EndToEnd { name: None },
        "bench" => Command::Bench(bench::Options::default()),
        "fuzz" => Command::Fuzz(fuzz::Options::default()),
        "tidy" => Command::Tidy,
        "codegen" => Command::Codegen { check: false },
        other => return Err(Fail::Usage(format!("no command is named {other:?}"))),
    };
    let ci = name == "ci"; // CI takes no option, so that it runs what everybody runs.
    while let Some(arg) = args.next()? {
        match (&mut command, arg) {
            (_, Short('h') | Long("help")) => return Ok(Command::Help),
            (Command::Demo(options), Long("keep")) => options.keep = true,
            (Command::Demo(options), Long("events")) => {
                options.events = demo::events_from(&args.value()?.string()?)?;
            }
            (Command::Test { long }, Long("long")) if !ci => *long = true,
            (Command::EndToEnd { name: name @ None }, Value(value)) => {
                *name = Some(value.string()?);
            }
            (Command::Bench(options), Value(value)) if options.name.is_none() => {
                options.name = Some(value.string()?);
            }
            (Command::Bench(options), Long("quick")) => options.quick = true,
            (Command::Bench(options), Long("json")) => {
                options.json = Some(PathBuf::from(args.value()?));
            }
            (Command::Fuzz(options), Value(value)) if options.target.is_none() => {
                options.target = Some(value.string()?);
            }
            (Command::Fuzz(options), Long("seconds")) => options.seconds = args.value()?.parse()?,
            (Command::Codegen { check }, Long("check")) => *check = true,
            (_, other) => return Err(other.unexpected().into()),
        }
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Outcome<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_take_their_options() {
        let check =
            |line: &str, expect: Command| assert_eq!(parsed(line).unwrap(), expect, "{line}");
        check("demo", Command::Demo(demo::Options { events: 3, keep: false }));
        check(
            "demo --keep --events 10000",
            Command::Demo(demo::Options { events: 10_000, keep: true }),
        );
        check("test --long", Command::Test { long: true });
        check("ci", Command::Test { long: false });
        check("e2e http", Command::EndToEnd { name: Some("http".into()) });
        check("demo --help", Command::Help);
        let fuzz = fuzz::Options { target: Some("record".into()), seconds: 5 };
        check("fuzz record --seconds 5", Command::Fuzz(fuzz));
        let bench = bench::Options {
            name: Some("store".into()),
            quick: true,
            json: Some("out.json".into()),
        };
        check("bench store --quick --json out.json", Command::Bench(bench));
    }

    #[test]
    fn wrong_usage_is_told_apart_from_failure() {
        for line in [
            "",
            "dance",
            "demo --events",
            "demo --events 0",
            "demo --events 100001",
            "demo --events many",
            "ci --long",
            "e2e a b",
            "--keep",
            "tidy now",
            "fuzz --seconds soon",
            "fuzz a b",
        ] {
            assert!(matches!(parsed(line), Err(Fail::Usage(_))), "{line:?}");
        }
    }
}
