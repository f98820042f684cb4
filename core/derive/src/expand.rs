//! Writes the implementation.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, Index, Member, Result, Type, parse_quote};

use crate::attributes::{OnField, OnType};
use crate::names::{payload_name, serde_text};

pub(crate) fn event(input: &DeriveInput) -> Result<TokenStream> {
    let on_type = OnType::read(&input.attrs)?;
    let krate = on_type.krate.clone().unwrap_or_else(|| parse_quote!(::postrider));
    let Some(name) = &on_type.name else {
        return Err(Error::new(
            input.ident.span(),
            "missing `#[event(type = \"…\")]`: the name that endpoints ask for, such as \"match\"",
        ));
    };
    let fields = fields(&input.data)?;
    let version = on_type.version.as_ref().map(|version| quote!(const VERSION: u32 = #version;));
    let key = key(input, &on_type, &fields)?;
    let validate = validate(input, &on_type, &fields, &krate);
    let expires_at = on_type.expires_at.as_ref().map(|path| {
        quote! {
            fn expires_at(&self) -> ::core::option::Option<#krate::Timestamp> { #path(self) }
        }
    });
    let attributes = on_type.attributes.as_ref().map(|path| {
        quote! { fn attributes(&self) -> #krate::event::Attributes { #path(self) } }
    });
    let mut generics = input.generics.clone();
    if !generics.params.is_empty() {
        let serialize = parse_quote!(Self: #krate::event::checks::Serialize);
        generics.make_where_clause().predicates.push(serialize);
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let ident = &input.ident;
    // A wrong name is reported where it stands, also if the type is never published.
    let check_name = quote_spanned! {name.span()=>
        const _: #krate::event::EventType = #krate::event::EventType::from_static(#name);
    };
    Ok(quote! {
        #check_name

        #[automatically_derived]
        impl #impl_generics #krate::Event for #ident #type_generics #where_clause {
            const TYPE: &'static str = #name;
            #version
            #key
            #expires_at
            #attributes
            #validate
        }
    })
}

/// A field of a struct, how to get at it, and what is asked of it.
struct Found<'a> {
    field: &'a Field,
    number: usize,
    member: Member,
    on: OnField,
}

fn fields(data: &Data) -> Result<Vec<Found<'_>>> {
    let of_struct = |fields: &'_ Fields| !matches!(fields, Fields::Unit);
    match data {
        Data::Struct(data) if of_struct(&data.fields) => data
            .fields
            .iter()
            .enumerate()
            .map(|(number, field)| {
                let member = match &field.ident {
                    Some(ident) => Member::Named(ident.clone()),
                    None => Member::Unnamed(Index::from(number)),
                };
                Ok(Found { field, number, member, on: OnField::read(&field.attrs)? })
            })
            .collect(),
        Data::Enum(data) => {
            let fields = data.variants.iter().flat_map(|variant| &variant.fields);
            for field in fields {
                if let Some(wrong) = field.attrs.iter().find(|it| it.path().is_ident("event")) {
                    let message = "fields of an enum cannot be marked; write \
                                   `#[event(validate = Self::…)]` on the enum";
                    return Err(Error::new(wrong.span(), message));
                }
            }
            Ok(Vec::new())
        }
        _ => Ok(Vec::new()),
    }
}

fn key(input: &DeriveInput, on_type: &OnType, fields: &[Found<'_>]) -> Result<Option<TokenStream>> {
    let mut marked = fields.iter().filter_map(|field| Some((field, field.on.key.as_ref()?.span())));
    let first = marked.next();
    if let Some((_, span)) = marked.next() {
        return Err(Error::new(span, "an event has one key; another field is marked, too"));
    }
    let found = match (&on_type.key, first) {
        (None, None) => return Ok(None),
        (None, Some((found, _))) => found,
        (Some(_), Some((_, span))) => {
            return Err(Error::new(span, "an event has one key; the type names another"));
        }
        (Some(name), None) => {
            let wanted = name.value();
            let is_wanted = |found: &&Found<'_>| {
                found.field.ident.as_ref().is_some_and(|ident| *ident == wanted)
            };
            fields.iter().find(is_wanted).ok_or_else(|| {
                let message = format!("`{}` has no field `{wanted}`", input.ident);
                Error::new(name.span(), message)
            })?
        }
    };
    let member = &found.member;
    let to_string = quote_spanned!(found.field.ty.span()=> ::std::string::ToString::to_string);
    let key = if is_option(&found.field.ty) {
        quote!(self.#member.as_ref().map(#to_string))
    } else {
        quote!(::core::option::Option::Some(#to_string(&self.#member)))
    };
    Ok(Some(quote! {
        fn key(&self) -> ::core::option::Option<::std::string::String> { #key }
    }))
}

fn validate(
    input: &DeriveInput,
    on_type: &OnType,
    fields: &[Found<'_>],
    krate: &syn::Path,
) -> Option<TokenStream> {
    let rename_all = serde_text(&input.attrs, "rename_all");
    let checks: Vec<_> = fields
        .iter()
        .filter(|field| field.on.check().is_some())
        .map(|field| field_checks(field, rename_all.as_deref(), krate))
        .collect();
    // With the macro's own hygiene, wherever the path was written.
    let this = quote!(self);
    let own = on_type.validate.as_ref().map(|path| quote_spanned!(path.span()=> #path(#this)?;));
    if checks.is_empty() && own.is_none() {
        return None;
    }
    Some(quote! {
        fn validate(&self) -> ::core::result::Result<(), #krate::event::Invalid> {
            #(#checks)*
            #own
            ::core::result::Result::Ok(())
        }
    })
}

fn field_checks(found: &Found<'_>, rename_all: Option<&str>, krate: &syn::Path) -> TokenStream {
    let Found { field, number, member, on } = found;
    let name = payload_name(field, *number, rename_all);
    let checks = quote!(#krate::event::checks);
    // With the macro's own hygiene, wherever the attribute's value was written.
    let value = quote!(value);
    let range = on
        .range
        .as_ref()
        .map(|range| quote_spanned!(range.span()=> #checks::range(#name, #value, &(#range))?;));
    let url = on.url.as_ref().map(|at| quote_spanned!(at.span()=> #checks::url(#name, #value)?;));
    let not_empty = on
        .not_empty
        .as_ref()
        .map(|at| quote_spanned!(at.span()=> #checks::not_empty(#name, #value)?;));
    let length_max = on
        .length_max
        .as_ref()
        .map(|max| quote_spanned!(max.span()=> #checks::length_max(#name, #value, #max)?;));
    let all = quote!(#range #url #not_empty #length_max);
    if is_option(&field.ty) {
        quote!(if let ::core::option::Option::Some(value) = &self.#member { #all })
    } else {
        quote!({ let value = &self.#member; #all })
    }
}

/// Whether a type is written `Option<…>`, with or without its path.
fn is_option(of: &Type) -> bool {
    match of {
        Type::Path(of) => of.path.segments.last().is_some_and(|last| last.ident == "Option"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mistakes, and what is said about each.
    #[test]
    fn refusals() {
        let check = |input: DeriveInput, expect: &[&str]| {
            let errors = event(&input).expect_err("it was accepted");
            let found: Vec<_> = errors.into_iter().map(|error| error.to_string()).collect();
            assert_eq!(found, expect);
        };
        check(
            parse_quote!(
                struct A;
            ),
            &[
                "missing `#[event(type = \"…\")]`: the name that endpoints ask for, such as \"match\"",
            ],
        );
        check(
            parse_quote!(
                #[event(name = "a")]
                #[event(typo = 1)]
                struct A;
            ),
            &[
                "unknown word `name`; known here: type, version, key, validate, expires_at, \
                 attributes, crate",
                "unknown word `typo`; known here: type, version, key, validate, expires_at, \
                 attributes, crate",
            ],
        );
        check(
            parse_quote!(
                #[event(type = "a", range = 0..1)]
                struct A;
            ),
            &["`range` stands on a field; known here: type, version, key, validate, expires_at, \
               attributes, crate"],
        );
        check(
            parse_quote!(
                #[event(type = "a")]
                struct A {
                    #[event(version = 1)]
                    a: u8,
                }
            ),
            &["`version` stands on the type; known here: key, range, url, not_empty, length_max"],
        );
        check(
            parse_quote!(
                #[event(type = "a", version = 0)]
                struct A;
            ),
            &["expected a version of 1 or more"],
        );
        check(
            parse_quote!(
                #[event(type = 1)]
                struct A;
            ),
            &["expected string literal"],
        );
        check(
            parse_quote!(
                #[event(type = "a", type = "b")]
                struct A;
            ),
            &["this stands here twice"],
        );
        check(
            parse_quote!(
                #[event(type = "a", key = "b")]
                struct A {
                    a: u8,
                }
            ),
            &["`A` has no field `b`"],
        );
        check(
            parse_quote!(
                #[event(type = "a")]
                struct A {
                    #[event(key)]
                    a: u8,
                    #[event(key)]
                    b: u8,
                }
            ),
            &["an event has one key; another field is marked, too"],
        );
        check(
            parse_quote!(
                #[event(type = "a", key = "a")]
                struct A {
                    a: u8,
                    #[event(key)]
                    b: u8,
                }
            ),
            &["an event has one key; the type names another"],
        );
        check(
            parse_quote!(
                #[event(type = "a")]
                struct A {
                    #[event(range = 3)]
                    a: u8,
                }
            ),
            &["expected a range such as `0.0..=1.0`"],
        );
        check(
            parse_quote!(
                #[event(type = "a")]
                struct A {
                    #[event(url = "x")]
                    a: u8,
                }
            ),
            &["expected the word alone, found a value"],
        );
        check(
            parse_quote!(
                #[event(type = "a")]
                enum A {
                    B {
                        #[event(url)]
                        a: String,
                    },
                }
            ),
            &[
                "fields of an enum cannot be marked; write `#[event(validate = Self::…)]` on the enum",
            ],
        );
    }
}
