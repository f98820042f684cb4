//! What serde calls a field in the payload.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::parse::ParseStream;
use syn::{Attribute, Field, LitStr, Result, Token};

/// The name of a field: as renamed, else by the type's `rename_all`, else as written; a field
/// without a name has its number.
pub(crate) fn payload_name(field: &Field, number: usize, rename_all: Option<&str>) -> String {
    let Some(ident) = &field.ident else { return number.to_string() };
    let name = ident.unraw().to_string();
    match (serde_text(&field.attrs, "rename"), rename_all) {
        (Some(renamed), _) => renamed,
        (None, Some(rule)) => renamed(&name, rule),
        (None, None) => name,
    }
}

/// The text of `#[serde(WORD = "…")]` or `#[serde(WORD(serialize = "…"))]`. What is wrong there is
/// for serde to say.
pub(crate) fn serde_text(attributes: &[Attribute], word: &str) -> Option<String> {
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident(word) {
                return skip(meta.input);
            }
            if meta.input.peek(Token![=]) {
                found = Some(text(&meta)?);
                return Ok(());
            }
            meta.parse_nested_meta(|meta| {
                if meta.path.is_ident("serialize") {
                    found = Some(text(&meta)?);
                    return Ok(());
                }
                skip(meta.input)
            })
        });
    }
    found
}

fn text(meta: &ParseNestedMeta<'_>) -> Result<String> {
    Ok(meta.value()?.parse::<LitStr>()?.value())
}

/// Passes over a value.
fn skip(input: ParseStream<'_>) -> Result<()> {
    let mut passed = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        passed.extend([input.parse::<TokenTree>()?]);
    }
    Ok(())
}

/// serde's rules for fields, which are written `like_this`. One that it does not know is an error of
/// its own.
fn renamed(name: &str, rule: &str) -> String {
    let pascal = || {
        name.split('_').fold(String::new(), |mut text, word| {
            let mut chars = word.chars();
            text.extend(chars.next().map(|first| first.to_ascii_uppercase()));
            text + chars.as_str()
        })
    };
    match rule {
        "PascalCase" => pascal(),
        "camelCase" => {
            let text = pascal();
            let mut chars = text.chars();
            let first = chars.next().map(|first| first.to_ascii_lowercase());
            first.into_iter().chain(chars).collect()
        }
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => name.to_ascii_uppercase(),
        "kebab-case" => name.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => name.to_ascii_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let check = |rule: &str, expect: &str| assert_eq!(renamed("best_model", rule), expect);
        check("lowercase", "best_model");
        check("UPPERCASE", "BEST_MODEL");
        check("PascalCase", "BestModel");
        check("camelCase", "bestModel");
        check("snake_case", "best_model");
        check("SCREAMING_SNAKE_CASE", "BEST_MODEL");
        check("kebab-case", "best-model");
        check("SCREAMING-KEBAB-CASE", "BEST-MODEL");
    }
}
