//! Secrets of bins, and what keys a text may stand for.

use std::{
    collections::HashMap,
    fmt,
    sync::{PoisonError, RwLock},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{Cause, CauseKind, Encoding};
use crate::{Error, ErrorKind, store::BINS_MAX};

/// How many secrets a bin may have.
pub(crate) const SECRETS_MAX: usize = 16;
/// The longest text of a secret, in bytes.
const SECRET_BYTES_MAX: usize = 4096;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A secret as text; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Takes a secret of 1 to 4096 bytes.
    pub(crate) fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if text.is_empty() || text.len() > SECRET_BYTES_MAX {
            let message = format!("a secret has 1 to {SECRET_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self(text))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The text behind `whsec_`, `whsk_` or `whpk_`.
    fn bare(&self) -> &str {
        let prefixes = ["whsec_", "whsk_", "whpk_"];
        prefixes.iter().find_map(|prefix| self.0.strip_prefix(prefix)).unwrap_or(&self.0)
    }

    /// The key that it is where a scheme decodes its secret, as Standard Webhooks does.
    pub(super) fn decoded(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.bare()).ok().filter(|key| !key.is_empty())
    }

    /// Every key that the text may be taken for. The one of the scheme comes first and has no
    /// cause; it is missing where the text is none.
    pub(super) fn keys(&self, decodes: bool) -> Vec<(Vec<u8>, Option<Cause>)> {
        let mut keys: Vec<(Vec<u8>, Option<Cause>)> = Vec::new();
        let mut add = |key: Vec<u8>, cause: Option<Cause>| {
            if !key.is_empty() && keys.iter().all(|(other, _)| *other != key) {
                keys.push((key, cause));
            }
        };
        let undecoded = |text: &str| Some(Cause::new(CauseKind::SecretUndecoded, text.to_owned()));
        let decoded = |text: &str| Some(Cause::new(CauseKind::SecretDecoded, text.to_owned()));
        let whole = self.0.as_bytes().to_vec();
        let bare = self.bare().as_bytes().to_vec();
        if decodes {
            if let Some(key) = self.decoded() {
                add(key, None);
            }
            let why = "the text of the secret was the key, and not what its base64 stands for";
            add(bare.clone(), undecoded(why));
            add(whole, undecoded("the whole text of the secret with its prefix was the key"));
        } else {
            add(whole, None);
            let why = "the key was the text of the secret without its prefix";
            add(bare.clone(), Some(Cause::new(CauseKind::SecretPrefix, why)));
            if let Some(key) = self.decoded() {
                add(key, decoded("the key was what the secret's base64 stands for"));
            }
        }
        if let Ok(key) = URL_SAFE.decode(&bare) {
            add(key, decoded("the key was what the secret stands for as base64 of the URL kind"));
        }
        if let Some(key) = unhex(&bare) {
            add(key, decoded("the key was what the secret's hex digits stand for"));
        }
        let space = |text: &str| Some(Cause::new(CauseKind::SecretWhitespace, text.to_owned()));
        add(
            self.0.trim().as_bytes().to_vec(),
            space("the key was the secret without the white space around it"),
        );
        for end in ["\n", "\r\n", " "] {
            let why = format!("the key was the secret with {} at its end", end.escape_debug());
            add([self.0.as_bytes(), end.as_bytes()].concat(), space(&why));
        }
        if decodes && let Some(key) = self.decoded() {
            let why = "the key was decoded twice, or its bytes were encoded before they were used";
            if let Ok(again) = STANDARD.decode(&key) {
                add(again, decoded(why));
            }
            add(
                hex(&key).into_bytes(),
                undecoded("the key was the hex digits of the secret's bytes"),
            );
        }
        keys
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(••••)")
    }
}

/// The secrets of all bins. Those of a bin come in the order current, previous, and so on.
#[derive(Default)]
pub(crate) struct Keyring {
    bins: RwLock<HashMap<String, Vec<Secret>>>,
    /// For bins without secrets of their own.
    all: Vec<Secret>,
}

impl Keyring {
    pub(crate) fn new(all: Vec<Secret>) -> Self {
        Self { bins: RwLock::default(), all }
    }

    /// Puts these in the place of what the bin had; none: those for all bins are its own again.
    pub(crate) fn set(&self, bin: &str, secrets: Vec<Secret>) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if secrets.len() > SECRETS_MAX {
            return invalid(format!("a bin has at most {SECRETS_MAX} secrets"));
        }
        let mut bins = self.bins.write().unwrap_or_else(PoisonError::into_inner);
        if secrets.is_empty() {
            bins.remove(bin);
            return Ok(());
        }
        if !bins.contains_key(bin) && bins.len() >= BINS_MAX {
            return invalid(format!("there are {BINS_MAX} bins with secrets already"));
        }
        bins.insert(bin.to_owned(), secrets);
        Ok(())
    }

    /// The secrets that hold for a bin.
    pub(crate) fn of(&self, bin: &str) -> Vec<Secret> {
        let bins = self.bins.read().unwrap_or_else(PoisonError::into_inner);
        bins.get(bin).unwrap_or(&self.all).clone()
    }

    /// Whether the bin has secrets of its own.
    pub(crate) fn has(&self, bin: &str) -> bool {
        self.bins.read().unwrap_or_else(PoisonError::into_inner).contains_key(bin)
    }

    /// Secrets that hold for other bins than this, each with its bin; a bounded number.
    pub(crate) fn others(&self, bin: &str) -> Vec<(String, Secret)> {
        let own = self.of(bin);
        let bins = self.bins.read().unwrap_or_else(PoisonError::into_inner);
        let of_bins = bins
            .iter()
            .flat_map(|(bin, secrets)| secrets.iter().map(|secret| (bin.clone(), secret.clone())));
        let mut others: Vec<_> =
            of_bins.filter(|(_, secret)| !own.contains(secret)).take(64).collect();
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        others
    }
}

/// Bytes that a text stands for in every way in which it can be read.
pub(super) fn decodings(text: &str) -> Vec<(Encoding, Vec<u8>)> {
    let mut ways = Vec::new();
    if let Some(bytes) = unhex(text.as_bytes()) {
        // Digits only: that base64 looks so by chance does not happen.
        return vec![(Encoding::Hex, bytes)];
    }
    if let Ok(bytes) = STANDARD.decode(text) {
        ways.push((Encoding::Base64, bytes));
    }
    if let Ok(bytes) = URL_SAFE.decode(text)
        && text.contains(['-', '_'])
    {
        ways.push((Encoding::Base64Url, bytes));
    }
    ways
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
