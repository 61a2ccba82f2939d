//! `format`: text from a pattern with `%s`, `%d`, `%f`, `%e`, `%b`, `%o`, `%x` and `%X`.

use super::{Context, Row, convert, time};
use crate::error::EvalError;
use crate::limits::MAX_TEXT;
use crate::value::{Evaluated, List, Map, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[(
    "format",
    format,
    &[("string_format", "string.(list(dyn)) -> string")],
)];

fn format<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let [Value::String(pattern), Value::List(list)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut out = String::new();
    let mut next = 0;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let parsed = digits.parse::<usize>().ok().filter(|n| *n <= 1000);
            precision = Some(parsed.ok_or_else(|| {
                failed("could not parse formatting clause: error while parsing precision")
            })?);
        }
        let verb = chars
            .next()
            .ok_or_else(|| failed("could not parse formatting clause: unexpected end of string"))?;
        let value = list.get(next).ok_or_else(|| {
            failed(&format!(
                "could not get argument at index {next}: index {next} out of range"
            ))
        })?;
        next += 1;
        clause(context, &mut out, &value, verb, precision)?;
        bounded(&out)?;
    }
    context.work(out.len() / 16)?;
    Ok(Value::string(out))
}

fn bounded(out: &str) -> Result<(), EvalError> {
    if out.len() > MAX_TEXT {
        return Err(EvalError::CostExceeded);
    }
    Ok(())
}

fn failed(why: &str) -> EvalError {
    EvalError::failed(why)
}

fn clause(
    context: &Context<'_>,
    out: &mut String,
    value: &Value<'_>,
    verb: char,
    precision: Option<usize>,
) -> Result<(), EvalError> {
    let wrong = |verb: &str, kinds: &str| {
        failed(&format!(
            "error during formatting: {verb} clause can only be used on {kinds}, was given {}",
            value.type_of().runtime_name()
        ))
    };
    match verb {
        's' => text(context, out, value)?,
        'd' => match value {
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Uint(n) => out.push_str(&n.to_string()),
            Value::Double(d) if !d.is_finite() => out.push_str(&infinite(*d)),
            _ => return Err(wrong("decimal", "integers")),
        },
        'f' | 'e' => {
            let number = match value {
                Value::Double(d) => *d,
                Value::Int(n) => *n as f64,
                Value::Uint(n) => *n as f64,
                _ => {
                    let verb = if verb == 'f' {
                        "fixed-point"
                    } else {
                        "scientific"
                    };
                    return Err(wrong(verb, "doubles"));
                }
            };
            let digits = precision.unwrap_or(6);
            if !number.is_finite() {
                out.push_str(&infinite(number));
            } else if verb == 'f' {
                out.push_str(&format!("{number:.digits$}"));
            } else {
                let scientific = format!("{number:.digits$e}");
                let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
                let exponent: i32 = exponent.parse().unwrap_or_default();
                let sign = if exponent < 0 { '-' } else { '+' };
                out.push_str(&format!("{mantissa}e{sign}{:02}", exponent.abs()));
            }
        }
        'b' => match value {
            Value::Bool(b) => out.push(if *b { '1' } else { '0' }),
            Value::Int(n) => out.push_str(&signed(*n, |n| format!("{n:b}"))),
            Value::Uint(n) => out.push_str(&format!("{n:b}")),
            _ => return Err(wrong("binary", "integers and bools")),
        },
        'o' => match value {
            Value::Int(n) => out.push_str(&signed(*n, |n| format!("{n:o}"))),
            Value::Uint(n) => out.push_str(&format!("{n:o}")),
            _ => return Err(wrong("octal", "integers")),
        },
        'x' | 'X' => {
            let hex = match value {
                Value::Int(n) => signed(*n, |n| format!("{n:x}")),
                Value::Uint(n) => format!("{n:x}"),
                Value::String(text) => bytes_in_hex(text.as_bytes())?,
                Value::Bytes(bytes) => bytes_in_hex(bytes)?,
                _ => return Err(wrong("hex", "integers, byte buffers, and strings")),
            };
            out.push_str(&if verb == 'X' { hex.to_uppercase() } else { hex });
        }
        other => {
            return Err(failed(&format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    }
    Ok(())
}

fn bytes_in_hex(bytes: &[u8]) -> Result<String, EvalError> {
    if bytes.len() * 2 > MAX_TEXT {
        return Err(EvalError::CostExceeded);
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn signed(n: i64, digits: impl Fn(u64) -> String) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", digits(n.unsigned_abs()))
}

fn infinite(d: f64) -> String {
    if d.is_nan() {
        "NaN"
    } else if d > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
    .into()
}

/// A value as `%s` shows it.
pub(crate) fn text(
    context: &Context<'_>,
    out: &mut String,
    value: &Value<'_>,
) -> Result<(), EvalError> {
    context.work(1)?;
    bounded(out)?;
    match value {
        Value::String(text) => out.push_str(text),
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(&b.to_string()),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Uint(n) => out.push_str(&n.to_string()),
        Value::Double(d) if !d.is_finite() => out.push_str(&infinite(*d)),
        Value::Double(d) => out.push_str(&convert::double(*d)),
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Timestamp(at) => out.push_str(&time::rfc3339(*at)),
        Value::Duration(nanos) => out.push_str(&time::seconds(*nanos)),
        Value::Type(ty) => out.push_str(&ty.runtime_name()),
        Value::List(list) => elements(context, out, list)?,
        Value::Map(map) => entries(context, out, map)?,
        other => {
            return Err(failed(&format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_of().runtime_name()
            )));
        }
    }
    Ok(())
}

fn elements(context: &Context<'_>, out: &mut String, list: &List<'_>) -> Result<(), EvalError> {
    out.push('[');
    for (at, element) in list.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        text(context, out, &element)?;
    }
    out.push(']');
    Ok(())
}

fn entries(context: &Context<'_>, out: &mut String, map: &Map<'_>) -> Result<(), EvalError> {
    let mut shown = Vec::with_capacity(map.len());
    for (key, value) in map.entries() {
        let mut entry = String::new();
        text(context, &mut entry, &key)?;
        entry.push_str(": ");
        text(context, &mut entry, &value)?;
        shown.push(entry);
    }
    shown.sort();
    out.push('{');
    out.push_str(&shown.join(", "));
    out.push('}');
    Ok(())
}
