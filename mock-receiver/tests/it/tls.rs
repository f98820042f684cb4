//! TLS and HTTP/2, with curl as the sender.

use std::process::Command;

use mock_receiver::{Closer, Problem, Receiver, Response, TlsFault};

use crate::support::DEADLINE;

/// Runs curl with these arguments; its standard output. `None` where there is no curl.
fn curl(receiver: &Receiver, args: &[&str]) -> Option<(i32, String)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10"]);
    let dir = std::env::temp_dir().join(format!("mock-receiver-{}", receiver.addr().port()));
    if let Some(pem) = receiver.ca_pem() {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), pem).unwrap();
        command.arg("--cacert").arg(dir.join("ca.pem"));
    }
    let output = command.args(args).output();
    let _ = std::fs::remove_dir_all(&dir);
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "curl is missing");
            println!("skipped: curl is missing");
            return None;
        }
        output => output.unwrap(),
    };
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some((output.status.code().unwrap_or(-1), text))
}

#[tokio::test]
async fn http_2_is_spoken_over_tls_and_in_the_clear() {
    let plain = Receiver::start().await.unwrap();
    let tls = Receiver::builder().tls().start().await.unwrap();
    assert!(tls.url("a").starts_with("https://127.0.0.1:"), "{}", tls.url("a"));
    for (receiver, how) in [(&plain, "--http2-prior-knowledge"), (&tls, "--http2")] {
        receiver.on("a").respond(Response::status(201).header("x-own", "1").body("made"));
        let url = format!("{}/p%20q?x=1&x=2", receiver.url("a"));
        let body = "x".repeat(100_000);
        let written = "%{http_version} %{response_code} %header{x-own}";
        let sent = curl(receiver, &[how, "-d", &body, "-H", "X-Odd: v", "-w", written, &url]);
        let Some((code, out)) = sent else { return };
        assert_eq!((code, out.as_str()), (0, "made2 201 1"), "{how}");
        let seen = &receiver.wait("a").within(DEADLINE).await.unwrap()[0];
        assert_eq!(
            (seen.version, seen.method.as_str(), seen.status),
            ("HTTP/2", "POST", Some(201))
        );
        assert_eq!((seen.path.as_str(), seen.query.as_deref()), ("/a/p%20q", Some("x=1&x=2")));
        assert_eq!((seen.body.len(), seen.header("x-odd")), (100_000, Some("v")));
        assert_eq!(seen.header("host"), Some(receiver.addr().to_string().as_str()));
        assert_eq!(seen.timeline.tls.is_some(), how == "--http2");
    }
}

#[tokio::test]
async fn tls_carries_http_1_too_and_is_checked_by_name_and_authority() {
    let receiver = Receiver::builder().tls().start().await.unwrap();
    let url = receiver.url("a");
    let Some((code, out)) = curl(&receiver, &["--http1.1", "-d", "{}", &url]) else { return };
    assert_eq!((code, out.as_str()), (0, "{\"received\":true}"));
    let seen = &receiver.requests("a")[0];
    assert_eq!(seen.version, "HTTP/1.1");
    assert!(seen.timeline.tls.unwrap() <= seen.timeline.first_byte);
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(curl(&receiver, &["-d", "{}", &by_name]).unwrap().0, 0, "localhost is a name of it");
    let (code, out) = curl(&receiver, &["--cacert", "/dev/null", &url]).unwrap();
    assert_ne!(code, 0, "an authority that is not trusted: {out}");
}

#[tokio::test]
async fn faults_are_played_over_http_2() {
    use mock_receiver::Fault;
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("a");
    for (fault, expect) in [
        (Fault::RstStream { code: 2 }, "INTERNAL_ERROR"),
        (Fault::BadChunk, "PROTOCOL_ERROR"),
        (Fault::Goaway { code: 11 }, ""),
        (Fault::Reset, ""),
        (Fault::TruncateBody { after_bytes: 3 }, ""),
        (Fault::WrongLength { by: 2 }, ""),
        (Fault::CloseIn { after_bytes: 1, reset: true }, ""),
    ] {
        receiver.on("a").respond(Response::received().fault(fault.clone()));
        let sent = curl(&receiver, &["--http2-prior-knowledge", "-d", "{}", &url]);
        let Some((code, out)) = sent else { return };
        assert_ne!(code, 0, "{fault:?}: {out}");
        assert!(out.contains(expect), "{fault:?}: {out}");
    }
    let seen = receiver.requests("a");
    assert_eq!(seen.len(), 7);
    assert_eq!((seen[6].problem, seen[6].body.as_ref()), (Some(Problem::CutOff), &b"{"[..]));
    assert_eq!(seen[3].timeline.closed_by(), Some(Closer::ReceiverReset));
    receiver.on("a").respond(Response::received().fault(Fault::Bomb { bytes: 3 << 20 }));
    let args =
        ["--http2-prior-knowledge", "--compressed", "-o", "/dev/null", "-w", "%{size_download}"];
    let (code, out) = curl(&receiver, &[&args[..], &[&url]].concat()).unwrap();
    assert_eq!(code, 0, "{out}");
}

#[tokio::test]
async fn a_handshake_goes_wrong_as_it_was_asked_to() {
    let builder =
        TlsFault::ALL.into_iter().fold(Receiver::builder(), mock_receiver::Builder::bad_tls);
    let receiver = builder.start().await.unwrap();
    assert!(receiver.url("a").starts_with("http://"), "the first address stays as it is");
    for fault in TlsFault::ALL {
        let url = receiver.bad_tls_url(fault, "a").unwrap();
        let Some((code, out)) = curl(&receiver, &["-d", "{}", &url]) else { return };
        // 35: the handshake failed; 60: the certificate is not accepted (curl(1)).
        let expect = match fault {
            TlsFault::Expired | TlsFault::WrongHost | TlsFault::UnknownCa => 60,
            _ => 35,
        };
        assert_eq!(code, expect, "{fault:?}: {out}");
        let blind = curl(&receiver, &["--insecure", "-d", "{}", &url]).unwrap().0;
        assert_eq!(blind == 0, expect == 60, "{fault:?} without a check of the certificate");
    }
    assert_eq!(receiver.requests("a").len(), 3, "those that did not check");
}
