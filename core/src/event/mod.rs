//! Events: the typed facts that a program publishes, and their encoded form.
//!
//! Pure: knows no endpoint, store or clock of its own.

#[doc(hidden)]
pub mod checks;
mod envelope;
mod id;
mod name;

use std::fmt;

use serde::Serialize;

pub use envelope::{
    ATTRIBUTES_BYTES_MAX, ATTRIBUTES_MAX, Attributes, Envelope, IntoNewEvent, KEY_BYTES_MAX,
    NewEvent, PAYLOAD_BYTES_MAX_DEFAULT, SharedEnvelope, write_line,
};
pub use id::{EventId, ID_BYTES_MAX, InvalidEventId};
pub use name::{EventType, InvalidEventType, TYPE_BYTES_MAX};
pub use postrider_derive::Event;

use crate::time::Timestamp;

/// A fact that a program publishes: any `serde` type with a name.
///
/// Derive it (see [the macro](derive@Event)), or write the one line:
///
/// ```
/// use postrider::Event;
/// use serde::Serialize;
///
/// #[derive(Serialize, Event)]
/// #[event(type = "match")]
/// struct Match {
///     best_model: String,
///     #[event(range = 0.0..=1.0)]
///     confidence: f64,
/// }
///
/// #[derive(Serialize)]
/// struct Ping { from: String }
///
/// impl Event for Ping { const TYPE: &'static str = "ping"; }
/// ```
pub trait Event: Serialize {
    /// The type name, by the rules of [`EventType`]; a wrong one does not compile when published.
    const TYPE: &'static str;

    /// Version of the payload's shape, for schemas; raise it when the shape changes.
    const VERSION: u32 = 1;

    /// [`TYPE`](Self::TYPE), checked at compile time. Leave as it is.
    #[doc(hidden)]
    const NAME: EventType = EventType::from_static(Self::TYPE);

    /// The ordering key: events of one key stay in order where an endpoint asks for it. 1 to 256
    /// bytes. Default: none.
    fn key(&self) -> Option<String> {
        None
    }

    /// When the event is worthless: no attempt starts after it. Default: never.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    /// Names and values that travel beside the payload. Default: none.
    fn attributes(&self) -> Attributes {
        Attributes::new()
    }

    /// Refuses values out of range before anything is stored. Default: all is well.
    ///
    /// # Errors
    /// The field, what it should be, and what it is.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

impl<E: Event + ?Sized> Event for &E {
    const TYPE: &'static str = E::TYPE;
    const VERSION: u32 = E::VERSION;

    fn key(&self) -> Option<String> {
        (**self).key()
    }

    fn expires_at(&self) -> Option<Timestamp> {
        (**self).expires_at()
    }

    fn attributes(&self) -> Attributes {
        (**self).attributes()
    }

    fn validate(&self) -> Result<(), Invalid> {
        (**self).validate()
    }
}

/// Why an event was refused: which field, what it should be, what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    field: String,
    expected: String,
    found: String,
}

impl Invalid {
    /// `field` as in the JSON payload; `expected` reads after "expected"; `found` is shown, so it
    /// must hold no secret.
    pub fn new(
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl fmt::Display,
    ) -> Self {
        let found: String = found.to_string().chars().take(100).collect();
        Self { field: field.into(), expected: expected.into(), found }
    }

    /// The field, as in the JSON payload.
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.field, self.expected, self.found)
    }
}

impl std::error::Error for Invalid {}
