//! `bench`: what Postrider costs beside what the machine could do at best.
//!
//! `cargo xtask bench [NAME] [--quick] [--json FILE]`; the contract with xtask is in the head of
//! `xtask/src/bench.rs`, what each benchmark measures and how to read it in `docs/BENCHMARKS.md`.
//!
//! Figures are shown and never judged: a missed goal is no failure. What fails is a benchmark that
//! cannot run, or one whose counts do not add up: an event missed by a subscriber, a line that is
//! not in the file, a request that the receiver did not get.

mod file;
mod http;
mod isolation;
mod listen;
mod measure;
mod nginx;
mod order;
mod payload;
mod receiver;
mod report;
mod route;
mod sinks;
mod store;
mod subscribe;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::report::Report;

/// What stops a benchmark.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: bench [NAME] [--quick] [--json FILE]";
const NAMES: [&str; 7] = ["subscribe", "route", "file", "http", "isolation", "order", "store"];

/// What the command line asks for.
#[derive(Default)]
struct Options {
    name: Option<String>,
    quick: bool,
    json: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// Pairs of slices for each figure.
    pairs: usize,
    /// Slices are this many times smaller than in a full run.
    divisor: usize,
}

fn main() -> ExitCode {
    let mut arguments = lexopt::Parser::from_env();
    let options = match parse(&mut arguments) {
        Ok(Role::Measure(options)) => options,
        Ok(Role::Receive) => return receiver::main(),
        Ok(Role::Backlog(arguments)) => return store::backlog::main(&arguments),
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Everything runs on the runtime's workers, the publishers too, as in a program that uses the
    // bus: a future under `block_on` would make one thread more than there are cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async { tokio::spawn(run(options)).await.map_err(Failure::from)? })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: failed to {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What this process is for.
enum Role {
    Measure(Options),
    /// It is the receiver of another one's benchmark.
    Receive,
    /// It has a large backlog for another one's benchmark.
    Backlog(Vec<String>),
}

fn parse(arguments: &mut lexopt::Parser) -> Result<Role, lexopt::Error> {
    use lexopt::prelude::*;

    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => options.quick = true,
            Long("json") => options.json = Some(arguments.value()?.into()),
            Long(receiver::FLAG) => return Ok(Role::Receive),
            Long(store::backlog::FLAG) => {
                let rest = arguments.raw_args()?.map(ValueExt::string);
                return Ok(Role::Backlog(rest.collect::<Result<_, _>>()?));
            }
            Value(name) if options.name.is_none() => options.name = Some(name.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let chosen = options.name.as_deref().unwrap_or_default();
    if !NAMES.iter().any(|name| name.contains(chosen)) {
        let known = NAMES.join(", ");
        return Err(format!("no benchmark is named {chosen:?}; there are {known}").into());
    }
    Ok(Role::Measure(options))
}

async fn run(options: Options) -> Result<(), Failure> {
    let scale = if options.quick {
        Scale { pairs: 5, divisor: 10 }
    } else {
        Scale { pairs: 25, divisor: 1 }
    };
    let seed = payload::seed()?;
    let mut report = Report::new(&scale, seed);
    let chosen = options.name.as_deref().unwrap_or_default();
    for name in NAMES.into_iter().filter(|name| name.contains(chosen)) {
        let ended = match name {
            "subscribe" => subscribe::run(&mut report, scale, seed).await,
            "route" => route::run(&mut report, scale, seed).await,
            "file" => file::run(&mut report, scale, seed).await,
            "http" => http::run(&mut report, scale, seed).await,
            "isolation" => isolation::run(&mut report, scale, seed).await,
            "order" => order::run(&mut report, scale, seed).await,
            "store" => store::run(&mut report, scale, seed).await,
            _ => unreachable!("a name without a benchmark"),
        };
        ended.map_err(|failure| format!("measure {name:?}: {failure}"))?;
    }
    if let Some(file) = &options.json {
        report.write(file).map_err(|error| format!("write {}: {error}", file.display()))?;
    }
    Ok(())
}
