//! Lines stay whole, whoever else prints.

use std::collections::BTreeSet;
use std::sync::Arc;

use postrider::sink::Sink;
use postrider_sinks::stdout::{Settings, StdoutSink};

use crate::support::{after_heading, as_child, attempt, child, done, line};

const TASKS: usize = 16;
const ROUNDS: usize = 20;
/// More than a pipe takes at once (64 KiB on Linux), so that writes are done in parts.
const LARGE: usize = 100_000;

fn size(n: usize) -> usize {
    if n.is_multiple_of(10) { LARGE } else { n % 300 }
}

/// 16 tasks on two endpoints, and `println!` between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn endpoints_and_printing_do_not_interleave() {
    if child().is_some() {
        let sinks = [(); 2].map(|()| Arc::new(StdoutSink::new(&Settings::default()).unwrap()));
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let sink = Arc::clone(&sinks[task % 2]);
                tokio::spawn(async move {
                    for round in 0..ROUNDS {
                        let n = 2 * (task * ROUNDS + round);
                        let batch = [attempt(n, size(n)), attempt(n + 1, size(n + 1))];
                        let outcomes = sink.deliver(&batch).await;
                        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                        println!("printed {n}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        done();
    }
    let output =
        as_child(&[], "whole::endpoints_and_printing_do_not_interleave", "child").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8(output.stdout).unwrap();
    let found: Vec<_> = after_heading(&out).split_inclusive('\n').collect();
    let mut expect: BTreeSet<_> =
        (0..2 * TASKS * ROUNDS).map(|n| line(&attempt(n, size(n)))).collect();
    expect.extend((0..TASKS * ROUNDS).map(|n| format!("printed {}\n", 2 * n)));
    assert_eq!(found.len(), expect.len());
    let found: BTreeSet<_> = found.into_iter().map(str::to_owned).collect();
    assert!(found == expect, "a line is torn, missing or doubled");
}
