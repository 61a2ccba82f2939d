//! Text: the standard functions and the strings library. Places are counted in code points.

use super::{Context, Row};
use crate::error::EvalError;
use crate::limits::{MAX_ELEMENTS, MAX_TEXT};
use crate::value::{Evaluated, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "contains",
        contains,
        &[("contains_string", "string.(string) -> bool")],
    ),
    (
        "endsWith",
        ends_with,
        &[("ends_with_string", "string.(string) -> bool")],
    ),
    (
        "startsWith",
        starts_with,
        &[("starts_with_string", "string.(string) -> bool")],
    ),
    (
        "charAt",
        char_at,
        &[("string_char_at_int", "string.(int) -> string")],
    ),
    (
        "indexOf",
        index_of,
        &[
            ("string_index_of_string", "string.(string) -> int"),
            ("string_index_of_string_int", "string.(string, int) -> int"),
            ("list_a_index_of_int", "list(A).(A) -> int"),
        ],
    ),
    (
        "lastIndexOf",
        last_index_of,
        &[
            ("string_last_index_of_string", "string.(string) -> int"),
            (
                "string_last_index_of_string_int",
                "string.(string, int) -> int",
            ),
            ("list_a_last_index_of_int", "list(A).(A) -> int"),
        ],
    ),
    (
        "join",
        join,
        &[
            ("list_join", "list(string).() -> string"),
            ("list_join_string", "list(string).(string) -> string"),
        ],
    ),
    (
        "lowerAscii",
        lower,
        &[("string_lower_ascii", "string.() -> string")],
    ),
    (
        "upperAscii",
        upper,
        &[("string_upper_ascii", "string.() -> string")],
    ),
    ("trim", trim, &[("string_trim", "string.() -> string")]),
    (
        "replace",
        replace,
        &[
            (
                "string_replace_string_string",
                "string.(string, string) -> string",
            ),
            (
                "string_replace_string_string_int",
                "string.(string, string, int) -> string",
            ),
        ],
    ),
    (
        "split",
        split,
        &[
            ("string_split_string", "string.(string) -> list(string)"),
            (
                "string_split_string_int",
                "string.(string, int) -> list(string)",
            ),
        ],
    ),
    (
        "substring",
        substring,
        &[
            ("string_substring_int", "string.(int) -> string"),
            ("string_substring_int_int", "string.(int, int) -> string"),
        ],
    ),
    (
        "strings.quote",
        quote,
        &[("strings_quote", "(string) -> string")],
    ),
    (
        "jsonpatch.escapeKey",
        escape_key,
        &[("string_jsonpatch_escapeKey_string", "(string) -> string")],
    ),
];

fn contains<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.contains(&**part))),
        _ => Err(EvalError::no_overload()),
    }
}

fn ends_with<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.ends_with(&**part))),
        _ => Err(EvalError::no_overload()),
    }
}

fn starts_with<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.starts_with(&**part))),
        _ => Err(EvalError::no_overload()),
    }
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::failed(format!("index out of range: {at}"))
}

fn char_at<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(at)] = args else {
        return Err(EvalError::no_overload());
    };
    let length = text.chars().count();
    match usize::try_from(*at) {
        Ok(place) if place < length => Ok(Value::string(
            text.chars()
                .nth(place)
                .map(String::from)
                .unwrap_or_default(),
        )),
        Ok(place) if place == length => Ok(Value::string("")),
        _ => Err(out_of_range(*at)),
    }
}

/// The code points of a text, and the byte where each starts, the end included.
fn starts(text: &str) -> Vec<usize> {
    text.char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect()
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn index_of<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, *from),
        [Value::List(list), value] => return super::lists::index_of(context, list, value),
        _ => return Err(EvalError::no_overload()),
    };
    let starts = starts(text);
    let Some(byte) = usize::try_from(from).ok().and_then(|from| starts.get(from)) else {
        // a search that starts past the end finds nothing; one before the start is a fault
        if from >= 0 && !part.is_empty() {
            return Ok(Value::Int(-1));
        }
        return Err(out_of_range(from));
    };
    let found = text[*byte..].find(&**part).map(|at| at + byte);
    Ok(Value::Int(
        found.map_or(-1, |at| number(text[..at].chars().count())),
    ))
}

fn last_index_of<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, Some(*from)),
        [Value::List(list), value] => return super::lists::last_index_of(context, list, value),
        _ => return Err(EvalError::no_overload()),
    };
    let end = match from {
        None => text.len(),
        Some(from) => {
            let starts = starts(text);
            let byte = usize::try_from(from)
                .ok()
                .and_then(|from| starts.get(from).copied());
            let byte = byte.ok_or_else(|| out_of_range(from))?;
            // the match may start there at the latest
            (byte + part.len()).min(text.len())
        }
    };
    let mut end = end;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let found = text[..end].rfind(&**part);
    Ok(Value::Int(
        found.map_or(-1, |at| number(text[..at].chars().count())),
    ))
}

fn join<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(EvalError::no_overload()),
    };
    let mut joined = String::new();
    for (at, element) in list.iter().enumerate() {
        let Value::String(text) = element else {
            return Err(EvalError::failed(format!(
                "join: invalid input: {:?}",
                element
            )));
        };
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&text);
        bounded(joined.len())?;
    }
    context.work(joined.len() / 16)?;
    Ok(Value::string(joined))
}

fn bounded(length: usize) -> Result<(), EvalError> {
    if length > MAX_TEXT {
        return Err(EvalError::CostExceeded);
    }
    Ok(())
}

fn lower<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(text.to_ascii_lowercase())),
        _ => Err(EvalError::no_overload()),
    }
}

fn upper<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(text.to_ascii_uppercase())),
        _ => Err(EvalError::no_overload()),
    }
}

fn trim<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(text.trim())),
        _ => Err(EvalError::no_overload()),
    }
}

fn replace<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, from, to, times) = match args {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [
            Value::String(text),
            Value::String(from),
            Value::String(to),
            Value::Int(times),
        ] => (text, from, to, *times),
        _ => return Err(EvalError::no_overload()),
    };
    let times = usize::try_from(times).unwrap_or(usize::MAX);
    let count = text.matches(&**from).count().min(times);
    bounded(text.len().saturating_add(count.saturating_mul(to.len())))?;
    context.work((text.len() + count * to.len()) / 16)?;
    Ok(Value::string(text.replacen(&**from, to, times)))
}

fn split<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [
            Value::String(text),
            Value::String(separator),
            Value::Int(limit),
        ] => (text, separator, *limit),
        _ => return Err(EvalError::no_overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    context.work(text.len() / 4)?;
    let parts: Vec<Value<'a>> = match limit {
        0 => Vec::new(),
        1 => vec![Value::String(text.clone())],
        _ if separator.is_empty() => {
            let mut parts: Vec<Value<'a>> = Vec::new();
            let mut rest = &**text;
            while let Some(c) = rest.chars().next() {
                let width = if parts.len() + 1 == limit {
                    rest.len()
                } else {
                    c.len_utf8()
                };
                parts.push(Value::string(&rest[..width]));
                rest = &rest[width..];
            }
            parts
        }
        _ => text
            .splitn(limit, &**separator)
            .map(Value::string)
            .collect(),
    };
    if parts.len() > MAX_ELEMENTS {
        return Err(EvalError::CostExceeded);
    }
    Ok(Value::owned(parts))
}

fn substring<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text, *from, None),
        [Value::String(text), Value::Int(from), Value::Int(to)] => (text, *from, Some(*to)),
        _ => return Err(EvalError::no_overload()),
    };
    let starts = starts(text);
    let byte = |at: i64| {
        usize::try_from(at)
            .ok()
            .and_then(|at| starts.get(at).copied())
            .ok_or_else(|| out_of_range(at))
    };
    if let Some(to) = to
        && from > to
    {
        return Err(EvalError::failed(format!(
            "invalid substring range. start: {from}, end: {to}"
        )));
    }
    let end = match to {
        Some(to) => byte(to)?,
        None => text.len(),
    };
    Ok(Value::string(&text[byte(from)?..end]))
}

fn quote<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else {
        return Err(EvalError::no_overload());
    };
    context.work(text.len() / 16)?;
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(Value::string(quoted))
}

fn escape_key<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(key)] => Ok(Value::string(key.replace('~', "~0").replace('/', "~1"))),
        _ => Err(EvalError::no_overload()),
    }
}
