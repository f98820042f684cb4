//! Small texts that are kept for the bus.

use postrider::store::Note;
use rusqlite::{Connection, params};

use super::work::{Done, Work};

impl Work<'_> {
    pub(super) fn keep(&mut self, note: &Note) -> Done<()> {
        if let Err(full) = self.check_note(note)? {
            return Ok(Err(full));
        }
        self.write_note(note).map(Ok)
    }

    /// Whether there is room for the note.
    pub(super) fn check_note(&self, note: &Note) -> Done<()> {
        let others: i64 = self
            .connection
            .prepare_cached("SELECT count(*) FROM postrider_notes WHERE key != ?1")?
            .query_row([&note.key], |row| row.get(0))?;
        Ok(note.check(usize::try_from(others).unwrap_or(usize::MAX)))
    }

    pub(super) fn write_note(&self, note: &Note) -> rusqlite::Result<()> {
        match &note.value {
            Some(value) => self
                .connection
                .prepare_cached(
                    "INSERT INTO postrider_notes VALUES (?1, ?2) \
                     ON CONFLICT (key) DO UPDATE SET value = ?2",
                )?
                .execute(params![note.key, &value[..]])?,
            None => self
                .connection
                .prepare_cached("DELETE FROM postrider_notes WHERE key = ?1")?
                .execute([&note.key])?,
        };
        Ok(())
    }
}

pub(super) fn notes(connection: &mut Connection) -> Done<Vec<Note>> {
    let mut statement =
        connection.prepare_cached("SELECT key, value FROM postrider_notes ORDER BY key")?;
    let mut rows = statement.query([])?;
    let mut notes = Vec::new();
    while let Some(row) = rows.next()? {
        let (key, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        match Note::new(key, value) {
            Ok(note) => notes.push(note),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(notes))
}
