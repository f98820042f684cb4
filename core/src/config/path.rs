//! Where a value stands in the configuration: `endpoints[1].retry.schedule`.

use std::fmt;

/// One step into a table or a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    /// A key of a table.
    Key(String),
    /// A position in a list, from 0.
    Index(usize),
}

/// The steps from the root to a value; empty for the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    /// Reads `bus.data_dir`, `endpoints.0.url` or `endpoints[0].url`. An empty step is kept, so
    /// that it is reported as the unknown key that it is.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.replace('[', ".").replace(']', "");
        Self::from_names(text.split('.'))
    }

    /// Steps from their names; one that is all digits is a position.
    pub(super) fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let step = |name: &str| match name.parse() {
            Ok(index) if name.bytes().all(|b| b.is_ascii_digit()) => Step::Index(index),
            _ => Step::Key(name.to_owned()),
        };
        Self(names.into_iter().map(step).collect())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    pub(super) fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(super) fn join(&self, rest: &Self) -> Self {
        Self(self.0.iter().chain(&rest.0).cloned().collect())
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (_, steps) = self.0.split_last()?;
        Some(Self(steps.to_vec()))
    }

    pub(super) fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

/// `endpoints[1].headers."x.y"`: keys that TOML would quote are quoted.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                    if !key.is_empty() && key.bytes().all(is_bare) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let check = |text: &str, expect: &str| {
            assert_eq!(KeyPath::parse(text).to_string(), expect, "{text:?}");
        };
        check("bus.data_dir", "bus.data_dir");
        check("endpoints.0.url", "endpoints[0].url");
        check("endpoints[12].retry.schedule[3]", "endpoints[12].retry.schedule[3]");
        check("a..b", "a.\"\".b");
        check("", "\"\"");
        check("a.+1", "a.\"+1\"");
    }
}
