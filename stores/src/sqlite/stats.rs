//! Counting what became of attempts.

use std::collections::hash_map::Entry;

use postrider::stats::{EndpointStats, Series};
use postrider::store::Settlement;
use rusqlite::{Connection, OptionalExtension, params};

use super::read::endpoint_id;
use super::work::{Done, Work};

/// The counters in a row. Those that cannot be read begin anew: they must not stop deliveries.
fn series(endpoint: i64, bytes: &[u8]) -> Series {
    Series::decode(bytes).unwrap_or_else(|| {
        tracing::warn!(endpoint, "statistics cannot be read; they begin anew");
        Series::default()
    })
}

impl Work<'_> {
    /// Counts a settlement. Written by [`write_series`](Self::write_series), once for all of the
    /// transaction.
    pub(super) fn count(&mut self, endpoint: i64, settlement: &Settlement) -> rusqlite::Result<()> {
        let series = match self.series.entry(endpoint) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let bytes: Option<Vec<u8>> = self
                    .connection
                    .prepare_cached("SELECT series FROM postrider_stats WHERE endpoint = ?1")?
                    .query_row([endpoint], |row| row.get(0))
                    .optional()?;
                entry.insert(bytes.map_or_else(Series::default, |bytes| series(endpoint, &bytes)))
            }
        };
        series.record(settlement.attempt.as_ref(), settlement.decision, self.now);
        Ok(())
    }

    pub(super) fn write_series(&mut self) -> rusqlite::Result<()> {
        let mut write = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO postrider_stats VALUES (?1, ?2)")?;
        for (endpoint, series) in self.series.drain() {
            let mut bytes = Vec::new();
            series.encode(&mut bytes);
            write.execute(params![endpoint, bytes])?;
        }
        Ok(())
    }
}

pub(super) fn stats(connection: &mut Connection) -> Done<Vec<EndpointStats>> {
    let stats: rusqlite::Result<Vec<EndpointStats>> = connection
        .prepare_cached(
            "SELECT e.id, e.number, s.series FROM postrider_stats s \
             JOIN postrider_endpoints e ON e.number = s.endpoint",
        )?
        .query_map([], |row| {
            let bytes: Vec<u8> = row.get(2)?;
            Ok(EndpointStats::new(endpoint_id(row, 0)?, series(row.get(1)?, &bytes)))
        })?
        .collect();
    stats.map(Ok)
}
