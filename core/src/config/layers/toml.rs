//! TOML texts, with the place of each value.
//!
//! figment's own TOML feature brings a second parser and knows no lines.

use std::sync::Arc;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::errors::ConfigError;
use crate::config::origin::{Document, Origins};
use crate::config::path::{KeyPath, Step};

/// Reads a whole TOML text.
pub(super) fn read(document: &Arc<Document>) -> Result<(Dict, Origins), Vec<ConfigError>> {
    let table = DeTable::parse(&document.text).map_err(|error| {
        // Only the message: the error's own `Display` quotes the line, and secrets with it.
        let offset = error.span().map(|span| span.start);
        vec![ConfigError::syntax(document.place(offset), format!("TOML: {}", error.message()))]
    })?;
    let mut reader = Reader { document, errors: Vec::new() };
    let (values, origins) = reader.table(table.get_ref(), 0, &KeyPath::default());
    if reader.errors.is_empty() { Ok((values, origins)) } else { Err(reader.errors) }
}

/// Reads one inline value, as a variable holds it; the places in it are unknown.
pub(super) fn read_inline(text: &str) -> Option<Value> {
    let value = DeValue::parse(text).ok()?;
    let document = Document::new(crate::config::Source::Code, "");
    let mut reader = Reader { document: &document, errors: Vec::new() };
    let (value, _) = reader.value(&value, &KeyPath::default());
    reader.errors.is_empty().then_some(value)
}

struct Reader<'a> {
    document: &'a Arc<Document>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// The parser bounds nesting (80 levels), and so this recursion.
    fn table(&mut self, table: &DeTable<'_>, offset: usize, path: &KeyPath) -> (Dict, Origins) {
        let mut values = Dict::new();
        let mut origins = Origins::leaf(self.document, Some(offset));
        for (key, value) in table {
            let key_text = key.get_ref().as_ref();
            let (value, mut below) = self.value(value, &path.key(key_text));
            // A table may have been opened elsewhere than its key says; the key is what people see.
            below.here.offset = Some(key.span().start);
            origins.below.insert(Step::Key(key_text.to_owned()), below);
            values.insert(key_text.to_owned(), value);
        }
        (values, origins)
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &KeyPath) -> (Value, Origins) {
        let offset = value.span().start;
        let mut origins = Origins::leaf(self.document, Some(offset));
        let value = match value.get_ref() {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::from(number),
                    Err(_) => self.refuse(offset, path, "a whole number of at most 64 bits"),
                }
            }
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) => Value::from(number),
                Err(_) => self.refuse(offset, path, "a number"),
            },
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Datetime(time) => Value::from(time.to_string()),
            DeValue::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let (value, below) = self.value(item, &path.index(index));
                    origins.below.insert(Step::Index(index), below);
                    values.push(value);
                }
                Value::from(values)
            }
            DeValue::Table(table) => {
                let (values, below) = self.table(table, offset, path);
                origins = below;
                Value::from(values)
            }
        };
        (value, origins)
    }

    fn refuse(&mut self, offset: usize, path: &KeyPath, expected: &str) -> Value {
        let place = self.document.place(Some(offset));
        self.errors.push(ConfigError::new(place, path, format!("expected {expected}")));
        Value::from(0)
    }
}
