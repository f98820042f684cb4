//! What ran and how it went: reads the machine output of the test runners, and sums it up.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// What passed, failed and was skipped, with names and reasons where they matter.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    /// Name and reason.
    pub(crate) failed: Vec<(String, String)>,
    /// Name and reason.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Tally {
    pub(crate) fn passed(count: u64) -> Self {
        Self { passed: count, ..Self::default() }
    }

    pub(crate) fn failed(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { failed: vec![(name.into(), reason.into())], ..Self::default() }
    }

    pub(crate) fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { skipped: vec![(name.into(), reason.into())], ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// A runner that says it failed, or shows nothing that it ran, has not passed, whatever the
    /// counts are: so a changed output format cannot turn into success.
    pub(crate) fn believe(mut self, runner: &str, success: bool) -> Self {
        if !success && self.failed.is_empty() {
            self.failed.push((
                runner.into(),
                "ended with an error, though no test is reported as failed".into(),
            ));
        }
        if success && self == Self::default() {
            self.failed.push((runner.into(), "ended well, but reported no test at all".into()));
        }
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// Reads nextest's `--message-format libtest-json-plus`, version 0.1: one event per line.
///
/// Names are `package::binary$test`; a test that was killed at its time limit is `failed`. Ignored
/// tests that a filter leaves out are `started` and never end, so that an end is what counts; a run
/// that broke off says so by its exit code, see [`Tally::believe`].
#[derive(Debug, Default)]
pub(crate) struct Nextest {
    /// How each test ended, and the reason, if any.
    tests: BTreeMap<String, (Event, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Passed,
    Failed,
    Ignored,
}

impl Nextest {
    pub(crate) fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        if message["type"] != "test" {
            return;
        }
        let event = match message["event"].as_str() {
            Some("started") => return,
            Some("ok") => Event::Passed,
            Some("ignored") => Event::Ignored,
            _ => Event::Failed, // An event that we do not know is not taken for success.
        };
        let reason = message["reason"].as_str().unwrap_or("its output is above").to_owned();
        if let Some(name) = message["name"].as_str() {
            self.tests.insert(name.to_owned(), (event, reason));
        }
    }

    /// The result; `skips` are the lines of the skip log, whose tests passed without testing.
    pub(crate) fn tally(self, skips: Vec<(String, String)>) -> Tally {
        let mut tests = self.tests;
        let mut tally = Tally::default();
        for (name, reason) in skips {
            let long = tests.iter().find(|(long, (event, _))| {
                *event == Event::Passed
                    && long.rsplit_once('$').is_some_and(|(_, short)| short == name)
            });
            if let Some(long) = long.map(|(long, _)| long.clone()) {
                tests.remove(&long);
            }
            tally.skipped.push((name, reason));
        }
        for (name, (event, reason)) in tests {
            match event {
                Event::Passed => tally.passed += 1,
                Event::Failed => tally.failed.push((name, reason)),
                Event::Ignored => tally.skipped.push((name, "marked #[ignore]".into())),
            }
        }
        tally
    }
}

/// The skip log: one line per test that could not run here, `name<TAB>reason`. A name counts once.
pub(crate) fn read_skip_log(text: &str) -> Vec<(String, String)> {
    let mut skips = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, reason) = line.split_once('\t').unwrap_or((line, "no reason given"));
        skips.entry(name.to_owned()).or_insert_with(|| reason.to_owned());
    }
    skips.into_iter().collect()
}

/// Reads what `cargo test --doc` prints for people, which is all there is on stable.
#[derive(Debug, Default)]
pub(crate) struct DocTests(Tally);

impl DocTests {
    pub(crate) fn note(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            // `ok. 3 passed; 0 failed; 1 ignored; ..`
            let passed = rest
                .split_once(". ")
                .and_then(|(_, counts)| counts.split_once(" passed"))
                .and_then(|(count, _)| count.parse::<u64>().ok());
            self.0.passed += passed.unwrap_or(0);
        } else if let Some((name, end)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            match end {
                "FAILED" => self.0.failed.push((name.into(), "its output is above".into())),
                _ if end.starts_with("ignored") => {
                    self.0.skipped.push((name.into(), "marked `ignore`".into()));
                }
                _ => {}
            }
        }
    }

    /// Lines about packages that have no doc tests.
    pub(crate) fn is_noise(line: &str) -> bool {
        line.is_empty()
            || line == "running 0 tests"
            || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")
    }

    pub(crate) fn tally(self) -> Tally {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXTEST: &str = r#"{"type":"suite","event":"started","test_count":4,"nextest":{"crate":"core","test_binary":"core","kind":"lib"}}
{"type":"test","event":"started","name":"core::core$a"}
{"type":"test","event":"started","name":"core::core$b"}
{"type":"test","event":"ignored","name":"core::core$c"}
{"type":"test","event":"ok","name":"core::core$b","exec_time":0.004}
{"type":"test","event":"ok","name":"core::core$a","exec_time":0.004}
{"type":"test","event":"started","name":"core::core$d"}
{"type":"suite","event":"failed","passed":1,"failed":1,"ignored":1,"measured":0}
{"type":"test","event":"failed","name":"core::core$d","exec_time":2.0,"reason":"time limit exceeded"}"#;

    fn nextest(text: &str) -> Nextest {
        let mut reader = Nextest::default();
        text.lines().for_each(|line| reader.note(line));
        reader
    }

    #[test]
    fn nextest_events_are_summed() {
        let tally = nextest(NEXTEST).tally(Vec::new());
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failed, [("core::core$d".into(), "time limit exceeded".into())]);
        assert_eq!(tally.skipped, [("core::core$c".into(), "marked #[ignore]".into())]);
    }

    #[test]
    fn a_test_in_the_skip_log_did_not_pass() {
        let skips = read_skip_log("b\tno logrotate here\n\nb\tno logrotate here\n");
        let tally = nextest(NEXTEST).tally(skips);
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(tally.skipped[0], ("b".into(), "no logrotate here".into()));
    }

    /// A failing test stays failed, whatever it wrote into the skip log.
    #[test]
    fn the_skip_log_hides_no_failure() {
        let tally = nextest(NEXTEST).tally(read_skip_log("d\tno tool"));
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn an_event_that_nobody_knows_is_a_failure() {
        let tally =
            nextest(r#"{"type":"test","event":"exploded","name":"x::x$b"}"#).tally(Vec::new());
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
    }

    /// nextest 0.9.143 starts ignored tests that its filter leaves out, and never ends them.
    #[test]
    fn a_test_without_an_end_counts_by_the_runners_exit_code() {
        let started = r#"{"type":"test","event":"started","name":"x::x$a"}"#;
        let ended = r#"{"type":"test","event":"ok","name":"x::x$b"}"#;
        let tally = |success| {
            nextest(&format!("{started}\n{ended}")).tally(Vec::new()).believe("nextest", success)
        };
        assert_eq!(tally(true).to_string(), "1 passed, 0 failed, 0 skipped");
        assert_eq!(tally(false).to_string(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_runner_is_not_believed_without_results() {
        assert_eq!(Tally::default().believe("nextest", true).failed.len(), 1);
        assert_eq!(Tally::passed(3).believe("nextest", false).failed.len(), 1);
        assert_eq!(Tally::passed(3).believe("nextest", true), Tally::passed(3));
    }

    #[test]
    fn doc_test_summaries_are_summed() {
        let mut reader = DocTests::default();
        let text = "
running 3 tests
test src/lib.rs - f (line 9) ... ignored
test src/lib.rs - f (line 6) ... ok
test src/lib.rs - g (line 2) - compile fail ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test src/lib.rs - h (line 20) ... FAILED

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
";
        text.lines().for_each(|line| reader.note(line));
        let tally = reader.tally();
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failed[0].0, "src/lib.rs - h (line 20)");
    }
}
