//! What a call costs while it is evaluated, by its arguments' real sizes. The estimate is left to the module above.

use super::{Cost, REGEX, TRAVERSAL, scaled, selector};
use crate::value::{Special, Value};

/// What a call costs while it is evaluated. `join` is charged by its result.
pub(crate) fn call(
    function: &str,
    overload: &str,
    args: &[Value<'_>],
    result: Option<&Value<'_>>,
) -> u64 {
    let size = |at: usize| args.get(at).map_or(1, Value::size);
    match function {
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => selector(Cost::fixed(size(1))).max,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, traversal)
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => scaled(size(0), TRAVERSAL),
        "ip" if overload == "cidr_ip" => 1,
        "ip" => scaled(size(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => scaled(size(0), 2.0 * TRAVERSAL),
        "join" => scaled(result.map_or(1, Value::size), 2.0 * TRAVERSAL),
        "find" | "findAll" => scaled(size(0) + 1, TRAVERSAL) * scaled(size(1), REGEX),
        "containsIP" | "containsCIDR" => {
            let mut cost = scaled(2 * size(0), TRAVERSAL);
            if function == "containsCIDR" {
                cost += scaled(size(0), TRAVERSAL) + 1;
            }
            if overload.ends_with("_string") {
                cost += scaled(size(1), TRAVERSAL);
            }
            cost
        }
        "validate" => match args.first() {
            Some(Value::Special(Special::Format(format))) => {
                scaled(size(1) + 1, TRAVERSAL) * scaled(format.regex_size, REGEX)
            }
            _ => 1,
        },
        "_==_" if matches!(args.first(), Some(Value::Special(_))) => 1,
        "_==_" | "_!=_" => scaled(size(0).min(size(1)), TRAVERSAL),
        _ => standard_call(overload, size),
    }
}

fn standard_call(overload: &str, size: impl Fn(usize) -> u64) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => scaled(size(0), TRAVERSAL),
        "in_list" => size(1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => scaled(size(0).min(size(1)), TRAVERSAL),
        "add_string" | "add_bytes" => scaled(size(0).saturating_add(size(1)), TRAVERSAL),
        "matches_string" => scaled(size(0) + 1, TRAVERSAL) * scaled(size(1), REGEX),
        "contains_string" => scaled(size(0), TRAVERSAL) * scaled(size(1), TRAVERSAL),
        "list_sets_contains_list" | "list_sets_intersects_list" => {
            size(0).saturating_mul(size(1)) + 1
        }
        "list_sets_equivalent_list" => size(0).saturating_mul(size(1)).saturating_mul(2) + 1,
        _ => 1,
    }
}

/// What it costs to look at all of a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list
            .iter()
            .map(|v| traversal(&v))
            .fold(0, u64::saturating_add),
        Value::Map(map) => map
            .entries()
            .iter()
            .map(|(k, v)| traversal(k).saturating_add(traversal(v)))
            .fold(0, u64::saturating_add),
        _ => 1,
    }
}
