//! Operators: arithmetic, order, indexing, membership, size. Logic, equality and choice are the interpreter's.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Context, Row};
use crate::compare::{self, same_keys};
use crate::decl::{DeclKind, Listing};
use crate::error::EvalError;
use crate::functions::time;
use crate::limits::{MAX_ELEMENTS, MAX_TEXT};
use crate::value::{Evaluated, Key, List, Map, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "_?_:_",
        unreachable,
        &[("conditional", "(bool, A, A) -> A")],
    ),
    (
        "_&&_",
        unreachable,
        &[("logical_and", "(bool, bool) -> bool")],
    ),
    (
        "_||_",
        unreachable,
        &[("logical_or", "(bool, bool) -> bool")],
    ),
    ("!_", not, &[("logical_not", "(bool) -> bool")]),
    (
        "@not_strictly_false",
        unreachable,
        &[("not_strictly_false", "(bool) -> bool")],
    ),
    ("_==_", unreachable, &[("equals", "(A, A) -> bool")]),
    ("_!=_", unreachable, &[("not_equals", "(A, A) -> bool")]),
    (
        "_+_",
        add,
        &[
            ("add_bytes", "(bytes, bytes) -> bytes"),
            ("add_double", "(double, double) -> double"),
            ("add_duration_duration", "(duration, duration) -> duration"),
            (
                "add_duration_timestamp",
                "(duration, timestamp) -> timestamp",
            ),
            (
                "add_timestamp_duration",
                "(timestamp, duration) -> timestamp",
            ),
            ("add_int64", "(int, int) -> int"),
            ("add_list", "(list(A), list(A)) -> list(A)"),
            ("add_string", "(string, string) -> string"),
            ("add_uint64", "(uint, uint) -> uint"),
        ],
    ),
    (
        "_-_",
        subtract,
        &[
            ("subtract_double", "(double, double) -> double"),
            (
                "subtract_duration_duration",
                "(duration, duration) -> duration",
            ),
            ("subtract_int64", "(int, int) -> int"),
            (
                "subtract_timestamp_duration",
                "(timestamp, duration) -> timestamp",
            ),
            (
                "subtract_timestamp_timestamp",
                "(timestamp, timestamp) -> duration",
            ),
            ("subtract_uint64", "(uint, uint) -> uint"),
        ],
    ),
    (
        "_*_",
        multiply,
        &[
            ("multiply_double", "(double, double) -> double"),
            ("multiply_int64", "(int, int) -> int"),
            ("multiply_uint64", "(uint, uint) -> uint"),
        ],
    ),
    (
        "_/_",
        divide,
        &[
            ("divide_double", "(double, double) -> double"),
            ("divide_int64", "(int, int) -> int"),
            ("divide_uint64", "(uint, uint) -> uint"),
        ],
    ),
    (
        "_%_",
        modulo,
        &[
            ("modulo_int64", "(int, int) -> int"),
            ("modulo_uint64", "(uint, uint) -> uint"),
        ],
    ),
    (
        "-_",
        negate,
        &[
            ("negate_double", "(double) -> double"),
            ("negate_int64", "(int) -> int"),
        ],
    ),
    (
        "_<_",
        less,
        &[
            ("less_bool", "(bool, bool) -> bool"),
            ("less_int64", "(int, int) -> bool"),
            ("less_int64_double", "(int, double) -> bool"),
            ("less_int64_uint64", "(int, uint) -> bool"),
            ("less_uint64", "(uint, uint) -> bool"),
            ("less_uint64_double", "(uint, double) -> bool"),
            ("less_uint64_int64", "(uint, int) -> bool"),
            ("less_double", "(double, double) -> bool"),
            ("less_double_int64", "(double, int) -> bool"),
            ("less_double_uint64", "(double, uint) -> bool"),
            ("less_string", "(string, string) -> bool"),
            ("less_bytes", "(bytes, bytes) -> bool"),
            ("less_timestamp", "(timestamp, timestamp) -> bool"),
            ("less_duration", "(duration, duration) -> bool"),
        ],
    ),
    (
        "_<=_",
        less_equals,
        &[
            ("less_equals_bool", "(bool, bool) -> bool"),
            ("less_equals_int64", "(int, int) -> bool"),
            ("less_equals_int64_double", "(int, double) -> bool"),
            ("less_equals_int64_uint64", "(int, uint) -> bool"),
            ("less_equals_uint64", "(uint, uint) -> bool"),
            ("less_equals_uint64_double", "(uint, double) -> bool"),
            ("less_equals_uint64_int64", "(uint, int) -> bool"),
            ("less_equals_double", "(double, double) -> bool"),
            ("less_equals_double_int64", "(double, int) -> bool"),
            ("less_equals_double_uint64", "(double, uint) -> bool"),
            ("less_equals_string", "(string, string) -> bool"),
            ("less_equals_bytes", "(bytes, bytes) -> bool"),
            ("less_equals_timestamp", "(timestamp, timestamp) -> bool"),
            ("less_equals_duration", "(duration, duration) -> bool"),
        ],
    ),
    (
        "_>_",
        greater,
        &[
            ("greater_bool", "(bool, bool) -> bool"),
            ("greater_int64", "(int, int) -> bool"),
            ("greater_int64_double", "(int, double) -> bool"),
            ("greater_int64_uint64", "(int, uint) -> bool"),
            ("greater_uint64", "(uint, uint) -> bool"),
            ("greater_uint64_double", "(uint, double) -> bool"),
            ("greater_uint64_int64", "(uint, int) -> bool"),
            ("greater_double", "(double, double) -> bool"),
            ("greater_double_int64", "(double, int) -> bool"),
            ("greater_double_uint64", "(double, uint) -> bool"),
            ("greater_string", "(string, string) -> bool"),
            ("greater_bytes", "(bytes, bytes) -> bool"),
            ("greater_timestamp", "(timestamp, timestamp) -> bool"),
            ("greater_duration", "(duration, duration) -> bool"),
        ],
    ),
    (
        "_>=_",
        greater_equals,
        &[
            ("greater_equals_bool", "(bool, bool) -> bool"),
            ("greater_equals_int64", "(int, int) -> bool"),
            ("greater_equals_int64_double", "(int, double) -> bool"),
            ("greater_equals_int64_uint64", "(int, uint) -> bool"),
            ("greater_equals_uint64", "(uint, uint) -> bool"),
            ("greater_equals_uint64_double", "(uint, double) -> bool"),
            ("greater_equals_uint64_int64", "(uint, int) -> bool"),
            ("greater_equals_double", "(double, double) -> bool"),
            ("greater_equals_double_int64", "(double, int) -> bool"),
            ("greater_equals_double_uint64", "(double, uint) -> bool"),
            ("greater_equals_string", "(string, string) -> bool"),
            ("greater_equals_bytes", "(bytes, bytes) -> bool"),
            ("greater_equals_timestamp", "(timestamp, timestamp) -> bool"),
            ("greater_equals_duration", "(duration, duration) -> bool"),
        ],
    ),
    (
        "_[_]",
        index,
        &[
            ("index_list", "(list(A), int) -> A"),
            ("index_map", "(map(A, B), A) -> B"),
            (
                "optional_list_index_int",
                "(optional(list(A)), int) -> optional(A)",
            ),
            (
                "optional_map_index_value",
                "(optional(map(A, B)), A) -> optional(B)",
            ),
        ],
    ),
    (
        "@in",
        is_in,
        &[
            ("in_list", "(A, list(A)) -> bool"),
            ("in_map", "(A, map(A, B)) -> bool"),
        ],
    ),
    (
        "size",
        size,
        &[
            ("size_bytes", "(bytes) -> int"),
            ("bytes_size", "bytes.() -> int"),
            ("size_list", "(list(A)) -> int"),
            ("list_size", "list(A).() -> int"),
            ("size_map", "(map(A, B)) -> int"),
            ("map_size", "map(A, B).() -> int"),
            ("size_string", "(string) -> int"),
            ("string_size", "string.() -> int"),
        ],
    ),
    (
        "cel.@mapInsert",
        map_insert,
        &[
            ("@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)"),
            ("@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)"),
        ],
    ),
];

/// Logic and equality are the interpreter's own.
fn unreachable<'a>(_: &Context<'_>, _: &mut [Value<'a>]) -> Evaluated<'a> {
    Err(EvalError::no_overload())
}

fn int_overflow() -> EvalError {
    EvalError::failed("integer overflow")
}

fn uint_overflow() -> EvalError {
    EvalError::failed("unsigned integer overflow")
}

fn not<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!*b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn add<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_add(*b).ok_or_else(int_overflow)?),
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_add(*b).ok_or_else(uint_overflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(*a + *b),
        [Value::String(a), Value::String(b)] => {
            if a.len() + b.len() > MAX_TEXT {
                return Err(EvalError::CostExceeded);
            }
            context.work((a.len() + b.len()) / 16)?;
            Value::string([&**a, &**b].concat())
        }
        [Value::Bytes(a), Value::Bytes(b)] => {
            if a.len() + b.len() > MAX_TEXT {
                return Err(EvalError::CostExceeded);
            }
            context.work((a.len() + b.len()) / 16)?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        [Value::List(a), Value::List(b)] => {
            let (a, b) = (std::mem::replace(a, List::Owned(Arc::default())), b.clone());
            join(context, a, &b)?
        }
        [a, b] => return time::add(a, b),
        _ => return Err(EvalError::no_overload()),
    })
}

/// Two lists as one. Lists from JSON that are sets or maps by their schema are merged as such.
fn join<'a>(context: &Context<'_>, a: List<'a>, b: &List<'a>) -> Evaluated<'a> {
    if a.len() + b.len() > MAX_ELEMENTS {
        return Err(EvalError::CostExceeded);
    }
    let listing = match &a {
        List::Json(_, decl) => match &decl.kind {
            DeclKind::List(_, listing) if *listing != Listing::Atomic => {
                Some((decl.clone(), listing))
            }
            _ => None,
        },
        List::Owned(_) => None,
    };
    if let Some((_, listing)) = listing {
        let mut merged: Vec<Value<'a>> = a.iter().collect();
        for value in b.iter() {
            context.work(merged.len())?;
            let found = merged.iter().position(|one| match listing {
                Listing::Map(keys) => same_keys(one, &value, keys),
                _ => compare::equal(one, &value, context.meter),
            });
            match found {
                Some(at) => merged[at] = value,
                None => merged.push(value),
            }
        }
        return Ok(Value::owned(merged));
    }
    let mut list = match a {
        List::Owned(list) => list,
        json => Arc::new(json.iter().collect()),
    };
    // the accumulator of `map` and `filter` is nobody else's, and grows in place
    if Arc::get_mut(&mut list).is_none() {
        context.work(list.len())?;
    }
    context.work(b.len())?;
    Arc::make_mut(&mut list).extend(b.iter());
    Ok(Value::List(List::Owned(list)))
}

fn subtract<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_sub(*b).ok_or_else(int_overflow)?),
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_sub(*b).ok_or_else(uint_overflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(*a - *b),
        [a, b] => return time::subtract(a, b),
        _ => return Err(EvalError::no_overload()),
    })
}

fn multiply<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_mul(*b).ok_or_else(int_overflow)?),
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_mul(*b).ok_or_else(uint_overflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(*a * *b),
        _ => return Err(EvalError::no_overload()),
    })
}

fn divide<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(EvalError::failed("division by zero"));
        }
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_div(*b).ok_or_else(int_overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(*a / *b),
        [Value::Double(a), Value::Double(b)] => Value::Double(*a / *b),
        _ => return Err(EvalError::no_overload()),
    })
}

fn modulo<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(EvalError::failed("modulus by zero"));
        }
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_rem(*b).ok_or_else(int_overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(*a % *b),
        _ => return Err(EvalError::no_overload()),
    })
}

fn negate<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(n)] => Value::Int(n.checked_neg().ok_or_else(int_overflow)?),
        [Value::Double(d)] => Value::Double(-*d),
        _ => return Err(EvalError::no_overload()),
    })
}

fn ordered<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Evaluated<'a> {
    let [a, b] = args else {
        return Err(EvalError::no_overload());
    };
    if let (Value::Double(d), _) | (_, Value::Double(d)) = (a, b)
        && d.is_nan()
    {
        return Err(EvalError::failed("NaN values cannot be ordered"));
    }
    let order = compare::order(a, b).ok_or_else(EvalError::no_overload)?;
    Ok(Value::Bool(holds(order)))
}

fn less<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_lt)
}

fn less_equals<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_le)
}

fn greater<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_gt)
}

fn greater_equals<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_ge)
}

/// The place in a list that a value says.
fn place(index: &Value<'_>) -> Option<i64> {
    match index {
        Value::Int(n) => Some(*n),
        Value::Uint(n) => i64::try_from(*n).ok(),
        Value::Double(d) if d.fract() == 0.0 => Some(*d as i64),
        _ => None,
    }
}

/// The element or entry, if it is there.
pub(crate) fn look_up<'a>(
    container: &Value<'a>,
    index: &Value<'a>,
) -> Result<Option<Value<'a>>, EvalError> {
    match (container, index) {
        (Value::List(list), index) => {
            let place = place(index).ok_or_else(|| {
                EvalError::failed(format!(
                    "unsupported index type '{}' in list",
                    index.type_of().runtime_name()
                ))
            })?;
            Ok(usize::try_from(place).ok().and_then(|at| list.get(at)))
        }
        // a property's own name, not its identifier
        (Value::Map(Map::Json(map, decl)), Value::String(name))
            if !matches!(decl.kind, DeclKind::Object(_)) =>
        {
            let element = match &decl.kind {
                DeclKind::Map(value) => value,
                _ => decl,
            };
            Ok(map.get(&**name).map(|json| Value::json(json, element)))
        }
        (Value::Map(map), key) => {
            if Key::of(key).is_none() {
                return Err(EvalError::failed(format!(
                    "unsupported key type: {}",
                    key.type_of().runtime_name()
                )));
            }
            Ok(map.get(key))
        }
        (Value::Lazy(object), Value::String(name)) => object.field(name).transpose(),
        _ => Err(EvalError::no_overload()),
    }
}

/// What an absent element or entry is told as.
pub(crate) fn absent(container: &Value<'_>, index: &Value<'_>) -> EvalError {
    EvalError::failed(match container {
        Value::List(_) => format!("index out of bounds: {index:?}"),
        _ => match index {
            Value::String(name) => format!("no such key: {}", &**name),
            other => format!("no such key: {other:?}"),
        },
    })
}

fn index<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(None), _] => Ok(Value::none()),
        [Value::Optional(Some(container)), index] => {
            Ok(look_up(container, index)?.map_or_else(Value::none, Value::some))
        }
        [container, index] => look_up(container, index)?.ok_or_else(|| absent(container, index)),
        _ => Err(EvalError::no_overload()),
    }
}

fn is_in<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(match args {
        [value, Value::List(list)] => list
            .iter()
            .any(|element| compare::equal(value, &element, context.meter)),
        [key, Value::Map(map)] => map.get(key).is_some(),
        _ => return Err(EvalError::no_overload()),
    }))
}

fn size<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn map_insert<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (target, entries) = match args {
        [Value::Map(target), key, value] => (target, vec![(key.clone(), std::mem::take(value))]),
        [Value::Map(target), Value::Map(more)] => (target, more.entries()),
        _ => return Err(EvalError::no_overload()),
    };
    let empty = Map::Owned(Arc::default(), None);
    let mut map = match std::mem::replace(target, empty) {
        Map::Owned(map, _) => map,
        json => Arc::new(
            json.entries()
                .into_iter()
                .filter_map(|(key, value)| Some((Key::of(&key)?, value)))
                .collect(),
        ),
    };
    if Arc::get_mut(&mut map).is_none() {
        context.work(map.len())?;
    }
    if map.len() + entries.len() > MAX_ELEMENTS {
        return Err(EvalError::CostExceeded);
    }
    context.work(entries.len())?;
    let inner = Arc::make_mut(&mut map);
    for (key, value) in entries {
        let inserted = Key::of(&key).ok_or_else(|| EvalError::failed("unsupported key type"))?;
        if inner.insert(inserted, value).is_some() {
            return Err(EvalError::failed(format!(
                "insert failed: key {key:?} already exists"
            )));
        }
    }
    Ok(Value::Map(Map::Owned(map, None)))
}
