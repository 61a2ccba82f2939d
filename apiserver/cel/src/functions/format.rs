//! Named formats, and what is wrong with a text by them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::names;

use super::{Context, Row, time};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// A named format.
pub struct Format {
    /// The name that expressions use.
    pub(crate) name: &'static str,
    /// How long a pattern for it would be: what a check costs.
    pub(crate) regex_size: u64,
    check: fn(&str) -> Vec<String>,
}

const fn format(name: &'static str, regex_size: u64, check: fn(&str) -> Vec<String>) -> Format {
    Format {
        name,
        regex_size,
        check,
    }
}

static FORMATS: [Format; 13] = [
    format("dns1123Label", 30, |s| told(names::dns1123_label(s))),
    format("dns1123Subdomain", 60, |s| {
        told(names::dns1123_subdomain(s))
    }),
    format("dns1035Label", 30, |s| told(names::dns1035_label(s))),
    format("qualifiedName", 60, |s| told(names::qualified_name(s))),
    format("dns1123LabelPrefix", 30, |s| {
        told(names::dns1123_label(&prefix(s)))
    }),
    format("dns1123SubdomainPrefix", 60, |s| {
        told(names::dns1123_subdomain(&prefix(s)))
    }),
    format("dns1035LabelPrefix", 30, |s| {
        told(names::dns1035_label(&prefix(s)))
    }),
    format("labelValue", 40, |s| told(names::label_value(s))),
    format("uri", 2222, |s| super::url::fault(s).into_iter().collect()),
    format("uuid", 66, |s| {
        unless(is_uuid(s), "does not match the UUID format")
    }),
    format("byte", 90, |s| {
        unless(
            STANDARD.decode(s).is_ok() && !s.is_empty(),
            "invalid base64",
        )
    }),
    format("date", 160, |s| {
        unless(time::parse_date(s).is_some(), "invalid date")
    }),
    format("datetime", 160, |s| {
        unless(time::parse_timestamp(s).is_some(), "invalid datetime")
    }),
];

fn told<T: std::fmt::Display>(faults: impl IntoIterator<Item = T>) -> Vec<String> {
    faults.into_iter().map(|fault| fault.to_string()).collect()
}

fn unless(good: bool, fault: &str) -> Vec<String> {
    if good {
        Vec::new()
    } else {
        vec![fault.to_owned()]
    }
}

/// A name's prefix may end in a dash, which is looked at as if something followed.
fn prefix(text: &str) -> Cow<'_, str> {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a").into(),
        _ => text.into(),
    }
}

fn is_uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "validate",
        validate,
        &[(
            "format-validate",
            "kubernetes.NamedFormat.(string) -> optional(list(string))",
        )],
    ),
    (
        "format.named",
        named,
        &[(
            "format-named",
            "(string) -> optional(kubernetes.NamedFormat)",
        )],
    ),
    (
        "format.dns1123Label",
        at::<0>,
        &[("format.dns1123Label", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123Subdomain",
        at::<1>,
        &[("format.dns1123Subdomain", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1035Label",
        at::<2>,
        &[("format.dns1035Label", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.qualifiedName",
        at::<3>,
        &[("format.qualifiedName", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123LabelPrefix",
        at::<4>,
        &[("format.dns1123LabelPrefix", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123SubdomainPrefix",
        at::<5>,
        &[(
            "format.dns1123SubdomainPrefix",
            "() -> kubernetes.NamedFormat",
        )],
    ),
    (
        "format.dns1035LabelPrefix",
        at::<6>,
        &[("format.dns1035LabelPrefix", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.labelValue",
        at::<7>,
        &[("format.labelValue", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.uri",
        at::<8>,
        &[("format.uri", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.uuid",
        at::<9>,
        &[("format.uuid", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.byte",
        at::<10>,
        &[("format.byte", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.date",
        at::<11>,
        &[("format.date", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.datetime",
        at::<12>,
        &[("format.datetime", "() -> kubernetes.NamedFormat")],
    ),
];

fn at<'a, const N: usize>(_: &Context<'_>, _: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Special(Special::Format(&FORMATS[N])))
}

fn named<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(name)] => Ok(FORMATS
            .iter()
            .find(|format| *format.name == **name)
            .map_or_else(Value::none, |format| {
                Value::some(Value::Special(Special::Format(format)))
            })),
        _ => Err(EvalError::no_overload()),
    }
}

fn validate<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Format(format)), Value::String(text)] => {
            let faults = (format.check)(text);
            Ok(if faults.is_empty() {
                Value::none()
            } else {
                Value::some(Value::owned(
                    faults.into_iter().map(Value::string).collect(),
                ))
            })
        }
        _ => Err(EvalError::no_overload()),
    }
}
