//! Times and durations as Go reads and writes them.

use jiff::Timestamp;

/// The layout of `Time`.
pub(crate) const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
/// The layout of `MicroTime`.
pub(crate) const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads an RFC 3339 time; the error has Go's words for the layout.
pub(crate) fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    let refuse = |rest: &str, wanted: &str| {
        let (text, layout) = (quote(text), quote(layout));
        let (rest, wanted) = (quote(rest), quote(wanted));
        format!("parsing time {text} as {layout}: cannot parse {rest} as {wanted}")
    };
    let range = |what: &str| format!("parsing time {}: {what} out of range", quote(text));
    let mut rest = text;
    let mut parts = [0i64; 6];
    let steps = [
        (4, "2006", ""),
        (2, "01", "-"),
        (2, "02", "-"),
        (2, "15", "T"),
        (2, "04", ":"),
        (2, "05", ":"),
    ];
    for (part, (width, name, separator)) in parts.iter_mut().zip(steps) {
        rest = rest
            .strip_prefix(separator)
            .ok_or_else(|| refuse(rest, separator))?;
        // Go takes an hour of one digit, too
        let second_digit = rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let width = if name == "15" && !second_digit {
            1
        } else {
            width
        };
        let digits = rest
            .get(..width)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| refuse(rest, name))?;
        *part = digits.parse().unwrap_or_default();
        rest = &rest[width..];
    }
    let [year, month, day, hour, minute, second] = parts;
    if !(1..=12).contains(&month) {
        return Err(range("month"));
    }
    if hour > 23 {
        return Err(range("hour"));
    }
    if minute > 59 {
        return Err(range("minute"));
    }
    if second > 59 {
        return Err(range("second"));
    }
    let mut nanos = 0i32;
    if layout == RFC3339_MICRO {
        let digits = rest
            .strip_prefix(['.', ','])
            .and_then(|after| after.get(..6))
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| refuse(rest, ".000000"))?;
        nanos = digits.parse::<i32>().unwrap_or_default() * 1000;
        rest = &rest[7..];
    } else if let Some(after) = rest.strip_prefix(['.', ',']) {
        let end = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        if end == 0 {
            return Err(refuse(rest, "Z07:00"));
        }
        for place in 0..9 {
            let digit = after.as_bytes()[..end].get(place).map_or(0, |b| b - b'0');
            nanos = nanos * 10 + i32::from(digit);
        }
        rest = &after[end..];
    }
    let (offset, rest) = zone(rest).ok_or_else(|| refuse(rest, "Z07:00"))?;
    if !rest.is_empty() {
        return Err(format!(
            "parsing time {}: extra text: {}",
            quote(text),
            quote(rest)
        ));
    }
    let civil = jiff::civil::DateTime::new(
        i16::try_from(year).map_err(|_| range("year"))?,
        month as i8,
        i8::try_from(day).map_err(|_| range("day"))?,
        hour as i8,
        minute as i8,
        second as i8,
        nanos,
    )
    .map_err(|_| range("day"))?;
    let utc = civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .map_err(|_| range("year"))?
        .timestamp();
    utc.checked_sub(jiff::SignedDuration::from_secs(offset))
        .map_err(|_| range("year"))
}

/// The seconds east of UTC, and what follows.
fn zone(text: &str) -> Option<(i64, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((0, rest));
    }
    let sign = match text.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let body = text.get(1..6)?;
    let (hours, minutes) = body.split_once(':')?;
    if hours.len() != 2 || !body.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 24 || minutes > 60 {
        return None;
    }
    Some((sign * (hours * 3600 + minutes * 60), &text[6..]))
}

/// As Go's time package quotes: bytes that aren't printable ASCII in hexadecimal.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// A `Time` as upstream writes it: UTC, whole seconds.
pub(crate) fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A `MicroTime` as upstream writes it: UTC, six digits.
pub(crate) fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads a Go duration into nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30
        {
            return Err(invalid());
        }
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                let (unit, text) = (quote(unit), quote(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        total = total.saturating_add(whole.saturating_mul(scale));
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// A duration as Go writes it.
pub(crate) fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |whole: u64, rest: u64, digits: usize, unit: &str| {
        let rest = format!("{rest:0digits$}");
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{whole}{dot}{rest}{unit}")
    };
    if nanos < 1_000 {
        return format!("{sign}{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{sign}{}", fraction(nanos / 1_000, nanos % 1_000, 3, "µs"));
    }
    if nanos < 1_000_000_000 {
        return format!(
            "{sign}{}",
            fraction(nanos / 1_000_000, nanos % 1_000_000, 6, "ms")
        );
    }
    let seconds = nanos / 1_000_000_000;
    let tail = fraction(seconds % 60, nanos % 1_000_000_000, 9, "s");
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{tail}"),
        (0, minutes) => format!("{sign}{minutes}m{tail}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{tail}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let read = |text| parse(text, RFC3339).map(format);
        assert_eq!(
            read("2026-01-02T03:04:05Z").unwrap(),
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(
            read("2026-01-02T03:04:05.999+02:00").unwrap(),
            "2026-01-02T01:04:05Z"
        );
        assert_eq!(
            format_micro(parse("2026-01-02T03:04:05.100000Z", RFC3339_MICRO).unwrap()),
            "2026-01-02T03:04:05.100000Z"
        );
        assert_eq!(
            read("2026-13-02T03:04:05Z").unwrap_err(),
            r#"parsing time "2026-13-02T03:04:05Z": month out of range"#
        );
        assert_eq!(
            read("2026-01-02").unwrap_err(),
            r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#
        );
    }

    #[test]
    fn durations_are_read_and_written() {
        for (given, written) in [
            ("60s", "1m0s"),
            ("1h", "1h0m0s"),
            ("1.5s", "1.5s"),
            ("100ms", "100ms"),
            ("1500us", "1.5ms"),
            ("-90m", "-1h30m0s"),
            ("0", "0s"),
        ] {
            assert_eq!(format_duration(parse_duration(given).unwrap()), written);
        }
        assert_eq!(
            parse_duration("5").unwrap_err(),
            r#"time: missing unit in duration "5""#
        );
        assert!(parse_duration("soon").is_err());
    }
}
