//! Points and spans of time.

use std::time::Duration as Span;

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "getFullYear",
        full_year,
        &[
            ("timestamp_to_year", "timestamp.() -> int"),
            ("timestamp_to_year_with_tz", "timestamp.(string) -> int"),
        ],
    ),
    (
        "getMonth",
        month,
        &[
            ("timestamp_to_month", "timestamp.() -> int"),
            ("timestamp_to_month_with_tz", "timestamp.(string) -> int"),
        ],
    ),
    (
        "getDayOfYear",
        day_of_year,
        &[
            ("timestamp_to_day_of_year", "timestamp.() -> int"),
            (
                "timestamp_to_day_of_year_with_tz",
                "timestamp.(string) -> int",
            ),
        ],
    ),
    (
        "getDayOfMonth",
        day_of_month,
        &[
            ("timestamp_to_day_of_month", "timestamp.() -> int"),
            (
                "timestamp_to_day_of_month_with_tz",
                "timestamp.(string) -> int",
            ),
        ],
    ),
    (
        "getDate",
        date,
        &[
            ("timestamp_to_day_of_month_1_based", "timestamp.() -> int"),
            (
                "timestamp_to_day_of_month_1_based_with_tz",
                "timestamp.(string) -> int",
            ),
        ],
    ),
    (
        "getDayOfWeek",
        day_of_week,
        &[
            ("timestamp_to_day_of_week", "timestamp.() -> int"),
            (
                "timestamp_to_day_of_week_with_tz",
                "timestamp.(string) -> int",
            ),
        ],
    ),
    (
        "getHours",
        hours,
        &[
            ("timestamp_to_hours", "timestamp.() -> int"),
            ("timestamp_to_hours_with_tz", "timestamp.(string) -> int"),
            ("duration_to_hours", "duration.() -> int"),
        ],
    ),
    (
        "getMinutes",
        minutes,
        &[
            ("timestamp_to_minutes", "timestamp.() -> int"),
            ("timestamp_to_minutes_with_tz", "timestamp.(string) -> int"),
            ("duration_to_minutes", "duration.() -> int"),
        ],
    ),
    (
        "getSeconds",
        seconds_of,
        &[
            ("timestamp_to_seconds", "timestamp.() -> int"),
            ("timestamp_to_seconds_tz", "timestamp.(string) -> int"),
            ("duration_to_seconds", "duration.() -> int"),
        ],
    ),
    (
        "getMilliseconds",
        milliseconds,
        &[
            ("timestamp_to_milliseconds", "timestamp.() -> int"),
            (
                "timestamp_to_milliseconds_with_tz",
                "timestamp.(string) -> int",
            ),
            ("duration_to_milliseconds", "duration.() -> int"),
        ],
    ),
];

const MIN_SECOND: i64 = -62_135_596_800;
const MAX_SECOND: i64 = 253_402_300_799;

/// Whether a point in time is in the years 1 to 9999.
pub(crate) fn in_range(at: &Timestamp) -> bool {
    (MIN_SECOND..=MAX_SECOND).contains(&at.as_second())
}

/// RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20 && bytes[4] == b'-' && matches!(bytes[10], b'T' | b't');
    if !shape || text.contains('[') {
        return None;
    }
    text.parse::<Timestamp>().ok().filter(in_range)
}

/// A day, as its first moment.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    parse_timestamp(&format!("{text}T00:00:00Z"))
}

/// A Go duration: `1h2m3.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let digits = &fraction[..fraction.len().min(15)];
        if !digits.is_empty() {
            let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
            total = total.checked_add(digits.parse::<i128>().ok()? * nanos / scale)?;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration in seconds, as `string()` shows it.
pub(crate) fn seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{fraction:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}

/// A point in time as `string()` shows it.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.to_string()
}

fn shifted(at: Timestamp, nanos: i64) -> Result<Timestamp, EvalError> {
    at.checked_add(SignedDuration::from_nanos(nanos))
        .ok()
        .filter(in_range)
        .ok_or_else(|| EvalError::failed("timestamp overflow"))
}

/// Adds times.
pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    Ok(match (a, b) {
        (Value::Timestamp(at), Value::Duration(nanos))
        | (Value::Duration(nanos), Value::Timestamp(at)) => Value::Timestamp(shifted(*at, *nanos)?),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(
            a.checked_add(*b)
                .ok_or_else(|| EvalError::failed("duration overflow"))?,
        ),
        _ => return Err(EvalError::no_overload()),
    })
}

/// Subtracts times.
pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    let overflow = || EvalError::failed("duration overflow");
    Ok(match (a, b) {
        (Value::Timestamp(at), Value::Duration(nanos)) => {
            Value::Timestamp(shifted(*at, nanos.checked_neg().ok_or_else(overflow)?)?)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let span = a.duration_since(*b).as_nanos();
            Value::Duration(i64::try_from(span).map_err(|_| overflow())?)
        }
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_sub(*b).ok_or_else(overflow)?)
        }
        _ => return Err(EvalError::no_overload()),
    })
}

/// A zone by name or by its distance from UTC.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::failed(format!("unknown time zone {name}"));
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let hours: i32 = hours.parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        let seconds = hours.checked_mul(3600).ok_or_else(unknown)?
            + if negative { -60 } else { 60 } * minutes.clamp(0, 59);
        return Offset::from_seconds(seconds)
            .map(TimeZone::fixed)
            .map_err(|_| unknown());
    }
    TimeZone::get(name).map_err(|_| unknown())
}

fn part<'a>(args: &[Value<'a>], of: impl Fn(&Zoned) -> i64) -> Evaluated<'a> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, TimeZone::UTC),
        [Value::Timestamp(at), Value::String(name)] => (at, zone(name)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(of(&at.to_zoned(zone))))
}

fn full_year<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| at.year().into())
}

fn month<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| i64::from(at.month()) - 1)
}

fn day_of_year<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| i64::from(at.day_of_year()) - 1)
}

fn day_of_month<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| i64::from(at.day()) - 1)
}

fn date<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| at.day().into())
}

fn day_of_week<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    part(args, |at| at.weekday().to_sunday_zero_offset().into())
}

/// A part of a time of day, or all of a duration in that unit.
fn unit<'a>(args: &[Value<'a>], span: Span, of: impl Fn(&Zoned) -> i64) -> Evaluated<'a> {
    match args {
        [Value::Duration(nanos)] => {
            let span = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
            Ok(Value::Int(nanos / span))
        }
        args => part(args, of),
    }
}

fn hours<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    unit(args, Span::from_secs(3600), |at| at.hour().into())
}

fn minutes<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    unit(args, Span::from_secs(60), |at| at.minute().into())
}

fn seconds_of<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    unit(args, Span::from_secs(1), |at| at.second().into())
}

fn milliseconds<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    unit(args, Span::from_millis(1), |at| at.millisecond().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("1h2m3.5s", Some(3_723_500_000_000)),
            ("-1.5ms", Some(-1_500_000)),
            ("0", Some(0)),
            ("300000h", Some(300_000 * 3_600_000_000_000)),
            ("3000000h", None),
            ("1", None),
            ("s", None),
            ("1.2.3s", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
        assert_eq!(seconds(-1_500_000_000), "-1.5s");
    }
}
