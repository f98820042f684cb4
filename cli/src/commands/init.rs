//! `postrider init`: a configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use crate::args::Init;
use crate::output::Output;
use crate::{Exit, Failure};

/// Works as it stands; what needs a decision is commented out.
const TEMPLATE: &str = include_str!("init.toml");

pub(crate) fn run(args: &Init, output: &Output) -> Result<Exit, Failure> {
    let shown = args.file.display();
    let mut options = OpenOptions::new();
    if args.force {
        options.write(true).create(true).truncate(true);
    } else {
        options.write(true).create_new(true);
    }
    let written = options.open(&args.file).and_then(|mut file| file.write_all(TEMPLATE.as_bytes()));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{shown} is there already; --force replaces it");
            return Err(Failure::failed(message));
        }
        Err(error) => return Err(Failure::failed(format!("failed to write {shown}: {error}"))),
    }
    output.json(&serde_json::json!({ "written": args.file }))?;
    output.line(format_args!("wrote {shown}"))?;
    output.line(
        "next: postrider check, then postrider publish match --data '{\"confidence\":0.87}'",
    )?;
    Ok(Exit::Done)
}
