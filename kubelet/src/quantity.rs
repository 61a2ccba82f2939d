//! Quantities as whole numbers: bytes, counts and thousandths of a CPU.
//!
//! Rounds up as upstream does. Canonical writing and comparing quantities in general is `keelson_api`'s.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A list of resources: `requests`, `limits`, `capacity`.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Value times `scale`, rounded up; `None` if it is no quantity or out of range.
fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(split);
    let (mut numerator, mut denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs().min(30))?;
            if exponent >= 0 {
                (power, 1)
            } else {
                (1, power)
            }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 18
        || (whole.trim_start_matches(['-', '+']).is_empty() && fraction.is_empty())
    {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    denominator = denominator.checked_mul(10i128.pow(fraction.len() as u32))?;
    numerator = numerator.checked_mul(digits)?.checked_mul(scale)?;
    let quotient = numerator.div_euclid(denominator);
    let rounded = if numerator.rem_euclid(denominator) > 0 {
        quotient + 1
    } else {
        quotient
    };
    i64::try_from(rounded).ok()
}

/// Whole units (bytes, counts), rounded up.
pub fn bytes(text: &str) -> Option<i64> {
    scaled(text, 1)
}

/// Thousandths, rounded up.
pub fn millis(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// Whole units of one resource of a list.
pub fn value(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    bytes(&list?.get(name)?.0)
}

/// Thousandths of one resource of a list.
pub fn milli_value(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    millis(&list?.get(name)?.0)
}

/// A number of thousandths, as a quantity: `1500m`, `2`.
pub fn from_millis(millis: i64) -> Quantity {
    if millis % 1000 == 0 {
        Quantity((millis / 1000).to_string())
    } else {
        Quantity(format!("{millis}m"))
    }
}

/// Bytes as upstream prints them for nodes: in Ki.
pub fn from_bytes_ki(bytes: u64) -> Quantity {
    if bytes.is_multiple_of(1024) {
        Quantity(format!("{}Ki", bytes / 1024))
    } else {
        Quantity(bytes.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        assert_eq!(bytes("128Mi"), Some(134_217_728));
        assert_eq!(bytes("1.5Gi"), Some(1_610_612_736));
        assert_eq!(bytes("1e3"), Some(1000));
        assert_eq!(bytes("100m"), Some(1));
        assert_eq!(millis("250m"), Some(250));
        assert_eq!(millis("0.1"), Some(100));
        assert_eq!(millis("2"), Some(2000));
        assert_eq!(millis("1u"), Some(1));
        for rubbish in ["", "abc", "1Zi", "1e", ".", "9999999999999999999E"] {
            assert_eq!(bytes(rubbish), None, "{rubbish}");
        }
    }
}
