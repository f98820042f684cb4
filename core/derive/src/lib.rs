//! The derive macro for Postrider's `Event` trait; `postrider` exports it beside the trait.
//!
//! `attributes` reads what stands on the type and its fields, `names` what serde makes of a field's
//! name, `expand` writes the implementation.

mod attributes;
mod expand;
mod names;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `postrider::Event` for a type that serde can serialise.
///
/// ```
/// use postrider::Event;
/// use serde::Serialize;
///
/// #[derive(Serialize, Event)]
/// #[event(type = "match")]
/// struct Match {
///     #[event(key, not_empty)]
///     best_model: String,
///     #[event(range = 0.0..=1.0)]
///     confidence: f64,
///     #[event(url)]
///     model_url: Option<String>,
/// }
///
/// let wrong = Match { best_model: "a.glb".into(), confidence: 87.0, model_url: None };
/// assert_eq!(
///     wrong.validate().unwrap_err().to_string(),
///     "confidence: expected a value of at least 0 and at most 1, found 87"
/// );
/// ```
///
/// On the type, in `#[event(…)]`:
/// - `type = "match"` (required): the event's type name, checked when compiled.
/// - `version = 2`: the version of the payload's shape. Default 1.
/// - `key = "field"`: the field whose text is the ordering key; or write `key` on the field.
/// - `validate = path`: a function of `&Self` that returns `Result<(), postrider::event::Invalid>`,
///   such as `Self::check`; called after the checks on fields.
/// - `expires_at = path`: a function of `&Self` that returns `Option<postrider::Timestamp>`.
/// - `attributes = path`: a function of `&Self` that returns `postrider::event::Attributes`.
/// - `crate = path`: where `postrider` is found under another name.
///
/// On a field; a field that is an `Option` is checked where it holds a value:
/// - `key`: its text is the ordering key.
/// - `range = 0.0..=1.0`: any range; a NaN is in none.
/// - `url`: an absolute `http` or `https` URL (RFC 3986).
/// - `not_empty`: a string, list or map that holds something.
/// - `length_max = 200`: at most so many characters, or elements of a list or map.
///
/// A refused event names the field as the payload does: `#[serde(rename)]` and `rename_all` are
/// followed.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::event(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// What the compiler, and not the macro, refuses; each with a neighbour that is accepted.
///
/// A type name that breaks the rules:
/// ```
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a.b")]
/// struct A;
/// ```
/// ```compile_fail,E0080
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a..b")]
/// struct A;
/// ```
///
/// A range of another type than the field:
/// ```
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a")]
/// struct A { #[event(range = 0.0..1.0)] a: f32 }
/// ```
/// ```compile_fail,E0308
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a")]
/// struct A { #[event(range = 0.0..1.0)] a: u8 }
/// ```
///
/// A length of what has none, and a URL that is no text:
/// ```compile_fail,E0277
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a")]
/// struct A { #[event(not_empty)] a: u8 }
/// ```
/// ```compile_fail,E0277
/// #[derive(serde::Serialize, postrider::Event)]
/// #[event(type = "a")]
/// struct A { #[event(url)] a: u8 }
/// ```
#[cfg(doctest)]
struct Refused;
