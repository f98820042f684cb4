//! What stands in `#[event(…)]`.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, LitInt, LitStr, Path, Result, Token};

const ON_TYPE: &str = "type, version, key, validate, expires_at, attributes, crate";
const ON_FIELD: &str = "key, range, url, not_empty, length_max";

/// The attributes of the type.
#[derive(Default)]
pub(crate) struct OnType {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<LitInt>,
    pub(crate) key: Option<LitStr>,
    pub(crate) validate: Option<Path>,
    pub(crate) expires_at: Option<Path>,
    pub(crate) attributes: Option<Path>,
    pub(crate) krate: Option<Path>,
}

impl OnType {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        each(attributes, |word, meta| match word {
            "type" => set(&mut found.name, meta, literal),
            "version" => set(&mut found.version, meta, |meta| {
                let version: LitInt = meta.value()?.parse()?;
                match version.base10_parse::<u32>() {
                    Ok(1..) => Ok(version),
                    _ => Err(Error::new(version.span(), "expected a version of 1 or more")),
                }
            }),
            "key" => set(&mut found.key, meta, literal),
            "validate" => set(&mut found.validate, meta, path),
            "expires_at" => set(&mut found.expires_at, meta, path),
            "attributes" => set(&mut found.attributes, meta, path),
            "crate" => set(&mut found.krate, meta, path),
            _ => Err(unknown(meta, ON_TYPE, ON_FIELD, "a field")),
        })?;
        Ok(found)
    }
}

/// The attributes of a field.
#[derive(Default)]
pub(crate) struct OnField {
    pub(crate) key: Option<Ident>,
    pub(crate) range: Option<TokenStream>,
    pub(crate) url: Option<Ident>,
    pub(crate) not_empty: Option<Ident>,
    pub(crate) length_max: Option<LitInt>,
}

impl OnField {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        each(attributes, |word, meta| match word {
            "key" => set(&mut found.key, meta, flag),
            "range" => set(&mut found.range, meta, range),
            "url" => set(&mut found.url, meta, flag),
            "not_empty" => set(&mut found.not_empty, meta, flag),
            "length_max" => set(&mut found.length_max, meta, |meta| meta.value()?.parse()),
            _ => Err(unknown(meta, ON_FIELD, ON_TYPE, "the type")),
        })?;
        Ok(found)
    }

    /// What asks for a check of the value, if anything does.
    pub(crate) fn check(&self) -> Option<proc_macro2::Span> {
        let range = self.range.as_ref().map(Spanned::span);
        let flag = self.url.as_ref().or(self.not_empty.as_ref()).map(Ident::span);
        range.or(flag).or(self.length_max.as_ref().map(LitInt::span))
    }
}

/// Calls `read` with each word in each `#[event(…)]`; all errors are collected.
fn each(
    attributes: &[Attribute],
    mut read: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    let mut errors: Option<Error> = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
        let result = attribute.parse_nested_meta(|meta| {
            let word = meta.path.get_ident().map(Ident::unraw).map(|word| word.to_string());
            read(&word.unwrap_or_default(), &meta)
        });
        if let Err(error) = result {
            match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            }
        }
    }
    errors.map_or(Ok(()), Err)
}

fn set<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    read: impl FnOnce(&ParseNestedMeta<'_>) -> Result<T>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("this stands here twice"));
    }
    *slot = Some(read(meta)?);
    Ok(())
}

fn unknown(meta: &ParseNestedMeta<'_>, known: &str, elsewhere: &str, there: &str) -> Error {
    let word = meta.path.to_token_stream().to_string();
    if elsewhere.split(", ").any(|known| known == word) {
        return meta.error(format!("`{word}` stands on {there}; known here: {known}"));
    }
    meta.error(format!("unknown word `{word}`; known here: {known}"))
}

fn flag(meta: &ParseNestedMeta<'_>) -> Result<Ident> {
    if meta.input.peek(Token![=]) {
        return Err(meta.error("expected the word alone, found a value"));
    }
    meta.path.require_ident().cloned()
}

fn literal(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    meta.value()?.parse()
}

/// A path, bare or in quotes.
fn path(meta: &ParseNestedMeta<'_>) -> Result<Path> {
    let value = meta.value()?;
    if value.peek(LitStr) { value.parse::<LitStr>()?.parse() } else { value.parse() }
}

/// A range: all up to the next comma. It is the compiler that reads it, in the check's place.
fn range(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let value = meta.value()?;
    let mut range = TokenStream::new();
    while !value.is_empty() && !value.peek(Token![,]) {
        range.extend([value.parse::<TokenTree>()?]);
    }
    if range.to_string().contains("..") {
        Ok(range)
    } else {
        Err(meta.error("expected a range such as `0.0..=1.0`"))
    }
}
