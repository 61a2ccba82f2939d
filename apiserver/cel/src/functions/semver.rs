//! Semantic versions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// The library. Comparisons are quantities' functions, which share their names.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "semver",
        semver,
        &[
            ("string_to_semver", "(string) -> kubernetes.Semver"),
            (
                "string_bool_to_semver",
                "(string, bool) -> kubernetes.Semver",
            ),
        ],
    ),
    (
        "isSemver",
        is_semver,
        &[
            ("is_semver_string", "(string) -> bool"),
            ("is_semver_string_bool", "(string, bool) -> bool"),
        ],
    ),
    (
        "major",
        major,
        &[("semver_major", "kubernetes.Semver.() -> int")],
    ),
    (
        "minor",
        minor,
        &[("semver_minor", "kubernetes.Semver.() -> int")],
    ),
    (
        "patch",
        patch,
        &[("semver_patch", "kubernetes.Semver.() -> int")],
    ),
];

/// A version.
#[derive(Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl Semver {
    fn parse(text: &str, normalize: bool) -> Result<Semver, String> {
        let normal;
        let text = if normalize {
            normal = normalized(text);
            normal.as_str()
        } else {
            text
        };
        if text.is_empty() {
            return Err("Version string empty".into());
        }
        let (rest, build) = text
            .split_once('+')
            .map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest
            .split_once('-')
            .map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let parts: Vec<&str> = core.splitn(3, '.').collect();
        let [major, minor, patch] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".into());
        };
        let number = |name: &str, text: &str| {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!(
                    "Invalid character(s) found in {name} number {text:?}"
                ));
            }
            if text.len() > 1 && text.starts_with('0') {
                return Err(format!(
                    "{}{} number must not contain leading zeroes {text:?}",
                    name[..1].to_uppercase(),
                    &name[1..]
                ));
            }
            text.parse()
                .map_err(|_| format!("Invalid {name} number {text:?}"))
        };
        let numbers = [
            number("major", major)?,
            number("minor", minor)?,
            number("patch", patch)?,
        ];
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let mut parts = Vec::new();
        for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
            if !word(part) {
                return Err(format!("Invalid character(s) found in prerelease {part:?}"));
            }
            let numeric = part.bytes().all(|b| b.is_ascii_digit());
            if numeric && part.len() > 1 && part.starts_with('0') {
                return Err(format!(
                    "Numeric PreRelease version must not contain leading zeroes {part:?}"
                ));
            }
            parts.push(match part.parse() {
                Ok(n) if numeric => Part::Number(n),
                _ => Part::Word(part.to_owned()),
            });
        }
        for part in build.into_iter().flat_map(|build| build.split('.')) {
            if !word(part) {
                return Err(format!(
                    "Invalid character(s) found in build meta data {part:?}"
                ));
            }
        }
        Ok(Semver {
            numbers,
            pre: parts,
        })
    }

    /// The order of two versions.
    pub(crate) fn compare(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre.cmp(&other.pre),
            }
        })
    }
}

/// Without a `v`, with three numbers, without leading zeroes.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<&str> = core.splitn(3, '.').collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    let trimmed: Vec<&str> = parts
        .into_iter()
        .map(|part| {
            let short = part.trim_start_matches('0');
            if short.is_empty() && !part.is_empty() {
                "0"
            } else {
                short
            }
        })
        .collect();
    format!("{}{rest}", trimmed.join("."))
}

fn arguments<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, bool), EvalError> {
    match args {
        [Value::String(text)] => Ok((text, false)),
        [Value::String(text), Value::Bool(normalize)] => Ok((text, *normalize)),
        _ => Err(EvalError::no_overload()),
    }
}

fn semver<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, normalize) = arguments(args)?;
    let version = Semver::parse(text, normalize).map_err(EvalError::failed)?;
    Ok(Value::Special(Special::Semver(Arc::new(version))))
}

fn is_semver<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, normalize) = arguments(args)?;
    Ok(Value::Bool(Semver::parse(text, normalize).is_ok()))
}

fn number<'a>(args: &[Value<'a>], which: usize) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Semver(version))] => Ok(Value::Int(
            i64::try_from(version.numbers[which]).unwrap_or(i64::MAX),
        )),
        _ => Err(EvalError::no_overload()),
    }
}

fn major<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    number(args, 0)
}

fn minor<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    number(args, 1)
}

fn patch<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    number(args, 2)
}
