//! What people see: colour only where stdout is a terminal and `NO_COLOR` is unset, and output that
//! does not panic when the reader at the other end of a pipe has gone.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::Write as _;
use std::time::{Duration, Instant};

use console::{StyledObject, Term, style};
use indicatif::{ProgressBar, ProgressStyle};

/// `println!` that ignores a closed pipe.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::term::line(format_args!($($arg)*)) };
}

/// Writes one line to stdout.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    // A reader that has seen enough (`| head`) is no failure of the command.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One line of the terminal at most; on a pipe the whole text.
pub(crate) fn fit(text: &str) -> Cow<'_, str> {
    match Term::stdout().size_checked() {
        Some((_, columns)) => console::truncate_str(text, columns.into(), "…"),
        None => text.into(),
    }
}

/// A heading above a step's output.
pub(crate) fn heading(text: &str) {
    say!("\n{} {}", style("──").dim(), style(text).bold());
}

pub(crate) fn good<D>(text: D) -> StyledObject<D> {
    style(text).green()
}

pub(crate) fn bad<D>(text: D) -> StyledObject<D> {
    style(text).red().bold()
}

pub(crate) fn warn<D>(text: D) -> StyledObject<D> {
    style(text).yellow()
}

pub(crate) fn dim<D>(text: D) -> StyledObject<D> {
    style(text).dim()
}

pub(crate) fn bold<D>(text: D) -> StyledObject<D> {
    style(text).bold()
}

/// Red for stderr, which may be a terminal when stdout is not.
pub(crate) fn bad_err<D>(text: D) -> StyledObject<D> {
    style(text).for_stderr().red().bold()
}

/// Progress on stderr: a bar on a terminal; on a pipe a plain line every two seconds.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    total: u64,
    next_line: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(2);

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let bar = ProgressBar::new(total); // Draws to stderr, and hides itself where that is a pipe.
        let template = "  {msg} {bar:30.green/dim} {pos} of {len}  {elapsed}";
        let style =
            ProgressStyle::with_template(template).expect("the template is a valid constant");
        bar.set_style(style);
        bar.set_message(what);
        Self { bar, what, total, next_line: Instant::now() + LINE_EVERY }
    }

    pub(crate) fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            eprintln!("{}: {done} of {}", self.what, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `1 event`, `3 events`.
pub(crate) fn count(n: impl Into<u64>, what: &str) -> impl Display {
    let n = n.into();
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
