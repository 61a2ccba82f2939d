//! Durations as KubeletConfiguration writes them: Go's `1h2m3.5s`.
//!
//! Only the text form; what a duration means is the business of the field that holds it.

use std::time::Duration;

/// What is wrong with a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid duration {0:?}: want a Go duration such as \"1m30s\"")]
pub struct DurationError(pub String);

/// Parses a Go duration that is not negative.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        seconds += number * factor;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// Writes a duration as Go does.
pub fn format(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    let total = duration.as_secs();
    if total == 0 && nanos == 0 {
        return "0s".to_owned();
    }
    if total == 0 {
        let (value, unit) = match nanos {
            n if n >= 1_000_000 => (f64::from(n) / 1e6, "ms"),
            n if n >= 1_000 => (f64::from(n) / 1e3, "µs"),
            n => (f64::from(n), "ns"),
        };
        return format!("{value}{unit}");
    }
    let seconds = (total % 60) as f64 + f64::from(nanos) / 1e9;
    let (hours, minutes) = (total / 3600, total / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// serde glue for fields.
pub mod text {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads a duration string.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        super::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }

    /// Writes a duration string.
    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round() {
        for (text, seconds) in [
            ("10s", 10.0),
            ("1m30s", 90.0),
            ("24h0m0s", 86400.0),
            ("1.5s", 1.5),
            ("100ms", 0.1),
        ] {
            let parsed = parse(text).unwrap();
            assert!((parsed.as_secs_f64() - seconds).abs() < 1e-9, "{text}");
            assert_eq!(parse(&format(parsed)).unwrap(), parsed);
        }
        assert_eq!(format(Duration::from_secs(300)), "5m0s");
    }

    #[test]
    fn refuses_rubbish() {
        for text in ["", "10", "s", "-1s", "1x", "1..2s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
