//! `demo --keep`: the receiver and a bus that goes on taking events, until a signal comes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{command, create, last_lines, read_text, receiver};
use crate::process::{self, Guard, TICK};
use crate::scratch::Scratch;
use crate::{Fail, Outcome, say, term};

/// Bound on the dashboard's start.
const START_MAX: Duration = Duration::from_secs(10);
/// What the kept dashboard says on stderr.
const LOG: &str = "kept.log";

/// Starts a dashboard that listens, says where both are, and leaves them running. The dashboard ends
/// before the receiver, so that what it still owes can arrive.
pub(super) fn hold(
    dashboard: &Path,
    receiver: &mut receiver::Receiver,
    folder: &Scratch,
) -> Outcome {
    let log = folder.join(LOG);
    let mut command = command(dashboard, folder, 0);
    // Its stdout stays ours: what is sent shows up in this terminal, from the console endpoint.
    command.args(["--listen", "127.0.0.1:0"]).stderr(create(&log)?);
    let mut guard = Guard::start_apart(&mut command)?;
    let bus = wait_for_address(&mut guard, &log)?;

    let receiver::Receiver { capture, admin, token, .. } = &*receiver;
    let bin = receiver::BIN;
    say!("\n{} until ctrl-c", term::bold("kept"));
    say!("  bus       {bus}/api/events/TYPE");
    say!("  receiver  {capture}/{bin}");
    say!("  admin     {admin}");
    say!("  token     {token}");
    say!("  files     {}", folder.path().display());
    say!(
        "{}",
        term::dim("  # publish an event; its line from the console endpoint shows up below")
    );
    say!(
        "  curl -d '{{\"model_name\":\"new_glasses.glb\",\"has_thumbnail\":true,\
         \"uploaded_by\":\"you\"}}' {bus}/api/events/upload"
    );
    say!("{}", term::dim("  # list what arrived at the webhook"));
    say!("  curl -H 'authorization: Bearer {token}' '{admin}/api/v1/requests?bin={bin}'");
    while process::check_interrupt().is_ok() {
        receiver.check()?;
        check(&mut guard, &log)?;
        thread::sleep(TICK);
    }
    Ok(())
}

/// Waits for the dashboard's line in its log.
fn wait_for_address(guard: &mut Guard, log: &Path) -> Outcome<String> {
    let started = Instant::now();
    loop {
        if let Some(address) = address(&read_text(log)?) {
            return Ok(address.to_owned());
        }
        process::check_interrupt()?;
        check(guard, log)?;
        if started.elapsed() > START_MAX {
            return Err(Fail::new(format_args!(
                "the dashboard does not listen after {} s{}",
                START_MAX.as_secs(),
                last_lines(log)
            )));
        }
        thread::sleep(TICK);
    }
}

/// Fails where the dashboard has ended by itself.
fn check(guard: &mut Guard, log: &Path) -> Outcome {
    match guard.ended()? {
        Some(status) => Err(Fail::new(format_args!(
            "the dashboard ended by itself with {status}{}",
            last_lines(log)
        ))),
        None => Ok(()),
    }
}

/// The address in a log, once its line is whole.
fn address(log: &str) -> Option<&str> {
    let mut whole = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.find_map(|line| line.strip_prefix("listening on "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_once_its_line_is_whole() {
        let check = |log: &str, expect: Option<&str>| assert_eq!(address(log), expect, "{log:?}");
        check("", None);
        check("listening on http://127.0.0.1:40", None);
        check("listening on http://127.0.0.1:4012\n", Some("http://127.0.0.1:4012"));
        check("WARN x\nlistening on http://127.0.0.1:4012\nWARN", Some("http://127.0.0.1:4012"));
    }
}
