//! What SQLite's errors mean here, and what to do about each.

use std::time::Duration;

use postrider::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// The error of a call that failed: `what` reads after "failed to ".
pub(super) fn store(what: &str, busy_timeout: Duration, error: &rusqlite::Error) -> Error {
    let message = match remedy(error.sqlite_error_code(), busy_timeout) {
        Some(remedy) => format!("{what}: {remedy}"),
        None => what.to_owned(),
    };
    // As text: one failed commit is told to everybody whose work was in it.
    Error::new(ErrorKind::Store, message).because(error.to_string())
}

fn remedy(code: Option<ErrorCode>, busy_timeout: Duration) -> Option<String> {
    Some(match code? {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => format!(
            "the database was locked for longer than {busy_timeout:?}: shorten the transaction that \
             holds it, or raise busy_timeout; nothing was written"
        ),
        ErrorCode::DiskFull => "the disk or its quota is full: free some space and do it again; \
                                nothing was written, what was accepted before is kept"
            .to_owned(),
        ErrorCode::DatabaseCorrupt => "the database is damaged: stop every process that uses it, \
                                       and salvage it with the sqlite3 program's .recover, or \
                                       restore a backup"
            .to_owned(),
        ErrorCode::NotADatabase => {
            "the file is no SQLite database (or an encrypted one): name another file".to_owned()
        }
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            "the file may not be written: check its permissions and those of its folder".to_owned()
        }
        ErrorCode::CannotOpen => {
            "the file cannot be opened: its folder must exist and be writable".to_owned()
        }
        ErrorCode::SystemIoFailure => {
            "reading or writing failed: check the disk and the system's log; what was not \
             acknowledged may be published again with the same id"
                .to_owned()
        }
        _ => return None,
    })
}
