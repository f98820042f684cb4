//! `postrider init`: a configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::args::{Args, Init};
use crate::output::Output;
use crate::{Exit, Failure};

/// Works as it stands; what needs a decision is commented out.
const TEMPLATE: &str = include_str!("init.toml");

pub(crate) fn run(args: &Args, init: &Init, output: &Output) -> Result<Exit, Failure> {
    let file = init.file.as_ref().or(args.config.as_ref());
    let file = file.map_or(Path::new("postrider.toml"), PathBuf::as_path);
    let shown = file.display();
    if file.extension().is_some_and(|extension| extension != "toml") {
        return Err(Failure::invalid(format!(
            "init writes TOML: expected a name such as \
             postrider.toml, found {shown}"
        )));
    }
    let mut options = OpenOptions::new();
    if init.force {
        options.write(true).create(true).truncate(true);
    } else {
        options.write(true).create_new(true);
    }
    let written = options.open(file).and_then(|mut file| file.write_all(TEMPLATE.as_bytes()));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{shown} is there already; --force replaces it");
            return Err(Failure::failed(message));
        }
        Err(error) => return Err(Failure::failed(format!("failed to write {shown}: {error}"))),
    }
    output.json(&serde_json::json!({ "written": file }))?;
    output.line(format_args!("wrote {shown}"))?;
    output.line(
        "next: postrider check, then postrider publish match --data '{\"confidence\":0.87}'",
    )?;
    Ok(Exit::Done)
}
