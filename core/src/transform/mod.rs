//! Transforms: another body than the event's payload, for receivers that want their own shape.
//!
//! Pure. A transform is compiled once and then makes JSON of events, by a template or by one of the
//! presets for well-known receivers. It has no loops, so that its time is bounded by the sizes of
//! the template and the payload; what it makes is bounded by [`OUTPUT_BYTES_MAX`]. The language is
//! in docs/TRANSFORMS.md.

mod preset;
mod template;

use std::fmt;

use bytes::Bytes;
use serde_json::Value as Json;

pub use preset::Preset;

use crate::event::Envelope;
use crate::filter::PAYLOAD_DEPTH_MAX;
use crate::filter::value::{self, Value};
use template::Template;

/// Largest template, in bytes of JSON.
pub const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Most placeholders of one template.
pub const PLACEHOLDERS_MAX: usize = 500;
/// Deepest nesting of a template.
pub const TEMPLATE_DEPTH_MAX: usize = 32;
/// Most that a transform may make of one event, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// A compiled transform.
///
/// ```
/// use postrider::NewEvent;
/// use postrider::clock::SystemClock;
/// use postrider::transform::Transform;
///
/// let transform = Transform::new(&serde_json::json!({
///     "template": { "title": "{{ type }} by {{ payload.user.name }}", "n": "{{ payload.n }}" }
/// })).unwrap();
/// let event = NewEvent::raw("upload", r#"{"user":{"name":"\"Bo\""},"n":1.50}"#)?;
/// let event = event.seal(&SystemClock, 1024)?;
/// let body = transform.apply(&event).unwrap();
/// assert_eq!(body, r#"{"n":1.50,"title":"upload by \"Bo\""}"#);
/// # Ok::<(), postrider::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Transform(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Template(Template),
    Preset(Preset),
}

impl Transform {
    /// Compiles a transform: the name of a [`Preset`], or a table with a `template`.
    ///
    /// # Errors
    /// The first mistake.
    pub fn new(source: &Json) -> Result<Self, InvalidTransform> {
        let expected = "expected the name of a preset, or { template = … }";
        let known = "known presets: slack, discord, teams, zapier";
        match source {
            Json::String(name) => match Preset::of(name) {
                Some(preset) => Ok(Self(Kind::Preset(preset))),
                None => Err(InvalidTransform::new("", expected, known)),
            },
            Json::Object(table) => match (table.get("template"), table.len()) {
                (Some(template), 1) => Ok(Self(Kind::Template(Template::new(template)?))),
                _ if table.contains_key("jq") => Err(InvalidTransform::new(
                    "jq",
                    "not yet supported by this version",
                    "write a template, or shape the event before it is published",
                )),
                _ => Err(InvalidTransform::new("", expected, known)),
            },
            _ => Err(InvalidTransform::new("", expected, known)),
        }
    }

    /// Whether it writes the receiver's whole body, so that no other form may be put around it.
    pub fn is_whole_body(&self) -> bool {
        matches!(self.0, Kind::Preset(_))
    }

    /// Makes the body of one event: valid JSON.
    ///
    /// # Errors
    /// Why nothing can be made of this event, now or later.
    pub fn apply(&self, event: &Envelope) -> Result<Bytes, Impossible> {
        let payload = value::parse(event.payload()).ok_or(Impossible::TooDeep)?;
        let mut out = Vec::with_capacity(256 + event.payload().len());
        match &self.0 {
            Kind::Template(template) => template.write(&root(event, payload), &mut out)?,
            Kind::Preset(preset) => preset.write(event, &payload, &mut out)?,
        }
        if out.len() > OUTPUT_BYTES_MAX {
            return Err(Impossible::TooLarge);
        }
        Ok(out.into())
    }
}

/// What paths of a template start at.
fn root<'a>(event: &'a Envelope, payload: Value<'a>) -> Value<'a> {
    let attributes = event
        .attributes()
        .iter()
        .map(|(name, text)| (name.as_str().into(), Value::Text(text.as_str().into())));
    let mut root = vec![
        ("id".into(), Value::Text(event.id().to_string().into())),
        ("type".into(), Value::Text(event.event_type().as_str().into())),
        ("time".into(), Value::Text(event.time().to_string().into())),
        ("attributes".into(), Value::Table(attributes.collect())),
        ("payload".into(), payload),
    ];
    if let Some(key) = event.key() {
        root.push(("key".into(), Value::Text(key.into())));
    }
    Value::Table(root)
}

/// Why an event has no body for this receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Impossible {
    /// The payload nests deeper than transforms look.
    TooDeep,
    /// More than [`OUTPUT_BYTES_MAX`] would be made of it.
    TooLarge,
    /// A flat object of it would have too many names.
    TooManyNames,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => {
                write!(f, "the transform takes payloads nested up to {PAYLOAD_DEPTH_MAX} levels")
            }
            Self::TooLarge => {
                write!(f, "the transform makes more than {OUTPUT_BYTES_MAX} bytes of this event")
            }
            Self::TooManyNames => {
                write!(f, "a flat object of this event has more than {} names", preset::NAMES_MAX)
            }
        }
    }
}

impl std::error::Error for Impossible {}

/// What is wrong with a transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTransform {
    /// The key below the transform, dotted; empty for the transform itself.
    pub key: String,
    /// What is wrong, as a lower-case sentence part.
    pub message: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl InvalidTransform {
    fn new(key: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for InvalidTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transform {}: {}", self.key, self.message)
    }
}

impl std::error::Error for InvalidTransform {}
