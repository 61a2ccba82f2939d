//! The formats of strings that validation knows.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use keelson_api::names;
use regex::Regex;

fn compiled(pattern: &str) -> Option<Regex> {
    // A pattern that doesn't compile would accept everything; the tests compile them all.
    Regex::new(pattern).ok()
}

static PATTERNS: LazyLock<Vec<(&str, Option<Regex>)>> = LazyLock::new(|| {
    [
        ("bsonobjectid", r"^[0-9a-fA-F]{24}$"),
        ("uuid", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid3", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid4", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("uuid5", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("hexcolor", r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        ("rgbcolor", r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"),
        ("ssn", r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
        ("mac", r"^([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{2}[:-]){7}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}$"),
        ("hostname", r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"),
        ("email", r"^[^\s@<>(),;:\\]+@[^\s@<>(),;:\\]+$"),
        ("date", r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"),
    ]
    .map(|(name, pattern)| (name, compiled(pattern)))
    .into()
});

/// Whether a text has a format; formats that aren't known are no hindrance.
pub fn matches(format: &str, text: &str) -> bool {
    let normal = format.replace('-', "");
    if let Some((_, pattern)) = PATTERNS.iter().find(|(name, _)| *name == normal) {
        return pattern.as_ref().is_none_or(|p| p.is_match(text));
    }
    match normal.as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "uri" => uri(text),
        "byte" => base64(text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => credit_card(text),
        "datetime" => date_time(text),
        "duration" => duration(text),
        "k8sshortname" => names::dns1123_label(text).is_empty(),
        "k8slongname" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else {
        return false;
    };
    let max = match ip.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u16>().is_ok_and(|b| b <= max)
}

/// What Go's `url.ParseRequestURI` takes: an absolute URI or an absolute path.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|c| c.is_control()) {
        return false;
    }
    if text.starts_with('/') {
        return !text.contains(' ') || !text.starts_with("//");
    }
    match text.split_once(':') {
        Some((scheme, rest)) => {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && (rest.starts_with('/') || !rest.is_empty())
                && !rest
                    .split('/')
                    .nth(2)
                    .is_some_and(|host| host.contains(' '))
        }
        None => false,
    }
}

fn base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .is_ok()
}

fn digits(text: &str) -> Vec<u32> {
    text.chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .filter_map(|c| c.to_digit(10))
        .collect()
}

fn isbn10(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    if plain.len() != 10 {
        return false;
    }
    let mut sum = 0;
    for (at, c) in plain.iter().enumerate() {
        let value = match c {
            'X' | 'x' if at == 9 => 10,
            c => match c.to_digit(10) {
                Some(d) => d,
                None => return false,
            },
        };
        sum += value * u32::try_from(10 - at).unwrap_or(0);
    }
    sum % 11 == 0
}

fn isbn13(text: &str) -> bool {
    let plain = text.chars().filter(|c| !matches!(c, '-' | ' ')).count();
    let digits = digits(text);
    plain == 13
        && digits.len() == 13
        && digits
            .iter()
            .enumerate()
            .map(|(at, d)| if at % 2 == 0 { *d } else { 3 * d })
            .sum::<u32>()
            % 10
            == 0
}

fn credit_card(text: &str) -> bool {
    let digits = digits(text);
    if !(13..=19).contains(&digits.len()) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, d)| match at % 2 {
            0 => *d,
            _ if *d > 4 => 2 * d - 9,
            _ => 2 * d,
        })
        .sum();
    sum % 10 == 0
}

fn date_time(text: &str) -> bool {
    let text = text.to_uppercase();
    if text.len() < 4 {
        return false;
    }
    text.parse::<jiff::Timestamp>().is_ok()
        || text
            .parse::<jiff::civil::DateTime>()
            .is_ok_and(|_| text.contains('T'))
}

/// Go's durations, and those with whole words.
fn duration(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text).trim();
    if text == "0" {
        return true;
    }
    static PART: LazyLock<Option<Regex>> = LazyLock::new(|| {
        compiled(
            r"^(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h|d|w|nanos?|nanoseconds?|micros?|microseconds?|millis?|milliseconds?|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|wks?|weeks?)\s*",
        )
    });
    let Some(part) = PART.as_ref() else {
        return true;
    };
    let mut rest = text;
    while let Some(found) = part.find(rest) {
        rest = &rest[found.end()..];
        if rest.is_empty() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        assert!(PATTERNS.iter().all(|(_, p)| p.is_some()));
        for (format, good, bad) in [
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uri", "https://a.b/c", "nothing"),
            ("uuid", "6fe7b3d7-4cd2-4f2d-9f31-8b1b4b0f0b0d", "6fe7"),
            ("date", "2026-01-31", "2026-13-01"),
            ("date-time", "2026-01-31T10:00:00Z", "yesterday"),
            ("duration", "1h30m", "1 fortnight"),
            ("byte", "aGVsbG8=", "%%%"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("mac", "01:02:03:04:05:06", "01:02"),
            ("email", "a@b.c", "a b"),
            ("hostname", "example.com", "-.-"),
            ("hexcolor", "#fff", "#ggg"),
            ("k8s-short-name", "abc", "A_b"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
    }
}
