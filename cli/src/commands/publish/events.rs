//! Reading what is to be published: one event from the arguments, or many from a file of lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use postrider::{EventId, NewEvent, Timestamp};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::Failure;
use crate::args::Publish;

/// Largest payload that is read from the arguments, a file or standard input, and longest line, in
/// bytes. The bus has a lower limit of its own (`bus.payload_bytes_max`).
const BYTES_MAX: u64 = 64 << 20;
/// All lines of a file together: they are checked before anything is accepted, so they are held.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One line of a file of events: what `POST /v1/events` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    event: Option<String>,
    /// Kept byte for byte; `null` is a payload too, which a plain `Option` would take for none.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    id: Option<EventId>,
    key: Option<String>,
    timestamp: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Every event that the arguments name, each checked: what is refused, is refused before anything is
/// accepted.
pub(super) fn read(publish: &Publish, payload_bytes_max: usize) -> Result<Vec<NewEvent>, Failure> {
    match (&publish.kind, &publish.file) {
        (Some(kind), None) => {
            let event = one(kind, publish)?;
            event.check(payload_bytes_max)?;
            Ok(vec![event])
        }
        (None, Some(file)) => lines(file, payload_bytes_max),
        _ => Err(Failure::invalid("expected either TYPE or --file")),
    }
}

fn one(kind: &str, publish: &Publish) -> Result<NewEvent, Failure> {
    let data = match publish.data.as_deref() {
        None => b"{}".to_vec(),
        Some("-") => bounded("standard input", std::io::stdin().lock())?,
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let file = File::open(path).map_err(|error| {
                    Failure::failed(format!("failed to read {path:?}: {error}"))
                })?;
                bounded(path, file)?
            }
            None => text.as_bytes().to_vec(),
        },
    };
    let event = NewEvent::raw(kind, data)?;
    Ok(set(event, publish.id.clone(), publish.key.clone(), publish.timestamp, publish.expires_at))
}

/// Sets what the publisher wants to set itself.
fn set(
    mut event: NewEvent,
    id: Option<EventId>,
    key: Option<String>,
    timestamp: Option<Timestamp>,
    expires_at: Option<Timestamp>,
) -> NewEvent {
    if let Some(id) = id {
        event = event.id(id);
    }
    if let Some(key) = key {
        event = event.key(key);
    }
    if let Some(time) = timestamp {
        event = event.time(time);
    }
    if let Some(time) = expires_at {
        event = event.expires_at(time);
    }
    event
}

fn bounded(name: &str, from: impl Read) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    from.take(BYTES_MAX + 1)
        .read_to_end(&mut data)
        .map_err(|error| Failure::failed(format!("failed to read {name:?}: {error}")))?;
    if data.len() as u64 > BYTES_MAX {
        return Err(Failure::invalid(format!("{name:?} has more than 64 MiB")));
    }
    Ok(data)
}

fn lines(path: &Path, payload_bytes_max: usize) -> Result<Vec<NewEvent>, Failure> {
    let shown = path.display();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path)
            .map_err(|error| Failure::failed(format!("failed to read {shown}: {error}")))?;
        Box::new(file)
    };
    let mut input = BufReader::new(input.take(FILE_BYTES_MAX + 1));
    let mut events = Vec::new();
    let mut line = Vec::new();
    let mut bytes = 0;
    for number in 1.. {
        line.clear();
        let read = input
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::failed(format!("failed to read {shown}: {error}")))?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(Failure::invalid(format!("{shown} has more than 1 GiB; split it")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event = event(&line, payload_bytes_max)
            .map_err(|what| Failure::invalid(format!("{shown}:{number}: {what}")))?;
        events.push(event);
    }
    if events.is_empty() {
        return Err(Failure::invalid(format!("{shown} holds no events")));
    }
    Ok(events)
}

fn event(line: &[u8], payload_bytes_max: usize) -> Result<NewEvent, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| {
        // serde_json names its own line, which is always 1 here.
        let text = error.to_string();
        text.split(" at line ").next().unwrap_or(&text).to_owned()
    })?;
    let kind = match (line.kind, line.event) {
        (Some(kind), None) | (None, Some(kind)) => kind,
        (None, None) => return Err("expected \"type\", found none".to_owned()),
        (Some(_), Some(_)) => {
            return Err("expected either \"type\" or \"event\", found both".to_owned());
        }
    };
    let data = line.data.ok_or("expected \"data\", found none")?;
    let refused = |error: postrider::Error| format!("failed to {}", error.chain());
    let event = NewEvent::raw(&kind, data.get().as_bytes().to_vec()).map_err(refused)?;
    let event = set(event, line.id, line.key, line.timestamp, line.expires_at);
    event.check(payload_bytes_max).map_err(refused)?;
    Ok(event)
}
