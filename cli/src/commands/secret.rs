//! `postrider secret new`: a signing secret from the operating system's generator.

use postrider::sign;
use serde_json::json;

use crate::args::SecretCommand;
use crate::output::Output;
use crate::{Exit, Failure};

pub(crate) fn run(command: &SecretCommand, output: &Output) -> Result<Exit, Failure> {
    let SecretCommand::New { ed25519 } = command;
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::failed(format!("failed to get random bytes: {error}")))?;
    if *ed25519 {
        let (secret, public) = sign::key_pair(random);
        output.line(format_args!("{secret}\n{public}"))?;
        output.json(&json!({ "secret": secret, "public": public }))?;
    } else {
        let secret = sign::secret(random);
        output.line(&secret)?;
        output.json(&json!({ "secret": secret }))?;
    }
    Ok(Exit::Done)
}
