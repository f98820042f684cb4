//! Paths with date fields, and the names of finished files.

use std::path::{Path, PathBuf};

use postrider::Timestamp;
use postrider::sink::Problem;

/// The end of a file's life as its name carries it: sorts as text, and is a file name everywhere.
const STAMP: &str = "%Y-%m-%dT%H-%M-%SZ";
/// The same as a pattern: digits where it has fields.
const STAMP_SHAPE: &[u8] = b"dddd-dd-ddTdd-dd-ddZ";

/// A path in which `%Y`, `%m`, `%d` and `%H` stand for parts of a time in UTC.
#[derive(Clone, Debug)]
pub(super) struct Template {
    text: String,
    has_fields: bool,
    has_fields_in_folders: bool,
}

/// A finished file's place among its fellows: earlier ones are less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    /// Year, month, day and hour in the name, as far as it has them.
    fields: [u32; 4],
    /// Of files with the same fields, those without a stamp were written last.
    pub(super) has_no_stamp: bool,
    stamp: String,
    counter: u32,
}

/// What a file name says about a finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) age: Age,
    pub(super) is_compressed: bool,
}

/// Formats a time in UTC.
fn format(format: &str, time: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(time.as_millis())
        .expect("a timestamp is always in range to be printed");
    time.strftime(format).to_string()
}

/// Days since 1970 in UTC.
pub(super) fn day(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(86_400_000)
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong =
            |message: String, remedy: &str| Err(Problem::new("path", message).remedy(remedy));
        if text.is_empty() || text.contains('\0') || text.ends_with(['/', '\\']) {
            return wrong(
                format!("expected the path of a file, found {text:?}"),
                "write for example \"log/events.ndjson\"",
            );
        }
        let (mut fields, mut in_folders) = (Vec::new(), false);
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '%' {
                continue;
            }
            match chars.next() {
                Some((_, '%')) => {}
                Some((_, field @ ('Y' | 'm' | 'd' | 'H'))) => {
                    in_folders |= text[at..].contains('/');
                    fields.push(field);
                }
                other => {
                    let found = other.map_or_else(String::new, |(_, c)| c.to_string());
                    return wrong(
                        format!("expected %Y, %m, %d, %H or %% in {text:?}, found \"%{found}\""),
                        "write %% for a percent sign",
                    );
                }
            }
        }
        for pair in ["Ym", "md", "dH"] {
            let (larger, smaller) = pair.split_at(1);
            let has = |field: &str| fields.iter().any(|found| field.starts_with(*found));
            if has(smaller) && !has(larger) {
                return wrong(
                    format!(
                        "expected %{larger} beside %{smaller} in {text:?}, for without it files would meet again"
                    ),
                    "write the whole date",
                );
            }
        }
        Ok(Self {
            text: text.to_owned(),
            has_fields: !fields.is_empty(),
            has_fields_in_folders: in_folders,
        })
    }

    /// As written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn has_fields(&self) -> bool {
        self.has_fields
    }

    pub(super) fn has_fields_in_folders(&self) -> bool {
        self.has_fields_in_folders
    }

    /// The path at `time`.
    pub(super) fn path(&self, time: Timestamp) -> PathBuf {
        if self.text.contains('%') { format(&self.text, time).into() } else { (&self.text).into() }
    }

    /// What `name`, a file name in a folder of this template, says about a finished file; `None`
    /// for a foreign file.
    pub(super) fn finished(&self, name: &str) -> Option<Finished> {
        let (stem, extension) = split(self.text.rsplit('/').next().unwrap_or(&self.text));
        let (name, is_compressed) = match name.strip_suffix(".gz") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let mut fields = [0; 4];
        let mut rest = eat(stem, name, &mut fields)?;
        let mut age = Age { fields, has_no_stamp: true, stamp: String::new(), counter: 0 };
        if let Some((stamp, after)) = rest.strip_prefix('-').and_then(eat_stamp) {
            age.has_no_stamp = false;
            stamp.clone_into(&mut age.stamp);
            rest = after;
            if let Some(counter) = rest.strip_prefix('-') {
                let end = counter.find(|c: char| !c.is_ascii_digit()).unwrap_or(counter.len());
                age.counter = counter[..end].parse().ok()?;
                rest = &counter[end..];
            }
        }
        rest = eat(extension, rest, &mut age.fields)?;
        let is_ours = rest.is_empty() && (self.has_fields || !age.has_no_stamp);
        is_ours.then_some(Finished { age, is_compressed })
    }
}

/// Takes from `name` what `pattern`, a piece of a template, stands for; gives the rest.
fn eat<'a>(pattern: &str, name: &'a str, fields: &mut [u32; 4]) -> Option<&'a str> {
    let mut rest = name;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let (field, digits) = match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('Y')) => (0, 4),
            ('%', Some('m')) => (1, 2),
            ('%', Some('d')) => (2, 2),
            ('%', Some('H')) => (3, 2),
            (c, _) => {
                rest = rest.strip_prefix(c)?;
                continue;
            }
        };
        let (number, after) = rest.split_at_checked(digits)?;
        fields[field] =
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
        rest = after;
    }
    Some(rest)
}

/// Splits off a stamp.
fn eat_stamp(text: &str) -> Option<(&str, &str)> {
    let (stamp, rest) = text.split_at_checked(STAMP_SHAPE.len())?;
    let fits = stamp.bytes().zip(STAMP_SHAPE).all(|(byte, shape)| match shape {
        b'd' => byte.is_ascii_digit(),
        _ => byte == *shape,
    });
    fits.then_some((stamp, rest))
}

/// Splits a file name before its last dot; a leading dot is no extension.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    }
}

/// A name for the file at `path` that ended at `time`, later in order than all of `others` (the
/// finished files of the same path): `events-2026-11-24T10-00-00Z.ndjson`, with `-1` and so on where
/// that one is taken. A clock that jumped back gets the latest time there is.
pub(super) fn stamped(path: &Path, time: Timestamp, others: &[Finished]) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let (stem, extension) = split(&name);
    let mut stamp = format(STAMP, time);
    let mut counter = None;
    let last = others.iter().map(|other| (&other.age.stamp, other.age.counter)).max();
    if let Some((last, count)) = last
        && *last >= stamp
    {
        stamp.clone_from(last);
        counter = Some(count + 1);
    }
    let counter = counter.map_or_else(String::new, |counter| format!("-{counter}"));
    path.with_file_name(format!("{stem}-{stamp}{counter}{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn paths_at_a_time() {
        let check = |template: &str, expect: &str| {
            let path = Template::parse(template).unwrap().path(at("2026-01-02T03:04:05Z"));
            assert_eq!(path, PathBuf::from(expect), "{template}");
        };
        check("log/events.ndjson", "log/events.ndjson");
        check("log/%Y/%m/events-%Y-%m-%d.ndjson", "log/2026/01/events-2026-01-02.ndjson");
        check("100%%-%Y%m%d%H", "100%-2026010203");
    }

    #[test]
    fn finished_files_are_told_from_foreign_ones() {
        let check = |template: &str, name: &str, expect: bool| {
            let template = Template::parse(template).unwrap();
            assert_eq!(template.finished(name).is_some(), expect, "{} {name}", template.as_str());
        };
        let plain = "log/events.ndjson";
        check(plain, "events-2026-11-24T10-00-00Z.ndjson", true);
        check(plain, "events-2026-11-24T10-00-00Z-12.ndjson.gz", true);
        check(plain, "events.ndjson", false);
        check(plain, "events.ndjson.gz", false);
        check(plain, "events.ndjson.torn", false);
        check(plain, "events-backup.ndjson", false);
        check(plain, "events-2026-11-24T10-00-00Z.json", false);
        check(plain, "events-2026-11-24T10-00-00Z-.ndjson", false);
        check(plain, "events-2026-11-24T10-00-00Z.ndjson.gz.tmp", false);
        check(plain, "events2-2026-11-24T10-00-00Z.ndjson", false);
        check(plain, "events-2026-11-2\u{e9}", false);
        let dated = "log/events-%Y-%m-%d.ndjson";
        check(dated, "events-2026-11-24.ndjson", true);
        check(dated, "events-2026-11-24.ndjson.gz", true);
        check(dated, "events-2026-11-24-2026-11-25T00-00-00Z-1.ndjson", true);
        check(dated, "events-2026-11-24-old.ndjson", false);
        check(dated, "events-today.ndjson", false);
        check("events.log.%Y-%m-%d", "events.log.2026-11-24.gz", true);
        check("events.log.%Y-%m-%d", "events.log-2026-11-24T10-00-00Z.2026-11-24", true);
        check("audit", "audit-2026-11-24T10-00-00Z", true);
    }

    /// Names must never meet, and their order must be the order of writing, also when the clock
    /// jumps back.
    #[test]
    fn names_of_one_second_count_up() {
        let template = Template::parse("events.ndjson").unwrap();
        let mut others = Vec::new();
        let mut add = |time: &str, expect: &str| {
            let path = stamped(Path::new("log/events.ndjson"), at(time), &others);
            assert_eq!(path, Path::new("log").join(expect));
            let next = template.finished(expect).unwrap();
            assert!(others.iter().all(|other: &Finished| other.age < next.age), "{expect}");
            others.push(next);
        };
        add("2026-11-24T10:00:00.100Z", "events-2026-11-24T10-00-00Z.ndjson");
        add("2026-11-24T10:00:00.200Z", "events-2026-11-24T10-00-00Z-1.ndjson");
        add("2026-11-24T09:00:00Z", "events-2026-11-24T10-00-00Z-2.ndjson");
        add("2026-11-24T10:00:01Z", "events-2026-11-24T10-00-01Z.ndjson");
    }
}
