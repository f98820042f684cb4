//! The one error type of this crate.

use std::fmt;

use crate::Capture;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What kind of failure an [`Error`] is; callers branch on this, never on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An address could not be listened on.
    Bind,
    /// A wait ended before enough requests had come.
    Unmet,
    /// A name, answer, matcher or setting breaks a rule.
    Invalid,
    /// The receiver has gone out of scope.
    Closed,
    /// The receiver's thread or runtime could not be started.
    Start,
}

/// A failure of the receiver.
///
/// `Debug` prints the same text as `Display`, so that a failed `unwrap()` in a test shows the
/// account of a [`Wait`](crate::Wait) as it was meant to be read.
pub struct Error {
    kind: ErrorKind,
    message: String,
    captures: Vec<Capture>,
    source: Option<Source>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), captures: Vec::new(), source: None }
    }

    pub(crate) fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn with_captures(mut self, captures: Vec<Capture>) -> Self {
        self.captures = captures;
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The requests that had matched when an [`Unmet`](ErrorKind::Unmet) wait ended; else empty.
    pub fn captures(&self) -> &[Capture] {
        &self.captures
    }

    /// Whether the cause is that another program has the address.
    pub fn is_address_in_use(&self) -> bool {
        self.source
            .as_ref()
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
