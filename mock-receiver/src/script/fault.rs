//! What can go wrong with an answer, on purpose and down to the byte.

use serde::{Deserialize, Serialize};

/// The most that a fault sends: huge heads and bodies, and what a bomb unpacks to.
const BYTES_MAX: u64 = 16 << 30;
const INTERIM_MAX: u32 = 1_000_000;

/// Something that goes wrong with an answer.
///
/// As JSON, in the `fault` of an answer or a bin: `{"kind":"truncate_body","after_bytes":10}`.
/// The kinds speak of HTTP/1.1; over HTTP/2, where its text does not exist, those marked † reset
/// the stream with `PROTOCOL_ERROR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Takes the request and never answers; the connection stays open until the sender closes it.
    Hang,
    /// Ends the connection with a reset (RST) in the place of an answer.
    Reset,
    /// Reads the head and then nothing more, nor answers. Decided by the head alone.
    StopReading,
    /// Ends the connection when this much of the body was read. Decided by the head alone.
    CloseIn {
        /// Bytes of the body, after any chunked coding; 0 is right behind the head.
        after_bytes: u64,
        /// With a reset (RST) instead of an orderly end (FIN).
        #[serde(default)]
        reset: bool,
    },
    /// Ends the connection when this much of the answer was sent, head included.
    CloseOut {
        /// Bytes of the answer.
        after_bytes: u64,
        /// With a reset (RST) instead of an orderly end (FIN).
        #[serde(default)]
        reset: bool,
    },
    /// Promises the whole body in `content-length`, sends this much of it and ends.
    TruncateBody {
        /// Bytes of the body that are sent.
        after_bytes: u64,
    },
    /// Sends the whole body under a `content-length` that is off by this much, and ends. †
    WrongLength {
        /// Added to the right length; not below zero in all.
        by: i64,
    },
    /// Sends this line, which is no status line unless you make it one. †
    BadStatusLine {
        /// Without a line end. Default `HTTP/1.1 two hundred`.
        #[serde(default = "bad_line")]
        line: String,
    },
    /// Sends the body in chunks, the last of which has a size that is no number, and ends. †
    BadChunk,
    /// Sends so many interim answers before the real one. †
    Interim {
        /// How many; at most a million.
        count: u32,
        /// Their status, 102 or 103. Default 102.
        #[serde(default = "interim_status")]
        status: u16,
    },
    /// Sends the head a few bytes at a time. †
    DripHead {
        /// Bytes at a time, at least 1.
        bytes: usize,
        /// Milliseconds between them.
        every_ms: u64,
    },
    /// Sends the body a few bytes at a time.
    DripBody {
        /// Bytes at a time, at least 1.
        bytes: usize,
        /// Milliseconds between them.
        every_ms: u64,
    },
    /// Adds a header line of this length. †
    HugeHead {
        /// Bytes of its value; at most 16 GiB.
        bytes: u64,
    },
    /// Sends a body of this length in the place of the answer's own.
    HugeBody {
        /// At most 16 GiB.
        bytes: u64,
    },
    /// Sends a gzip body, a thousandth in size, that unpacks to this many zero bytes.
    Bomb {
        /// Rounded up to whole MiB; at most 16 GiB.
        bytes: u64,
    },
    /// Redirects to itself: so many times and then answers, or for ever.
    Redirect {
        /// How many times; for ever when absent.
        #[serde(default)]
        hops: Option<u32>,
        /// 301, 302, 303, 307 or 308. Default 302.
        #[serde(default = "redirect_status")]
        status: u16,
    },
    /// HTTP/2: ends the connection with GOAWAY in the place of an answer; HTTP/1.1: a plain end.
    Goaway {
        /// The error code (RFC 9113 §7). Default 0, `NO_ERROR`.
        #[serde(default)]
        code: u32,
    },
    /// HTTP/2: resets the stream with `RST_STREAM`; HTTP/1.1: resets the connection.
    RstStream {
        /// The error code (RFC 9113 §7). Default 2, `INTERNAL_ERROR`.
        #[serde(default = "internal_error")]
        code: u32,
    },
}

fn bad_line() -> String {
    "HTTP/1.1 two hundred".to_owned()
}

fn interim_status() -> u16 {
    102
}

fn redirect_status() -> u16 {
    302
}

fn internal_error() -> u32 {
    2
}

impl Fault {
    /// Whether it is decided when the head is there, before any of the body is read.
    pub(crate) fn is_early(&self) -> bool {
        matches!(self, Self::StopReading | Self::CloseIn { .. })
    }

    /// Whether the sender sees no status at all.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Hang
                | Self::Reset
                | Self::StopReading
                | Self::CloseIn { .. }
                | Self::CloseOut { after_bytes: 0..12, .. }
                | Self::BadStatusLine { .. }
                | Self::Goaway { .. }
                | Self::RstStream { .. }
        )
    }

    /// The error names the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        let too_much = |bytes: u64| {
            (bytes > BYTES_MAX).then(|| format!("bytes: at most {BYTES_MAX}, found {bytes}"))
        };
        let wrong = match self {
            Self::HugeHead { bytes } | Self::HugeBody { bytes } | Self::Bomb { bytes } => {
                too_much(*bytes)
            }
            Self::DripHead { bytes: 0, .. } | Self::DripBody { bytes: 0, .. } => {
                Some("bytes: at least 1, found 0".to_owned())
            }
            Self::Interim { count, .. } if *count > INTERIM_MAX => {
                Some(format!("count: at most {INTERIM_MAX}, found {count}"))
            }
            Self::Interim { status, .. } if !matches!(status, 102 | 103) => {
                Some(format!("status: 102 or 103, found {status}"))
            }
            Self::Redirect { status, .. } if !matches!(status, 301..=303 | 307 | 308) => {
                Some(format!("status: 301, 302, 303, 307 or 308, found {status}"))
            }
            Self::BadStatusLine { line } if line.contains(['\r', '\n']) => {
                Some("line: one line without its end".to_owned())
            }
            _ => None,
        };
        wrong.map_or(Ok(()), Err)
    }
}
