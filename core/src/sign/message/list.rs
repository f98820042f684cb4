//! The little of structured fields (RFC 8941) that the two headers need.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// One member of `signature-input`.
pub(super) struct Input<'a> {
    pub(super) label: &'a str,
    /// The list with its parameters, as sent.
    pub(super) text: &'a str,
    /// Without their quotes. A component with parameters of its own keeps them, and so is known to
    /// nobody.
    pub(super) components: Vec<&'a str>,
    parameters: &'a str,
}

impl<'a> Input<'a> {
    pub(super) fn parse(member: &'a str) -> Option<Self> {
        let (label, text) = member.split_once('=')?;
        let end = text.strip_prefix('(').and_then(|_| text.find(')'))?;
        let components = text[1..end].split(' ').filter(|name| !name.is_empty()).map(bare);
        let components = components.collect::<Option<_>>()?;
        Some(Self { label, text, components, parameters: &text[end + 1..] })
    }

    /// A parameter as it is written, text in its quotes.
    pub(super) fn parameter(&self, name: &str) -> Option<&'a str> {
        let parameters = split(self.parameters, ';').filter_map(|part| part.split_once('='));
        parameters.filter(|(found, _)| *found == name).map(|(_, value)| value).last()
    }
}

fn bare(quoted: &str) -> Option<&str> {
    quoted.strip_prefix('"').and_then(|name| name.strip_suffix('"').or(Some(name)))
}

/// The bytes of the member `label` of `signature`.
pub(super) fn bytes(members: &str, label: &str) -> Option<Vec<u8>> {
    let mut members = split(members, ',').filter_map(|member| member.split_once('='));
    let text = members.find(|(found, _)| *found == label)?.1;
    BASE64_STANDARD.decode(text.strip_prefix(':')?.strip_suffix(':')?).ok()
}

/// Parts between separators that do not stand in quotes, without the spaces around them; none is
/// empty.
pub(super) fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(move |char| {
        let ends = char == separator && !quoted;
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        ends
    });
    parts.map(|part| part.trim_matches([' ', '\t'])).filter(|part| !part.is_empty())
}
