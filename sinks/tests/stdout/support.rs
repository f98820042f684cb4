//! What the tests share: attempts, and children whose standard output is looked at.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use postrider::clock::SystemClock;
use postrider::delivery::DeliveryId;
use postrider::event::{NewEvent, write_line};
use postrider::sink::Attempt;

/// Longest that anything here may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The `n`th attempt with a payload of about `size` bytes: the same in parent and child.
pub(crate) fn attempt(n: usize, size: usize) -> Attempt {
    let payload = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(size));
    let event = NewEvent::raw("match", payload)
        .unwrap()
        .id(format!("id-{n}").parse().unwrap())
        .time("2025-11-30T14:30:45.123Z".parse().unwrap());
    let event = event.seal(&SystemClock, 1 << 24).unwrap();
    let delivery = DeliveryId::new("console".parse().unwrap(), event.id().clone());
    Attempt::new(delivery, Arc::new(event), 1, "2025-11-30T14:30:45Z".parse().unwrap(), DEADLINE)
}

/// The NDJSON line that an attempt must become.
pub(crate) fn line(attempt: &Attempt) -> String {
    let mut line = Vec::new();
    write_line(&attempt.event, &mut line);
    String::from_utf8(line).unwrap()
}

/// Set in a child process: which part it plays.
const ROLE: &str = "POSTRIDER_TEST_ROLE";

/// The role of a child process; `None` in the test itself.
pub(crate) fn child() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A program that runs the test called `test` of this binary as a child; `before` are a program and
/// arguments that this binary is handed to, if any.
pub(crate) fn as_child(before: &[&str], test: &str, role: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    // With two threads the harness prints nothing between its heading and its result.
    command.args(["--exact", test, "--nocapture", "--test-threads=2"]).env(ROLE, role);
    command
}

/// Ends a child before the test harness prints more.
pub(crate) fn done() -> ! {
    std::process::exit(0)
}

/// What a child printed after the heading of the test harness.
pub(crate) fn after_heading(out: &str) -> &str {
    let (_, rest) =
        out.split_once("running 1 test").unwrap_or_else(|| panic!("no test in {out:?}"));
    rest.trim_start_matches(['\r', '\n'])
}
