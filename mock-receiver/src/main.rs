//! `mock-receiver`: captures webhooks at the desk, and asks a running one about them.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
