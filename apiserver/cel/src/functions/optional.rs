//! Optional values.

use super::operators::look_up;
use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    ("optional.of", of, &[("optional_of", "(V) -> optional(V)")]),
    (
        "optional.ofNonZeroValue",
        of_non_zero,
        &[("optional_ofNonZeroValue", "(V) -> optional(V)")],
    ),
    (
        "optional.none",
        none,
        &[("optional_none", "() -> optional(V)")],
    ),
    ("value", value, &[("optional_value", "optional(V).() -> V")]),
    (
        "hasValue",
        has_value,
        &[("optional_hasValue", "optional(V).() -> bool")],
    ),
    // the interpreter evaluates the alternative only where it is needed
    (
        "or",
        or,
        &[(
            "optional_or_optional",
            "optional(V).(optional(V)) -> optional(V)",
        )],
    ),
    (
        "orValue",
        or_value,
        &[("optional_orValue_value", "optional(V).(V) -> V")],
    ),
    (
        "_?._",
        select,
        &[("select_optional_field", "(dyn, string) -> optional(V)")],
    ),
    (
        "_[?_]",
        select,
        &[
            (
                "list_optindex_optional_int",
                "(list(V), int) -> optional(V)",
            ),
            (
                "optional_list_optindex_optional_int",
                "(optional(list(V)), int) -> optional(V)",
            ),
            (
                "map_optindex_optional_value",
                "(map(K, V), K) -> optional(V)",
            ),
            (
                "optional_map_optindex_optional_value",
                "(optional(map(K, V)), K) -> optional(V)",
            ),
        ],
    ),
    (
        "first",
        first,
        &[("list_first", "list(V).() -> optional(V)")],
    ),
    ("last", last, &[("list_last", "list(V).() -> optional(V)")]),
    (
        "optional.unwrap",
        unwrap,
        &[("optional_unwrap", "(list(optional(V))) -> list(V)")],
    ),
    (
        "unwrapOpt",
        unwrap,
        &[("optional_unwrapOpt", "list(optional(V)).() -> list(V)")],
    ),
];

fn of<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] => Ok(Value::some(std::mem::take(value))),
        _ => Err(EvalError::no_overload()),
    }
}

fn of_non_zero<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [value] = args else {
        return Err(EvalError::no_overload());
    };
    let zero = match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => {
            true
        }
        Value::Double(d) => *d == 0.0,
        Value::Optional(None) => true,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    };
    Ok(if zero {
        Value::none()
    } else {
        Value::some(std::mem::take(value))
    })
}

fn none<'a>(_: &Context<'_>, _: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::none())
}

fn value<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(value))] => Ok(std::mem::take(value)),
        [Value::Optional(None)] => Err(EvalError::failed("optional.none() dereference")),
        _ => Err(EvalError::no_overload()),
    }
}

fn has_value<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::no_overload()),
    }
}

fn or<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [first @ Value::Optional(Some(_)), _] => Ok(std::mem::take(first)),
        [Value::Optional(None), second @ Value::Optional(_)] => Ok(std::mem::take(second)),
        _ => Err(EvalError::no_overload()),
    }
}

fn or_value<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(value)), _] => Ok(std::mem::take(value)),
        [Value::Optional(None), other] => Ok(std::mem::take(other)),
        _ => Err(EvalError::no_overload()),
    }
}

fn select<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let found = match args {
        [Value::Optional(None), _] => None,
        [Value::Optional(Some(container)), index] => look_up(container, index)?,
        [container, index] => look_up(container, index)?,
        _ => return Err(EvalError::no_overload()),
    };
    Ok(found.map_or_else(Value::none, Value::some))
}

fn end<'a>(args: &[Value<'a>], at: impl Fn(usize) -> usize) -> Evaluated<'a> {
    match args {
        [Value::List(list)] => Ok(list
            .get(at(list.len()))
            .map_or_else(Value::none, Value::some)),
        _ => Err(EvalError::no_overload()),
    }
}

fn first<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    end(args, |_| 0)
}

fn last<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    end(args, |length| length.wrapping_sub(1))
}

fn unwrap<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else {
        return Err(EvalError::no_overload());
    };
    context.work(list.len())?;
    let mut values = Vec::new();
    for value in list.iter() {
        match value {
            Value::Optional(Some(value)) => values.push(*value),
            Value::Optional(None) => {}
            _ => return Err(EvalError::no_overload()),
        }
    }
    Ok(Value::owned(values))
}
