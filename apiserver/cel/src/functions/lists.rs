//! Lists and sets: Kubernetes' list library, cel-go's lists and sets.

use std::cmp::Ordering;

use super::{Context, Row};
use crate::compare::{equal, order};
use crate::error::EvalError;
use crate::limits::MAX_ELEMENTS;
use crate::value::{Evaluated, List, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "isSorted",
        is_sorted,
        &[
            ("list_int_is_sorted_bool", "list(int).() -> bool"),
            ("list_uint_is_sorted_bool", "list(uint).() -> bool"),
            ("list_double_is_sorted_bool", "list(double).() -> bool"),
            ("list_bool_is_sorted_bool", "list(bool).() -> bool"),
            ("list_duration_is_sorted_bool", "list(duration).() -> bool"),
            (
                "list_timestamp_is_sorted_bool",
                "list(timestamp).() -> bool",
            ),
            ("list_string_is_sorted_bool", "list(string).() -> bool"),
            ("list_bytes_is_sorted_bool", "list(bytes).() -> bool"),
        ],
    ),
    (
        "sum",
        sum,
        &[
            ("list_int_sum_int", "list(int).() -> int"),
            ("list_uint_sum_uint", "list(uint).() -> uint"),
            ("list_double_sum_double", "list(double).() -> double"),
            (
                "list_duration_sum_duration",
                "list(duration).() -> duration",
            ),
        ],
    ),
    (
        "max",
        max,
        &[
            ("list_int_max_int", "list(int).() -> int"),
            ("list_uint_max_uint", "list(uint).() -> uint"),
            ("list_double_max_double", "list(double).() -> double"),
            ("list_bool_max_bool", "list(bool).() -> bool"),
            (
                "list_duration_max_duration",
                "list(duration).() -> duration",
            ),
            (
                "list_timestamp_max_timestamp",
                "list(timestamp).() -> timestamp",
            ),
            ("list_string_max_string", "list(string).() -> string"),
            ("list_bytes_max_bytes", "list(bytes).() -> bytes"),
        ],
    ),
    (
        "min",
        min,
        &[
            ("list_int_min_int", "list(int).() -> int"),
            ("list_uint_min_uint", "list(uint).() -> uint"),
            ("list_double_min_double", "list(double).() -> double"),
            ("list_bool_min_bool", "list(bool).() -> bool"),
            (
                "list_duration_min_duration",
                "list(duration).() -> duration",
            ),
            (
                "list_timestamp_min_timestamp",
                "list(timestamp).() -> timestamp",
            ),
            ("list_string_min_string", "list(string).() -> string"),
            ("list_bytes_min_bytes", "list(bytes).() -> bytes"),
        ],
    ),
    (
        "sets.contains",
        sets_contains,
        &[("list_sets_contains_list", "(list(T), list(T)) -> bool")],
    ),
    (
        "sets.equivalent",
        sets_equivalent,
        &[("list_sets_equivalent_list", "(list(T), list(T)) -> bool")],
    ),
    (
        "sets.intersects",
        sets_intersects,
        &[("list_sets_intersects_list", "(list(T), list(T)) -> bool")],
    ),
    (
        "slice",
        slice,
        &[("list_slice", "list(T).(int, int) -> list(T)")],
    ),
    (
        "flatten",
        flatten,
        &[
            ("list_flatten", "list(list(T)).() -> list(T)"),
            ("list_flatten_int", "list(dyn).(int) -> list(dyn)"),
        ],
    ),
    (
        "lists.range",
        range,
        &[("lists_range", "(int) -> list(int)")],
    ),
    (
        "reverse",
        reverse,
        &[("list_reverse", "list(T).() -> list(T)")],
    ),
    (
        "distinct",
        distinct,
        &[("list_distinct", "list(T).() -> list(T)")],
    ),
    (
        "sort",
        sort,
        &[
            ("list_int_sort", "list(int).() -> list(int)"),
            ("list_uint_sort", "list(uint).() -> list(uint)"),
            ("list_double_sort", "list(double).() -> list(double)"),
            ("list_bool_sort", "list(bool).() -> list(bool)"),
            ("list_duration_sort", "list(duration).() -> list(duration)"),
            (
                "list_timestamp_sort",
                "list(timestamp).() -> list(timestamp)",
            ),
            ("list_string_sort", "list(string).() -> list(string)"),
            ("list_bytes_sort", "list(bytes).() -> list(bytes)"),
        ],
    ),
    (
        "@sortByAssociatedKeys",
        sort_by_keys,
        &[
            (
                "list_int_sortByAssociatedKeys",
                "list(T).(list(int)) -> list(T)",
            ),
            (
                "list_uint_sortByAssociatedKeys",
                "list(T).(list(uint)) -> list(T)",
            ),
            (
                "list_double_sortByAssociatedKeys",
                "list(T).(list(double)) -> list(T)",
            ),
            (
                "list_bool_sortByAssociatedKeys",
                "list(T).(list(bool)) -> list(T)",
            ),
            (
                "list_duration_sortByAssociatedKeys",
                "list(T).(list(duration)) -> list(T)",
            ),
            (
                "list_timestamp_sortByAssociatedKeys",
                "list(T).(list(timestamp)) -> list(T)",
            ),
            (
                "list_string_sortByAssociatedKeys",
                "list(T).(list(string)) -> list(T)",
            ),
            (
                "list_bytes_sortByAssociatedKeys",
                "list(T).(list(bytes)) -> list(T)",
            ),
        ],
    ),
];

fn one<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v List<'a>, EvalError> {
    match args {
        [Value::List(list)] => Ok(list),
        _ => Err(EvalError::no_overload()),
    }
}

fn two<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v List<'a>, &'v List<'a>), EvalError> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a, b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn ordering(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    order(a, b).ok_or_else(EvalError::no_overload)
}

fn is_sorted<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let list = one(args)?;
    context.work(list.len())?;
    let mut before: Option<Value<'a>> = None;
    for value in list.iter() {
        if let Some(before) = &before
            && ordering(before, &value)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        before = Some(value);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let list = one(args)?;
    context.work(list.len())?;
    let mut total: Option<Value<'a>> = None;
    for value in list.iter() {
        let overflow = |what: &str| EvalError::failed(format!("{what} overflow"));
        total = Some(match (total, value) {
            (
                None,
                value @ (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)),
            ) => value,
            (Some(Value::Int(a)), Value::Int(b)) => {
                Value::Int(a.checked_add(b).ok_or_else(|| overflow("integer"))?)
            }
            (Some(Value::Uint(a)), Value::Uint(b)) => Value::Uint(
                a.checked_add(b)
                    .ok_or_else(|| overflow("unsigned integer"))?,
            ),
            (Some(Value::Double(a)), Value::Double(b)) => Value::Double(a + b),
            (Some(Value::Duration(a)), Value::Duration(b)) => {
                Value::Duration(a.checked_add(b).ok_or_else(|| overflow("duration"))?)
            }
            _ => return Err(EvalError::no_overload()),
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(
    context: &Context<'_>,
    args: &[Value<'a>],
    name: &str,
    wanted: Ordering,
) -> Evaluated<'a> {
    let list = one(args)?;
    context.work(list.len())?;
    let mut best: Option<Value<'a>> = None;
    for value in list.iter() {
        best = Some(match best {
            Some(best) if ordering(&value, &best)? != wanted => best,
            _ => value,
        });
    }
    best.ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))
}

fn max<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    extreme(context, args, "max", Ordering::Greater)
}

fn min<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    extreme(context, args, "min", Ordering::Less)
}

pub(crate) fn index_of<'a>(
    context: &Context<'_>,
    list: &List<'_>,
    value: &Value<'_>,
) -> Evaluated<'a> {
    let found = (0..list.len()).find(|at| {
        list.get(*at)
            .is_some_and(|v| equal(&v, value, context.meter))
    });
    Ok(Value::Int(
        found.map_or(-1, |at| i64::try_from(at).unwrap_or(-1)),
    ))
}

pub(crate) fn last_index_of<'a>(
    context: &Context<'_>,
    list: &List<'_>,
    value: &Value<'_>,
) -> Evaluated<'a> {
    let found = (0..list.len()).rev().find(|at| {
        list.get(*at)
            .is_some_and(|v| equal(&v, value, context.meter))
    });
    Ok(Value::Int(
        found.map_or(-1, |at| i64::try_from(at).unwrap_or(-1)),
    ))
}

fn all_in(context: &Context<'_>, these: &List<'_>, those: &List<'_>) -> bool {
    these.iter().all(|value| {
        those
            .iter()
            .any(|other| equal(&value, &other, context.meter))
    })
}

fn sets_contains<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (set, part) = two(args)?;
    Ok(Value::Bool(all_in(context, part, set)))
}

fn sets_equivalent<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(all_in(context, a, b) && all_in(context, b, a)))
}

fn sets_intersects<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(a.iter().any(|value| {
        b.iter().any(|other| equal(&value, &other, context.meter))
    })))
}

fn slice<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return Err(EvalError::no_overload());
    };
    if *start < 0 || *end < 0 {
        return Err(EvalError::failed(format!(
            "cannot slice({start}, {end}), negative indexes not supported"
        )));
    }
    if start > end {
        return Err(EvalError::failed(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    let (from, to) = (
        usize::try_from(*start).unwrap_or(usize::MAX),
        usize::try_from(*end).unwrap_or(usize::MAX),
    );
    if to > list.len() {
        return Err(EvalError::failed(format!(
            "cannot slice({start}, {end}), list is length {}",
            list.len()
        )));
    }
    context.work(to - from)?;
    Ok(Value::owned(
        (from..to).filter_map(|at| list.get(at)).collect(),
    ))
}

fn flatten<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] if *depth >= 0 => (list, *depth),
        [Value::List(_), Value::Int(_)] => {
            return Err(EvalError::failed("level must be non-negative"));
        }
        _ => return Err(EvalError::no_overload()),
    };
    let mut flat = Vec::new();
    flatten_into(context, list, depth, &mut flat)?;
    Ok(Value::owned(flat))
}

fn flatten_into<'a>(
    context: &Context<'_>,
    list: &List<'a>,
    depth: i64,
    flat: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    for value in list.iter() {
        context.work(1)?;
        if flat.len() > MAX_ELEMENTS {
            return Err(EvalError::CostExceeded);
        }
        match value {
            Value::List(inner) if depth > 0 => flatten_into(context, &inner, depth - 1, flat)?,
            other => flat.push(other),
        }
    }
    Ok(())
}

fn range<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::Int(n)] = args else {
        return Err(EvalError::no_overload());
    };
    let count = usize::try_from((*n).max(0)).unwrap_or(usize::MAX);
    if count > MAX_ELEMENTS {
        return Err(EvalError::CostExceeded);
    }
    context.work(count)?;
    Ok(Value::owned((0..*n).map(Value::Int).collect()))
}

fn reverse<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let list = one(args)?;
    context.work(list.len())?;
    let mut values: Vec<Value<'a>> = list.iter().collect();
    values.reverse();
    Ok(Value::owned(values))
}

fn distinct<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let list = one(args)?;
    let mut values: Vec<Value<'a>> = Vec::new();
    for value in list.iter() {
        context.work(1)?;
        if !values
            .iter()
            .any(|known| equal(known, &value, context.meter))
        {
            values.push(value);
        }
    }
    Ok(Value::owned(values))
}

fn sort<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let list = one(args)?.clone();
    sorted(context, &list, &list)
}

fn sort_by_keys<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (list, keys) = two(args)?;
    sorted(context, list, keys)
}

fn sorted<'a>(context: &Context<'_>, list: &List<'a>, keys: &List<'a>) -> Evaluated<'a> {
    if list.len() != keys.len() {
        return Err(EvalError::failed(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let keys: Vec<Value<'a>> = keys.iter().collect();
    context.work(keys.len().saturating_mul(8))?;
    if let Some(first) = keys.first() {
        for key in &keys {
            if key.type_of() != first.type_of() {
                return Err(EvalError::failed("list elements must have the same type"));
            }
            order(key, key).ok_or_else(|| EvalError::failed("list elements must be comparable"))?;
        }
    }
    let mut places: Vec<usize> = (0..keys.len()).collect();
    places.sort_by(|a, b| order(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::owned(
        places.into_iter().filter_map(|at| list.get(at)).collect(),
    ))
}
