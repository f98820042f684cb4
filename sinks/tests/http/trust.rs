//! An endpoint's own `tls`: authorities, client certificates, versions, pins, files that change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::config::NetworkPolicy;
use postrider::delivery::Cause;
use postrider::sink::{CheckContext, SinkFactory as _};
use postrider_sinks::http::{HttpFactory, HttpSink, TlsSettings};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde_json::json;

use crate::peer::Peer;
use crate::tls::{Authority, Loopback};
use crate::{delivers, endpoint, local, refused, settings, sink_with};

const NAME: &str = "receiver.example";

/// A receiver that speaks `versions` and, where `clients` are given, wants a certificate of theirs.
async fn receiver(
    ours: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> Peer {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(ours_der(clients)).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let (certificate, key) = ours.issue(NAME);
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Authority::serving(config.with_single_cert(vec![certificate.into()], key).unwrap()).await
}

fn ours_der(authority: &Authority) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()
}

fn sink(peer: &Peer, tls: TlsSettings) -> HttpSink {
    let mut settings = settings(&format!("https://{NAME}:{}/", peer.address.port()));
    settings.connections_idle_max = 0;
    settings.tls = tls;
    sink_with(&settings, &local(), |options| options.resolver(Arc::new(Loopback)))
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn trusting(ca: String) -> TlsSettings {
    TlsSettings { ca: Some(ca), ..TlsSettings::default() }
}

async fn fails(sink: &HttpSink, words: &str) {
    let nack = refused(sink).await;
    assert_eq!(nack.cause(), Cause::Tls, "{nack:?}");
    assert!(nack.message().starts_with(words), "{nack:?}");
}

#[tokio::test]
async fn authorities_of_a_file() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let peer = receiver(&ours, &[&TLS13], None).await;
    delivers(&sink(&peer, trusting(write(folder.path(), "ca.pem", &ours.pem())))).await;
    let theirs = write(folder.path(), "theirs.pem", &Authority::new("theirs").pem());
    fails(&sink(&peer, trusting(theirs)), "the certificate's issuer is not trusted").await;
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn client_certificates_and_their_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let ca = write(folder.path(), "ca.pem", &ours.pem());
    for version in [&TLS12, &TLS13] {
        let peer = receiver(&ours, &[version], Some(&clients)).await;
        let nack = refused(&sink(&peer, trusting(ca.clone()))).await;
        let wants = nack.message().contains("client certificate (tls.client_cert)");
        assert!(nack.cause() == Cause::Tls && wants, "{nack:?}");
        assert!(peer.seen().is_empty());

        // One of a stranger first, replaced by the right one while the sink lives.
        let put = |authority: &Authority| {
            let (certificate, key) = authority.issue("sender.example");
            let certificate = write(folder.path(), "client.pem", &certificate.pem());
            (certificate, write(folder.path(), "client.key", &key.serialize_pem()))
        };
        let (certificate, key) = put(&Authority::new("strangers"));
        let sink = sink(
            &peer,
            TlsSettings {
                client_cert: Some(certificate),
                client_key: Some(key),
                ..trusting(ca.clone())
            },
        );
        // Refused one way or another; the words depend on which side is faster.
        assert!(matches!(refused(&sink).await.cause(), Cause::Tls | Cause::Closed));
        put(&clients);
        // tidy: allow(sleep): the files are looked at once a second
        tokio::time::sleep(Duration::from_millis(1100)).await;
        delivers(&sink).await;
        // Half written: what was read before goes on.
        fs::write(folder.path().join("client.pem"), "-----BEGIN CERT").unwrap();
        // tidy: allow(sleep): the files are looked at once a second
        tokio::time::sleep(Duration::from_millis(1100)).await;
        delivers(&sink).await;
    }
}

#[tokio::test]
async fn the_oldest_version() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let ca = write(folder.path(), "ca.pem", &ours.pem());
    let only_13 = || {
        let tls = json!({ "ca": ca.clone(), "min_version": "1.3" });
        serde_json::from_value::<TlsSettings>(tls).unwrap()
    };
    let old = receiver(&ours, &[&TLS12], None).await;
    delivers(&sink(&old, trusting(ca.clone()))).await;
    fails(&sink(&old, only_13()), "the receiver speaks no version of TLS").await;
    delivers(&sink(&receiver(&ours, &[&TLS13], None).await, only_13())).await;
}

/// A pin takes a certificate that nobody vouches for, and nothing else.
#[tokio::test]
async fn a_pinned_certificate() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let digest = sha256(certificate.der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.into()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let peer = Authority::serving(config).await;
    let pinned = |pin: &[String]| TlsSettings { pin: pin.to_vec(), ..TlsSettings::default() };
    let hex: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    delivers(&sink(&peer, pinned(&["00".repeat(32), hex.join(":")]))).await;
    delivers(&sink(&peer, pinned(&[hex.concat().to_lowercase()]))).await;
    let other = pinned(&["00".repeat(32)]);
    fails(&sink(&peer, other), "the certificate is none of those in tls.pin").await;
    fails(&sink(&peer, TlsSettings::default()), "the certificate").await;
    assert_eq!(peer.seen().len(), 2);
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).to_vec()
}

#[test]
fn mistakes_in_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let (certificate, key) = ours.issue("sender.example");
    let certificate = write(folder.path(), "client.pem", &certificate.pem());
    let key = write(folder.path(), "client.key", &key.serialize_pem());
    let other = write(folder.path(), "other.key", &KeyPair::generate().unwrap().serialize_pem());
    let junk = write(folder.path(), "junk", "hunter2");
    let check = |tls: serde_json::Value, expect: &str| {
        let mut settings = settings("https://hooks.example/");
        settings.tls = serde_json::from_value(tls).unwrap();
        let (id, public) = (endpoint(), NetworkPolicy::public_only());
        let found = HttpFactory.check(&settings, &CheckContext::new(&id, "orders", &public));
        let [problem] = &found[..] else { panic!("{expect}: {found:?}") };
        let text = format!("{}: {}", problem.key, problem.message);
        assert!(text.starts_with(expect) && !text.contains("hunter2"), "{text}");
    };
    let missing = folder.path().join("none");
    check(json!({ "ca": missing }), "tls.ca: cannot read file ");
    check(json!({ "ca": junk }), "tls.ca: no certificate found");
    check(json!({ "client_cert": certificate }), "tls.client_key: missing beside client_cert");
    check(json!({ "client_key": key }), "tls.client_cert: missing beside client_key");
    check(json!({ "client_cert": junk, "client_key": key }), "tls.client_cert: no certificate");
    check(json!({ "client_cert": certificate, "client_key": junk }), "tls.client_key: no private");
    let words = "tls.client_cert: the certificate and its key do not go together";
    check(json!({ "client_cert": certificate, "client_key": other }), words);
    check(json!({ "pin": ["abc"] }), "tls.pin.0: expected a SHA-256 fingerprint");
    check(json!({ "pin": vec!["00".repeat(32); 11] }), "tls.pin: expected at most 10 pins");
    check(json!({ "pin": ["00".repeat(32)], "ca": junk }), "tls.ca: says nothing beside pin");
}
