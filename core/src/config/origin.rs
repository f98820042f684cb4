//! Where values came from: which layer, and where in its text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::path::{KeyPath, Step};

/// Which layer a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Built into the program.
    Default,
    /// A file, by the path that was given for it.
    File(PathBuf),
    /// A text handed to [`Loader::text`](super::Loader::text).
    Text,
    /// An environment variable, by its whole name.
    Variable(String),
    /// A command-line flag, by its name, see [`Loader::flag`](super::Loader::flag).
    Flag(String),
    /// A value handed to [`Loader::set`](super::Loader::set).
    Code,
}

/// Where a value stands: for people, and for editors that jump there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Which layer.
    pub source: Source,
    /// Line in the file or text, from 1; `None` for values that stand in no text.
    pub line: Option<usize>,
    /// Column in that line, in characters, from 1.
    pub column: Option<usize>,
}

/// `postrider.toml:14`, `environment variable POSTRIDER_ENABLED`, `set in code`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Default => f.write_str("built-in default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Text => f.write_str("config text"),
            Source::Variable(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
            Source::Code => f.write_str("set in code"),
        }?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// One text that values were read from; the text turns offsets into lines, and only when asked.
pub(super) struct Document {
    pub(super) source: Source,
    pub(super) text: String,
}

impl Document {
    pub(super) fn new(source: Source, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { source, text: text.into() })
    }

    /// The place of the byte at `offset`.
    pub(super) fn place(&self, offset: Option<usize>) -> Place {
        // Lines of a one-line value, such as a variable's, help nobody.
        let has_lines = matches!(self.source, Source::File(_) | Source::Text);
        let before = offset.filter(|_| has_lines).and_then(|offset| self.text.get(..offset));
        let column = |before: &str| before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Place {
            source: self.source.clone(),
            line: before.map(|before| before.bytes().filter(|b| *b == b'\n').count() + 1),
            column: before.map(column),
        }
    }

    /// The folder that relative paths of this layer start from: that of a file, else the current.
    pub(super) fn folder(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => path.parent().filter(|folder| !folder.as_os_str().is_empty()),
            _ => None,
        }
    }
}

/// Where one value came from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) document: Arc<Document>,
    /// Where it starts in the document; `None` where the value is the whole text of a variable or
    /// flag, to be read as its key's type wants.
    pub(super) offset: Option<usize>,
}

impl Origin {
    pub(super) fn place(&self) -> Place {
        self.document.place(self.offset)
    }
}

/// The origin of each value: a tree beside the tree of values.
#[derive(Clone)]
pub(super) struct Origins {
    pub(super) here: Origin,
    pub(super) below: BTreeMap<Step, Origins>,
}

impl Origins {
    pub(super) fn leaf(document: &Arc<Document>, offset: Option<usize>) -> Self {
        let here = Origin { document: Arc::clone(document), offset };
        Self { here, below: BTreeMap::new() }
    }

    /// Puts `origins` at `path`, in place of what was known there and below.
    pub(super) fn set(&mut self, path: &KeyPath, origins: Origins) {
        let mut node = self;
        for step in path.steps() {
            // A table that is new here was made by whoever sets the value in it.
            let here = || Self { here: origins.here.clone(), below: BTreeMap::new() };
            node = node.below.entry(step.clone()).or_insert_with(here);
        }
        *node = origins;
    }

    /// The origin of the value at `path`, or of the closest table around it.
    pub(super) fn of(&self, path: &KeyPath) -> &Origin {
        let mut node = self;
        for step in path.steps() {
            match node.below.get(step) {
                Some(below) => node = below,
                None => break,
            }
        }
        &node.here
    }

    /// The origin of the value at `path`, if that was set as a whole.
    pub(super) fn whole(&self, path: &KeyPath) -> Option<&Origin> {
        let mut node = self;
        for step in path.steps() {
            node = node.below.get(step)?;
        }
        node.below.is_empty().then_some(&node.here)
    }

    /// Lays `top` over this: tables are joined, everything else is replaced.
    pub(super) fn merge(&mut self, top: Origins) {
        let is_table = |origins: &Origins| {
            origins.below.keys().next().is_some_and(|step| matches!(step, Step::Key(_)))
        };
        if !is_table(self) || !is_table(&top) {
            *self = top;
            return;
        }
        self.here = top.here;
        for (step, origins) in top.below {
            match self.below.get_mut(&step) {
                Some(below) => below.merge(origins),
                None => drop(self.below.insert(step, origins)),
            }
        }
    }
}
