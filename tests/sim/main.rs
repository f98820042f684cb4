//! The real bus and engine in simulated time, with everything going wrong that a seed can think of,
//! over the memory store and over the log on a disk in memory. What is checked are the promises of
//! `docs/DELIVERY.md`.
//!
//! A seed decides what the world is like and what happens in it; which of several ready tasks runs
//! first it does not wholly (`select!` and hash maps have their own dice). So a seed given as
//! `POSTRIDER_SEED` is run many times.

mod plan;
mod run;
mod sink;
mod store;
mod verify;
mod world;

use std::time::Instant;

use plan::{Backing, Mutation, Plan};

/// Worlds of one test. The tests together are 10,000; each of them is a process of its own, so that
/// all cores work. One over the log costs four times as much as one in memory.
fn seeds(backing: Backing) -> u64 {
    let usual = match backing {
        Backing::Memory => 1_000,
        Backing::Log => 250,
    };
    if is_long() { 10 * usual } else { usual }
}

/// How often a seed is run that was asked for.
const REPEATS: u64 = 200;

/// Panics that are part of a world are not worth a line each.
fn hush() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some("simulated") {
            usual(panic);
        }
    }));
}

fn is_long() -> bool {
    std::env::var("POSTRIDER_TEST_LONG").as_deref() == Ok("1")
}

/// Runs worlds; prints what repeats the first that breaks a promise.
fn simulate(test: &str, backing: Backing) {
    hush();
    let started = Instant::now();
    let asked = std::env::var("POSTRIDER_SEED").ok();
    let (first, count) = match &asked {
        Some(seed) => (seed.parse().expect("POSTRIDER_SEED is a number"), REPEATS),
        None => (fastrand::u64(..1 << 40), seeds(backing)),
    };
    println!("{test}: seeds from {first} on");
    let mut attempts = 0;
    for round in 0..count {
        let seed = if asked.is_some() { first } else { first + round };
        let plan = Plan::new(seed, backing, None);
        match run::run(&plan) {
            Ok(made) => attempts += made,
            Err(broken) => panic!("POSTRIDER_SEED={seed}: {broken}\n{plan:#?}"),
        }
    }
    println!("{count} worlds, {attempts} attempts, {:?}", started.elapsed());
    assert!(asked.is_some() || attempts > count * 5, "the worlds are empty: {attempts} attempts");
}

macro_rules! worlds {
    ($($name:ident: $backing:ident;)*) => {$(
        #[test]
        fn $name() {
            simulate(stringify!($name), Backing::$backing);
        }
    )*};
}

worlds! {
    memory_1: Memory;
    memory_2: Memory;
    memory_3: Memory;
    memory_4: Memory;
    memory_5: Memory;
    memory_6: Memory;
    memory_7: Memory;
    memory_8: Memory;
    log_1: Log;
    log_2: Log;
    log_3: Log;
    log_4: Log;
    log_5: Log;
    log_6: Log;
    log_7: Log;
    log_8: Log;
}

/// The simulation can fail: each thing that is made wrong is found out, and called by its name.
fn find_out(mutation: Mutation, backing: Backing, expect: &[&str]) {
    hush();
    let first = fastrand::u64(..1 << 40);
    for seed in first..first + 1_000 {
        if let Err(broken) = run::run(&Plan::new(seed, backing, Some(mutation))) {
            println!("{mutation:?}, after {} worlds: {broken}", seed - first);
            let is_named = expect.iter().any(|expect| broken.contains(expect));
            assert!(is_named, "{mutation:?}, seed {seed}: {broken}");
            return;
        }
    }
    panic!("{mutation:?} is not found out");
}

#[test]
fn a_forgotten_accept_is_found_out() {
    let expect = ["was accepted and is not there", "published again, got"];
    find_out(Mutation::ForgetsAccept, Backing::Memory, &expect);
}

#[test]
fn a_forgotten_settlement_is_found_out() {
    find_out(Mutation::ForgetsSettle, Backing::Memory, &["made again, without a crash"]);
}

#[test]
fn an_ack_for_nothing_is_found_out() {
    find_out(Mutation::AcksForNothing, Backing::Memory, &["is Delivered, seen was"]);
}

#[test]
fn an_early_retry_is_found_out() {
    find_out(Mutation::RetriesEarly, Backing::Memory, &["due after"]);
}

#[test]
fn an_invented_event_is_found_out() {
    find_out(Mutation::Invents, Backing::Memory, &["nobody published"]);
}

#[test]
fn a_skipped_sync_is_found_out() {
    // What a power cut then takes breaks whichever promise it was for.
    find_out(Mutation::SkipsSyncs, Backing::Log, &[""]);
}

#[test]
fn an_order_that_is_not_kept_is_found_out() {
    find_out(Mutation::IgnoresOrder, Backing::Memory, &["comes before it, and is still owed"]);
}
