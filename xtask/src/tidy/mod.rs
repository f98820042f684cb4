//! `tidy`: the house rules that can be read off the tree.
//!
//! A line that breaks a rule with a reason says so, on itself or on the line above:
//! `tidy: allow(RULE): the reason`.

mod arrows;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Fail, Outcome, process, programs, say, term};

/// One broken rule.
#[derive(Debug, PartialEq)]
struct Finding {
    /// `file:line`, or the package.
    place: String,
    rule: &'static str,
    reason: String,
}

/// Longer files have a second concept in them, or a reason; a warning, no error.
const LINES_WARN: usize = 800;
/// Larger files are data, not text that people wrote.
const BYTES_MAX: u64 = 1 << 20;

/// Checks the tree.
pub(crate) fn run() -> Outcome {
    let root = process::root();
    let mut findings = arrows::check(&programs::metadata()?);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else { continue }; // Not text.
        let name = path.strip_prefix(&root).unwrap_or(path).to_string_lossy();
        findings.extend(text::check(&name, &text));
        let lines = text.lines().count();
        if lines > LINES_WARN && path.extension().is_some_and(|extension| extension == "rs") {
            say!("{} {name} has {lines} lines: look for a second concept", term::warn("!"));
        }
    }
    for Finding { place, rule, reason } in &findings {
        say!("{} {place}: {reason} [{rule}]", term::bad("✗"));
    }
    if findings.is_empty() {
        say!(
            "{} {} keep the house rules",
            term::good("✓"),
            term::count(files.len() as u64, "file")
        );
        return Ok(());
    }
    Err(Fail::new(format_args!("{} not kept", term::count(findings.len() as u64, "house rule"))))
}

/// Folders that hold what programs make.
const NOT_OURS: [&str; 5] = ["target", "node_modules", "venv", "postrider-data", ".git"];

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    let failed =
        |error: std::io::Error| Fail::new(format_args!("reading {}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let name = entry.file_name();
        if NOT_OURS.iter().any(|other| name == *other) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && entry.metadata().map_err(failed)?.len() <= BYTES_MAX {
            files.push(entry.path());
        }
    }
    Ok(())
}
