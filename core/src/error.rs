//! The one error type of this crate.

use std::fmt;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What kind of failure an [`Error`] is; callers branch on this, never on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The event breaks a rule; publishing it again cannot succeed.
    Invalid,
    /// The event, or the batch, is larger than the bus takes.
    TooLarge,
    /// The backlog limit is reached and the bus is set to refuse.
    Full,
    /// The bus is shutting down or has been shut down.
    Closed,
    /// The store failed; nothing that was being published is accepted unless said.
    Store,
    /// The configuration is wrong.
    Config,
    /// A sink could not be opened.
    Sink,
    /// No such endpoint, event or delivery.
    NotFound,
    /// It cannot be done as things stand, such as making a delivery anew that is still owed.
    Conflict,
    /// The store does not do this (see `store::Capabilities`).
    Unsupported,
}

/// A failure of the bus.
///
/// `Display` is a lower-case fragment that reads after "failed to …" and holds no secret and no
/// payload; the cause is in [`source`](std::error::Error::source) and not repeated.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `message` reads after "failed to ".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message followed by every cause, for people: `what: why: why`.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// Whether the backlog limit was reached: try again later.
    pub fn is_full(&self) -> bool {
        self.kind == ErrorKind::Full
    }

    /// Whether the event itself was refused: trying again cannot help.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, ErrorKind::Invalid | ErrorKind::TooLarge)
    }

    /// Whether the bus is closed.
    pub fn is_closed(&self) -> bool {
        self.kind == ErrorKind::Closed
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
