//! Signatures, from the configuration to what a receiver verifies.

use std::process::Command;

use mock_receiver::{Capture, Receiver, Verdict};
use postrider::sign::{self, Key, SignedHeaders, TOLERANCE_DEFAULT, TextKey, message};
use postrider::{NewEvent, Timestamp};
use postrider_tests::{DEADLINE, bus, postrider, run};

const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One event with text that is not ASCII, sent with these settings.
async fn sent(more: &str) -> Capture {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("app");
    let bus = bus(&format!("[[endpoints]]\nname = 'app'\nurl = '{url}'\n{more}")).await;
    let payload = "{\"name\": \"caf\u{e9} \\u00e9\", \"n\": 1.0e2}";
    bus.publish(NewEvent::raw("match", payload).unwrap()).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    receiver.requests("app").pop().unwrap()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_millis(since.as_millis() as i64)
}

/// One request may carry all three, each verified by its own rules, with the new and the old secret.
#[tokio::test]
async fn a_request_carries_every_signature_that_is_asked_for() {
    let seen = sent(&format!(
        "secrets = ['{NEW}', '{OLD}']\nsignature = ['standard', 'github', 'stripe']"
    ))
    .await;
    let text_key = |text: &str| text.parse::<TextKey>().unwrap();
    for secret in [NEW, OLD] {
        let headers = SignedHeaders {
            id: seen.header("webhook-id"),
            timestamp: seen.header("webhook-timestamp"),
            signature: seen.header("webhook-signature"),
        };
        let keys = [secret.parse::<Key>().unwrap()];
        sign::verify(&keys, headers, &seen.body, now(), TOLERANCE_DEFAULT).unwrap();
        let stripe = seen.header("stripe-signature");
        sign::stripe::verify(&[text_key(secret)], stripe, &seen.body, now(), TOLERANCE_DEFAULT)
            .unwrap();
    }
    let github = seen.header("x-hub-signature-256");
    sign::github::verify(&[text_key(NEW)], github, &seen.body).unwrap();
    sign::github::verify(&[text_key(OLD)], github, &seen.body).unwrap_err();
}

/// A way that is not asked for leaves no header; a secret for GitHub alone may be any text.
#[tokio::test]
async fn only_what_is_asked_for_is_sent() {
    let seen = sent("secrets = ['a plain shared secret']\nsignature = ['github']").await;
    let key: TextKey = "a plain shared secret".parse().unwrap();
    sign::github::verify(&[key], seen.header("x-hub-signature-256"), &seen.body).unwrap();
    assert_eq!(seen.header("webhook-signature"), None);
    assert_eq!(seen.header("stripe-signature"), None);
}

/// HTTP Message Signatures: our own check and the receiver's, which shares no code with it, accept
/// both keys' signatures, and the receiver refuses one of another key.
#[tokio::test]
async fn message_signatures_are_accepted_by_two_implementations() {
    let (pair, public) = sign::key_pair([7; 32]);
    let receiver = Receiver::start().await.unwrap();
    for (name, known) in [("hmac", NEW), ("ed25519", &*public), ("stranger", OLD)] {
        receiver.on(name).secrets([known]);
        let url = format!("{}?a=%20b&c", receiver.url(name));
        // The digest is of the bytes that are sent, coded or not.
        let compress = if name == "ed25519" { "compress = 'gzip'" } else { "" };
        let bus = bus(&format!(
            "[[endpoints]]\nname = 'app'\nurl = '{url}'\n{compress}\nsignature = ['rfc9421']\n\
             secrets = ['{NEW}', '{pair}']\nheaders = {{ content-type = 'application/x; v=1 ' }}"
        ))
        .await;
        let payload = format!("{{\"name\": \"{}\"}}", "caf\u{e9}".repeat(1024));
        bus.publish(NewEvent::raw("match", payload).unwrap()).await.unwrap();
        assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
        let seen = receiver.requests(name).pop().unwrap();
        assert_eq!(seen.header("webhook-signature"), None);

        let told = receiver.signature(&seen);
        let expect = if name == "stranger" { Verdict::Invalid } else { Verdict::Valid };
        assert_eq!(told.verdict, expect, "{told:#?}");

        let names = ["host", "content-type", "content-digest", "webhook-id", "webhook-timestamp"];
        let names = names.into_iter().chain(["signature-input", "signature"]);
        let names = names.chain((name == "ed25519").then_some("content-encoding"));
        let headers: Vec<_> = names.map(|name| (name, seen.header(name).unwrap())).collect();
        let target = format!("{}?a=%20b&c", seen.path);
        let authority = seen.header("host").unwrap();
        let mut request =
            message::Request { method: "POST", authority, target: &target, headers: &headers };
        let keys = [known.parse::<Key>().unwrap()];
        let check = |request: &message::Request<'_>| {
            let required = message::REQUIRED;
            message::verify(&keys, request, &seen.body, required, now(), TOLERANCE_DEFAULT)
        };
        assert_eq!(check(&request).is_ok(), name != "stranger", "{headers:?}");
        request.target = "/elsewhere?a=%20b&c";
        check(&request).unwrap_err();
    }
}

#[test]
fn mistakes() {
    let check = |more: &str, expect: &str| {
        let text = format!("[[endpoints]]\nurl = 'https://a.example'\n{more}");
        let loader = postrider::config::Config::loader().registry(&postrider_sinks::registry());
        let loader = loader.environment_from([("", ""); 0]);
        let told = loader.text(postrider::config::Format::Toml, text).load();
        let told = told.unwrap_err().to_string();
        assert!(told.contains(expect), "{more}: {told}");
        assert!(!told.contains("plain shared"), "{told}");
    };
    check("signature = ['github']", "signature: there is no secret to sign with");
    check("signature = ['rfc9421']", "signature: there is no secret to sign with");
    check(
        "secrets = ['a plain shared secret']\nsignature = ['rfc9421']",
        "secrets[0]: expected a signing secret that starts with \"whsec_\"",
    );
    check(
        &format!(
            "secrets = ['{NEW}']\nsignature = ['rfc9421']\nheaders = {{ Content-Digest = 'x' }}"
        ),
        "set by the signature",
    );
    check("signature = ['gihtub']", "did you mean \"github\"?");
    check("signature = []", "signature: expected at least one element");
    check(
        "secrets = ['short']\nsignature = ['stripe']",
        "secrets[0]: expected a signing secret of 16",
    );
    check(
        "secrets = ['a plain shared secret']\nsignature = ['standard', 'github']",
        "secrets[0]: expected a signing secret that starts with \"whsec_\"",
    );
    check(
        "secrets = ['a plain shared secret']\nsignature = ['github']\nheaders = { X-Hub-Signature-256 = 'x' }",
        "set by the signature",
    );
}

/// What `secret new` prints can sign, differs each time, and its public half verifies.
#[test]
fn new_secrets_sign_and_verify() {
    let dir = tempfile::tempdir().unwrap();
    let new = |args: &[&str]| {
        let ran = run(&mut postrider(dir.path(), args));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout
    };
    let first = new(&["secret", "new"]);
    assert!(first.trim().parse::<Key>().unwrap().can_sign(), "{first}");
    assert_ne!(first, new(&["secret", "new"]));
    let pair = new(&["secret", "new", "--ed25519", "--json"]);
    let pair: serde_json::Value = serde_json::from_str(&pair).unwrap();
    let key = |name: &str| pair[name].as_str().unwrap().parse::<Key>().unwrap();
    let (at, body) = (now(), b"\xff{}");
    let signature = key("secret").sign("id", at.as_seconds(), body).unwrap();
    let sent = at.as_seconds().to_string();
    let headers =
        SignedHeaders { id: Some("id"), timestamp: Some(&sent), signature: Some(&signature) };
    assert!(!key("public").can_sign());
    sign::verify(&[key("public")], headers, body, at, TOLERANCE_DEFAULT).unwrap();
}

/// Gives a captured request to the packages that others publish; `None` where they are not installed.
fn verdict(capture: &Capture, secret: &str, language: Language, by: &str) -> Option<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("verifiers");
    let (installed, program, script) = match language {
        Language::JavaScript => ("node_modules", "node".into(), "verify.mjs"),
        Language::Python => ("venv/bin/python", folder.join("venv/bin/python"), "verify.py"),
    };
    if !folder.join(installed).exists() {
        assert!(std::env::var_os("CI").is_none(), "not installed: cargo xtask setup");
        eprintln!(
            "skipped: the {language:?} packages of tests/verifiers are not installed: cargo xtask setup"
        );
        return None;
    }
    let headers: Vec<(String, String)> = HEADERS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), capture.header(name)?.to_owned())))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let body: Vec<u8> = capture.body.to_vec();
    let request = serde_json::json!({ "headers": headers, "body": body, "secret": secret });
    std::fs::write(file.path(), request.to_string()).unwrap();
    let mut command = Command::new(program);
    let output = command.current_dir(folder).arg(script).arg(by).arg(file.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{by}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[derive(Clone, Copy, Debug)]
enum Language {
    JavaScript,
    Python,
}

const HEADERS: [&str; 11] = [
    "content-type",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-hub-signature-256",
    "stripe-signature",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-time",
];

/// The packages that receivers use accept what we send, and refuse it once a byte has changed.
#[tokio::test]
async fn the_packages_of_others_accept_what_we_send() {
    let seen = sent(&format!(
        "secrets = ['{NEW}', '{OLD}']\nsignature = ['standard', 'github', 'stripe']"
    ))
    .await;
    for (language, by) in [
        (Language::JavaScript, "standardwebhooks"),
        (Language::JavaScript, "octokit"),
        (Language::JavaScript, "stripe"),
        (Language::Python, "standardwebhooks"),
        (Language::Python, "stripe"),
    ] {
        let Some(text) = verdict(&seen, NEW, language, by) else { continue };
        assert_eq!(text.trim(), "accepted, and refused when changed", "{language:?} {by}");
    }
}

/// The SDKs of `CloudEvents` read the structured and the binary form as the same event.
#[tokio::test]
async fn the_cloud_events_sdks_read_what_we_send() {
    for format in ["cloudevents", "cloudevents-binary"] {
        let seen = sent(&format!("format = '{format}'\nsource = '/shop'")).await;
        for language in [Language::JavaScript, Language::Python] {
            let Some(text) = verdict(&seen, "", language, "cloudevents") else { continue };
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(event["id"], seen.header("webhook-id").unwrap(), "{format} {language:?}");
            assert_eq!((&event["type"], &event["source"]), (&"match".into(), &"/shop".into()));
            assert_eq!(event["data"]["name"], "caf\u{e9} \u{e9}");
            assert_eq!(event["data"]["n"].as_f64(), Some(100.0));
        }
    }
}
