//! Conversions between types, and `type()` and `dyn()`.

use jiff::Timestamp;

use super::{Context, Row, time};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    ("type", type_of, &[("type", "(A) -> type(A)")]),
    ("dyn", identity, &[("to_dyn", "(A) -> dyn")]),
    (
        "bool",
        to_bool,
        &[
            ("bool_to_bool", "(bool) -> bool"),
            ("string_to_bool", "(string) -> bool"),
        ],
    ),
    (
        "bytes",
        to_bytes,
        &[
            ("bytes_to_bytes", "(bytes) -> bytes"),
            ("string_to_bytes", "(string) -> bytes"),
        ],
    ),
    (
        "double",
        to_double,
        &[
            ("double_to_double", "(double) -> double"),
            ("int64_to_double", "(int) -> double"),
            ("string_to_double", "(string) -> double"),
            ("uint64_to_double", "(uint) -> double"),
        ],
    ),
    (
        "duration",
        to_duration,
        &[
            ("duration_to_duration", "(duration) -> duration"),
            ("int64_to_duration", "(int) -> duration"),
            ("string_to_duration", "(string) -> duration"),
        ],
    ),
    (
        "int",
        to_int,
        &[
            ("int64_to_int64", "(int) -> int"),
            ("double_to_int64", "(double) -> int"),
            ("duration_to_int64", "(duration) -> int"),
            ("string_to_int64", "(string) -> int"),
            ("timestamp_to_int64", "(timestamp) -> int"),
            ("uint64_to_int64", "(uint) -> int"),
        ],
    ),
    (
        "string",
        to_string,
        &[
            ("string_to_string", "(string) -> string"),
            ("bool_to_string", "(bool) -> string"),
            ("bytes_to_string", "(bytes) -> string"),
            ("double_to_string", "(double) -> string"),
            ("duration_to_string", "(duration) -> string"),
            ("int64_to_string", "(int) -> string"),
            ("timestamp_to_string", "(timestamp) -> string"),
            ("uint64_to_string", "(uint) -> string"),
            ("cidr_to_string", "(net.CIDR) -> string"),
            ("ip_to_string", "(net.IP) -> string"),
        ],
    ),
    (
        "timestamp",
        to_timestamp,
        &[
            ("timestamp_to_timestamp", "(timestamp) -> timestamp"),
            ("int64_to_timestamp", "(int) -> timestamp"),
            ("string_to_timestamp", "(string) -> timestamp"),
        ],
    ),
    (
        "uint",
        to_uint,
        &[
            ("uint64_to_uint64", "(uint) -> uint"),
            ("double_to_uint64", "(double) -> uint"),
            ("int64_to_uint64", "(int) -> uint"),
            ("string_to_uint64", "(string) -> uint"),
        ],
    ),
];

fn mismatch(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::failed(format!(
        "type conversion error from '{}' to '{to}'",
        value.type_of().runtime_name()
    ))
}

fn only<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v Value<'a>, EvalError> {
    match args {
        [value] => Ok(value),
        _ => Err(EvalError::no_overload()),
    }
}

fn type_of<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Type(only(args)?.type_of()))
}

fn identity<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    only(args).cloned()
}

fn to_bool<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(match only(args)? {
        Value::Bool(b) => *b,
        value @ Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(mismatch(value, "bool")),
        },
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_bytes<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match only(args)? {
        value @ Value::Bytes(_) => value.clone(),
        Value::String(text) => Value::Bytes(text.as_bytes().into()),
        _ => return Err(EvalError::no_overload()),
    })
}

fn to_double<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(match only(args)? {
        Value::Double(d) => *d,
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        value @ Value::String(text) => text.parse().map_err(|_| mismatch(value, "double"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_int<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let overflow = || EvalError::failed("integer overflow");
    Ok(Value::Int(match only(args)? {
        Value::Int(n) => *n,
        Value::Uint(n) => i64::try_from(*n).map_err(|_| overflow())?,
        Value::Double(d)
            if d.is_finite() && *d > -9.223_372_036_854_776e18 && *d < 9.223_372_036_854_776e18 =>
        {
            *d as i64
        }
        Value::Double(_) => return Err(overflow()),
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(at) => at.as_second(),
        value @ Value::String(text) => text.parse().map_err(|_| mismatch(value, "int"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_uint<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let overflow = || EvalError::failed("unsigned integer overflow");
    Ok(Value::Uint(match only(args)? {
        Value::Uint(n) => *n,
        Value::Int(n) => u64::try_from(*n).map_err(|_| overflow())?,
        Value::Double(d) if *d >= 0.0 && *d < 1.844_674_407_370_955_2e19 => *d as u64,
        Value::Double(_) => return Err(overflow()),
        value @ Value::String(text) => text.parse().map_err(|_| mismatch(value, "uint"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_string<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(match only(args)? {
        value @ Value::String(_) => value.clone(),
        Value::Bool(b) => Value::string(b.to_string()),
        Value::Int(n) => Value::string(n.to_string()),
        Value::Uint(n) => Value::string(n.to_string()),
        Value::Double(d) => Value::string(double(*d)),
        Value::Bytes(bytes) => {
            Value::string(std::str::from_utf8(bytes).map_err(|_| {
                EvalError::failed("invalid UTF-8 in bytes, cannot convert to string")
            })?)
        }
        Value::Timestamp(at) => Value::string(time::rfc3339(*at)),
        Value::Duration(nanos) => Value::string(time::seconds(*nanos)),
        Value::Special(Special::Ip(ip)) => Value::string(ip.to_string()),
        Value::Special(Special::Cidr(ip, prefix)) => Value::string(format!("{ip}/{prefix}")),
        _ => return Err(EvalError::no_overload()),
    })
}

fn to_timestamp<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Timestamp(match only(args)? {
        Value::Timestamp(at) => *at,
        Value::Int(seconds) => Timestamp::from_second(*seconds)
            .ok()
            .filter(time::in_range)
            .ok_or_else(|| EvalError::failed("timestamp overflow"))?,
        value @ Value::String(text) => time::parse_timestamp(text)
            .ok_or_else(|| mismatch(value, "google.protobuf.Timestamp"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_duration<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Duration(match only(args)? {
        Value::Duration(nanos) => *nanos,
        Value::Int(nanos) => *nanos,
        value @ Value::String(text) => {
            time::parse_duration(text).ok_or_else(|| mismatch(value, "google.protobuf.Duration"))?
        }
        _ => return Err(EvalError::no_overload()),
    }))
}

/// A float as Go's `%g` writes it.
pub(crate) fn double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{d:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{d}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
