//! Regular expressions: `matches`, `find` and `findAll`. They take linear time, and patterns are bounded in size.

use std::collections::HashMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "matches",
        matches,
        &[
            ("matches", "(string, string) -> bool"),
            ("matches_string", "string.(string) -> bool"),
        ],
    ),
    (
        "find",
        find,
        &[("string_find_string", "string.(string) -> string")],
    ),
    (
        "findAll",
        find_all,
        &[
            ("string_find_all_string", "string.(string) -> list(string)"),
            (
                "string_find_all_string_int",
                "string.(string, int) -> list(string)",
            ),
        ],
    ),
];

/// How large a compiled pattern may be.
const SIZE_LIMIT: usize = 1 << 20;
/// How many patterns one evaluation keeps.
const KEPT: usize = 64;

/// Patterns that were compiled, or why they can't be.
#[derive(Default)]
pub(crate) struct Cache {
    known: HashMap<String, Result<Arc<Regex>, String>>,
}

impl Cache {
    /// The pattern, compiled.
    pub fn get(&mut self, pattern: &str) -> Result<Arc<Regex>, String> {
        if let Some(known) = self.known.get(pattern) {
            return known.clone();
        }
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        let compiled = compile(pattern).map(Arc::new);
        self.known.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

/// Compiles a pattern in Go's syntax.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .nest_limit(250)
        .build()
        .map_err(|error| format!("error parsing regexp: {}", reason(pattern, &error)))
}

/// The reason in Go's words, where there is one for it.
fn reason(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let last = last.strip_prefix("error: ").unwrap_or(last);
    let tail = |from: &str| pattern.rfind(from).map_or(pattern, |at| &pattern[at..]);
    match last {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{}`", tail("[")),
        "repetition operator missing expression" => {
            let operator = pattern.chars().find(|c| matches!(c, '*' | '+' | '?'));
            format!(
                "missing argument to repetition operator: `{}`",
                operator.map(String::from).unwrap_or_default()
            )
        }
        "unrecognized escape sequence" => {
            let escape: String = tail("\\").chars().take(2).collect();
            format!("invalid escape sequence: `{escape}`")
        }
        other if text.contains("size limit") => {
            let _ = other;
            "expression too large".into()
        }
        other => format!("{other}: `{pattern}`"),
    }
}

fn compiled(context: &Context<'_>, pattern: &str) -> Result<Arc<Regex>, EvalError> {
    context.work(pattern.len() / 4)?;
    context
        .regexes
        .borrow_mut()
        .get(pattern)
        .map_err(EvalError::failed)
}

fn matches<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            Ok(Value::Bool(compiled(context, pattern)?.is_match(text)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn invalid(error: EvalError) -> EvalError {
    match error {
        EvalError::Failed(why) => EvalError::failed(format!("Illegal regex: {why}")),
        other => other,
    }
}

fn find<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            let regex = compiled(context, pattern).map_err(invalid)?;
            Ok(Value::string(
                regex.find(text).map_or("", |found| found.as_str()),
            ))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn find_all<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [
            Value::String(text),
            Value::String(pattern),
            Value::Int(limit),
        ] => (text, pattern, *limit),
        _ => return Err(EvalError::no_overload()),
    };
    let regex = compiled(context, pattern).map_err(invalid)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found: Vec<Value<'a>> = regex
        .find_iter(text)
        .take(limit)
        .map(|found| Value::string(found.as_str()))
        .collect();
    context.work(found.len())?;
    Ok(Value::owned(found))
}
