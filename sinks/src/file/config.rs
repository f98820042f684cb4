//! The settings of a file endpoint, and what may be wrong with them.

use std::borrow::Cow;
use std::fmt;

use postrider::config::ByteSize;
use postrider::sink::Problem;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::template::Template;

/// Deliveries that one call of the sink takes, unless set.
pub const BATCH_MAX_DEFAULT: usize = 512;
/// Most deliveries that one call may be set to take.
pub const BATCH_MAX_MAX: usize = 4096;
/// Smallest size that a file may be rotated at, in bytes (1 KiB).
pub const ROTATE_SIZE_MIN: u64 = 1 << 10;
/// Most finished files that may be kept by count.
pub const KEEP_MAX: u32 = 10_000;

/// What a file endpoint may be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The file, one event per line (NDJSON). A relative path in a configuration file starts at that
    /// file's folder, elsewhere at the current one; missing folders are created. `%Y`, `%m`, `%d` and `%H` stand for the year, month, day and hour of
    /// the attempt in UTC, `%%` for a percent sign: `log/events-%Y-%m-%d.ndjson`.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// When a file is finished and the next one begins, and what becomes of finished files.
    #[serde(default)]
    pub rotate: Rotate,
    /// When lines must have reached the disk: `never`, `batch` (default) or `always`.
    #[serde(default)]
    pub fsync: Fsync,
    /// Permissions of new files, on Unix: `0o640` (default) or `"0640"`. The process's umask takes
    /// bits away.
    #[serde(default)]
    pub mode: FileMode,
    /// Most events that are taken at once: 1 to 4096, default 512. With `fsync = "always"` it is 1.
    #[serde(default = "batch_max_default")]
    pub batch_max: usize,
}

fn batch_max_default() -> usize {
    BATCH_MAX_DEFAULT
}

impl Settings {
    /// The defaults for a file at `path`: no rotation, one sync per batch.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            rotate: Rotate::default(),
            fsync: Fsync::default(),
            mode: FileMode::default(),
            batch_max: BATCH_MAX_DEFAULT,
        }
    }

    /// Sets when files are rotated and what becomes of them.
    pub fn rotate(mut self, rotate: Rotate) -> Self {
        self.rotate = rotate;
        self
    }

    /// Sets when lines must have reached the disk.
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// Sets the permissions of new files.
    pub fn mode(mut self, mode: FileMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how many events are taken at once.
    pub fn batch_max(mut self, batch_max: usize) -> Self {
        self.batch_max = batch_max;
        self
    }

    /// Everything that is wrong.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match Template::parse(&self.path) {
            Err(problem) => problems.push(problem),
            Ok(template) => self.rotate.problems(&template, &mut problems),
        }
        if !(1..=BATCH_MAX_MAX).contains(&self.batch_max) {
            problems.push(
                Problem::new(
                    "batch_max",
                    format!("expected 1 to {BATCH_MAX_MAX}, found {}", self.batch_max),
                )
                .remedy(format!("leave it out for {BATCH_MAX_DEFAULT}")),
            );
        }
        problems
    }
}

/// When a file is finished, and what becomes of finished files.
///
/// A finished file gets the time of its end into its name, `events-2026-11-24T10-00-00Z.ndjson`,
/// and a counter where two would be alike. Nothing is ever overwritten. A path with date fields
/// also ends files by itself, under their own name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Rotate {
    /// A line that would make the file larger than this goes into the next one: at least 1 KiB,
    /// such as `"100MiB"`. Default: no limit.
    pub size: Option<ByteSize>,
    /// The first line of a new day, in UTC, goes into the next file. Default: no.
    pub daily: bool,
    /// How many finished files are kept; the oldest beyond are deleted, no other file ever: 1 to
    /// 10000. Default: all.
    pub keep: Option<u32>,
    /// Finished files are compressed with gzip, in the background. Default: no.
    pub compress: bool,
}

impl Rotate {
    /// Rotates at `size`.
    pub fn size(mut self, size: ByteSize) -> Self {
        self.size = Some(size);
        self
    }

    /// Rotates at the first line of each UTC day.
    pub fn daily(mut self) -> Self {
        self.daily = true;
        self
    }

    /// Keeps so many finished files.
    pub fn keep(mut self, count: u32) -> Self {
        self.keep = Some(count);
        self
    }

    /// Compresses finished files.
    pub fn compress(mut self) -> Self {
        self.compress = true;
        self
    }

    fn problems(&self, template: &Template, problems: &mut Vec<Problem>) {
        if let Some(size) = self.size
            && size.0 < ROTATE_SIZE_MIN
        {
            problems.push(Problem::new(
                "rotate.size",
                format!("expected at least {}, found {size}", ByteSize(ROTATE_SIZE_MIN)),
            ));
        }
        let never = self.size.is_none() && !self.daily && !template.has_fields();
        if let Some(keep) = self.keep {
            if !(1..=KEEP_MAX).contains(&keep) {
                problems.push(
                    Problem::new("rotate.keep", format!("expected 1 to {KEEP_MAX}, found {keep}"))
                        .remedy("leave it out to keep all"),
                );
            }
            if template.has_fields_in_folders() {
                problems.push(
                    Problem::new(
                        "rotate.keep",
                        "expected the path's date fields in the file name, found some in a folder's \
                         name: finished files are counted in one folder",
                    )
                    .remedy("move the fields into the file name, or leave keep out"),
                );
            }
        }
        for (key, is_set) in
            [("rotate.keep", self.keep.is_some()), ("rotate.compress", self.compress)]
        {
            if is_set && never {
                problems.push(
                    Problem::new(key, "has no effect, for this file is never finished")
                        .remedy("add rotate.size, rotate.daily or a date field in path"),
                );
            }
        }
    }
}

/// When lines must have reached the disk, and so what an ack means. A crash of the program alone
/// costs nothing with any of them: what was acked is with the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// The operating system decides. Fastest; a power cut, or a disk that fills up or breaks later,
    /// can cost acked lines (on Linux usually those of the last 30 s).
    Never,
    /// One sync for all lines that were written together, before any of them is acked. A power cut
    /// costs no acked line; lines that were not acked yet, at most one batch per attempt under way,
    /// are sent again and may then stand there twice.
    #[default]
    Batch,
    /// Each line is written, synced and acked by itself. A power cut costs no acked line and repeats
    /// the fewest. Costs a sync per event: some hundred to some thousand events per second.
    Always,
}

/// Permissions of a new file: within `0o777`, and the owner reads and writes.
///
/// Written as a TOML octal number (`0o640`) or as text (`"0640"`, `"640"`, `"0o640"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o640)
    }
}

const MODE_EXPECTED: &str =
    "permissions such as 0o640 or \"0640\", at most 0o777, which let the owner read and write";

impl FileMode {
    /// The bits, or `None` where they are above `0o777` or the owner could not read and write.
    pub fn new(bits: u32) -> Option<Self> {
        (bits <= 0o777 && bits & 0o600 == 0o600).then_some(Self(bits))
    }

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0o{:03o}", self.0)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl Visitor<'_> for NumberOrText {
            type Value = FileMode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(MODE_EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, bits: u64) -> Result<FileMode, E> {
                // Decimal 640 is 0o1200: every such slip has a bit above 0o777.
                u32::try_from(bits)
                    .ok()
                    .and_then(FileMode::new)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(bits), &self))
            }

            fn visit_i64<E: de::Error>(self, bits: i64) -> Result<FileMode, E> {
                u64::try_from(bits)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bits), &self))
                    .and_then(|bits| self.visit_u64(bits))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileMode, E> {
                u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8)
                    .ok()
                    .and_then(FileMode::new)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(NumberOrText)
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> Cow<'static, str> {
        "FileMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Permissions of a new file: \"0640\", or the number (in TOML 0o640).",
            "oneOf": [
                { "type": "integer", "minimum": 0o600, "maximum": 0o777 },
                { "type": "string", "pattern": "^(0o|0)?[67][0-7][0-7]$" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modes() {
        let read = |json| serde_json::from_value::<FileMode>(json).map(FileMode::bits).ok();
        assert_eq!(read(json!(0o640)), Some(0o640));
        assert_eq!(read(json!("0640")), Some(0o640));
        assert_eq!(read(json!("640")), Some(0o640));
        assert_eq!(read(json!("0o600")), Some(0o600));
        for wrong in [json!(640), json!(600), json!(0o440), json!("888"), json!(-1), json!("07777")]
        {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn problems_name_their_key() {
        let check = |json: serde_json::Value, keys: &[&str]| {
            let settings: Settings = serde_json::from_value(json.clone()).unwrap();
            let found: Vec<_> = settings.problems().into_iter().map(|p| p.key).collect();
            assert_eq!(found, keys, "{json}");
        };
        check(json!({"path": "log/events.ndjson"}), &[]);
        check(json!({"path": "e-%Y-%m-%d.ndjson", "rotate": {"keep": 7, "compress": true}}), &[]);
        check(json!({"path": ""}), &["path"]);
        check(json!({"path": "log/"}), &["path"]);
        check(json!({"path": "a-%B"}), &["path"]);
        check(json!({"path": "a-%H"}), &["path"]);
        check(json!({"path": "a", "rotate": {"size": 10}}), &["rotate.size"]);
        check(json!({"path": "a", "rotate": {"daily": true, "keep": 0}}), &["rotate.keep"]);
        check(json!({"path": "a", "rotate": {"keep": 3}}), &["rotate.keep"]);
        check(json!({"path": "a", "rotate": {"compress": true}}), &["rotate.compress"]);
        check(json!({"path": "%Y/a", "rotate": {"keep": 3}}), &["rotate.keep"]);
        check(json!({"path": "%q", "batch_max": 0}), &["path", "batch_max"]);
    }
}
