//! What these tests share.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use postrider::event::{Envelope, NewEvent};
use postrider::store::{Accept, Accepted, Lease, Settled, Settlement, Store};
use postrider::testing::sealed;
use postrider::{EndpointId, Error, Timestamp};

/// How long a test waits for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const ROLE: &str = "POSTRIDER_TEST_ROLE";
const FOLDER: &str = "POSTRIDER_TEST_FOLDER";

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_764_513_045_123).after(Duration::from_secs(seconds))
}

pub(crate) fn id(text: &str) -> EndpointId {
    text.parse().unwrap()
}

pub(crate) fn event(name: &str) -> Arc<Envelope> {
    let event = NewEvent::raw("match", format!(r#"{{"name":"{name}"}}"#)).unwrap();
    sealed(event.id(name.parse().unwrap()))
}

pub(crate) fn accept(name: &str, endpoints: &[&str]) -> Accept {
    Accept { event: event(name), endpoints: endpoints.iter().map(|text| id(text)).collect() }
}

pub(crate) async fn publish(
    store: &impl Store,
    name: &str,
    endpoints: &[&str],
    now: Timestamp,
) -> Result<Accepted, Error> {
    Ok(store.accept(vec![accept(name, endpoints)], now).await?.remove(0))
}

/// Claims everything due now, under leases of 30 s.
pub(crate) async fn claim(store: &impl Store, endpoint: &str, now: Timestamp) -> Vec<Lease> {
    let until = now.after(Duration::from_secs(30));
    store.claim(&id(endpoint), 1000, now, until).await.unwrap().leases
}

pub(crate) async fn settle(
    store: &impl Store,
    lease: &Lease,
    decision: postrider::delivery::Decision,
) -> Settled {
    let settlement = Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: None,
        decision,
    };
    store.settle(&[settlement]).await.unwrap()[0]
}

pub(crate) fn names(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.event.id().to_string()).collect()
}

/// A seed that is printed, and may be given: `POSTRIDER_SEED=7`.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("POSTRIDER_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("POSTRIDER_SEED={seed}");
    seed
}

/// `usual`, or `long` where the tests are to take their time.
pub(crate) fn rounds(usual: usize, long: usize) -> usize {
    if std::env::var_os("POSTRIDER_TEST_LONG").is_some_and(|value| value == "1") {
        long
    } else {
        usual
    }
}

/// The role and folder of a child process; `None` in the test itself.
pub(crate) fn child() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FOLDER)?.into()))
}

/// The test `test` of this program in a process of its own, in `role`; `before` is what starts it.
pub(crate) fn as_child(before: &[&str], test: &str, role: &str, folder: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).env(FOLDER, folder);
    command
}

/// Before each line that a child says to its parent, among those of the test harness.
const SAID: &str = "said: ";

/// Tells the parent something, at once: what is in the pipe survives the kill.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{SAID}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Waits for a line from the parent.
pub(crate) fn hear() {
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

/// A child under way. It is killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(test: &str, role: &str, folder: &Path) -> Self {
        let mut command = as_child(&[], test, role, folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// The next thing it says; `None` at its end.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line without its end was cut off by the kill: it was never said.
            if let Some(said) = line.strip_prefix(SAID).and_then(|said| said.strip_suffix('\n')) {
                return Some(said.to_owned());
            }
        }
    }

    pub(crate) fn expect(&mut self, what: &str) {
        assert_eq!(self.hear().as_deref(), Some(what));
    }

    pub(crate) fn say(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }

    /// `kill -9`; returns what it had said before and was not heard yet.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.hear()).collect()
    }

    /// All that it still says until it ends, which it must do well.
    pub(crate) fn end(mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.hear()).collect();
        assert!(self.child.wait().unwrap().success());
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Says that a test could not run here, and fails where that is forbidden. The convention is in
/// CONTRIBUTING.md.
pub(crate) fn skip(name: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} skipped in CI: {reason}");
    eprintln!("SKIPPED {name}: {reason}");
    if let Some(log) = std::env::var_os("POSTRIDER_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        log.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}
