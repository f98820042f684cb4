//! Bodies and headers that are made from the request: `{{request.json./data/id}}`.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use crate::capture::Record;

/// A text with places to fill in.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Method,
    Path,
    Query(Option<String>),
    Header(String),
    Body,
    Json(String),
    Param(String),
    Now,
    Random,
}

/// Makes a place from what follows its prefix.
type Kind = fn(String) -> Place;

const PLACES: &str = "request.method, request.path, request.query, request.query.NAME, \
    request.header.NAME, request.body, request.json./POINTER, param.NAME, now, random";

impl Template {
    /// Reads a text; the error names the place that is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind
                .split_once("}}")
                .ok_or_else(|| format!("the template has a {{{{ without its }}}}: {behind:?}"))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Place(Place::parse(name.trim())?));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Filled in; what the request does not have is empty. `params` are those of the path.
    pub(crate) fn fill(
        &self,
        request: &Record,
        params: &[(String, String)],
        random: &mut fastrand::Rng,
    ) -> Bytes {
        let mut out = Vec::new();
        let mut json = None;
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Place(place) => place.fill(request, params, random, &mut json, &mut out),
            }
        }
        out.into()
    }
}

impl Place {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "request.method" => Self::Method,
            "request.path" => Self::Path,
            "request.query" => Self::Query(None),
            "request.body" => Self::Body,
            "now" => Self::Now,
            "random" => Self::Random,
            _ => {
                let kinds: [(&str, Kind); 4] = [
                    ("request.query.", |name| Self::Query(Some(name))),
                    ("request.header.", Self::Header),
                    ("request.json.", Self::Json),
                    ("param.", Self::Param),
                ];
                let found = kinds.iter().find_map(|(prefix, kind)| {
                    let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
                    Some(kind(rest.to_owned()))
                });
                found.ok_or_else(|| {
                    format!("the template has no place {name:?}; the places are {PLACES}")
                })?
            }
        })
    }

    fn fill(
        &self,
        request: &Record,
        params: &[(String, String)],
        random: &mut fastrand::Rng,
        json: &mut Option<Value>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Method => out.extend_from_slice(request.method.as_bytes()),
            Self::Path => out.extend_from_slice(request.path.as_bytes()),
            Self::Query(None) => {
                out.extend_from_slice(request.query.as_deref().unwrap_or_default().as_bytes());
            }
            Self::Query(Some(name)) => {
                let query = request.query.as_deref().unwrap_or_default().as_bytes();
                let value = form_urlencoded::parse(query).find(|(key, _)| key == name);
                out.extend(
                    value.into_iter().flat_map(|(_, value)| value.into_owned().into_bytes()),
                );
            }
            Self::Header(name) => {
                out.extend_from_slice(request.headers.bytes(name).unwrap_or_default());
            }
            Self::Body => out.extend_from_slice(&request.body),
            Self::Json(pointer) => {
                let json = json.get_or_insert_with(|| request.json().unwrap_or_default());
                match json.pointer(pointer) {
                    Some(Value::String(text)) => out.extend_from_slice(text.as_bytes()),
                    Some(value) => out.extend_from_slice(value.to_string().as_bytes()),
                    None => {}
                }
            }
            Self::Param(name) => {
                let value = params.iter().find(|(key, _)| key == name);
                out.extend(value.into_iter().flat_map(|(_, value)| value.bytes()));
            }
            Self::Now => out.extend_from_slice(format!("{:.3}", Timestamp::now()).as_bytes()),
            Self::Random => {
                out.extend_from_slice(format!("{:016x}", random.u64(..)).as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Template;

    #[test]
    fn a_place_that_is_none_is_named() {
        for (text, named) in [
            ("a {{request.boddy}}", "request.boddy"),
            ("{{request.header.}}", "request.header."),
            ("{{}}", "places are"),
            ("{{ now", "without its"),
        ] {
            let error = Template::parse(text).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
        Template::parse("{{ request.json./a/b }} } { {{param.id}}").expect("is one");
    }
}
