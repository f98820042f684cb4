//! Scenario files: what bins answer, in TOML, YAML or JSON.

use std::{collections::BTreeMap, fmt::Display, fs, path::Path};

use serde::Deserialize;

use super::{
    Fault, Scenario,
    json::{AnswerDocument, RuleDocument, ScenarioDocument, of_answers},
};
use crate::{Error, ErrorKind, capture::BIN_BYTES_MAX, store::BINS_MAX};

/// The largest scenario file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// `[bins.NAME]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bins: BTreeMap<String, Bin>,
}

/// One bin: `answer`, `answers` or `rules`, and what goes wrong with all of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bin {
    answer: Option<AnswerDocument>,
    answers: Option<Vec<AnswerDocument>>,
    rules: Option<Vec<RuleDocument>>,
    #[serde(default)]
    seed: u64,
    fault: Option<Fault>,
    notes: Option<String>,
}

/// What a file says of a bin.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) bin: String,
    pub(crate) scenario: Option<Scenario>,
    pub(crate) fault: Option<Fault>,
    pub(crate) notes: Option<String>,
}

/// Reads a file; its name ends in `.toml`, `.yaml`, `.yml` or `.json`. The error names the file
/// and the key.
pub(crate) fn read(path: &Path) -> Result<Vec<Told>, Error> {
    let wrong = |why: &dyn Display| {
        Error::new(ErrorKind::Invalid, format!("scenario file {}: {why}", path.display()))
    };
    let size = fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(&format!("at most {FILE_BYTES_MAX} bytes, found {size}")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    let file: File = match kind.to_ascii_lowercase().as_str() {
        "toml" => toml::from_str(&text).map_err(|error| wrong(&error))?,
        "yaml" | "yml" => serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?,
        "json" => serde_json::from_str(&text).map_err(|error| wrong(&error))?,
        _ => return Err(wrong(&"its name must end in .toml, .yaml, .yml or .json")),
    };
    if file.bins.len() > BINS_MAX {
        return Err(wrong(&format!("bins: at most {BINS_MAX}, found {}", file.bins.len())));
    }
    let told = file.bins.into_iter().map(|(name, bin)| {
        let at = format!("bins.{name}");
        bin.told(name).map_err(|error| wrong(&format!("{at}: {error}")))
    });
    told.collect()
}

impl Bin {
    fn told(self, bin: String) -> Result<Told, String> {
        if bin.is_empty() || bin.len() > BIN_BYTES_MAX || bin.contains('/') {
            return Err(format!("the name of a bin has 1 to {BIN_BYTES_MAX} bytes and no slash"));
        }
        let Self { answer, answers, rules, seed, fault, notes } = self;
        if let Some(fault) = &fault {
            fault.check().map_err(|error| format!("fault.{error}"))?;
        }
        let scenario = match (rules, answer, answers) {
            (None, None, None) => None,
            (None, answer, answers) => Some(of_answers(answer, answers)?.seed(seed)),
            (Some(rules), None, None) => Some(ScenarioDocument { seed, rules }.scenario()?),
            (Some(_), _, _) => {
                return Err("rules say what is answered; leave out answer and answers".into());
            }
        };
        Ok(Told { bin, scenario, fault, notes })
    }
}
