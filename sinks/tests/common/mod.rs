//! What the sinks' test programs share.

use std::io::Write;

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
