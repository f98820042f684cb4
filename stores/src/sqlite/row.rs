//! Between rows and the core's types.

use postrider::clock::SystemClock;
use postrider::event::{Attributes, Envelope, NewEvent};
use postrider::{Error, ErrorKind, Timestamp};
use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The columns that [`new_event`] reads, in its order.
pub(super) const EVENT_COLUMNS: &str = "id, type, key, time, expires_at, attributes, payload";

/// An event of a row that begins with [`EVENT_COLUMNS`].
pub(super) fn new_event(row: &Row<'_>) -> rusqlite::Result<Result<NewEvent, Error>> {
    let id: String = row.get(0)?;
    let kind: String = row.get(1)?;
    let key: Option<String> = row.get(2)?;
    let expires_at: Option<i64> = row.get(4)?;
    let attributes: Option<String> = row.get(5)?;
    let payload: Vec<u8> = row.get(6)?;
    let damaged = |what: String| Error::new(ErrorKind::Store, what);
    let time = Timestamp::from_millis(row.get(3)?);
    let read = || {
        let broken = |column: &str| damaged(format!("read event {id:?}: its {column} is damaged"));
        let mut event = NewEvent::raw(&kind, payload)
            .map_err(|error| broken("type or payload").because(error))?
            .id(id.parse().map_err(|error| broken("id").because(error))?)
            .time(time);
        if let Some(key) = key {
            event = event.key(key);
        }
        if let Some(deadline) = expires_at {
            event = event.expires_at(Timestamp::from_millis(deadline));
        }
        if let Some(attributes) = attributes {
            let attributes: Attributes = serde_json::from_str(&attributes)
                .map_err(|error| broken("attributes").because(error))?;
            for (name, value) in attributes {
                event = event.attribute(name, value);
            }
        }
        Ok(event)
    };
    Ok(read())
}

/// The accepted form of such a row.
pub(super) fn envelope(row: &Row<'_>) -> rusqlite::Result<Result<Envelope, Error>> {
    Ok(new_event(row)?.and_then(|event| event.seal(&SystemClock, usize::MAX)))
}

/// Attributes as they are kept: JSON, or nothing where there are none.
pub(super) fn attributes(event: &Envelope) -> Option<String> {
    let attributes = event.attributes();
    (!attributes.is_empty())
        .then(|| serde_json::to_string(attributes).expect("a map of texts always encodes"))
}

/// The name of a plain enum's variant, as it is in JSON.
pub(super) fn name(variant: &impl Serialize) -> rusqlite::Result<String> {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        other => Err(rusqlite::Error::ToSqlConversionFailure(
            format!("expected a variant without fields, found {other:?}").into(),
        )),
    }
}

/// The variant of that name.
pub(super) fn variant<T: DeserializeOwned>(column: usize, name: String) -> rusqlite::Result<T> {
    serde_json::from_value(serde_json::Value::String(name)).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}
