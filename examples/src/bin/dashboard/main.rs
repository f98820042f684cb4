//! The guide's dashboard: a program that embeds the bus and publishes typed events.
//!
//! `cargo xtask demo` runs it; by hand: `dashboard --config postrider.toml --events 3`. It publishes
//! the guide's match, upload and rebuild events (beyond three, more of each with other values),
//! waits until they are delivered, and shuts down. What it published is written to `--report`, one
//! JSON line for each event, so that somebody else can check what arrived. With `--listen` it goes on
//! as the dashboard's backend and publishes what is posted to it, until ctrl-c or SIGTERM.

mod serve;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use postrider::config::Config;
use postrider::{Bus, Error, ErrorKind, Event, Left, LeftAt, NewEvent, Timestamp};
use postrider_examples::{Match, Rebuild, Upload};
use tokio::net::TcpListener;

/// Publishes the guide's events through the endpoints of a configuration.
#[derive(Parser)]
struct Options {
    /// The configuration: TOML or JSON.
    #[arg(long, value_name = "FILE", default_value = "postrider.toml")]
    config: PathBuf,
    /// How many events to publish.
    #[arg(long, value_name = "N", default_value_t = 3)]
    events: usize,
    /// Where to write what was published, one JSON line for each event.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// After that, publish what is posted to /api/events/TYPE here, until ctrl-c or SIGTERM. Port 0
    /// takes a free one. Whoever reaches the address may publish.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
    listen: Option<SocketAddr>,
}

/// Events that go into one `publish_all`.
const BATCH: usize = 500;
/// Longest wait for deliveries, beside the time that so many events may take.
const WAIT: Duration = Duration::from_secs(30);
/// Longest wait for attempts under way at the end.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dashboard: failed to {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Error> {
    // First of all, so that an address that cannot be had costs no event.
    let listener = match options.listen {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|error| listen_failed(address, error))?)
        }
        None => None,
    };
    let registry = postrider_sinks::registry();
    let bus = Bus::open(Config::loader().registry(&registry).file(&options.config).load()?).await?;
    let mut report = match &options.report {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(report_failed)?)),
        None => None,
    };

    for start in (0..options.events).step_by(BATCH) {
        let (events, bodies): (Vec<_>, Vec<_>) = (start..options.events.min(start + BATCH))
            .map(event)
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .unzip();
        let receipts = bus.publish_all(events).await?;
        for (receipt, (kind, body)) in receipts.iter().zip(bodies) {
            if let Some(report) = &mut report {
                let line = serde_json::json!({ "id": receipt.event(), "type": kind, "body": body });
                writeln!(report, "{line}").map_err(report_failed)?;
            }
        }
    }
    if let Some(mut report) = report {
        report.flush().map_err(report_failed)?;
    }

    let wait = WAIT + Duration::from_millis(5) * u32::try_from(options.events).unwrap_or(u32::MAX);
    let left = bus.flush(wait).await?;
    if let (Some(listener), Some(address)) = (listener, options.listen) {
        let served =
            serve::serve(&bus, listener).await.map_err(|error| listen_failed(address, error));
        let left = bus.shutdown(SHUTDOWN_WAIT).await?;
        if !left.is_empty() {
            eprintln!("dashboard: still owed: {}", owed(&left));
        }
        return served;
    }
    bus.shutdown(SHUTDOWN_WAIT).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Sink, format!("deliver everything; still owed: {}", owed(&left))))
}

/// What is owed to each endpoint, in words.
fn owed(left: &Left) -> String {
    let owed =
        |left: &LeftAt| format!("{} to {:?}", left.due + left.delayed, left.endpoint.as_str());
    left.endpoints().iter().map(owed).collect::<Vec<_>>().join(", ")
}

/// An event, and for the report its type and the body that its webhook should have.
type Made = (NewEvent, (&'static str, String));

/// The `number`th event: the guide's own three first, then variations of them.
fn event(number: usize) -> Result<Made, Error> {
    let round = number / 3;
    let name = |guide: &str| match round {
        0 => guide.to_owned(),
        _ => guide.replace(".glb", &format!("_{round}.glb")),
    };
    match number % 3 {
        0 => made(&Match {
            best_model: name("ray_ban_glasses.glb"),
            // 0.87, then two decimals that go round.
            confidence: ((87 + round) % 101) as f64 / 100.0,
            source_image: "ray_ban_glasses.jpg".into(),
            model_url: "https://jigu.s3.eu-west-1.wasabisys.com/ray_ban_glasses.glb?...".into(),
            timestamp: guide_time(),
            images_count: 3 + round as i64,
        }),
        1 => made(&Upload {
            model_name: name("new_glasses.glb"),
            has_thumbnail: true,
            uploaded_by: "api_key_name".into(),
        }),
        _ => made(&Rebuild { models_count: 167 + round as i64, success: true }),
    }
}

/// The events carry the guide's time, so that their bodies are the guide's; without
/// [`NewEvent::time`] a webhook carries the time of acceptance.
fn made<E: Event>(event: &E) -> Result<Made, Error> {
    let time = guide_time();
    let data = serde_json::to_string(event)
        .map_err(|error| Error::new(ErrorKind::Invalid, "encode an event").because(error))?;
    let body = format!(r#"{{"event":"{}","timestamp":"{time}","data":{data}}}"#, E::TYPE);
    Ok((NewEvent::of(event)?.time(time), (E::TYPE, body)))
}

fn guide_time() -> Timestamp {
    "2025-11-30T14:30:45.123Z".parse().expect("the guide's time")
}

fn report_failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Sink, "write the report").because(error)
}

fn listen_failed(address: SocketAddr, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("listen on {address}")).because(error)
}
