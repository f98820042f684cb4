//! The tables, and opening a connection to them.
//!
//! They may stand in the application's own file, beside its tables (that is what makes the outbox
//! transactional): each name begins with `postrider_`, and the version is in a table of ours, because
//! `user_version` is the application's.

use std::path::Path;
use std::time::Duration;

use postrider::{Error, ErrorKind};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error;

/// The version of the tables that this build reads and writes.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// The write-ahead log is cut back to this after a checkpoint, in bytes (16 MiB).
const LOG_BYTES_KEPT_MAX: i64 = 16 << 20;

/// Version 1. An event's row is never changed, so that settling does not rewrite its payload.
///
/// A delivery's `state` is 0 fresh (never tried), 1 delayed (tried or given back), 2 leased,
/// 3 delivered, 4 dead, 5 expired. `due` is when it may be attempted, for a leased one when its lease
/// ends. What is owed is found through one partial index for each of the first three states, so a
/// settled delivery costs no index entry.
///
/// A place in the outbox is never used twice: whoever has moved an event and removes it late must not
/// remove another.
const TABLES: &str = "
CREATE TABLE postrider_totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE postrider_endpoints (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE postrider_events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    key TEXT,
    time INTEGER NOT NULL,
    expires_at INTEGER,
    accepted_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    attributes TEXT,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE postrider_deliveries (
    event INTEGER NOT NULL,
    place INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
    due INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT,
    PRIMARY KEY (event, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX postrider_fresh ON postrider_deliveries (endpoint, event) WHERE state = 0;
CREATE INDEX postrider_delayed ON postrider_deliveries (endpoint, due, event) WHERE state = 1;
CREATE INDEX postrider_leased ON postrider_deliveries (endpoint, due) WHERE state = 2;
CREATE TABLE postrider_attempts (
    event INTEGER NOT NULL,
    place INTEGER NOT NULL,
    made INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    took_ms INTEGER NOT NULL,
    cause TEXT,
    message TEXT NOT NULL,
    status INTEGER,
    answer TEXT NOT NULL,
    PRIMARY KEY (event, place, made)
) STRICT, WITHOUT ROWID;
CREATE TABLE postrider_settled (
    place INTEGER PRIMARY KEY,
    event INTEGER NOT NULL
) STRICT;
CREATE TABLE postrider_outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    key TEXT,
    time INTEGER NOT NULL,
    expires_at INTEGER,
    refused TEXT,
    attributes TEXT,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX postrider_outbox_pending ON postrider_outbox (place) WHERE refused IS NULL;
";

/// Opens a connection to the file, which is made where it is missing, with the tables in it.
pub(super) fn open(path: &Path, busy_timeout: Duration) -> Result<Connection, Error> {
    let what = format!("open the SQLite store {}", path.display());
    let failed = |error: &rusqlite::Error| error::store(&what, busy_timeout, error);
    // No URI: a path with a `?` is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| failed(&error))?;
    let mode = configure(&connection, busy_timeout).map_err(|error| failed(&error))?;
    if mode != "wal" {
        return Err(Error::new(
            ErrorKind::Store,
            format!("{what}: it keeps journal mode {mode:?}, expected a file that can use \"wal\""),
        ));
    }
    let version = make(&mut connection).map_err(|error| failed(&error))?;
    if version != SCHEMA_VERSION {
        return Err(Error::new(
            ErrorKind::Store,
            format!(
                "{what}: its tables have version {version}, this build knows version \
                 {SCHEMA_VERSION}: open it with the Postrider that wrote it, or a newer one"
            ),
        ));
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn configure(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<String> {
    connection.busy_timeout(busy_timeout)?;
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    // Each commit is synced. A mix with unsynced commits would be faster and wrong: after a failed
    // sync the kernel forgets which pages it lost, and a later sync that succeeds would vouch for a
    // log with a hole.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row(
        &format!("PRAGMA journal_size_limit = {LOG_BYTES_KEPT_MAX}"),
        [],
        |_| Ok(()),
    )?;
    Ok(mode)
}

/// Makes the tables where they are missing; returns their version.
fn make(connection: &mut Connection) -> rusqlite::Result<i64> {
    if let Some(version) = version(connection)? {
        return Ok(version);
    }
    // Looked at again under the write lock: two processes may open a new file at once.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&transaction)?.is_none() {
        transaction.execute_batch(TABLES)?;
        transaction
            .execute("INSERT INTO postrider_totals VALUES (1, ?1, 0, 0, 0)", [SCHEMA_VERSION])?;
    }
    transaction.commit()?;
    Ok(version(connection)?.unwrap_or_default())
}

fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    // Asked of the file: what the connection believes of the schema may be older.
    let mut table = connection.prepare(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'postrider_totals'",
    )?;
    if !table.exists([])? {
        return Ok(None);
    }
    connection.query_row("SELECT schema FROM postrider_totals", [], |row| row.get(0)).map(Some)
}
