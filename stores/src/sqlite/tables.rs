//! The tables.
//!
//! They may stand in the application's own file, beside its tables (that is what makes the outbox
//! transactional): each name begins with `postrider_`, and the version is in a table of ours, because
//! `user_version` is the application's.

use rusqlite::Connection;

/// How many events one row of `postrider_spans` tells of.
pub(super) const SPAN_EVENTS: i64 = 1024;

/// What version 1 had and later ones keep. An event's row is never changed, so that settling does not
/// rewrite its payload.
///
/// `postrider_settled` holds the events that owe nothing, in the order in which that became so: the
/// first may go first.
///
/// A place in the outbox is never used twice: whoever has moved an event and removes it late must not
/// remove another.
const FIRST: &str = "
CREATE TABLE postrider_totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO postrider_totals VALUES (1, 0, 0, 0, 0);
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

/// What version 2 added or made anew.
///
/// `accepted` is the `seq` of the newest event ever: none is used twice, since it is the event's place
/// for those who look page by page.
///
/// A delivery is found by its event, by its endpoint's `place` among those that the event went to, and
/// by its `run`: 0 for the one that publish made, then one more for each replay. All but the newest
/// run of an endpoint are `replaced`. Its `state` is 0 fresh (never tried), 1 delayed (tried or given
/// back), 2 leased, 3 delivered, 4 dead, 5 expired, 6 purged. `due` is when it may be attempted; for a
/// leased one when its lease ends; for one that was given up when its event was accepted.
///
/// What is to be done is found through one partial index for each of the first three states; what was
/// done through `postrider_stands`, and where the endpoint is not asked for, what went wrong through
/// `postrider_given_up`.
///
/// `postrider_spans` tells when each thousand events were accepted (span 7 holds seq 7,168 to 8,191),
/// so that a time leads to places: a clock may jump, so that the times of events alone do not rise.
const SECOND: &str = "
ALTER TABLE postrider_totals ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
CREATE INDEX postrider_types ON postrider_events (type);
CREATE UNIQUE INDEX postrider_settled_events ON postrider_settled (event);
CREATE TABLE postrider_spans (
    span INTEGER PRIMARY KEY,
    oldest INTEGER NOT NULL,
    newest INTEGER NOT NULL
) STRICT;
CREATE TABLE postrider_unmatched (
    event INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE postrider_deliveries (
    event INTEGER NOT NULL,
    place INTEGER NOT NULL,
    run INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    due INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT,
    replaced INTEGER NOT NULL CHECK (replaced BETWEEN 0 AND 1),
    PRIMARY KEY (event, place, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX postrider_fresh ON postrider_deliveries (endpoint, event) WHERE state = 0;
CREATE INDEX postrider_delayed ON postrider_deliveries (endpoint, due, event) WHERE state = 1;
CREATE INDEX postrider_leased ON postrider_deliveries (endpoint, due) WHERE state = 2;
CREATE INDEX postrider_stands ON postrider_deliveries (endpoint, state, event) WHERE replaced = 0;
CREATE INDEX postrider_given_up ON postrider_deliveries (state, event, endpoint, reason, due)
    WHERE replaced = 0 AND state >= 4;
CREATE TABLE postrider_attempts (
    event INTEGER NOT NULL,
    place INTEGER NOT NULL,
    run INTEGER NOT NULL,
    made INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    took_ms INTEGER NOT NULL,
    cause TEXT,
    message TEXT NOT NULL,
    status INTEGER,
    answer TEXT NOT NULL,
    PRIMARY KEY (event, place, run, made)
) STRICT, WITHOUT ROWID;
CREATE TABLE postrider_stats (
    endpoint INTEGER PRIMARY KEY,
    series BLOB NOT NULL
) STRICT;
CREATE TABLE postrider_notes (
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL
) STRICT;
UPDATE postrider_totals SET schema = 2;
";

/// Makes room for the tables that version 2 has under the same names.
const BEFORE_SECOND: &str = "
DROP INDEX postrider_fresh;
DROP INDEX postrider_delayed;
DROP INDEX postrider_leased;
ALTER TABLE postrider_deliveries RENAME TO postrider_deliveries_1;
ALTER TABLE postrider_attempts RENAME TO postrider_attempts_1;
";

/// Brings over what version 1 knew. Attempts made until now are not counted: what is kept of them is
/// a part.
const AFTER_SECOND: &str = "
INSERT INTO postrider_deliveries
    SELECT event, place, 0, endpoint, state, due, fence, attempts, reason, 0
    FROM postrider_deliveries_1;
INSERT INTO postrider_attempts
    SELECT event, place, 0, made, number, at, took_ms, cause, message, status, answer
    FROM postrider_attempts_1;
UPDATE postrider_deliveries
    SET due = (SELECT accepted_at FROM postrider_events WHERE seq = event) WHERE state >= 4;
DROP TABLE postrider_deliveries_1;
DROP TABLE postrider_attempts_1;
INSERT INTO postrider_unmatched SELECT seq FROM postrider_events
    WHERE NOT EXISTS (SELECT 1 FROM postrider_deliveries WHERE event = seq);
INSERT INTO postrider_spans SELECT seq / 1024, min(accepted_at), max(accepted_at)
    FROM postrider_events GROUP BY seq / 1024;
UPDATE postrider_totals SET accepted = (SELECT ifnull(max(seq), 0) FROM postrider_events);
";

/// Makes them, within a transaction of the caller's.
pub(super) fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(FIRST)?;
    connection.execute_batch(SECOND)
}

/// Makes those of version 1 into those of this build, within a transaction of the caller's.
pub(super) fn change_from_1(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(BEFORE_SECOND)?;
    connection.execute_batch(SECOND)?;
    connection.execute_batch(AFTER_SECOND)
}
