//! TLS: rustls with ring; certificates are always verified.

use std::sync::{Arc, Mutex, PoisonError};

use postrider::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, PeerIncompatible, RootCertStore,
    SupportedProtocolVersion, WantsVerifier,
};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::pin::{Pin, Pinned};
use super::target::Host;

/// Whom a client trusts. Cheap to clone; one value serves any number of endpoints.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts what the operating system trusts. Every call returns the same configuration, so that
    /// all endpoints share it and its session cache.
    ///
    /// # Errors
    /// Where the system has no certificate store that can be read; tried anew at the next call.
    pub fn platform() -> Result<Self, String> {
        static SHARED: Mutex<Option<Tls>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = &*shared {
            return Ok(tls.clone());
        }
        let tls = Self::of(&Roots::Platform, None, false)?;
        Ok(shared.insert(tls).clone())
    }

    /// Trusts the authorities of a PEM text and nobody else.
    ///
    /// # Errors
    /// Text without a certificate, or with one that cannot be an authority.
    pub fn with_roots(pem: &[u8]) -> Result<Self, String> {
        Self::of(&Roots::Pem(pem.to_vec()), None, false)
    }

    /// Trusts `roots` and shows the certificate of `client` where it is asked for one.
    pub(super) fn of(
        roots: &Roots,
        client: Option<&(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        only_13: bool,
    ) -> Result<Self, String> {
        let versions: &[&SupportedProtocolVersion] =
            if only_13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let config = builder(versions);
        let config = match roots {
            Roots::Platform => config
                .with_platform_verifier()
                .map_err(|error| format!("the system's certificates cannot be loaded: {error}"))?,
            Roots::Pem(pem) => config.with_root_certificates(authorities(pem)?),
            Roots::Pinned(pins) => {
                let verifier =
                    Pinned { pins: pins.clone(), provider: Arc::clone(config.crypto_provider()) };
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match client {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                config.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|error| {
                    format!("the certificate and its key do not go together: {error}")
                })?
            }
        };
        Ok(Self::finish(config))
    }

    fn finish(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// Who says that a certificate is right.
pub(super) enum Roots {
    Platform,
    Pem(Vec<u8>),
    Pinned(Vec<Pin>),
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("not an authority: {error}"))?;
    }
    if roots.is_empty() {
        return Err("no certificate found in the PEM text".to_owned());
    }
    Ok(roots)
}

fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
}

/// Whom the certificate must name. `None` where the name can stand in no certificate.
pub(super) fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Ip(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.clone()).ok(),
    }
}

/// A failed handshake in words: which check failed and what helps.
pub(super) fn explain(error: &std::io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>())
    else {
        return format!("the connection broke in the TLS handshake: {}", error.kind());
    };
    words(tls)
}

/// A failure of TLS in words, in the handshake or (a client certificate refused in TLS 1.3) after
/// it.
pub(super) fn words(tls: &rustls::Error) -> String {
    use rustls::AlertDescription as Alert;
    let certificate = match tls {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            return "the receiver wants a client certificate (tls.client_cert)".to_owned();
        }
        rustls::Error::AlertReceived(Alert::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => return "the receiver speaks no version of TLS that is permitted here".to_owned(),
        rustls::Error::AlertReceived(Alert::HandshakeFailure) => {
            return "the receiver refused the handshake: it found no settings in common, or misses \
                    a client certificate (tls.client_cert)"
                .to_owned();
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => return format!("the receiver refused our client certificate ({alert:?})"),
        other => return format!("TLS handshake failed: {other}"),
    };
    match certificate {
        CertificateError::Expired => "the certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate has expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "the certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidForName => "the certificate is for another host name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("the certificate is for another host name{}", names(presented))
        }
        CertificateError::UnknownIssuer => {
            "the certificate's issuer is not trusted (unknown authority)".to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate is not signed by the issuer that it names".to_owned()
        }
        CertificateError::Revoked => "the certificate was revoked".to_owned(),
        CertificateError::ApplicationVerificationFailure => {
            "the certificate is none of those in tls.pin".to_owned()
        }
        other => format!("the certificate is not valid: {other}"),
    }
}

fn date(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000);
    let mut text = Timestamp::from_millis(millis).to_string();
    // The day is what people look for.
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

/// The first names of a certificate. They come from whoever answered, so they are few and short.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = presented
        .iter()
        .take(SHOWN)
        // As in `DnsName("a.example")`.
        .map(|name| name.split('"').nth(1).unwrap_or(name).chars().take(80).collect::<String>())
        .map(|name| name.escape_default().to_string())
        .collect();
    match (shown.is_empty(), presented.len().saturating_sub(SHOWN)) {
        (true, _) => String::new(),
        (false, 0) => format!(" ({})", shown.join(", ")),
        (false, more) => format!(" ({} and {more} more)", shown.join(", ")),
    }
}
