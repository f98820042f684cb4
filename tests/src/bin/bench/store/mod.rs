//! The embedded store beside what the disk, or memory, does at best; and `SQLite` as the
//! neighbour.

pub(crate) mod backlog;
mod latency;
mod publish;
mod raw;
mod settle;
mod sqlite;

use crate::report::Report;
use crate::{Failure, Scale};

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    report.begin(
        "store",
        &format!(
            "400-byte events for 2 endpoints in the embedded log; limit of publishing: pwrite and \
             fdatasync of the same bytes in the same batches; in {}",
            std::env::temp_dir().display()
        ),
    );
    publish::run(report, scale, seed).await?;
    latency::run(report, scale, seed).await?;
    settle::run(report, scale, seed).await?;
    backlog::run(report, scale, seed).await
}
