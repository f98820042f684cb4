//! The signature explainer. What is sent here is signed by a second set of signers, below, so that
//! the two can disagree.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mock_receiver::{CauseKind, Explanation, Receiver, Scheme, Verdict};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use crate::support::{call, raw};

const KEY: &[u8] = b"a key of thirty-two bytes, yes! ";
const OLD_KEY: &[u8] = b"another key of thirty-two bytes.";
const SCHEMES: [Scheme; 7] = [
    Scheme::StandardV1,
    Scheme::Github,
    Scheme::Stripe,
    Scheme::Slack,
    Scheme::Shopify,
    Scheme::Hmac,
    Scheme::HttpMessage,
];
/// Each with another printing of it.
const BODIES: [(&str, &str); 3] = [
    (r#"{"b":1,"a":"x y"}"#, r#"{"b": 1, "a": "x y"}"#),
    (r#"{"event": "é/<", "n": [1.0, 2]}"#, r#"{"event":"\u00e9\/<","n":[1.0,2]}"#),
    (
        "{\n  \"z\": {},\n  \"big\": 18446744073709551616\n}",
        r#"{"big":18446744073709551616,"z":{}}"#,
    ),
];

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn mac512(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One request to be signed, with everything that can go wrong.
#[derive(Clone)]
struct Sender {
    scheme: Scheme,
    key: Vec<u8>,
    time: u64,
    signed_time: u64,
    signed_body: Vec<u8>,
    sent_body: Vec<u8>,
    /// In the place of what the scheme puts in front of the body.
    front: Option<String>,
    hash: fn(&[u8], &[u8]) -> Vec<u8>,
    /// In the place of the scheme's own way to write bytes.
    write: Option<fn(&[u8]) -> String>,
    bare: bool,
}

impl Sender {
    fn new(scheme: Scheme, body: &str) -> Self {
        let time = now();
        Self {
            scheme,
            key: key_of(scheme, KEY),
            time,
            signed_time: time,
            signed_body: body.into(),
            sent_body: body.into(),
            front: None,
            hash: mac,
            write: None,
            bare: false,
        }
    }

    fn is_hex(&self) -> bool {
        matches!(self.scheme, Scheme::Github | Scheme::Stripe | Scheme::Slack | Scheme::Hmac)
    }

    fn is_timed(&self) -> bool {
        matches!(self.scheme, Scheme::StandardV1 | Scheme::Stripe | Scheme::Slack)
    }

    fn front(&self) -> String {
        match self.scheme {
            Scheme::StandardV1 => format!("msg_1.{}.", self.signed_time),
            Scheme::Stripe => format!("{}.", self.signed_time),
            Scheme::Slack => format!("v0:{}:", self.signed_time),
            _ => String::new(),
        }
    }

    fn headers(&self) -> String {
        let time = self.time;
        let write =
            self.write.unwrap_or(if self.is_hex() { hex } else { |bytes| STANDARD.encode(bytes) });
        if self.scheme == Scheme::HttpMessage {
            let digest = STANDARD.encode(Sha256::digest(&self.signed_body));
            let digest = format!("sha-256=:{digest}:");
            let input = format!(
                "(\"@method\" \"@authority\" \"@path\" \"content-digest\");created={time};alg=\"hmac-sha256\""
            );
            let base = self.front.clone().unwrap_or_else(|| format!(
                "\"@method\": POST\n\"@authority\": a\n\"@path\": /in\n\"content-digest\": {digest}\n\"@signature-params\": {input}"
            ));
            let made = write(&(self.hash)(&self.key, base.as_bytes()));
            let made = if self.bare { made } else { format!(":{made}:") };
            return format!(
                "Content-Digest: {digest}\r\nSignature-Input: s={input}\r\nSignature: s={made}\r\n"
            );
        }
        let front = self.front.clone().unwrap_or_else(|| self.front());
        let made = (self.hash)(&self.key, &[front.as_bytes(), &self.signed_body].concat());
        let text = write(&made);
        let behind =
            |prefix: &str| if self.bare { text.clone() } else { format!("{prefix}{text}") };
        match self.scheme {
            Scheme::StandardV1 => format!(
                "Webhook-Id: msg_1\r\nWebhook-Timestamp: {time}\r\nWebhook-Signature: {}\r\n",
                behind("v1,")
            ),
            Scheme::Github => format!("X-Hub-Signature-256: {}\r\n", behind("sha256=")),
            Scheme::Stripe => format!("Stripe-Signature: t={time},{}\r\n", behind("v1=")),
            Scheme::Slack => format!(
                "X-Slack-Request-Timestamp: {time}\r\nX-Slack-Signature: {}\r\n",
                behind("v0=")
            ),
            Scheme::Shopify => format!("X-Shopify-Hmac-Sha256: {text}\r\n"),
            _ => format!("X-Acme-Signature: {text}\r\n"),
        }
    }

    async fn send(&self, receiver: &Receiver) -> Explanation {
        send(receiver, "in", &self.headers(), &self.sent_body).await
    }
}

async fn send(receiver: &Receiver, bin: &str, headers: &str, body: &[u8]) -> Explanation {
    let head = format!(
        "POST /{bin} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    raw(receiver.addr(), [head.as_bytes(), body].concat()).await;
    receiver.signature(receiver.requests(bin).last().expect("captured"))
}

/// The text of a secret, as the scheme gives it out.
fn secret_of(scheme: Scheme, key: &[u8]) -> String {
    match scheme {
        Scheme::StandardV1 => format!("whsec_{}", STANDARD.encode(key)),
        _ => STANDARD.encode(key),
    }
}

/// The key that the scheme makes of that secret.
fn key_of(scheme: Scheme, key: &[u8]) -> Vec<u8> {
    match scheme {
        Scheme::StandardV1 | Scheme::HttpMessage => key.to_vec(),
        _ => STANDARD.encode(key).into_bytes(),
    }
}

async fn receiver_for(scheme: Scheme) -> Receiver {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("in").secrets([secret_of(scheme, KEY), secret_of(scheme, OLD_KEY)]);
    receiver.on("elsewhere").secrets([secret_of(scheme, b"the key of quite another bin....")]);
    receiver
}

/// What goes wrong, and the name that it must be given; `None` where the scheme cannot have it.
fn slips(good: &Sender, reprinted: &str) -> Vec<(CauseKind, Sender)> {
    let mut slips = Vec::new();
    let mut slip = |kind: CauseKind, change: &dyn Fn(&mut Sender)| {
        let mut sender = good.clone();
        change(&mut sender);
        slips.push((kind, sender));
    };
    let ended = |body: &[u8], end: &str| [body, end.as_bytes()].concat();
    let message = good.scheme == Scheme::HttpMessage;
    slip(CauseKind::NewlineAdded, &|s| s.sent_body = ended(&s.signed_body, "\n"));
    slip(CauseKind::NewlineAdded, &|s| s.sent_body = ended(&s.signed_body, "\r\n"));
    slip(CauseKind::NewlineLost, &|s| s.signed_body = ended(&s.sent_body, "\n"));
    slip(CauseKind::NewlineLost, &|s| s.signed_body = ended(&s.sent_body, "\r\n"));
    slip(CauseKind::WhitespaceAdded, &|s| {
        s.sent_body = ended(b"  ", &String::from_utf8_lossy(&s.signed_body));
    });
    slip(CauseKind::BodyReserialised, &|s| s.signed_body = reprinted.into());
    slip(CauseKind::CharsetChanged, &|s| {
        s.signed_body = ended("\u{feff}".as_bytes(), &String::from_utf8_lossy(&s.sent_body));
    });
    slip(CauseKind::BodyEmpty, &|s| s.signed_body.clear());
    slip(CauseKind::BodyEncodedTwice, &|s| {
        s.sent_body = Value::from(String::from_utf8_lossy(&s.signed_body)).to_string().into();
    });
    slip(CauseKind::LineEndsChanged, &|s| {
        (s.sent_body, s.signed_body) = (b"a\r\nb".to_vec(), b"a\nb".to_vec());
    });
    slip(CauseKind::OtherSecret, &|s| s.key = key_of(s.scheme, OLD_KEY));
    slip(CauseKind::SecretOfAnotherBin, &|s| {
        s.key = key_of(s.scheme, b"the key of quite another bin....");
    });
    slip(CauseKind::Unknown, &|s| s.key = b"nobody knows it".to_vec());
    slip(CauseKind::OtherAlgorithm, &|s| s.hash = mac512);
    slip(CauseKind::SecretWhitespace, &|s| {
        s.key = ended(secret_of(s.scheme, KEY).as_bytes(), "\n");
    });
    if key_of(good.scheme, KEY) == KEY {
        slip(CauseKind::SecretUndecoded, &|s| s.key = STANDARD.encode(KEY).into_bytes());
    } else {
        slip(CauseKind::SecretDecoded, &|s| s.key = KEY.to_vec());
    }
    if good.is_hex() {
        slip(CauseKind::EncodingDiffers, &|s| s.write = Some(|bytes| hex(bytes).to_uppercase()));
        if good.scheme != Scheme::Hmac {
            slip(CauseKind::Base64ForHex, &|s| s.write = Some(|bytes| STANDARD.encode(bytes)));
        }
    } else {
        slip(CauseKind::HexForBase64, &|s| s.write = Some(hex));
        slip(CauseKind::EncodingDiffers, &|s| {
            s.write = Some(|bytes| STANDARD.encode(bytes).trim_end_matches('=').to_owned());
        });
    }
    slip(CauseKind::EncodingDiffers, &|s| s.write = Some(|bytes| STANDARD.encode(hex(bytes))));
    if matches!(good.scheme, Scheme::StandardV1 | Scheme::Github | Scheme::Slack | Scheme::Stripe) {
        slip(CauseKind::PrefixDiffers, &|s| s.bare = true);
    }
    if message {
        slip(CauseKind::EncodingDiffers, &|s| s.bare = true);
        slip(CauseKind::SignedTextDiffers, &|s| {
            let digest = STANDARD.encode(Sha256::digest(&s.signed_body));
            let time = s.time;
            s.front = Some(format!(
                "\"@method\": POST\n\"@authority\": a\n\"@path\": /in\n\"content-digest\": sha-256=:{digest}:\n\"@signature-params\": (\"@method\" \"@authority\" \"@path\" \"content-digest\");created={time};alg=\"hmac-sha256\"\n"
            ));
        });
    }
    if good.is_timed() {
        slip(CauseKind::BodyOnly, &|s| s.front = Some(String::new()));
        slip(CauseKind::TimestampDiffers, &|s| s.signed_time += 7);
        slip(CauseKind::TimestampDiffers, &|s| s.signed_time *= 1000);
        slip(CauseKind::TimestampMalformed, &|s| {
            (s.time, s.signed_time) = (s.time * 1000, s.time * 1000);
        });
        let other = if good.scheme == Scheme::Stripe { "v0:{}:" } else { "{}." };
        slip(CauseKind::OtherScheme, &|s| {
            s.front = Some(other.replace("{}", &s.time.to_string()));
        });
    }
    if good.is_timed() || message {
        slip(CauseKind::ClockSkew, &|s| (s.time, s.signed_time) = (s.time - 400, s.time - 400));
        slip(CauseKind::ClockSkew, &|s| (s.time, s.signed_time) = (s.time + 4000, s.time + 4000));
    }
    slips
}

/// Each scheme with each slip on each body: the right name, and never "valid".
#[tokio::test]
async fn every_slip_is_named() {
    let mut tried = 0;
    for scheme in SCHEMES {
        let receiver = receiver_for(scheme).await;
        for (body, reprinted) in BODIES {
            let good = Sender::new(scheme, body);
            let right = good.send(&receiver).await;
            assert_eq!(right.verdict, Verdict::Valid, "{scheme:?} {body}: {right}");
            let signature = &right.signatures[0];
            assert_eq!((signature.secret, signature.causes.len()), (Some(1), 0), "{right}");
            assert_eq!((right.signatures.len(), signature.scheme), (1, scheme), "{right}");
            for (kind, sender) in slips(&good, reprinted) {
                let explained = sender.send(&receiver).await;
                assert!(explained.has(kind), "{scheme:?} {kind:?} {body}: {explained}");
                let verdict = match kind {
                    CauseKind::OtherSecret => Verdict::Valid,
                    _ => Verdict::Invalid,
                };
                assert_eq!(explained.verdict, verdict, "{kind:?}: {explained}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 300, "{tried}");
}

/// Two slips at once, of which each alone would be found.
#[tokio::test]
async fn pairs_of_slips_are_named() {
    for scheme in SCHEMES.into_iter().filter(|scheme| *scheme != Scheme::HttpMessage) {
        let receiver = receiver_for(scheme).await;
        let mut sender = Sender::new(scheme, BODIES[0].0);
        sender.signed_body.push(b'\n');
        let standard = scheme == Scheme::StandardV1;
        sender.key = if standard { STANDARD.encode(KEY).into_bytes() } else { KEY.to_vec() };
        let explained = sender.send(&receiver).await;
        let secret = if standard { CauseKind::SecretUndecoded } else { CauseKind::SecretDecoded };
        assert!(explained.has(secret) && explained.has(CauseKind::NewlineLost), "{explained}");
    }
}

/// The vectors of Standard Webhooks hold but for their age, and with each of the things that can
/// be wrong with their headers they do not.
#[tokio::test]
async fn the_vectors_of_standard_webhooks_hold() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/standard-webhooks.json"))
            .unwrap();
    let receiver = Receiver::start().await.unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let text = |name: &str| case[name].as_str().unwrap_or_default();
        let (id, time, body, signature) =
            (text("id"), case["timestamp"].as_i64().unwrap(), text("body"), text("signature"));
        for secret in ["secret", "public"].map(text).into_iter().filter(|text| !text.is_empty()) {
            receiver.on("v").secrets([secret]);
            let headers = |id: &str, time: &str, signature: &str| {
                let lines = [("id", id), ("timestamp", time), ("signature", signature)];
                let there = lines.iter().filter(|(_, value)| !value.is_empty());
                there
                    .map(|(name, value)| format!("Webhook-{name}: {value}\r\n"))
                    .collect::<String>()
            };
            let time = time.to_string();
            let several = format!("v2,AAAA {signature}");
            for given in [signature, &several] {
                let explained =
                    send(&receiver, "v", &headers(id, &time, given), body.as_bytes()).await;
                let found = &explained.signatures[0];
                let kinds: Vec<_> = found.causes.iter().map(|cause| cause.kind).collect();
                assert_eq!(kinds, [CauseKind::ClockSkew], "{explained}");
                assert_eq!(found.secret, Some(1));
                assert_eq!(found.signed, format!("{id}.{time}.{body}").as_bytes());
                if !secret.starts_with("whpk_") {
                    assert_eq!(found.expected.as_deref(), Some(signature));
                }
                let shown = format!("{explained}{explained:?}") + &json!(explained).to_string();
                assert!(!shown.contains(secret) && !shown.contains(&secret[6..]), "{shown}");
            }
            for (headers, kind) in [
                (headers("", &time, signature), CauseKind::HeaderMissing),
                (headers(id, "", signature), CauseKind::HeaderMissing),
                (headers(id, &time, ""), CauseKind::HeaderMissing),
                (headers(id, "hello", signature), CauseKind::TimestampMalformed),
                (headers(id, "161426533.0", signature), CauseKind::TimestampMalformed),
                (headers(id, "-5", signature), CauseKind::TimestampMalformed),
                (
                    headers(id, &time, &signature[..=signature.find(',').unwrap()]),
                    CauseKind::HeaderMalformed,
                ),
            ] {
                let explained = send(&receiver, "v", &headers, body.as_bytes()).await;
                // Without a signature nobody knows which version it would have been.
                let unchecked = kind == CauseKind::HeaderMissing
                    && !headers.contains("signature")
                    && text("scheme") == "v1a";
                assert!(explained.has(kind), "{kind:?} {headers}: {explained}");
                let expect = if unchecked { Verdict::Unchecked } else { Verdict::Invalid };
                assert_eq!(explained.verdict, expect, "{headers}: {explained}");
            }
            let changed = body.replacen('"', "'", 1);
            let explained =
                send(&receiver, "v", &headers(id, &time, signature), changed.as_bytes()).await;
            assert!(explained.has(CauseKind::Unknown), "{explained}");
        }
    }
}

/// ed25519, with a body that is not text.
#[tokio::test]
async fn ed25519_is_checked_with_the_public_key() {
    let pair = SigningKey::from_bytes(&[7; 32]);
    let receiver = Receiver::start().await.unwrap();
    let public = STANDARD.encode(pair.verifying_key().as_bytes());
    receiver.on("in").secrets([format!("whpk_{public}")]);
    let time = now();
    for (signed, sent, kind) in [
        (&b"\xff\x00"[..], &b"\xff\x00"[..], None),
        (b"", b"", None),
        (b"\xff\x00", b"\xff\x00\n", Some(CauseKind::NewlineAdded)),
        (b"{\"a\": 1}", b"{\"a\":1}", Some(CauseKind::BodyReserialised)),
    ] {
        let made = pair.sign(&[format!("m.{time}.").as_bytes(), signed].concat());
        let made = STANDARD.encode(made.to_bytes());
        let headers =
            format!("svix-id: m\r\nsvix-timestamp: {time}\r\nsvix-signature: v1a,{made}\r\n");
        let explained = send(&receiver, "in", &headers, sent).await;
        let verdict = if kind.is_some() { Verdict::Invalid } else { Verdict::Valid };
        assert_eq!(explained.verdict, verdict, "{explained}");
        assert!(kind.is_none_or(|kind| explained.has(kind)), "{explained}");
        assert_eq!(explained.signatures[0].expected, None, "a public key cannot sign");
    }
}

/// Appendix B.2.5 and B.2.6 of RFC 9421, and the example in GitHub's documentation.
#[tokio::test]
async fn published_examples_of_other_schemes_hold() {
    let receiver = Receiver::start().await.unwrap();
    let head = "Date: Tue, 20 Apr 2021 02:07:55 GMT\r\nContent-Type: application/json\r\n\
        Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:\r\n";
    let body = r#"{"hello": "world"}"#;
    for (secret, input, signature) in [
        (
            "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",
            r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
            "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
        ),
        (
            "whpk_JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=",
            r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
            "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
        ),
    ] {
        receiver.on("foo").secrets([secret]);
        let request = format!(
            "POST /foo?param=Value&Pet=dog HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\
            {head}Content-Length: 18\r\nSignature-Input: s={input}\r\nSignature: s=:{signature}:\r\n\r\n{body}"
        );
        raw(receiver.addr(), request).await;
        let explained = receiver.signature(receiver.requests("foo").last().unwrap());
        let found = &explained.signatures[0];
        assert_eq!(found.secret, Some(1), "{explained}");
        let kinds: Vec<_> = found.causes.iter().map(|cause| cause.kind).collect();
        assert_eq!(kinds, [CauseKind::ClockSkew], "{explained}");
    }
    receiver.on("gh").secrets(["It's a Secret to Everybody"]);
    let header = "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\r\n";
    let explained = send(&receiver, "gh", header, b"Hello, World!").await;
    assert_eq!(explained.verdict, Verdict::Valid, "{explained}");
}

/// Nonsense in every header is an answer, not a panic; without a secret nothing is judged.
#[tokio::test]
async fn nonsense_is_survived() {
    let receiver = Receiver::start().await.unwrap();
    let nonsense = [
        "",
        ",",
        "v1,",
        "v1,,v1",
        "t=,v1=",
        "sha256=",
        "=",
        "s=(",
        "s=(\"@x\")",
        "s=()",
        "((((",
        "é",
        "\"",
        "s=(\"a\" \"@path\";x);created=z",
        "v1,====",
        "t=9999999999999999999999,v1=00",
    ];
    for secret in [None, Some("whsec_"), Some("x")] {
        receiver.on("n").secrets(secret);
        for value in nonsense {
            let headers: String = [
                "Webhook-Id",
                "Webhook-Timestamp",
                "Webhook-Signature",
                "X-Hub-Signature-256",
                "Stripe-Signature",
                "X-Slack-Signature",
                "X-Slack-Request-Timestamp",
                "X-Shopify-Hmac-Sha256",
                "X-My-Hmac",
                "Signature",
                "Signature-Input",
                "Content-Digest",
            ]
            .map(|name| format!("{name}: {value}\r\n"))
            .concat();
            let explained = send(&receiver, "n", &headers, b"{}").await;
            assert_ne!(explained.verdict, Verdict::Valid, "{value:?}: {explained}");
            assert!(!explained.signatures.is_empty());
        }
    }
    let without = send(&receiver, "none", "", b"{}").await;
    assert_eq!(without.verdict, Verdict::Missing);
}

#[tokio::test]
async fn the_api_explains_and_hides_secrets() {
    let receiver = Receiver::builder().secret("for every bin").start().await.unwrap();
    let secret = secret_of(Scheme::StandardV1, KEY);
    let put =
        call(&receiver, "PUT", "bins/in", &json!({ "secrets": [secret, "x"] }).to_string()).await;
    assert_eq!((put.status, &put.json()["secrets"]), (200, &json!(2)));
    assert!(!String::from_utf8_lossy(&put.body).contains(&secret));
    let mut sender = Sender::new(Scheme::StandardV1, r#"{"a":1}"#);
    sender.signed_body = r#"{"a": 1}"#.into();
    sender.send(&receiver).await;
    let answer = call(&receiver, "GET", "requests/1/signature", "").await;
    let document = answer.json();
    let one = &document["signatures"][0];
    assert_eq!(
        (&document["seq"], &document["verdict"], &document["secrets"]),
        (&json!(1), &json!("invalid"), &json!(2))
    );
    assert_eq!(
        (&one["scheme"], &one["header"]),
        (&json!("standard-webhooks-v1"), &json!("webhook-signature"))
    );
    assert_eq!(one["causes"][0]["name"], "body_reserialised");
    let signed = format!("msg_1.{}.{{\"a\":1}}", sender.time);
    assert_eq!(
        (one["signed"].as_str(), &one["signed_bytes"]),
        (Some(&*signed), &json!(signed.len()))
    );
    assert_eq!(one["expected"], format!("v1,{}", STANDARD.encode(mac(KEY, signed.as_bytes()))));
    assert_ne!(one["expected"], one["received"]);
    assert!(document["account"].as_str().unwrap().contains("body_reserialised: "), "{document}");
    assert!(!String::from_utf8_lossy(&answer.body).contains(&secret[6..]));

    // Taken away, those for every bin hold.
    let put = call(&receiver, "PUT", "bins/in", r#"{"secrets":[]}"#).await;
    assert_eq!((put.status, &put.json()["secrets"]), (200, &json!(1)));
    for (body, named) in [
        (json!({ "secret": 5 }), "secret is a string"),
        (json!({ "secret": "" }), "1 to 4096 bytes"),
        (json!({ "secret": "a", "secrets": ["b"] }), "not both"),
        (json!({ "secrets": vec!["s"; 17] }), "at most 16"),
    ] {
        let answer = call(&receiver, "PUT", "bins/in", &body.to_string()).await;
        assert!(
            answer.status == 400 && answer.detail().contains(named),
            "{body}: {}",
            answer.detail()
        );
    }
    let half = r#"{"secret":"new","answer":{"status":1}}"#;
    assert_eq!(call(&receiver, "PUT", "bins/in2", half).await.status, 400);
    assert_eq!(call(&receiver, "GET", "bins/in2", "").await.status, 404, "all or nothing");
    assert_eq!(call(&receiver, "GET", "requests/9/signature", "").await.status, 404);
    assert_eq!(call(&receiver, "POST", "requests/1/signature", "").await.status, 405);
}
