//! The encoded form of an event: what is stored, signed and sent, byte for byte.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Event, EventId, EventType};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::time::Timestamp;

/// Largest payload unless the bus is built with another limit, in bytes (1 MiB).
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// Longest ordering key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Most attributes of one event.
pub const ATTRIBUTES_MAX: usize = 64;
/// Names and values of an event's attributes together, in bytes (8 KiB).
pub const ATTRIBUTES_BYTES_MAX: usize = 8 << 10;

/// Names and values that travel beside the payload: at most 64 pairs, 8 KiB together.
///
/// Names are lower-case ASCII letters, digits, `-` and `_`; values are printable ASCII and spaces,
/// so that both may become HTTP headers.
pub type Attributes = BTreeMap<String, String>;

/// An accepted event: its identity, and the payload exactly as it was given.
///
/// Cheap to share as `Arc<Envelope>`; immutable from the moment it is accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(crate) id: EventId,
    pub(crate) kind: EventType,
    pub(crate) key: Option<Box<str>>,
    pub(crate) time: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) attributes: Attributes,
    pub(crate) payload: Bytes,
}

impl Envelope {
    /// The id: the same on every attempt and every endpoint.
    pub fn id(&self) -> &EventId {
        &self.id
    }

    /// The type name, for example `match`.
    pub fn event_type(&self) -> &EventType {
        &self.kind
    }

    /// The ordering key, if any: events of one key keep their order where an endpoint asks for it.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// When the event happened: given by the publisher, else when it was accepted.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// When the event is worthless: after it no attempt starts.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Names and values beside the payload.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The payload: valid JSON, byte for byte as it was published.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload as text. Every payload is valid JSON and therefore UTF-8.
    pub fn payload_str(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload is checked to be JSON when it is made")
    }

    /// Reads the payload as `T`.
    ///
    /// # Errors
    /// What `serde_json` says when the payload has another shape.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// What this event takes in memory and against byte limits: payload plus a fixed share.
    pub fn weight(&self) -> usize {
        let beside: usize =
            self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        size_of::<Self>() + self.payload.len() + beside + self.key().map_or(0, str::len)
    }
}

/// Shows sizes, never the payload.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("id", &self.id)
            .field("type", &self.kind)
            .field("key", &self.key)
            .field("time", &format_args!("{}", self.time))
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An event about to be published: a type, a payload, and what the publisher wants to set itself.
///
/// ```
/// use postrider::event::NewEvent;
///
/// let event = NewEvent::raw("upload", r#"{"model_name":"new_glasses.glb"}"#)?
///     .key("new_glasses.glb")
///     .attribute("source", "dashboard");
/// # Ok::<(), postrider::Error>(())
/// ```
#[must_use = "an event does nothing until it is published"]
pub struct NewEvent {
    id: Option<EventId>,
    kind: EventType,
    key: Option<Box<str>>,
    time: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    attributes: Attributes,
    payload: Bytes,
}

impl NewEvent {
    /// Encodes a typed event, once: these bytes are what is stored, signed and sent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where [`Event::validate`] refuses it, naming the field, or where the
    /// type does not serialise to JSON.
    pub fn of<E: Event>(event: &E) -> Result<Self, Error> {
        event.validate().map_err(|invalid| {
            Error::new(ErrorKind::Invalid, format!("publish a {:?} event: {invalid}", E::TYPE))
        })?;
        let payload = encode(event).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("encode a {:?} event as JSON", E::TYPE))
                .because(error)
        })?;
        let mut new = Self::encoded(E::NAME, payload);
        new.key = event.key().map(Into::into);
        new.expires_at = event.expires_at();
        for (name, value) in event.attributes() {
            new.attributes.insert(name, value);
        }
        Ok(new)
    }

    /// An untyped event: any JSON, kept byte for byte.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the name breaks the rules of [`EventType`] or the payload is
    /// not one JSON value.
    pub fn raw(kind: &str, payload: impl Into<Bytes>) -> Result<Self, Error> {
        let kind: EventType = kind.parse().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("publish an event: {error}"))
        })?;
        let payload = payload.into();
        if let Err(error) = serde_json::from_slice::<&RawValue>(&payload) {
            let kind = kind.as_str();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("publish a {kind:?} event: its payload is not valid JSON: {error}"),
            ));
        }
        Ok(Self::encoded(kind, payload))
    }

    fn encoded(kind: EventType, payload: Bytes) -> Self {
        Self {
            id: None,
            kind,
            key: None,
            time: None,
            expires_at: None,
            attributes: Attributes::new(),
            payload,
        }
    }

    /// Sets the id. Publishing an id again within the dedup window returns the first receipt.
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the ordering key: 1 to 256 bytes (checked by publish).
    pub fn key(mut self, key: impl Into<Box<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets when the event happened (default: when it is accepted). Webhook bodies carry it as
    /// `timestamp`.
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the deadline after which no attempt starts and the delivery ends as expired.
    pub fn expires_at(mut self, time: Timestamp) -> Self {
        self.expires_at = Some(time);
        self
    }

    /// Adds an attribute, replacing one of the same name (rules: [`Attributes`]).
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// The type name.
    pub fn event_type(&self) -> &EventType {
        &self.kind
    }

    /// The payload as it will be stored and sent.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Names and values beside the payload.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The id, where the publisher has set one.
    pub(crate) fn given_id(&self) -> Option<&EventId> {
        self.id.as_ref()
    }

    /// The ordering key, where the publisher has set one.
    pub(crate) fn given_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Checks what publishing would refuse, without publishing: for programs that take many events
    /// all or none.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for a payload above `payload_bytes_max`, [`ErrorKind::Invalid`] for
    /// a name that belongs to the bus, and a key or attributes that break their rules.
    pub fn check(&self, payload_bytes_max: usize) -> Result<(), Error> {
        self.check_name()?;
        self.check_rest(payload_bytes_max)
    }

    pub(crate) fn check_name(&self) -> Result<(), Error> {
        if !self.kind.is_reserved() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "publish a {:?} event: names under \"postrider\" belong to the bus",
                self.kind.as_str()
            ),
        ))
    }

    fn check_rest(&self, payload_bytes_max: usize) -> Result<(), Error> {
        let refuse = |what: String| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("publish a {:?} event: {what}", self.kind.as_str()),
            ))
        };
        if self.payload.len() > payload_bytes_max {
            let what = format!(
                "publish a {:?} event: its payload has {} bytes, the bus takes at most \
                 {payload_bytes_max} (bus.payload_bytes_max)",
                self.kind.as_str(),
                self.payload.len(),
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        if let Some(key) = &self.key
            && (key.is_empty() || key.len() > KEY_BYTES_MAX)
        {
            return refuse(format!(
                "expected a key of 1 to {KEY_BYTES_MAX} bytes, found {}",
                key.len()
            ));
        }
        if let Err(what) = check_attributes(&self.attributes) {
            return refuse(what);
        }
        Ok(())
    }

    /// Checks the rules and fills in what the publisher left open: the accepted form. Publishing
    /// does this; call it only to hand a sink an event without a bus.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), but for the name.
    pub fn seal(self, clock: &dyn Clock, payload_bytes_max: usize) -> Result<Envelope, Error> {
        self.seal_at(clock.now(), clock, payload_bytes_max)
    }

    /// As [`seal`](Self::seal), at a time that the caller has read already.
    pub(crate) fn seal_at(
        self,
        now: Timestamp,
        clock: &dyn Clock,
        payload_bytes_max: usize,
    ) -> Result<Envelope, Error> {
        self.check_rest(payload_bytes_max)?;
        Ok(Envelope {
            id: self.id.unwrap_or_else(|| EventId::v7(now, [clock.random(), clock.random()])),
            kind: self.kind,
            key: self.key,
            time: self.time.unwrap_or(now),
            expires_at: self.expires_at,
            attributes: self.attributes,
            payload: self.payload,
        })
    }
}

impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("id", &self.id)
            .field("type", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Encodes into a buffer that the thread keeps: a payload then costs one allocation of its own size
/// instead of one for each doubling.
fn encode(event: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    /// A larger buffer is not kept, in bytes.
    const KEPT_MAX: usize = 64 << 10;
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken, not borrowed: an event that publishes another one while it is encoded finds it empty.
    let mut buffer = BUFFER.take();
    buffer.clear();
    serde_json::to_writer(&mut buffer, event)?;
    let payload = Bytes::copy_from_slice(&buffer);
    if buffer.capacity() <= KEPT_MAX {
        BUFFER.set(buffer);
    }
    Ok(payload)
}

fn check_attributes(attributes: &Attributes) -> Result<(), String> {
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(format!(
            "expected at most {ATTRIBUTES_MAX} attributes, found {}",
            attributes.len()
        ));
    }
    let mut bytes = 0;
    for (name, value) in attributes {
        bytes += name.len() + value.len();
        let name_is_valid = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !name_is_valid {
            return Err(format!(
                "expected attribute names of lower-case letters, digits, - and _, found {name:?}"
            ));
        }
        if !value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Err(format!("expected printable ASCII in the value of attribute {name:?}"));
        }
    }
    if bytes > ATTRIBUTES_BYTES_MAX {
        return Err(format!(
            "expected attributes of at most {ATTRIBUTES_BYTES_MAX} bytes, found {bytes}"
        ));
    }
    Ok(())
}

/// What `publish` takes: a typed event by value or reference, or a [`NewEvent`].
pub trait IntoNewEvent {
    /// Encodes it.
    ///
    /// # Errors
    /// Those of [`NewEvent::of`].
    fn into_new_event(self) -> Result<NewEvent, Error>;
}

impl<E: Event> IntoNewEvent for E {
    fn into_new_event(self) -> Result<NewEvent, Error> {
        NewEvent::of(&self)
    }
}

impl IntoNewEvent for NewEvent {
    fn into_new_event(self) -> Result<NewEvent, Error> {
        Ok(self)
    }
}

/// An event on one line, for logs that people and programs read: id, type, time, then key, deadline
/// and attributes where there are any, and the payload last.
///
/// The payload keeps its bytes, but for line breaks between its tokens, which become spaces: valid
/// JSON has none inside a string (RFC 8259 §7).
pub fn write_line(event: &Envelope, out: &mut Vec<u8>) {
    fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(out, value).expect("texts and maps of texts always encode");
    }
    out.extend_from_slice(b"{\"id\":");
    json(out, event.id.encode(&mut [0; 36]));
    // Neither a type name nor a time has a character that JSON escapes.
    out.extend_from_slice(b",\"event\":\"");
    out.extend_from_slice(event.kind.as_str().as_bytes());
    write!(out, "\",\"timestamp\":\"{}\"", event.time).expect("a Vec takes all that is written");
    if let Some(key) = event.key() {
        out.extend_from_slice(b",\"key\":");
        json(out, key);
    }
    if let Some(deadline) = event.expires_at {
        write!(out, ",\"expires_at\":\"{deadline}\"").expect("a Vec takes all that is written");
    }
    if !event.attributes.is_empty() {
        out.extend_from_slice(b",\"attributes\":");
        json(out, &event.attributes);
    }
    out.extend_from_slice(b",\"data\":");
    let from = out.len();
    out.extend_from_slice(&event.payload);
    for byte in &mut out[from..] {
        // Stored whether it changes or not: so the compiler does 16 bytes at a time.
        *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
    out.extend_from_slice(b"}\n");
}

/// A shared, accepted event.
pub type SharedEnvelope = Arc<Envelope>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn line(event: NewEvent) -> String {
        let event = event.time(Timestamp::from_millis(1_764_513_045_123));
        let event = event.seal(&SystemClock, 1_000).unwrap();
        let mut out = Vec::new();
        write_line(&event, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The line is valid JSON whatever the texts in it, stays one line, and keeps the payload.
    #[test]
    fn lines() {
        let plain = NewEvent::raw("match", "{\r\n \"a\" : 1e400,\n\"b\":\"\\n\"}").unwrap();
        assert_eq!(
            line(plain.id("evt_1".parse().unwrap())),
            "{\"id\":\"evt_1\",\"event\":\"match\",\"timestamp\":\"2025-11-30T14:30:45.123Z\",\
             \"data\":{   \"a\" : 1e400, \"b\":\"\\n\"}}\n"
        );
        let full = NewEvent::raw("model.uploaded", "null").unwrap();
        let full = full
            .id(r#"a"\b"#.parse().unwrap())
            .key("k\"\n")
            .expires_at(Timestamp::from_millis(0))
            .attribute("source", r#"a "b""#);
        assert_eq!(
            line(full),
            "{\"id\":\"a\\\"\\\\b\",\"event\":\"model.uploaded\",\
             \"timestamp\":\"2025-11-30T14:30:45.123Z\",\"key\":\"k\\\"\\n\",\
             \"expires_at\":\"1970-01-01T00:00:00.000Z\",\
             \"attributes\":{\"source\":\"a \\\"b\\\"\"},\"data\":null}\n"
        );
    }

    /// An event may publish another one while it is encoded: neither spoils the other's bytes.
    #[test]
    fn encodes_within_encoding() {
        struct Outer;
        impl Serialize for Outer {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut inner = encode(&["inner"]).map_err(serde::ser::Error::custom)?.to_vec();
                inner.extend(encode(&7).map_err(serde::ser::Error::custom)?);
                serializer.collect_seq([String::from_utf8_lossy(&inner), "outer".into()])
            }
        }
        assert_eq!(encode(&Outer).unwrap(), r#"["[\"inner\"]7","outer"]"#);
    }
}
