//! The body of an answer: bounded, and decoded where it is gzip.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// An answer's body as far as it has come.
///
/// The bound holds for what came and for what it decodes to, each by itself: neither a small body
/// that decodes to a large one nor a large one that decodes to nothing goes beyond it.
pub(super) struct Text {
    bytes_max: usize,
    /// Bytes of the body, as they came.
    came: usize,
    kept: Kept,
}

enum Kept {
    /// Nearly every body is a single piece, which is handed on as it is.
    Plain {
        first: Bytes,
        more: BytesMut,
    },
    Gzip(Box<GzDecoder<Bounded>>),
}

impl Text {
    /// For the body that `headers` announce.
    pub(super) fn new(headers: &HeaderMap, bytes_max: usize) -> Self {
        let kept = if is_gzip(headers) {
            Kept::Gzip(Box::new(GzDecoder::new(Bounded { bytes: Vec::new(), bytes_max })))
        } else {
            Kept::Plain { first: Bytes::new(), more: BytesMut::new() }
        };
        Self { bytes_max, came: 0, kept }
    }

    /// Reads until the end or a bound, and tells whether it was the end. What has been read stays,
    /// also where this fails or is dropped. A body that is not the gzip it says it is ends where it
    /// cannot be decoded.
    pub(super) async fn fill(&mut self, mut body: Incoming) -> hyper::Result<bool> {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !self.take(data) {
                return Ok(false);
            }
        }
        Ok(match &mut self.kept {
            Kept::Plain { .. } => true,
            // Without a byte there is nothing to decode, whatever the header says (a 204).
            Kept::Gzip(decoder) => self.came == 0 || decoder.try_finish().is_ok(),
        })
    }

    /// Takes the next piece; false where a bound or an error of the coding ends it.
    fn take(&mut self, mut data: Bytes) -> bool {
        let left = self.bytes_max - self.came;
        let whole = data.len() <= left;
        data.truncate(left);
        self.came += data.len();
        match &mut self.kept {
            Kept::Plain { first, .. } if first.is_empty() => {
                *first = data;
                whole
            }
            Kept::Plain { more, .. } => {
                more.extend_from_slice(&data);
                whole
            }
            Kept::Gzip(decoder) => decoder.write_all(&data).is_ok() && whole,
        }
    }

    /// What is kept; `headers` then say of it what is true.
    pub(super) fn finish(self, headers: &mut HeaderMap) -> Bytes {
        match self.kept {
            Kept::Plain { first, more } if more.is_empty() => first,
            Kept::Plain { first, more } => [first, more.freeze()].concat().into(),
            Kept::Gzip(mut decoder) => {
                headers.remove(CONTENT_ENCODING);
                headers.remove(CONTENT_LENGTH);
                // The last decoded bytes are still inside; that more are missing is known.
                let _ = decoder.flush();
                std::mem::take(&mut decoder.get_mut().bytes).into()
            }
        }
    }
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let named =
        |name: &str| name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip");
    match (codings.next(), codings.next()) {
        // A list of several codings has a comma and stays as it is.
        (Some(coding), None) => coding.to_str().is_ok_and(|coding| named(coding.trim())),
        _ => false,
    }
}

/// Takes bytes up to a bound and refuses the next.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.bytes_max - self.bytes.len();
        if left == 0 && !bytes.is_empty() {
            return Err(io::Error::other("the decoded text is longer than its bound"));
        }
        let taken = bytes.len().min(left);
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
