//! The examples of RFC 9421, and what is refused.

use std::time::Duration;

use super::*;
use crate::Timestamp;
use crate::sign::{Refused, TOLERANCE_DEFAULT};

/// The request of RFC 9421, appendix B.2.
const BODY: &[u8] = br#"{"hello": "world"}"#;
const HEADERS: [(&str, &str); 5] = [
    ("host", "example.com"),
    ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
    ("content-type", "application/json"),
    (
        "content-digest",
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    ),
    ("content-length", "18"),
];
const CREATED: i64 = 1_618_884_473;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn hmac() -> Key {
    // B.1.5.
    "whsec_uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
        .parse()
        .unwrap()
}

fn ed25519() -> Key {
    // B.1.4, seed and public key.
    let part = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let mut pair = part("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU");
    pair.extend(part("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"));
    format!("whsk_{}", BASE64_STANDARD.encode(pair)).parse().unwrap()
}

fn request<'a>(headers: &'a [(&'a str, &'a str)]) -> Request<'a> {
    let (authority, target) = ("example.com", "/foo?param=Value&Pet=dog");
    Request { method: "POST", authority, target, headers }
}

/// Appendix B.2.5 and B.2.6: both signatures are made byte for byte, and verify.
#[test]
fn the_vectors_of_the_standard() {
    let check = |key: Key, list: &[&'static str], input: &str, signature: &str| {
        let lines = lines(&request(&HEADERS), list).unwrap();
        let text = input.split_once('=').unwrap().1;
        let made = key.sign_bytes(base(&lines, text).as_bytes()).unwrap();
        let (label, sent) = signature.split_once('=').unwrap();
        assert_eq!(format!(":{}:", BASE64_STANDARD.encode(made)), sent, "{label}");

        let mut headers = HEADERS.to_vec();
        headers.extend([(HEADER_INPUT, input), (HEADER, signature)]);
        let keys = [key];
        let verdict = |headers: &[_], now| {
            verify(&keys, &request(headers), BODY, list, at(now), TOLERANCE_DEFAULT)
        };
        assert_eq!(verdict(&headers, CREATED), Ok(()), "{label}");
        assert_eq!(verdict(&headers, CREATED + 301), Err(Refused::TooOld));
        headers[1].1 = "Tue, 20 Apr 2021 02:07:56 GMT";
        assert_eq!(verdict(&headers, CREATED), Err(Refused::Signature));
    };
    check(
        hmac(),
        &["date", "@authority", "content-type"],
        r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
        "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
    );
    check(
        ed25519(),
        &["date", "@method", "@path", "@authority", "content-type", "content-length"],
        r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    );
}

/// Signs with both keys, lets `change` spoil the request, and verifies with `key`.
fn spoilt(
    key: Key,
    late: i64,
    change: impl FnOnce(&mut Request<'_>, &mut Vec<u8>, &mut Vec<(&str, String)>),
) -> Result<(), Refused> {
    let digest = digest(BODY);
    let mut headers = vec![("content-type", "application/json".to_owned())];
    headers.push((HEADER_DIGEST, digest));
    let list = ["@method", "@authority", "@path", "@query", "content-type", HEADER_DIGEST];
    let borrowed: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let signed = sign(&[hmac(), ed25519()], &request(&borrowed), &list, CREATED).unwrap();
    headers.extend([(HEADER_INPUT, signed.input), (HEADER, signed.signature)]);
    let mut body = BODY.to_vec();
    let mut parts = request(&[]);
    change(&mut parts, &mut body, &mut headers);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sent = Request { headers: &headers, ..parts };
    verify(&[key], &sent, &body, REQUIRED, at(CREATED + late), TOLERANCE_DEFAULT)
}

#[test]
fn each_key_of_several_verifies() {
    for key in [hmac(), ed25519()] {
        assert_eq!(spoilt(key.clone(), 300, |_, _, _| {}), Ok(()), "{key:?}");
        assert_eq!(spoilt(key, -301, |_, _, _| {}), Err(Refused::TooNew));
    }
    let stranger = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    assert_eq!(spoilt(stranger, 0, |_, _, _| {}), Err(Refused::Signature));
}

#[test]
fn a_change_of_what_is_covered_is_refused() {
    type Change = fn(&mut Request<'_>, &mut Vec<u8>, &mut Vec<(&str, String)>);
    let changes: [(Change, Refused); 11] = [
        (|_, body, _| body[0] ^= 1, Refused::Digest),
        (|request, _, _| request.method = "PUT", Refused::Signature),
        (|request, _, _| request.authority = "example.org", Refused::Signature),
        (|request, _, _| request.target = "/fop?param=Value&Pet=dog", Refused::Signature),
        (|request, _, _| request.target = "/foo?param=Value&Pet=cat", Refused::Signature),
        (|_, _, headers| headers[0].1.push('x'), Refused::Signature),
        (|_, _, headers| headers.push(("content-type", "text/plain".into())), Refused::Signature),
        (
            |_, _, headers| headers[2].1 = headers[2].1.replace(";created", ";createt"),
            Refused::Signature,
        ),
        (|_, _, headers| headers[3].1.clear(), Refused::Malformed(HEADER)),
        (|_, _, headers| headers[2].1 = "sig1".into(), Refused::Malformed(HEADER_INPUT)),
        (|_, _, headers| drop(headers.pop()), Refused::Missing(HEADER)),
    ];
    for (index, (change, expect)) in changes.into_iter().enumerate() {
        assert_eq!(spoilt(ed25519(), 0, change), Err(expect), "change {index}");
    }
}

/// A good signature over too little, without a time, or under another algorithm's name is refused.
#[test]
fn a_signature_must_cover_what_is_required() {
    let check = |list: &[&str], parameters: &str, expect: Result<(), Refused>| {
        let digest = digest(BODY);
        let mut headers = vec![(HEADER_DIGEST, &*digest)];
        let names: Vec<_> = list.iter().map(|name| format!("\"{name}\"")).collect();
        let input = format!("({}){parameters}", names.join(" "));
        let line = |name: &&str| super::lines(&request(&headers), &[name]).unwrap();
        let lines: String = list.iter().map(line).collect();
        let made = hmac().sign_bytes(base(&lines, &input).as_bytes()).unwrap();
        let (input, signature) =
            (format!("a={input}"), format!("a=:{}:", BASE64_STANDARD.encode(made)));
        headers.extend([(HEADER_INPUT, &*input), (HEADER, &*signature)]);
        let now = at(CREATED + 10);
        let tolerance = Duration::from_mins(5);
        let found = verify(&[hmac()], &request(&headers), BODY, REQUIRED, now, tolerance);
        assert_eq!(found, expect, "{input}");
    };
    let created = ";created=1618884473";
    check(REQUIRED, created, Ok(()));
    check(&REQUIRED[..3], created, Err(Refused::Uncovered(HEADER_DIGEST)));
    check(&REQUIRED[1..], created, Err(Refused::Uncovered("@method")));
    check(&[], created, Err(Refused::Uncovered("@method")));
    check(REQUIRED, "", Err(Refused::Timestamp));
    check(REQUIRED, ";created=\"1618884473\"", Err(Refused::Timestamp));
    check(REQUIRED, ";created=1618884473;expires=1618884482", Err(Refused::TooOld));
    check(REQUIRED, ";created=1618884473;expires=1618884483", Ok(()));
    check(REQUIRED, ";created=1618884473;alg=\"ed25519\"", Err(Refused::Signature));
    check(REQUIRED, ";created=1618884473;alg=\"hmac-sha256\";tag=\"a;b, c\"", Ok(()));
    let twice = [REQUIRED, &["@method"]].concat();
    check(&twice, created, Err(Refused::Signature));
}

#[test]
fn what_is_not_in_the_request_is_not_signed() {
    let sign = |list: &[&str], value| {
        super::sign(&[hmac()], &request(&[("x-one", value)]), list, CREATED).is_some()
    };
    assert!(sign(&["x-one", "@request-target"], " 1\t"));
    assert!(!sign(&["x-two"], "1"));
    assert!(!sign(&["@status"], "1"));
    assert!(!sign(&["x-one", "x-one"], "1"));
    assert!(!sign(&["x-one"], "1\n\"@method\": GET"));
    assert!(!sign(&["x-one"], "caf\u{e9}"));
}

#[test]
fn both_halves_of_a_pair_have_one_id() {
    let (secret, public) = crate::sign::key_pair([7; 32]);
    let id = |text: &str| text.parse::<Key>().unwrap().id();
    assert_eq!(id(&secret), id(&public));
    assert_eq!(id(&secret).len(), 16);
    assert_ne!(id(&secret), hmac().id());
}
