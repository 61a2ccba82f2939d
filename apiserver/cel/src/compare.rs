//! Equality and order of values.

use std::cell::Cell;
use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::decl::{DeclKind, Listing};
use crate::limits::MAX_WORK;
use crate::value::{List, Map, Special, Value};

/// Counts work that upstream's costs don't see, so that it is bounded too.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    done: Cell<u64>,
}

impl Meter {
    /// Notes some work; false once there was too much.
    pub fn work(&self, units: usize) -> bool {
        let done = self.done.get().saturating_add(units as u64);
        self.done.set(done);
        done <= MAX_WORK
    }

    pub fn exhausted(&self) -> bool {
        self.done.get() > MAX_WORK
    }
}

/// Whether two values are the same; values of different types are not, but for numbers. The meter must be asked afterwards
/// whether the answer is one.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>, meter: &Meter) -> bool {
    if !meter.work(1) {
        return false;
    }
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b, meter),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::List(a), Value::List(b)) => lists(a, b, meter),
        (Value::Map(a), Value::Map(b)) => maps(a, b, meter),
        (Value::Special(a), Value::Special(b)) => specials(a, b),
        (a, b) => numbers(a, b) == Some(Ordering::Equal),
    }
}

fn lists(a: &List<'_>, b: &List<'_>, meter: &Meter) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if let List::Json(_, decl) = a
        && let DeclKind::List(_, listing) = &decl.kind
    {
        match listing {
            Listing::Atomic => {}
            Listing::Set => {
                return a
                    .iter()
                    .all(|one| b.iter().any(|other| equal(&one, &other, meter)));
            }
            Listing::Map(keys) => {
                return a.iter().all(|one| {
                    b.iter()
                        .any(|other| same_keys(&one, &other, keys) && equal(&one, &other, meter))
                });
            }
        }
    }
    a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b, meter))
}

/// Whether two elements of a list of maps are the same one.
pub(crate) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    let key = |value: &Value<'_>, name: &str| -> Option<Json> {
        match value {
            Value::Map(Map::Json(map, _)) => map.get(name).cloned(),
            Value::Map(map) => map.get_text(name)?.to_json().ok(),
            _ => None,
        }
    };
    keys.iter().all(|name| key(a, name) == key(b, name))
}

fn maps(a: &Map<'_>, b: &Map<'_>, meter: &Meter) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if let (Map::Owned(_, Some(a)), Map::Owned(_, b)) = (a, b)
        && b.as_ref() != Some(a)
    {
        return false;
    }
    a.entries().iter().all(|(key, value)| {
        let other = match (b, key) {
            // keys of JSON are properties here, not identifiers
            (Map::Json(..), Value::String(name)) => b
                .entries()
                .into_iter()
                .find(|(k, _)| k.as_str() == Some(&**name))
                .map(|(_, value)| value)
                .filter(|_| meter.work(b.len())),
            _ => b.get(key),
        };
        other.is_some_and(|other| equal(value, &other, meter))
    })
}

fn specials(a: &Special, b: &Special) -> bool {
    match (a, b) {
        (Special::Ip(a), Special::Ip(b)) => a == b,
        (Special::Cidr(a, p), Special::Cidr(b, q)) => a == b && p == q,
        (Special::Url(a), Special::Url(b)) => a.text == b.text,
        (Special::Quantity(a), Special::Quantity(b)) => a.compare(b) == Ordering::Equal,
        (Special::Semver(a), Special::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Special::Format(a), Special::Format(b)) => a.name == b.name,
        (Special::Authz(a), Special::Authz(b)) => std::sync::Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// The order of two numbers, of whichever types; `None` for others and for NaN.
pub(crate) fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => integer_and_float(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => integer_and_float(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => {
            integer_and_float(i128::from(*b), *a).map(Ordering::reverse)
        }
        (Value::Double(a), Value::Uint(b)) => {
            integer_and_float(i128::from(*b), *a).map(Ordering::reverse)
        }
        _ => None,
    }
}

fn integer_and_float(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= 2e19 {
        return Some(Ordering::Less);
    }
    if float <= -2e19 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(integer.cmp(&(whole as i128)).then_with(|| {
        0.0_f64
            .partial_cmp(&float.fract())
            .unwrap_or(Ordering::Equal)
    }))
}

/// The order of two values; `None` where they have none.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (a, b) => numbers(a, b),
    }
}
