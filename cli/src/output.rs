//! What is printed: people's output or JSON on stdout, logs and errors on stderr.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Read, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;

use crate::args::Args;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();
const GOOD: Style = AnsiColor::Green.on_default();

/// Where a command prints. Colours appear on a terminal only, and not where `NO_COLOR` is set.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// Whether events go to stdout, so that people are told on stderr.
    is_shared: Cell<bool>,
    /// Whether whoever read stdout has gone.
    is_closed: Cell<bool>,
}

impl Output {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            json: args.json,
            quiet: args.quiet,
            is_shared: Cell::new(false),
            is_closed: Cell::new(false),
        }
    }

    /// An endpoint writes its events to stdout: what is said to people goes to stderr from now on,
    /// so that a pipe carries events only.
    pub(crate) fn share_stdout(&self) {
        self.is_shared.set(true);
    }

    /// A line for people; nothing where stdout is for machines or nothing is wanted.
    pub(crate) fn line(&self, line: impl fmt::Display) -> io::Result<()> {
        if self.json || self.quiet {
            Ok(())
        } else if self.is_shared.get() {
            writeln!(anstream::stderr(), "{line}")
        } else {
            self.write(line)
        }
    }

    /// The JSON document of a command, on one line; nothing where stdout is for people.
    pub(crate) fn json(&self, document: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        self.write(serde_json::to_string(document)?)
    }

    /// What a command is asked for, to people and machines alike (a schema, a generated page).
    pub(crate) fn text(&self, text: impl fmt::Display) -> io::Result<()> {
        self.write(text)
    }

    fn write(&self, line: impl fmt::Display) -> io::Result<()> {
        if self.is_closed.get() {
            return Ok(());
        }
        let mut stdout = anstream::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            // Whoever read it has seen enough (`postrider … | head`): the command goes on, and ends
            // with the code that it would have ended with.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed.set(true);
                Ok(())
            }
            done => done,
        }
    }

    /// Whether nothing is wanted but errors.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A warning, on stderr.
    pub(crate) fn warning(&self, message: impl fmt::Display) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {message}");
        }
    }
}

/// An error, on stderr. Nobody is left to tell where that fails.
pub(crate) fn error(message: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{ERROR}error:{ERROR:#} {message}");
}

/// Whether there is somebody to ask.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal; anything but `y` or `yes` means no.
pub(crate) fn ask(question: impl fmt::Display) -> io::Result<bool> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(100).read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The mark before something that is well, or is not.
pub(crate) fn mark(is_well: bool) -> String {
    if is_well { format!("{GOOD}✓{GOOD:#}") } else { format!("{ERROR}✗{ERROR:#}") }
}

/// Something that is neither well nor bad.
pub(crate) fn note(text: &str) -> String {
    format!("{WARNING}{text}{WARNING:#}")
}

/// Something that is bad.
pub(crate) fn bad(text: &str) -> String {
    format!("{ERROR}{text}{ERROR:#}")
}

/// Starts logging to stderr: warnings, or as `-q` and `-v` say.
pub(crate) fn log(args: &Args) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let ansi =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(ansi).init();
}
