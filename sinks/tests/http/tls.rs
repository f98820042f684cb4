//! HTTPS with an authority of the test's own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Cause, Nack};
use postrider::sink::Sink as _;
use postrider_sinks::http::{HttpSink, Resolve, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::peer::{OK, Peer};
use crate::{deliver_within, delivers, local, refused, settings, sink_with};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn trusted(&self) -> Tls {
        Tls::with_roots(self.0.pem().as_bytes()).unwrap()
    }

    /// A receiver with a certificate for `name`, changed by `change`, that answers every request.
    pub(crate) async fn receiver(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Peer {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.0).unwrap().into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        Self::serving(config).await
    }

    /// The authority's own certificate, in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name` and its key.
    pub(crate) fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A receiver that answers every request.
    pub(crate) async fn serving(mut config: ServerConfig) -> Peer {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Peer::start(move |connection| {
            let acceptor = acceptor.clone();
            async move {
                let (number, stream) = connection.into_stream();
                let Ok(stream) = acceptor.accept(stream).await else { return };
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                let mut connection = number.over(stream);
                while connection.request().await.is_some() {
                    connection.send(OK).await;
                }
            }
        })
        .await
    }
}

pub(crate) struct Loopback;

#[async_trait]
impl Resolve for Loopback {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
}

pub(crate) fn https(peer: &Peer, host: &str, tls: Tls) -> HttpSink {
    let settings = settings(&format!("https://{host}:{}/", peer.address.port()));
    sink_with(&settings, &local(), |options| options.resolver(Arc::new(Loopback)).tls(tls))
}

/// The certificate must be refused in these words, before anything is sent.
async fn refuses(sink: &HttpSink, peer: &Peer, words: &str) {
    let message = format!("{words}: receiver.example at {}", peer.address);
    assert_eq!(refused(sink).await, Nack::retry(Cause::Tls, message));
    assert!(peer.seen().is_empty(), "sent to a receiver that did not prove who it is");
}

#[tokio::test]
async fn trusted_receiver() {
    let authority = Authority::new("ours");
    let peer = authority.receiver("receiver.example", |_| {}).await;
    let sink = https(&peer, "Receiver.Example.", authority.trusted());
    sink.check().await.unwrap();
    assert!(peer.seen().is_empty());
    for _ in 0..5 {
        delivers(&sink).await;
    }
    // One for the check, one kept.
    assert_eq!((peer.seen().len(), peer.connections()), (5, 2));
}

#[tokio::test]
async fn trusted_receiver_by_address() {
    let authority = Authority::new("ours");
    let peer = authority.receiver("127.0.0.1", |_| {}).await;
    delivers(&https(&peer, "127.0.0.1", authority.trusted())).await;
}

#[tokio::test]
async fn unknown_authority() {
    let peer = Authority::new("theirs").receiver("receiver.example", |_| {}).await;
    let words = "the certificate's issuer is not trusted (unknown authority)";
    let sink = https(&peer, "receiver.example", Authority::new("ours").trusted());
    refuses(&sink, &peer, words).await;
    assert_eq!(sink.check().await.unwrap_err().cause(), Cause::Tls);
    // Nor does the system know it.
    if let Ok(platform) = Tls::platform() {
        refuses(&https(&peer, "receiver.example", platform), &peer, words).await;
    }
}

#[tokio::test]
async fn certificate_of_another_host() {
    let authority = Authority::new("ours");
    let peer = authority.receiver("other.example", |_| {}).await;
    let sink = https(&peer, "receiver.example", authority.trusted());
    refuses(&sink, &peer, "the certificate is for another host name (other.example)").await;
}

#[tokio::test]
async fn certificate_out_of_its_time() {
    let authority = Authority::new("ours");
    let peer = authority
        .receiver("receiver.example", |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
        .await;
    let sink = https(&peer, "receiver.example", authority.trusted());
    refuses(&sink, &peer, "the certificate has expired on 2002-01-01").await;
    let peer = authority
        .receiver("receiver.example", |params| params.not_before = date_time_ymd(2090, 1, 1))
        .await;
    let sink = https(&peer, "receiver.example", authority.trusted());
    refuses(&sink, &peer, "the certificate is not valid before 2090-01-01").await;
}

#[tokio::test]
async fn receiver_without_tls() {
    let peer = Peer::start(|mut connection| async move {
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        connection.until_closed().await;
    })
    .await;
    let sink = https(&peer, "receiver.example", Authority::new("ours").trusted());
    let nack = refused(&sink).await;
    assert_eq!(nack.cause(), Cause::Tls, "{nack:?}");
    assert!(nack.message().starts_with("TLS handshake failed: "), "{nack:?}");
}

#[tokio::test]
async fn handshake_that_hangs_or_breaks() {
    let peer = Peer::start(|mut connection| async move {
        connection.until_closed().await;
    })
    .await;
    let sink = https(&peer, "receiver.example", Authority::new("ours").trusted());
    let nack = deliver_within(&sink, Duration::from_millis(200)).await.unwrap_err();
    let message = format!(
        "timed out in the TLS handshake with receiver.example at {} (limit 200ms)",
        peer.address
    );
    assert_eq!((nack.cause(), nack.message()), (Cause::Timeout, &*message));

    let peer = Peer::start(|connection| async move { drop(connection) }).await;
    let sink = https(&peer, "receiver.example", Authority::new("ours").trusted());
    let nack = refused(&sink).await;
    assert_eq!(nack.cause(), Cause::Tls, "{nack:?}");
    assert!(nack.message().contains("broke in the TLS handshake"), "{nack:?}");
}

#[test]
fn roots_must_be_certificates() {
    for wrong in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(Tls::with_roots(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
}
