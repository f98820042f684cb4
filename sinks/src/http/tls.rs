//! TLS: rustls with ring; certificates are always verified.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt as _;

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
        let config = builder()
            .with_platform_verifier()
            .map_err(|error| format!("the system's certificates cannot be loaded: {error}"))?;
        Ok(shared.insert(Self::finish(config.with_no_client_auth())).clone())
    }

    /// Trusts the authorities of a PEM text and nobody else.
    ///
    /// # Errors
    /// Text without a certificate, or with one that cannot be an authority.
    pub fn with_roots(pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("not an authority: {error}"))?;
        }
        if roots.is_empty() {
            return Err("no certificate found in the PEM text".to_owned());
        }
        Ok(Self::finish(builder().with_root_certificates(roots).with_no_client_auth()))
    }

    fn finish(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
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
    let rustls::Error::InvalidCertificate(certificate) = tls else {
        return format!("TLS handshake failed: {tls}");
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host name".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the certificate's issuer is not trusted (unknown authority)".to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate is not signed by the issuer that it names".to_owned()
        }
        CertificateError::Revoked => "the certificate was revoked".to_owned(),
        other => format!("the certificate is not valid: {other}"),
    }
}
