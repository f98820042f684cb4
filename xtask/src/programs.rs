//! Builds the repository's programs and learns from cargo itself where they are, so that
//! `CARGO_TARGET_DIR` and build folders of any layout work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Fail, Outcome, process};

/// Programs by name.
#[derive(Debug, Default)]
pub(crate) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// `cargo build` with `args`, whose errors and warnings appear as usual.
    pub(crate) fn build(args: &[&str]) -> Outcome<Self> {
        let mut command = process::cargo(&["build", "--message-format", "json-render-diagnostics"]);
        if !console::user_attended_stderr() {
            command.arg("--quiet"); // On a pipe only what is wrong is worth a line.
        }
        let mut programs = Self::default();
        let status = process::read_lines(command.args(args), None, |line| programs.note(line))?;
        process::succeeded("the build", status)?;
        Ok(programs)
    }

    /// Takes up one line of `cargo build --message-format json`.
    fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        let is_program = message["reason"] == "compiler-artifact"
            && message["target"]["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
            && message["profile"]["test"] != true;
        if let (true, Some(name), Some(path)) =
            (is_program, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            self.0.insert(name.to_owned(), path.into());
        }
    }

    pub(crate) fn path(&self, name: &str) -> Outcome<&Path> {
        self.0.get(name).map(PathBuf::as_path).ok_or_else(|| {
            let known = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Fail::new(format_args!("the build made no program named {name} (it made: {known})"))
        })
    }
}

/// What `cargo metadata` says about the workspace's own packages.
pub(crate) fn metadata() -> Outcome<Value> {
    let mut text = String::new();
    let mut command = process::cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let status = process::read_lines(&mut command, None, |line| text.push_str(line))?;
    process::succeeded("cargo metadata", status)?;
    serde_json::from_str(&text)
        .map_err(|error| Fail::new(format_args!("reading cargo metadata: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_count() {
        let mut programs = Programs::default();
        let artifact = |name: &str, kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        programs.note(&artifact("dashboard", "bin", false, r#""out/dashboard""#));
        programs.note(&artifact("dashboard", "bin", true, r#""out/deps/dashboard-1""#));
        programs.note(&artifact("postrider", "lib", false, "null"));
        programs.note(r#"{"reason":"build-finished","success":true}"#);
        programs.note("not json");
        assert_eq!(programs.path("dashboard").unwrap(), Path::new("out/dashboard"));
        let reason = programs.path("postrider").unwrap_err().to_string();
        assert!(reason.contains("postrider") && reason.contains("dashboard"), "{reason}");
    }
}
