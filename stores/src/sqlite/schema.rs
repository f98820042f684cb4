//! Opening a connection to the tables, which are made, or brought to this build's version.

use std::path::Path;
use std::time::{Duration, Instant};

use postrider::{Error, ErrorKind};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{error, tables};

/// The version of the tables that this build reads and writes.
pub(super) const SCHEMA_VERSION: i64 = 2;

/// The write-ahead log is cut back to this after a checkpoint, in bytes (16 MiB).
const LOG_BYTES_KEPT_MAX: i64 = 16 << 20;

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
    let mode = while_busy(busy_timeout, || {
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
    })?;
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

/// Tries again while somebody else holds the database, for what SQLite gives up at once whatever its
/// busy timeout: where two processes change the journal mode of one new file, waiting under a read lock
/// would be a deadlock.
fn while_busy<T>(
    busy_timeout: Duration,
    mut call: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    const PAUSE: Duration = Duration::from_millis(5);
    let started = Instant::now();
    loop {
        match call() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && started.elapsed() < busy_timeout =>
            {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Makes the tables where they are missing and changes those of an older version; returns their
/// version.
fn make(connection: &mut Connection) -> rusqlite::Result<i64> {
    let current = version(connection)?;
    if let Some(version) = current
        && version >= SCHEMA_VERSION
    {
        return Ok(version);
    }
    // Looked at again under the write lock: two processes may open one file at once.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match version(&transaction)? {
        None => tables::make(&transaction)?,
        Some(1) => tables::change_from_1(&transaction)?,
        Some(_) => {}
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
