//! Running a receiver: the start line, a line per request, and a clean end.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::mpsc as std_mpsc,
    thread,
    time::Duration,
};

use mock_receiver::{Capture, Receiver, TlsFault};
use serde_json::json;
use tokio::{select, sync::mpsc};

use super::{ServeArguments, printable};

/// How many captures go to the printer at once.
const BATCH: usize = 1_000;
/// How long the end waits for lines that are being written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn serve(arguments: ServeArguments) -> Result<(), String> {
    // Before anything is announced, so that whoever reads the announcement can end us.
    let mut end = Box::pin(ended()?);
    let mut builder = Receiver::builder()
        .listen(arguments.listen)
        .admin(arguments.admin)
        .threads(thread::available_parallelism().map_or(1, usize::from));
    let given = arguments.token.is_some();
    for file in arguments.scenario {
        builder = builder.scenario_file(file);
    }
    for (bin, url) in arguments.forward {
        builder = builder.forward(bin, url);
    }
    for fault in arguments.bad_tls {
        builder = builder.bad_tls(fault);
    }
    if let Some(dir) = arguments.store {
        builder = builder.store(dir);
    }
    if arguments.tls {
        builder = builder.tls();
    }
    if let Some(token) = arguments.token {
        builder = builder.token(token);
    }
    for secret in arguments.secret {
        builder = builder.secret(secret);
    }
    let receiver = builder.start().await.map_err(|error| format!("{error:?}"))?;

    let (lines, printed) = printer(arguments.json, announcement(&receiver, arguments.json, given));
    // What a folder holds from before is listed by `ls`, and not printed as if it came now.
    let mut seq = receiver.last_seq();
    let mut told = false;
    loop {
        select! {
            signal = &mut end => {
                signal.map_err(|error| format!("waiting for signals failed: {error}"))?;
                break;
            }
            room = async { receiver.changed(seq).await; lines.reserve().await } => {
                let Ok(room) = room else {
                    // Nobody reads the lines; the receiver is of use without them.
                    (&mut end).await.map_err(|error| error.to_string())?;
                    break;
                };
                let captures = receiver.after(seq, BATCH);
                let Some(last) = captures.last().map(|capture| capture.seq) else { continue };
                let missed = last - seq - captures.len() as u64;
                if missed > 0 {
                    eprintln!("mock-receiver: {missed} requests were gone before they could be printed");
                }
                seq = last;
                if let Some(why) = receiver.store_problem().filter(|_| !told) {
                    eprintln!("mock-receiver: captures are not written to --store any more: {why}");
                    told = true;
                }
                room.send(captures);
            }
        }
    }
    drop(receiver);
    drop(lines);
    let _ = printed.recv_timeout(FLUSH_TIMEOUT);
    Ok(())
}

fn announcement(receiver: &Receiver, json: bool, token_given: bool) -> String {
    let capture = receiver.url("");
    let capture = capture.trim_end_matches('/');
    let (admin, token) = (receiver.admin_url(), receiver.token());
    if json {
        // Programs that start us read exactly this line, with its keys in this order.
        let ca = receiver.ca_pem().map_or(String::new(), |pem| format!(r#","ca":{}"#, json!(pem)));
        return format!(
            r#"{{"capture":{},"admin":{},"token":{}{ca}}}"#,
            json!(capture),
            json!(admin),
            json!(token)
        );
    }
    let token = if token_given { "(the one given)" } else { token };
    let mut bad = String::new();
    for fault in TlsFault::ALL {
        if let Some(url) = receiver.bad_tls_url(fault, "BIN") {
            let _ = writeln!(bad, "bad TLS       {url} ({})", fault.as_str()); // A string cannot fail.
        }
    }
    let ca = match receiver.ca_pem() {
        Some(_) => format!("CA to trust   {admin}/api/v1/ca.pem (with the token)\n"),
        None => String::new(),
    };
    format!(
        "capturing at  {capture}/BIN/any/path\nadmin API at  {admin}/api/v1\ntoken         {token}\n{bad}{ca}"
    )
}

/// A thread that writes to stdout, which may block for as long as its reader likes. The second
/// end closes when all is written.
fn printer(json: bool, start: String) -> (mpsc::Sender<Vec<Capture>>, std_mpsc::Receiver<()>) {
    let (lines, mut batches) = mpsc::channel::<Vec<Capture>>(1);
    let (done, printed) = std_mpsc::channel();
    let colour = !json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    thread::spawn(move || {
        let _done: std_mpsc::Sender<()> = done;
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut wrote = writeln!(out, "{start}").and_then(|()| out.flush());
        while wrote.is_ok() {
            let Some(batch) = batches.blocking_recv() else { return };
            wrote = batch
                .iter()
                .try_for_each(|capture| {
                    if json {
                        serde_json::to_writer(&mut out, capture)?;
                        writeln!(out)
                    } else {
                        writeln!(out, "{}", line(capture, colour))
                    }
                })
                .and_then(|()| out.flush());
        }
    });
    (lines, printed)
}

/// `14:30:45.123  200  POST /orders/1  45 B  match`
fn line(capture: &Capture, colour: bool) -> String {
    let status = match capture.status {
        Some(status) => status.to_string(),
        None => "---".to_owned(),
    };
    let paint = match (colour, capture.status) {
        (false, _) => ("", ""),
        (true, Some(200..300)) => ("\u{1b}[32m", "\u{1b}[0m"),
        (true, Some(300..500)) => ("\u{1b}[33m", "\u{1b}[0m"),
        (true, _) => ("\u{1b}[31m", "\u{1b}[0m"),
    };
    let query = capture.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
    let event = capture.event().map_or(String::new(), |event| format!("  {event}"));
    let problem = capture.problem.map_or(String::new(), |why| format!("  {}", why.as_str()));
    let time = format!("{:.3}", capture.at); // 2025-11-30T14:30:45.123Z
    let time = time.get(11..23).unwrap_or(&time);
    let text = format!(
        "{} {}{query}  {} B{event}{problem}",
        capture.method, capture.path, capture.body_bytes
    );
    format!("{time}  {}{status}{}  {}", paint.0, paint.1, printable(&text).replace('\n', "\\n"))
}

/// Resolves on ctrl-c, and on SIGTERM where there is such a thing.
#[cfg(unix)]
fn ended() -> Result<impl Future<Output = io::Result<()>>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    let (mut terminate, mut interrupt) = terminate
        .and_then(|terminate| Ok((terminate, interrupt?)))
        .map_err(|error| format!("cannot listen for signals: {error}"))?;
    Ok(async move {
        select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)]
fn ended() -> Result<impl Future<Output = io::Result<()>>, String> {
    Ok(tokio::signal::ctrl_c())
}
