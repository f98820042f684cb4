//! NDJSON on a pipe, colours on a terminal.

use std::process::Command;

use postrider::sink::Sink;
use postrider_sinks::stdout::{Settings, StdoutSink, Style};

use crate::common::skip;
use crate::support::{after_heading, as_child, attempt, child, done, line};

/// Delivers two events and ends.
async fn deliver_two(style: Style) -> ! {
    let sink = StdoutSink::new(&Settings::default().style(style)).unwrap();
    let outcomes = sink.deliver(&[attempt(1, 3), attempt(2, 3)]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    sink.close().await.unwrap();
    done()
}

fn style(role: &str) -> Style {
    match role {
        "pretty" => Style::Pretty,
        "ndjson" => Style::Ndjson,
        _ => Style::Auto,
    }
}

const PRETTY: &str =
    "2025-11-30T14:30:45.123Z match                id-1 {\"n\": 1, \"x\": \"xxx\"}";

#[tokio::test]
async fn on_a_pipe() {
    if let Some(role) = child() {
        deliver_two(style(&role)).await;
    }
    let run = |role: &str| {
        let output = as_child(&[], "style::on_a_pipe", role).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        after_heading(&String::from_utf8(output.stdout).unwrap()).to_owned()
    };
    let ndjson = line(&attempt(1, 3)) + &line(&attempt(2, 3));
    assert_eq!(run("auto"), ndjson);
    assert_eq!(run("ndjson"), ndjson);
    let pretty = run("pretty");
    assert_eq!(pretty.lines().next(), Some(PRETTY), "not coloured on a pipe");
}

#[tokio::test]
async fn on_a_terminal() {
    const THIS: &str = "style::on_a_terminal";
    if let Some(role) = child() {
        deliver_two(style(&role)).await;
    }
    if Command::new("script").arg("--version").output().is_err() {
        return skip(THIS, "script is missing; it is in bsdutils");
    }
    let run = |role: &str, no_color: &str| {
        // `script` gives its command a terminal; it takes one string.
        let command = as_child(&[], THIS, role);
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let mut script = Command::new("script");
        script.args(["-qec", &words.join(" "), "/dev/null"]);
        script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("TERM", "xterm").env("NO_COLOR", no_color);
        let output = script.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        after_heading(&String::from_utf8(output.stdout).unwrap()).replace("\r\n", "\n")
    };
    let coloured = run("auto", "");
    assert!(coloured.starts_with("\x1b[2m2025-11-30T14:30:45.123Z\x1b[0m "), "{coloured:?}");
    assert_eq!(coloured.lines().count(), 2);
    let plain = run("auto", "1");
    assert_eq!(plain.lines().next(), Some(PRETTY), "NO_COLOR is respected");
    assert_eq!(run("ndjson", ""), line(&attempt(1, 3)) + &line(&attempt(2, 3)));
}
