//! HTTP Message Signatures (RFC 9421): the signature base, and the digest of the body that it may
//! cover (RFC 9530).

use sha2::{Digest as _, Sha256, Sha512};

use super::{
    Cause, CauseKind, Scheme, Secret, Signature, Verdict,
    body::variants,
    claim::{Given, loose, read},
    secret::decodings,
    skew,
    trial::{Key, Message, keys, search, unknown},
};
use crate::capture::Record;

/// How many signatures of one request are looked at.
const LABELS_MAX: usize = 8;

/// A member of `signature-input`.
struct Input<'a> {
    label: &'a str,
    /// The inner list with its parameters, as sent.
    text: &'a str,
    components: Vec<&'a str>,
    parameters: &'a str,
}

/// Judges every signature of a request.
pub(super) fn judge(
    record: &Record,
    secrets: &[Secret],
    others: &[(String, Secret)],
) -> Vec<Signature> {
    let (inputs, signatures) = (joined(record, "signature-input"), joined(record, "signature"));
    let Some(inputs) = inputs else {
        // Without an input, `signature` is a header like another.
        return Vec::new();
    };
    let signatures = signatures.unwrap_or_default();
    split(&inputs, ',')
        .into_iter()
        .take(LABELS_MAX)
        .map(|member| one(member, &signatures, record, secrets, others))
        .collect()
}

fn one(
    member: &str,
    signatures: &str,
    record: &Record,
    secrets: &[Secret],
    others: &[(String, Secret)],
) -> Signature {
    let mut signature = Signature {
        scheme: Scheme::HttpMessage,
        header: "signature".to_owned(),
        verdict: Verdict::Invalid,
        signed: Vec::new(),
        expected: None,
        received: String::new(),
        secret: None,
        causes: Vec::new(),
    };
    let mut trouble = |kind: CauseKind, text: String| signature.causes.push(Cause::new(kind, text));
    let Some(input) = Input::parse(member) else {
        trouble(CauseKind::HeaderMalformed, "signature-input has no list of components".into());
        return signature;
    };
    signature.header = format!("signature, {}", input.label);
    let given_text = split(signatures, ',')
        .into_iter()
        .find_map(|member| member.split_once('=').filter(|(label, _)| label.trim() == input.label));
    let Some((_, given_text)) = given_text else {
        let text = format!("the header signature has no member {:?}", input.label);
        trouble(CauseKind::HeaderMissing, text);
        return signature;
    };
    given_text.trim().clone_into(&mut signature.received);
    let base = match Base::of(&input, record) {
        Ok(base) => base,
        Err(cause) => {
            signature.causes.push(cause);
            return signature;
        }
    };
    signature.signed = base.text("http", &base.authority, "\n").into_bytes();

    let bare = given_text.trim().strip_prefix(':').and_then(|text| text.strip_suffix(':'));
    let given: Vec<Given> = if let Some(bare) = bare {
        read(bare, Scheme::HttpMessage)
    } else {
        let why = "the signature is not written between colons (RFC 8941, byte sequence)";
        loose(given_text, Scheme::HttpMessage, &Cause::new(CauseKind::EncodingDiffers, why))
    };
    let algorithm = input.parameter("alg").map(|alg| alg.trim_matches('"'));
    let curve = algorithm == Some("ed25519")
        || algorithm.is_none() && given.iter().any(|given| given.bytes.len() == 64);
    let known = matches!(algorithm, None | Some("ed25519" | "hmac-sha256"));
    let keys: Vec<Key> = if known {
        // A key has no text of its own here: one that reads as base64 is taken for that.
        let decodes = secrets.first().is_some_and(|first| first.decoded().is_some());
        keys(secrets, others, decodes, curve)
    } else {
        Vec::new()
    };
    let checkable = keys.iter().any(|key| key.secret > 0);
    let messages = base.messages(&signature.signed);
    signature.expected = keys.iter().find(|key| key.causes.is_empty()).and_then(|key| {
        let made = key.material.sign(messages.first()?)?;
        Some(format!(":{}:", base64(&made)))
    });
    let (found, cut) = if checkable { search(&keys, &messages, &given) } else { (None, false) };

    let mut causes = times(&input, record);
    causes.extend(digest(record));
    let mut holds = found.is_some() && causes.is_empty();
    match found {
        Some(found) => {
            holds &= found.causes.iter().all(|cause| cause.kind == CauseKind::OtherSecret);
            signature.secret = Some(found.secret).filter(|secret| *secret > 0);
            causes.splice(0..0, found.causes);
        }
        None if checkable && given.is_empty() => {
            let why = "there is no signature that can be read as base64";
            causes.push(Cause::new(CauseKind::HeaderMalformed, why));
        }
        None if checkable => causes.insert(0, unknown(&given, curve, cut)),
        None if !known => {
            let shown = algorithm.unwrap_or_default().escape_debug().to_string();
            let text = format!("{shown} is not checked here, only hmac-sha256 and ed25519");
            causes.push(Cause::new(CauseKind::OtherAlgorithm, text));
        }
        None => {}
    }
    signature.causes = causes;
    signature.verdict = match (checkable, holds) {
        (false, _) => Verdict::Unchecked,
        (true, true) => Verdict::Valid,
        (true, false) => Verdict::Invalid,
    };
    signature
}

impl<'a> Input<'a> {
    fn parse(member: &'a str) -> Option<Self> {
        let (label, text) = member.split_once('=')?;
        let (label, text) = (label.trim(), text.trim());
        let end = text.strip_prefix('(').and_then(|_| outside_quotes(text, ')'))?;
        let components = split(&text[1..end], ' ');
        Some(Self { label, text, components, parameters: &text[end + 1..] })
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        split(self.parameters, ';').into_iter().find_map(|parameter| {
            parameter.split_once('=').filter(|(key, _)| key.trim() == name).map(|(_, value)| value)
        })
    }
}

/// The lines of a signature base; those that hold the address are put in at the end.
struct Base<'a> {
    lines: Vec<(&'a str, Value)>,
    authority: String,
    last: String,
}

enum Value {
    Fixed(String),
    Scheme,
    Authority,
    Target(String),
}

impl<'a> Base<'a> {
    fn of(input: &Input<'a>, record: &Record) -> Result<Self, Cause> {
        let host = joined(record, "host").unwrap_or_default().to_ascii_lowercase();
        let authority = host.strip_suffix(":80").unwrap_or(&host).to_owned();
        let query = record.query.as_deref();
        let target =
            query.map_or_else(|| record.path.clone(), |query| format!("{}?{query}", record.path));
        let mut lines = Vec::new();
        for component in &input.components {
            let (name, parameters) = component.split_at(
                component
                    .get(1..)
                    .and_then(|rest| rest.find('"'))
                    .map_or(component.len(), |at| at + 2),
            );
            let name = name.trim_matches('"');
            let value = match name {
                "@method" => Value::Fixed(record.method.clone()),
                "@authority" => Value::Authority,
                "@scheme" => Value::Scheme,
                "@target-uri" => Value::Target(target.clone()),
                "@request-target" => Value::Fixed(target.clone()),
                "@path" => Value::Fixed(record.path.clone()),
                "@query" => Value::Fixed(format!("?{}", query.unwrap_or_default())),
                field if !field.starts_with('@') && parameters.is_empty() => {
                    Value::Fixed(joined(record, field).ok_or_else(|| {
                        let shown = field.escape_debug();
                        let text =
                            format!("the signature covers the header {shown}, which is missing");
                        Cause::new(CauseKind::HeaderMissing, text)
                    })?)
                }
                _ => {
                    let shown = component.escape_debug();
                    let text = format!("the component {shown} is not understood here");
                    return Err(Cause::new(CauseKind::HeaderMalformed, text));
                }
            };
            lines.push((*component, value));
        }
        Ok(Self { lines, authority, last: format!("\"@signature-params\": {}", input.text) })
    }

    fn text(&self, scheme: &str, authority: &str, line_end: &str) -> String {
        let mut text = String::new();
        for (component, value) in &self.lines {
            text.push_str(component);
            text.push_str(": ");
            match value {
                Value::Fixed(value) => text.push_str(value),
                Value::Scheme => text.push_str(scheme),
                Value::Authority => text.push_str(authority),
                Value::Target(target) => text.extend([scheme, "://", authority, target]),
            }
            text.push_str(line_end);
        }
        text + &self.last
    }

    fn messages(&self, signed: &[u8]) -> Vec<Message<'static>> {
        let bare = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let whole = self.text("http", &self.authority, "\n");
        let lines = whole.strip_suffix(&self.last).unwrap_or_default();
        let others = [
            (
                self.text("https", &self.authority, "\n"),
                "it was signed for https, and came by http",
            ),
            (self.text("https", bare, "\n"), "it was signed for https without the port"),
            (self.text("http", bare, "\n"), "it was signed for the host without the port"),
            (
                self.text("http", &self.authority, "\r\n"),
                "its lines end with \\r\\n in the place of \\n",
            ),
            (format!("{whole}\n"), "it has a line end at its end, which the standard has not"),
            (
                lines.trim_end_matches('\n').to_owned(),
                "its last line, @signature-params, is missing",
            ),
            (whole.replace("\": ", "\":"), "there is no space behind the colons"),
        ];
        let mut messages =
            vec![Message { prefix: signed.to_vec(), body: b"", causes: Vec::new(), alone: false }];
        for (text, how) in others {
            let differs =
                Cause::new(CauseKind::SignedTextDiffers, format!("the signature base: {how}"));
            if messages.iter().all(|message| message.prefix != text.as_bytes()) {
                let (prefix, causes) = (text.into_bytes(), vec![differs]);
                messages.push(Message { prefix, body: b"", causes, alone: false });
            }
        }
        messages
    }
}

fn times(input: &Input<'_>, record: &Record) -> Vec<Cause> {
    let number = |name: &str| input.parameter(name).and_then(|text| text.parse::<i64>().ok());
    let mut causes: Vec<Cause> =
        number("created").and_then(|created| skew(created, record.at)).into_iter().collect();
    if let Some(late) =
        number("expires").map(|expires| record.at.as_second().saturating_sub(expires))
        && late > 0
    {
        causes
            .push(Cause::new(CauseKind::ClockSkew, format!("it expired {late} s before it came")));
    }
    causes
}

/// Whether `content-digest`, where there is one, is that of the body.
fn digest(record: &Record) -> Vec<Cause> {
    let Some(header) = joined(record, "content-digest") else { return Vec::new() };
    let mut causes = Vec::new();
    for member in split(&header, ',').into_iter().take(LABELS_MAX) {
        let Some((name, value)) = member.split_once('=') else { continue };
        let hash: fn(&[u8]) -> Vec<u8> = match name.trim() {
            "sha-256" => |bytes| Sha256::digest(bytes).to_vec(),
            "sha-512" => |bytes| Sha512::digest(bytes).to_vec(),
            _ => continue,
        };
        let given = decodings(value.trim().trim_matches(':'));
        let is = |bytes: &[u8]| given.iter().any(|(_, given)| *given == hash(bytes));
        if !is(&record.body) {
            let text = format!("content-digest ({}) is not that of the body", name.trim());
            let slip = variants(&record.body).into_iter().find(|(body, _)| is(body));
            causes.extend(slip.map(|(_, cause)| cause));
            causes.push(Cause::new(CauseKind::DigestDiffers, text));
        }
    }
    causes
}

/// All values of a header as one (RFC 9421 §2.1).
fn joined(record: &Record, name: &str) -> Option<String> {
    let values: Vec<_> = record.headers.all(name).map(String::from_utf8_lossy).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// Parts between separators that stand neither in quotes nor in parentheses.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped, mut depth, mut begin) = (false, false, 0_usize, 0);
    let mut parts = Vec::new();
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ if char == separator && !quoted && depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + char.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(at, char)| {
        quoted ^= char == '"';
        (char == wanted && !quoted).then_some(at)
    })
}
