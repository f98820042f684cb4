//! An endpoint's own TLS: whom it trusts, who it says it is, and files that are read again when
//! they change.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use postrider::config::Followed;
use postrider::sink::Problem;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::Deserialize;

use super::pin::Pin;
use super::tls::{Roots, Tls};

/// Largest file of certificates or keys, in bytes.
pub const TLS_FILE_BYTES_MAX: u64 = 1 << 20;
/// Most certificates that an endpoint may pin.
pub const PINS_MAX: usize = 10;

/// The endpoint's own `tls`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "HttpTls")]
pub struct TlsSettings {
    /// PEM file of the authorities to trust, in place of those that the system trusts.
    #[schemars(extend("format" = "path"), length(min = 1))]
    pub ca: Option<String>,
    /// PEM file of the certificate to show to a receiver that asks for one, with its chain.
    #[schemars(extend("format" = "path"), length(min = 1))]
    pub client_cert: Option<String>,
    /// PEM file of the private key that belongs to `client_cert`.
    #[schemars(extend("format" = "path"), length(min = 1))]
    pub client_key: Option<String>,
    /// The oldest version of TLS that is spoken.
    pub min_version: MinVersion,
    /// SHA-256 fingerprints of the receiver's certificate, in hex, with or without colons; at most
    /// 10. Only these certificates are then taken, whoever issued them, for whatever name and
    /// time: the one way to take a self-signed one.
    #[schemars(length(max = 10))]
    pub pin: Vec<String>,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum MinVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V13,
}

impl TlsSettings {
    /// What the settings ask for, its files read; `None` where they ask for nothing.
    pub(super) fn checked(&self, problems: &mut Vec<Problem>) -> Option<Trust> {
        let before = problems.len();
        if self.pin.len() > PINS_MAX {
            let message = format!("expected at most {PINS_MAX} pins, found {}", self.pin.len());
            problems.push(Problem::new("tls.pin", message));
        }
        let mut pins = Vec::new();
        for (index, text) in self.pin.iter().enumerate() {
            match text.parse::<Pin>() {
                Ok(pin) => pins.push(pin),
                Err(message) => problems.push(
                    Problem::new(format!("tls.pin.{index}"), message)
                        .remedy("print it with openssl x509 -noout -fingerprint -sha256 -in FILE"),
                ),
            }
        }
        if !pins.is_empty() && self.ca.is_some() {
            let problem = Problem::new("tls.ca", "says nothing beside pin, which alone decides");
            problems.push(problem.remedy("take one of the two out"));
        }
        let client = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => {
                let problem = Problem::new("tls.client_key", "missing beside client_cert");
                problems.push(problem.remedy("give the file of the certificate's private key"));
                None
            }
            (None, Some(_)) => {
                let problem = Problem::new("tls.client_cert", "missing beside client_key");
                problems.push(problem.remedy("give the file of the key's certificate"));
                None
            }
        };
        let files = Files { ca: self.ca.clone().map(PathBuf::from), client };
        let wanted = Wanted { files, pins, min_version: self.min_version };
        let nothing = wanted.files.ca.is_none()
            && wanted.files.client.is_none()
            && wanted.pins.is_empty()
            && wanted.min_version == MinVersion::V12;
        if nothing || problems.len() > before {
            return None;
        }
        let followed = Followed::new(wanted.files.all().cloned());
        match wanted.load() {
            Ok(tls) => {
                let now = Loaded { tls, followed };
                Some(Trust(Arc::new((wanted, Mutex::new(now)))))
            }
            Err((key, message)) => {
                problems.push(Problem::new(key, message));
                None
            }
        }
    }
}

/// A [`Tls`] that follows its files.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<(Wanted, Mutex<Loaded>)>);

#[derive(Debug)]
struct Wanted {
    files: Files,
    pins: Vec<Pin>,
    min_version: MinVersion,
}

#[derive(Debug)]
struct Files {
    ca: Option<PathBuf>,
    /// Certificate and key.
    client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Loaded {
    tls: Tls,
    followed: Followed,
}

impl Trust {
    /// For a new connection. Looks at the files at most once a second; one that has changed and
    /// cannot be read, as while it is written, leaves what was before, and is tried again.
    pub(super) fn current(&self) -> Tls {
        let (wanted, loaded) = &*self.0;
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = loaded.followed.changed() {
            match wanted.load() {
                Ok(tls) => {
                    loaded.tls = tls;
                    loaded.followed.take(seen);
                }
                Err((key, message)) => {
                    tracing::warn!("{key} has changed and is not taken over: {message}");
                }
            }
        }
        loaded.tls.clone()
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(client)
    }
}

impl Wanted {
    /// `Err` with the key and what is wrong.
    fn load(&self) -> Result<Tls, (&'static str, String)> {
        let roots = if !self.pins.is_empty() {
            Roots::Pinned(self.pins.clone())
        } else if let Some(path) = &self.files.ca {
            Roots::Pem(read(path).map_err(|why| ("tls.ca", why))?)
        } else {
            Roots::Platform
        };
        let client = match &self.files.client {
            None => None,
            Some((certificate, key)) => Some((chain(certificate)?, private(key)?)),
        };
        let place = |why: String| {
            let key = match (&roots, &client) {
                (Roots::Pem(_), None) => "tls.ca",
                (_, Some(_)) => "tls.client_cert",
                _ => "tls",
            };
            (key, why)
        };
        let is_13 = self.min_version == MinVersion::V13;
        Tls::of(&roots, client.as_ref(), is_13).map_err(place)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read file {shown}: {error}"))?;
    if bytes.len() as u64 > TLS_FILE_BYTES_MAX {
        return Err(format!("file {shown} is too large: at most 1 MiB is read"));
    }
    Ok(bytes)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
    let fail = |why| ("tls.client_cert", why);
    let pem = read(path).map_err(fail)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(fail(format!("no certificate found in file {}", path.display()))),
        Err(error) => Err(fail(format!("file {} is not PEM: {error}", path.display()))),
    }
}

fn private(path: &Path) -> Result<PrivateKeyDer<'static>, (&'static str, String)> {
    let fail = |why| ("tls.client_key", why);
    let pem = read(path).map_err(fail)?;
    // The reader's own words could hold a part of the key.
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| fail(format!("no private key in PEM found in file {}", path.display())))
}
