//! Resource quantities.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use keelson_api::quantity::Quantity;

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "quantity",
        quantity,
        &[("string_to_quantity", "(string) -> kubernetes.Quantity")],
    ),
    (
        "isQuantity",
        is_quantity,
        &[("is_quantity_string", "(string) -> bool")],
    ),
    (
        "sign",
        sign,
        &[("quantity_sign", "kubernetes.Quantity.() -> int")],
    ),
    (
        "isInteger",
        is_integer,
        &[("quantity_is_integer", "kubernetes.Quantity.() -> bool")],
    ),
    (
        "asInteger",
        as_integer,
        &[("quantity_get_int", "kubernetes.Quantity.() -> int")],
    ),
    (
        "asApproximateFloat",
        as_float,
        &[("quantity_get_float", "kubernetes.Quantity.() -> double")],
    ),
    (
        "isGreaterThan",
        is_greater_than,
        &[
            (
                "quantity_is_greater_than",
                "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
            ),
            (
                "semver_is_greater_than",
                "kubernetes.Semver.(kubernetes.Semver) -> bool",
            ),
        ],
    ),
    (
        "isLessThan",
        is_less_than,
        &[
            (
                "quantity_is_less_than",
                "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
            ),
            (
                "semver_is_less_than",
                "kubernetes.Semver.(kubernetes.Semver) -> bool",
            ),
        ],
    ),
    (
        "compareTo",
        compare_to,
        &[
            (
                "quantity_compare_to",
                "kubernetes.Quantity.(kubernetes.Quantity) -> int",
            ),
            (
                "semver_compare_to",
                "kubernetes.Semver.(kubernetes.Semver) -> int",
            ),
        ],
    ),
    (
        "add",
        add,
        &[
            (
                "quantity_add",
                "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
            ),
            (
                "quantity_add_int",
                "kubernetes.Quantity.(int) -> kubernetes.Quantity",
            ),
        ],
    ),
    (
        "sub",
        subtract,
        &[
            (
                "quantity_sub",
                "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
            ),
            (
                "quantity_sub_int",
                "kubernetes.Quantity.(int) -> kubernetes.Quantity",
            ),
        ],
    ),
];

const NANO: i128 = 1_000_000_000;

/// A quantity, in billionths: the finest that quantities know.
#[derive(Debug, PartialEq, Eq)]
pub struct Number {
    nanos: i128,
}

impl Number {
    fn parse(text: &str) -> Result<Number, String> {
        Quantity::parse(text).map_err(|error| error.to_string())?;
        Self::read(text)
            .map(|nanos| Number { nanos })
            .ok_or_else(|| "quantity out of range".into())
    }

    /// The number of a text that is known to be a quantity.
    fn read(text: &str) -> Option<i128> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let negative = number.starts_with('-');
        let number = number.trim_start_matches(['+', '-']);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let scale = i32::try_from(fraction.len()).ok()?;
        let (factor, exponent): (i128, i32) = match suffix {
            "" => (1, 0),
            "n" => (1, -9),
            "u" => (1, -6),
            "m" => (1, -3),
            "k" => (1, 3),
            "M" => (1, 6),
            "G" => (1, 9),
            "T" => (1, 12),
            "P" => (1, 15),
            "E" => (1, 18),
            "Ki" => (1 << 10, 0),
            "Mi" => (1 << 20, 0),
            "Gi" => (1 << 30, 0),
            "Ti" => (1 << 40, 0),
            "Pi" => (1 << 50, 0),
            "Ei" => (1 << 60, 0),
            other => (1, other.get(1..)?.parse().ok()?),
        };
        let scaled = digits.checked_mul(factor)?;
        let power = exponent - scale + 9;
        let magnitude = if power >= 0 {
            scaled.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?
        } else {
            // finer than billionths is rounded up, as quantities are
            let unit = 10_i128.checked_pow(u32::try_from(-power).ok()?)?;
            scaled.checked_add(unit - 1)? / unit
        };
        Some(if negative { -magnitude } else { magnitude })
    }

    /// The order of two quantities.
    pub(crate) fn compare(&self, other: &Number) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    fn integer(&self) -> Option<i64> {
        (self.nanos % NANO == 0)
            .then(|| i64::try_from(self.nanos / NANO).ok())
            .flatten()
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(NANO, ""), (1_000_000, "m"), (1_000, "u")] {
            if self.nanos % unit == 0 {
                return write!(f, "{}{suffix}", self.nanos / unit);
            }
        }
        write!(f, "{}n", self.nanos)
    }
}

fn made<'a>(nanos: Option<i128>) -> Evaluated<'a> {
    let nanos = nanos.ok_or_else(|| EvalError::failed("quantity out of range"))?;
    Ok(Value::Special(Special::Quantity(Arc::new(Number {
        nanos,
    }))))
}

fn quantity<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => {
            let number = Number::parse(text).map_err(EvalError::failed)?;
            Ok(Value::Special(Special::Quantity(Arc::new(number))))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn is_quantity<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Number::parse(text).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

fn of<'v>(args: &'v [Value<'_>]) -> Result<&'v Number, EvalError> {
    match args {
        [Value::Special(Special::Quantity(number))] => Ok(number),
        _ => Err(EvalError::no_overload()),
    }
}

fn sign<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(of(args)?.nanos.signum() as i64))
}

fn is_integer<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(of(args)?.integer().is_some()))
}

fn as_integer<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let integer = of(args)?.integer();
    integer
        .map(Value::Int)
        .ok_or_else(|| EvalError::failed("cannot convert value to integer"))
}

fn as_float<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(of(args)?.nanos as f64 / NANO as f64))
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [
            Value::Special(Special::Quantity(a)),
            Value::Special(Special::Quantity(b)),
        ] => Ok(a.compare(b)),
        [
            Value::Special(Special::Semver(a)),
            Value::Special(Special::Semver(b)),
        ] => Ok(a.compare(b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn is_greater_than<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(compared(args)?.is_gt()))
}

fn is_less_than<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(compared(args)?.is_lt()))
}

fn compare_to<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(compared(args)? as i64))
}

fn operands(args: &[Value<'_>]) -> Result<(i128, i128), EvalError> {
    match args {
        [
            Value::Special(Special::Quantity(a)),
            Value::Special(Special::Quantity(b)),
        ] => Ok((a.nanos, b.nanos)),
        [Value::Special(Special::Quantity(a)), Value::Int(b)] => {
            Ok((a.nanos, i128::from(*b) * NANO))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn add<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (a, b) = operands(args)?;
    made(a.checked_add(b))
}

fn subtract<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (a, b) = operands(args)?;
    made(a.checked_sub(b))
}
