//! The functions that expressions can call: one table, one file a library.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::compare::Meter;
use crate::error::EvalError;
use crate::types::{Type, parse_type};
use crate::value::{Evaluated, Value};

pub(crate) mod authorizer;
pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod formatting;
pub(crate) mod lists;
pub(crate) mod net;
pub(crate) mod operators;
pub(crate) mod optional;
pub(crate) mod quantity;
pub(crate) mod regexes;
pub(crate) mod semver;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod url;

/// How a function is carried out.
pub(crate) type Run = for<'a> fn(&Context<'_>, &mut [Value<'a>]) -> Evaluated<'a>;

/// A row of a library's table: the name, how it is carried out, and its overloads as (id, signature); a signature with a dot
/// before its arguments is a method's.
pub(crate) type Row = (&'static str, Run, &'static [(&'static str, &'static str)]);

/// What functions may use while they run.
pub(crate) struct Context<'c> {
    pub meter: &'c Meter,
    pub regexes: &'c RefCell<regexes::Cache>,
}

impl Context<'_> {
    /// Notes work; an error once there was too much.
    pub fn work(&self, units: usize) -> Result<(), EvalError> {
        if self.meter.work(units) {
            Ok(())
        } else {
            Err(EvalError::CostExceeded)
        }
    }
}

/// A function as the checker sees it.
pub(crate) struct Function {
    pub run: Run,
    pub overloads: Vec<Overload>,
}

/// One of a function's signatures.
pub(crate) struct Overload {
    pub id: &'static str,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether it has type parameters.
    pub generic: bool,
}

const LIBRARIES: [&[Row]; 14] = [
    operators::FUNCTIONS,
    convert::FUNCTIONS,
    text::FUNCTIONS,
    formatting::FUNCTIONS,
    regexes::FUNCTIONS,
    lists::FUNCTIONS,
    optional::FUNCTIONS,
    time::FUNCTIONS,
    url::FUNCTIONS,
    net::FUNCTIONS,
    quantity::FUNCTIONS,
    semver::FUNCTIONS,
    format::FUNCTIONS,
    authorizer::FUNCTIONS,
];

/// All functions by name. Libraries add overloads to each other's functions; the first that declares one runs it where it can.
pub(crate) static ALL: LazyLock<HashMap<&'static str, Vec<Function>>> = LazyLock::new(|| {
    let mut all: HashMap<&'static str, Vec<Function>> = HashMap::new();
    for (name, run, overloads) in LIBRARIES.iter().copied().flatten() {
        all.entry(name).or_default().push(Function {
            run: *run,
            overloads: overloads
                .iter()
                .map(|(id, signature)| overload(id, signature))
                .collect(),
        });
    }
    all
});

fn overload(id: &'static str, signature: &str) -> Overload {
    let (head, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
    let (target, args) = match head.split_once(".(") {
        Some((target, args)) => (Some(target), args),
        None => (None, head.strip_prefix('(').unwrap_or(head)),
    };
    let args = args.strip_suffix(')').unwrap_or(args);
    let mut types: Vec<Type> = target.into_iter().map(parse_type).collect();
    types.extend(split(args).into_iter().map(parse_type));
    Overload {
        id,
        member: target.is_some(),
        generic: signature.contains(|c: char| c.is_ascii_uppercase()),
        args: types,
        result: parse_type(result),
    }
}

/// Splits at the commas that are in no parentheses.
fn split(args: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in args.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&args[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !args.trim().is_empty() {
        parts.push(&args[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read() {
        let method = overload("x", "map(K, V).(K, list(V)) -> optional(V)");
        assert!(method.member && method.generic);
        assert_eq!(method.args.len(), 3);
        assert_eq!(method.args[0], Type::map(parse_type("K"), parse_type("V")));
        assert_eq!(overload("y", "() -> int").args, []);
        assert!(ALL.len() > 100);
    }
}
