//! TLS for the capture address: a certificate authority of its own, made for loopback names only,
//! and the ways in which a handshake can be bad on purpose.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, date_time_ymd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
    server::TlsStream,
};

use crate::{Error, ErrorKind};

/// Its files in a folder of captures.
const CERTIFICATE: &str = "mock-receiver-ca.pem";
const KEY: &str = "mock-receiver-ca-key.pem";
/// The names that certificates are made for, and that the authority is good for at all.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A handshake that is bad on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFault {
    /// A certificate that ended in 2020.
    Expired,
    /// A certificate for another name, `other.invalid`.
    WrongHost,
    /// A certificate of an authority that nobody knows.
    UnknownCa,
    /// The connection ends with a reset when the sender's first message is there.
    HandshakeAbort,
    /// The server speaks TLS 1.1 and nothing newer.
    OldVersion,
}

impl TlsFault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Expired, Self::WrongHost, Self::UnknownCa, Self::HandshakeAbort, Self::OldVersion];

    /// The name by which the API and the program call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::WrongHost => "wrong_host",
            Self::UnknownCa => "unknown_ca",
            Self::HandshakeAbort => "handshake_abort",
            Self::OldVersion => "old_version",
        }
    }
}

/// The authority that signs the certificates of a receiver.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one, kept nowhere.
    pub(crate) fn made() -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        Self::of(key)
    }

    /// The one in that folder, which is made where there is none; its key is for us alone.
    pub(crate) fn kept(dir: &Path) -> Result<Self, Error> {
        let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        let broken = |path: &Path, error: &dyn std::fmt::Display| {
            let message =
                format!("cannot use {}: {error}; remove it to have a new one made", path.display());
            Error::new(ErrorKind::Start, message)
        };
        match fs::read_to_string(&key) {
            Ok(text) => {
                let pair = KeyPair::from_pem(&text).map_err(|error| broken(&key, &error))?;
                let mut authority = Self::of(pair)?;
                authority.pem = fs::read_to_string(&certificate)
                    .map_err(|error| broken(&certificate, &error))?;
                Ok(authority)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let authority = Self::made()?;
                fs::write(&certificate, &authority.pem)
                    .and_then(|()| write_private(&key, &authority.issuer.key().serialize_pem()))
                    .map_err(|error| broken(&key, &error))?;
                Ok(authority)
            }
            Err(error) => Err(broken(&key, &error)),
        }
    }

    fn of(key: KeyPair) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("mock-receiver test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        // Who trusts it trusts it for this machine, and for a name that cannot exist.
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("localhost".to_owned()),
                GeneralSubtree::DnsName("invalid".to_owned()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
                GeneralSubtree::IpAddress(CidrSubnet::V6(
                    std::net::Ipv6Addr::LOCALHOST.octets(),
                    [255; 16],
                )),
            ],
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// Its certificate, to be trusted.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What a listener needs to shake hands, well or badly.
    pub(crate) fn acceptor(&self, fault: Option<TlsFault>) -> Result<Acceptor, Error> {
        let names =
            if fault == Some(TlsFault::WrongHost) { &["other.invalid"][..] } else { &NAMES };
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = named("mock-receiver");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        let year = if fault == Some(TlsFault::Expired) { 2020 } else { 2040 };
        params.not_after = date_time_ymd(year, 1, if year == 2020 { 2 } else { 1 });
        let key = KeyPair::generate().map_err(failed)?;
        let signed = if fault == Some(TlsFault::UnknownCa) {
            params.signed_by(&key, &Self::made()?.issuer)
        } else {
            params.signed_by(&key, &self.issuer)
        };
        let chain = vec![signed.map_err(failed)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Acceptor { tls: TlsAcceptor::from(Arc::new(config)), fault })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Start, "a certificate could not be made").because(error)
}

#[cfg(unix)]
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

#[cfg(not(unix))]
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
}

/// Shakes hands.
#[derive(Clone)]
pub(crate) struct Acceptor {
    tls: TlsAcceptor,
    fault: Option<TlsFault>,
}

impl Acceptor {
    pub(crate) async fn accept(
        &self,
        mut stream: TcpStream,
        limit: Duration,
    ) -> io::Result<TlsStream<TcpStream>> {
        let told = || io::Error::other("the handshake was ended on purpose");
        match self.fault {
            Some(TlsFault::HandshakeAbort) => {
                timeout(limit, stream.read(&mut [0])).await??;
                stream.set_zero_linger()?;
                Err(told())
            }
            Some(TlsFault::OldVersion) => {
                timeout(limit, stream.read(&mut vec![0; 16 << 10])).await??;
                stream.write_all(&old_hello()).await?;
                // The sender refuses it, and says so, before we end.
                let _ = timeout(limit, stream.read(&mut [0; 1024])).await;
                Err(told())
            }
            _ => timeout(limit, self.tls.accept(stream)).await?,
        }
    }
}

/// The first answer of a server that has TLS 1.1 at best (RFC 4346 §7.4.1.3).
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend_from_slice(&[0x5a; 32]); // Its random bytes: nobody comes to use them.
    hello.extend_from_slice(&[0, 0x00, 0x2f, 0]); // No session, AES-128 with SHA-1, uncompressed.
    let length = hello.len() as u8;
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length][..], &hello].concat()
}
