//! A program to be killed: publishes as fast as it can through a durable bus, and says which events
//! were accepted.
//!
//! `crasher CONFIG publish` prints the id of each accepted event on a line of its own, for ever;
//! `crasher CONFIG drain` publishes nothing, delivers what is owed, and says how much is left.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use postrider::config::Config;
use postrider::{Bus, Error, NewEvent};

/// Publishers at once.
const PUBLISHERS: usize = 16;
/// Longest wait for what is owed.
const DRAIN_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [config, command] if command == "publish" => publish(config).await,
        [config, command] if command == "drain" => drain(config).await,
        _ => {
            eprintln!("usage: crasher CONFIG publish|drain");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crasher: failed to {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn open(config: &str) -> Result<Bus, Error> {
    let registry = postrider_sinks::registry();
    Bus::open(Config::loader().registry(&registry).file(config).load()?).await
}

async fn publish(config: &str) -> Result<(), Error> {
    let bus = open(config).await?;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let bus = bus.clone();
        publishers.spawn(async move {
            for number in 0_u64.. {
                let payload = format!(r#"{{"publisher":{publisher},"number":{number}}}"#);
                let receipt = bus.publish(NewEvent::raw("match", payload)?).await?;
                // One write for each line: what is killed in between is no line.
                let line = format!("{}\n", receipt.event());
                if std::io::stdout().write_all(line.as_bytes()).is_err() {
                    break;
                }
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended.expect("a publisher does not panic")?;
    }
    Ok(())
}

async fn drain(config: &str) -> Result<(), Error> {
    let bus = open(config).await?;
    let left = bus.flush(DRAIN_MAX).await?;
    println!("{}", left.total());
    bus.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
