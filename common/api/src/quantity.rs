//! Resource quantities: exact parsing, arithmetic and the canonical form that upstream writes.
//!
//! A quantity is a whole number of billionths, which is the finest step upstream keeps. What a
//! quantity means (cores, bytes, counts) is left to the callers.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Significant digits below which upstream uses 64-bit arithmetic, and may keep the text as given.
const FAST_DIGITS: usize = 18;

/// Why a text is no quantity; the sentences are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has not the shape of a quantity.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The digits make no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is not one of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes a quantity is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// n, u, m, none, k, M, G, T, P, E.
    #[default]
    DecimalSi,
    /// Ki, Mi, Gi, Ti, Pi, Ei.
    BinarySi,
    /// e3, E-6.
    DecimalExponent,
}

/// An exact amount, to a billionth.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity {
        nano: 0,
        format: Format::DecimalSi,
    };

    /// Reads `1`, `0.5`, `500m`, `1.5Gi`, `2e3` and so on.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        Ok(parse(text)?.0)
    }

    /// `count` whole units, written with decimal suffixes.
    pub const fn from_value(count: i64) -> Quantity {
        Quantity {
            nano: count as i128 * NANO,
            format: Format::DecimalSi,
        }
    }

    /// `count` whole units (bytes), written with binary suffixes.
    pub const fn from_bytes(count: i64) -> Quantity {
        Quantity {
            nano: count as i128 * NANO,
            format: Format::BinarySi,
        }
    }

    /// `count` thousandths.
    pub const fn from_milli(count: i64) -> Quantity {
        Quantity {
            nano: count as i128 * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// `count` billionths.
    pub const fn from_nano(count: i128) -> Quantity {
        Quantity {
            nano: count,
            format: Format::DecimalSi,
        }
    }

    /// The same amount written in another family of suffixes.
    #[must_use]
    pub const fn with_format(self, format: Format) -> Quantity {
        Quantity { format, ..self }
    }

    /// The family of suffixes it is written in.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        saturate(round_up(self.nano, NANO))
    }

    /// Thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        saturate(round_up(self.nano, NANO / 1000))
    }

    /// Billionths: the exact amount.
    pub const fn nano_value(&self) -> i128 {
        self.nano
    }

    /// The amount as a float, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Rounded up to a thousandth, as upstream's defaulting does with resource amounts.
    #[must_use]
    pub fn rounded_to_milli(self) -> Quantity {
        let step = NANO / 1000;
        Quantity {
            nano: round_up(self.nano, step) * step,
            format: self.format,
        }
    }

    /// Whether it is nothing.
    pub const fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is below nothing.
    pub const fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

/// The text upstream answers for a quantity given as `text`.
///
/// Upstream keeps some texts as they were given although they aren't canonical (`1.250`); so does this.
pub fn canonical(text: &str) -> Result<String, ParseError> {
    let (quantity, kept) = parse(text)?;
    Ok(if kept {
        text.to_owned()
    } else {
        quantity.to_string()
    })
}

fn round_up(amount: i128, step: i128) -> i128 {
    let whole = amount / step;
    match amount % step {
        0 => whole,
        rest if rest > 0 => whole + 1,
        _ => whole - 1,
    }
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

/// The quantity, and whether upstream would keep its text as it is.
fn parse(text: &str) -> Result<(Quantity, bool), ParseError> {
    if text.is_empty() {
        return Err(ParseError::Format);
    }
    let bytes = text.as_bytes();
    let negative = bytes[0] == b'-';
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let unpadded = unsigned.trim_start_matches('0');
    if unpadded.is_empty() {
        return Ok((Quantity::ZERO, text == "0"));
    }
    let (whole, rest) = split_digits(unpadded);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    let (exponent, format, binary) = suffix(rest)?;
    let digits = whole.len() + fraction.len();
    if digits > 60 {
        return Err(ParseError::Numeric);
    }

    // the amount is (whole fraction) * 10^(exponent - places) or * 2^exponent / 10^places, in billionths
    let mut number: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        number = number
            .saturating_mul(10)
            .saturating_add(i128::from(digit - b'0'));
    }
    let places = i32::try_from(fraction.len()).map_err(|_| ParseError::Numeric)?;
    let mut nano = if binary {
        let scaled = number.saturating_mul(1i128 << exponent);
        shift_decimal(scaled, 9 - places)
    } else {
        shift_decimal(number, 9 - places + exponent)
    };
    let mut format = format;
    if format == Format::BinarySi {
        nano = nano.min(i128::from(i64::MAX) * NANO);
        if nano < NANO && nano > 0 {
            format = Format::DecimalSi;
        }
    }
    let scale = exponent - places;
    let kept = if binary {
        // a power of two has about 3 decimal digits for every 10 of its exponent
        let room = 14 - exponent * 3 / 10 - i32::try_from(whole.len()).unwrap_or(i32::MAX);
        fraction.is_empty() && number & 7 != 0 && room >= 0
    } else {
        digits <= FAST_DIGITS
            && scale >= -9
            && scale % 3 == 0
            && !whole.is_empty()
            && !format!("{whole}{fraction}").ends_with("000")
    };
    let nano = if negative { -nano } else { nano };
    Ok((Quantity { nano, format }, kept))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number * 10^shift`, rounded up where digits are lost.
fn shift_decimal(number: i128, shift: i32) -> i128 {
    if number == 0 {
        return 0;
    }
    if shift >= 0 {
        let shift = u32::try_from(shift).unwrap_or(u32::MAX);
        return 10i128
            .checked_pow(shift)
            .and_then(|factor| number.checked_mul(factor))
            .unwrap_or(i128::MAX);
    }
    match 10i128.checked_pow(shift.unsigned_abs()) {
        Some(factor) => round_up(number, factor),
        None => 1,
    }
}

/// The exponent, its family, and whether it is a power of two.
fn suffix(text: &str) -> Result<(i32, Format, bool), ParseError> {
    let known = match text {
        "" => (0, Format::DecimalSi, false),
        "n" => (-9, Format::DecimalSi, false),
        "u" => (-6, Format::DecimalSi, false),
        "m" => (-3, Format::DecimalSi, false),
        "k" => (3, Format::DecimalSi, false),
        "M" => (6, Format::DecimalSi, false),
        "G" => (9, Format::DecimalSi, false),
        "T" => (12, Format::DecimalSi, false),
        "P" => (15, Format::DecimalSi, false),
        "E" => (18, Format::DecimalSi, false),
        "Ki" => (10, Format::BinarySi, true),
        "Mi" => (20, Format::BinarySi, true),
        "Gi" => (30, Format::BinarySi, true),
        "Ti" => (40, Format::BinarySi, true),
        "Pi" => (50, Format::BinarySi, true),
        "Ei" => (60, Format::BinarySi, true),
        _ => {
            if let Some(exponent) = text.strip_prefix(['e', 'E'])
                && let Ok(exponent) = exponent.parse::<i32>()
                && exponent.abs() <= 1000
            {
                return Ok((exponent, Format::DecimalExponent, false));
            }
            let letters = text.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
            let digits = letters.strip_prefix(['-', '+']).unwrap_or(letters);
            return Err(if digits.bytes().all(|b| b.is_ascii_digit()) {
                ParseError::Suffix
            } else {
                ParseError::Format
            });
        }
    };
    Ok(known)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.nano % NANO == 0 {
            let mut number = self.nano / NANO;
            let mut step = 0;
            while number % 1024 == 0 && step < 6 {
                number /= 1024;
                step += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step];
            return write!(f, "{number}{suffix}");
        }
        let mut number = self.nano;
        let mut exponent = -9;
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{number}"),
            Format::DecimalExponent => write!(f, "{number}e{exponent}"),
            _ => {
                let suffix = match exponent {
                    -9 => "n",
                    -6 => "u",
                    -3 => "m",
                    0 => "",
                    3 => "k",
                    6 => "M",
                    9 => "G",
                    12 => "T",
                    15 => "P",
                    _ => "E",
                };
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Quantity::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// The sum keeps the left side's suffixes, unless the left side is nothing.
    fn add(self, other: Quantity) -> Quantity {
        Quantity {
            nano: self.nano.saturating_add(other.nano),
            format: if self.is_zero() {
                other.format
            } else {
                self.format
            },
        }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity {
            nano: self.nano.saturating_neg(),
            format: self.format,
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (given, canonical_text) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0.5", "500m"),
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("100000", "100k"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1536Mi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1e3", "1e3"),
            ("123000000e-3", "123e3"),
            ("0.0000000001", "1n"),
            ("-0.5", "-500m"),
            ("1.250", "1.250"),
            ("100E", "100E"),
            ("-1Gi", "-1Gi"),
        ] {
            assert_eq!(canonical(given).unwrap(), canonical_text, "{given}");
        }
    }

    #[test]
    fn refusals_have_upstreams_sentences() {
        for (given, error) in [
            ("", ParseError::Format),
            ("abc", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("5 Gi", ParseError::Format),
            ("1KiB", ParseError::Format),
            ("10ki", ParseError::Suffix),
            ("1-5", ParseError::Suffix),
        ] {
            assert_eq!(Quantity::parse(given).unwrap_err(), error, "{given}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
        assert_eq!(Quantity::parse("1500m").unwrap().milli_value(), 1500);
        assert_eq!(Quantity::parse("1n").unwrap().milli_value(), 1);
        assert_eq!(Quantity::parse("1Gi").unwrap().value(), 1 << 30);
        assert_eq!(Quantity::parse("1000000E").unwrap().value(), i64::MAX);
    }

    #[test]
    fn arithmetic_is_exact() {
        let mut sum = Quantity::parse("100m").unwrap();
        sum += Quantity::parse("0.2").unwrap();
        assert_eq!(sum.to_string(), "300m");
        sum -= Quantity::parse("1").unwrap();
        assert_eq!(sum.to_string(), "-700m");
        assert!(Quantity::parse("1Ki").unwrap() > Quantity::parse("1k").unwrap());
    }
}
