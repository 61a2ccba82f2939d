//! Pieces of validation that several kinds share: selectors, addresses, quantities, tolerations, numbers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, Faults};
use keelson_api::quantity::Quantity;
use serde_json::Value;

use crate::access::Access;
use crate::meta::{faults, labels};

/// What upstream says of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";
/// What upstream says of a number below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";
/// The protocols of ports, sorted.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What is wrong with a `LabelSelector`.
pub fn label_selector(errors: &mut ErrorList, selector: &Value, path: &Path<'_>) {
    labels(
        errors,
        selector.part("matchLabels"),
        &path.child("matchLabels"),
    );
    let list = path.child("matchExpressions");
    for (i, requirement) in selector.items("matchExpressions").iter().enumerate() {
        label_requirement(errors, requirement, &list.index(i));
    }
}

/// What is wrong with one requirement of a `LabelSelector`.
pub fn label_requirement(errors: &mut ErrorList, requirement: &Value, path: &Path<'_>) {
    let operator = requirement.text("operator");
    let values = requirement.items("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = requirement.text("key");
    faults(errors, &path.child("key"), key, names::qualified_name(key));
    let list = path.child("values");
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        faults(errors, &list.index(i), value, names::label_value(value));
    }
}

/// Whether a `LabelSelector` selects everything.
#[must_use]
pub fn selects_everything(selector: &Value) -> bool {
    selector.is_blank("matchLabels") && selector.is_blank("matchExpressions")
}

/// An error if a number is below zero.
pub fn not_negative(errors: &mut ErrorList, object: &Value, key: &str, path: &Path<'_>) {
    if let Some(number) = object.int(key).filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child(key), number, NEGATIVE));
    }
}

/// An error if a text is none of those allowed; `required` says what an empty one is.
pub fn one_of(errors: &mut ErrorList, value: &str, allowed: &[&str], path: &Path<'_>) {
    if !allowed.contains(&value) {
        errors.push(Error::not_supported(path, value, allowed));
    }
}

/// A required text out of those allowed.
pub fn required_one_of(errors: &mut ErrorList, value: &str, allowed: &[&str], path: &Path<'_>) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        one_of(errors, value, allowed, path);
    }
}

/// A required text.
pub fn required(errors: &mut ErrorList, object: &Value, key: &str, path: &Path<'_>) {
    if object.text(key).is_empty() {
        errors.push(Error::required(&path.child(key), ""));
    }
}

/// A text that must pass a check where it is given.
pub fn checked(
    errors: &mut ErrorList,
    object: &Value,
    key: &str,
    path: &Path<'_>,
    check: fn(&str) -> Faults,
) {
    let value = object.text(key);
    if !value.is_empty() {
        faults(errors, &path.child(key), value, check(value));
    }
}

/// An IP address as fields of old APIs take it. Leading zeroes, which upstream once took, are refused here too.
pub fn ip(errors: &mut ErrorList, value: &str, path: &Path<'_>) -> Option<IpAddr> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.push(Error::invalid(
            path,
            value,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    parsed
}

/// An address range.
pub fn cidr(errors: &mut ErrorList, value: &str, path: &Path<'_>) -> Option<IpNet> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.push(Error::invalid(
            path,
            value,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ));
    }
    parsed
}

/// An address that can be reached through a Service.
pub fn endpoint_ip(errors: &mut ErrorList, value: &str, path: &Path<'_>) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.push(Error::invalid(path, value, "must be a valid IP address"));
        return;
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if address.is_unspecified() {
        errors.push(Error::invalid(
            path,
            value,
            format!("may not be unspecified ({value})"),
        ));
    }
    if address.is_loopback() {
        errors.push(Error::invalid(
            path,
            value,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ));
    }
    if link_local {
        errors.push(Error::invalid(
            path,
            value,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ));
    }
    if link_local_multicast {
        errors.push(Error::invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ));
    }
}

/// A port's protocol.
pub fn protocol(errors: &mut ErrorList, value: &str, path: &Path<'_>) {
    required_one_of(errors, value, PROTOCOLS, path);
}

/// A quantity in an object; what is none was refused when it was decoded.
#[must_use]
pub fn quantity(value: &Value) -> Quantity {
    match value {
        Value::String(text) => Quantity::parse(text).unwrap_or_default(),
        Value::Number(number) => Quantity::parse(&number.to_string()).unwrap_or_default(),
        _ => Quantity::default(),
    }
}

/// Whether a resource is one of Kubernetes' own, without a domain or in `kubernetes.io`.
#[must_use]
pub fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is extended: in a domain of its own.
#[must_use]
pub fn is_extended_resource(name: &str) -> bool {
    !is_native_resource(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a resource comes in whole units only.
#[must_use]
pub fn is_integer_resource(name: &str) -> bool {
    is_extended_resource(name)
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

/// A resource's amount: not negative, and whole where the resource is.
pub fn resource_quantity(errors: &mut ErrorList, name: &str, value: &Value, path: &Path<'_>) {
    let amount = quantity(value);
    if amount < Quantity::ZERO {
        errors.push(Error::invalid(path, amount.to_string(), NEGATIVE));
    }
    if is_integer_resource(name) && amount.milli_value() % 1000 != 0 {
        errors.push(Error::invalid(path, value, "must be an integer"));
    }
}

/// Tolerations of taints.
pub fn tolerations(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    for (i, toleration) in list.iter().enumerate() {
        let at = path.index(i);
        let (key, operator, effect) = (
            toleration.text("key"),
            toleration.text("operator"),
            toleration.text("effect"),
        );
        if !key.is_empty() {
            faults(errors, &at.child("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&at.child("operator"), operator, detail));
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.push(Error::invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        let value = toleration.text("value");
        match operator {
            "Equal" | "" => {
                let found = names::label_value(value);
                if !found.is_empty() {
                    errors.push(Error::invalid(
                        &at.child("operator"),
                        value,
                        found.join(";"),
                    ));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.push(Error::invalid(&at.child("operator"), value, detail));
                }
            }
            other => errors.push(Error::not_supported(
                &at.child("operator"),
                other,
                &["Equal", "Exists", "Lt", "Gt"],
            )),
        }
        if !effect.is_empty() {
            taint_effect(errors, effect, &at.child("effect"));
        }
    }
}

/// The effect of a taint.
pub fn taint_effect(errors: &mut ErrorList, effect: &str, path: &Path<'_>) {
    required_one_of(
        errors,
        effect,
        &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        path,
    );
}

/// Conditions of the common form: types once, known statuses, times and reasons.
pub fn conditions(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    const REASON_WORDS: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    const REASON_FORMAT: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
    let mut seen = BTreeSet::new();
    for (i, condition) in list.iter().enumerate() {
        let (at, kind) = (path.index(i), condition.text("type"));
        if !seen.insert(kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
        faults(errors, &at.child("type"), kind, names::qualified_name(kind));
        one_of(
            errors,
            condition.text("status"),
            &["False", "True", "Unknown"],
            &at.child("status"),
        );
        if condition.number("observedGeneration") < 0 {
            let value = condition.number("observedGeneration");
            errors.push(Error::invalid(
                &at.child("observedGeneration"),
                value,
                "must be greater than or equal to zero",
            ));
        }
        if !condition.has("lastTransitionTime") {
            errors.push(Error::required(&at.child("lastTransitionTime"), ""));
        }
        let (reason, here) = (condition.text("reason"), at.child("reason"));
        if reason.is_empty() {
            errors.push(Error::required(&here, ""));
        } else {
            let b = reason.as_bytes();
            let good = b[0].is_ascii_alphabetic()
                && b.iter()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':'))
                && !matches!(b[b.len() - 1], b',' | b':');
            if !good {
                let examples = [
                    "my_name",
                    "MY_NAME",
                    "MyName",
                    "ReasonA,ReasonB",
                    "ReasonA:ReasonB",
                ];
                errors.push(Error::invalid(
                    &here,
                    reason,
                    names::regex_error(REASON_WORDS, REASON_FORMAT, &examples),
                ));
            }
            if reason.len() > 1024 {
                errors.push(Error::too_long(&here, 1024));
            }
        }
        if condition.text("message").len() > 32 * 1024 {
            errors.push(Error::too_long(&at.child("message"), 32 * 1024));
        }
    }
}

/// A number that is not negative, or a percentage.
pub fn int_or_percent(errors: &mut ErrorList, value: &Value, path: &Path<'_>) {
    match value {
        Value::String(text) => faults(errors, path, text, names::percent(text)),
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(Error::invalid(path, value, NEGATIVE))
        }
        _ => {}
    }
}

/// A percentage of more than a hundred where that makes no sense.
pub fn at_most_whole(errors: &mut ErrorList, value: &Value, path: &Path<'_>) {
    if percent_of(value).is_some_and(|p| p > 100) {
        errors.push(Error::invalid(path, value, "must not be greater than 100%"));
    }
}

/// The percentage that a value is.
#[must_use]
pub fn percent_of(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// An error for each item of a list that has come before.
pub fn unique<'v>(errors: &mut ErrorList, values: impl Iterator<Item = &'v str>, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, value) in values.enumerate() {
        if !seen.insert(value) {
            errors.push(Error::duplicate(&path.index(i), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors_are_checked() {
        let path = Path::new("spec");
        let at = path.child("selector");
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "", "operator": "X"}]});
        let found = of(|e| label_selector(e, &bad, &at));
        assert_eq!(
            found[0],
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        );
        assert_eq!(
            found[1],
            "spec.selector.matchExpressions[1].operator: Invalid value: \"X\": not a valid selector operator"
        );
        assert_eq!(
            found[2],
            "spec.selector.matchExpressions[1].key: Invalid value: \"\": name part must be non-empty"
        );
    }

    #[test]
    fn endpoint_addresses_must_be_reachable() {
        let path = Path::new("ip");
        assert!(of(|e| endpoint_ip(e, "10.0.0.1", &path)).is_empty());
        for bad in [
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "x",
        ] {
            assert_eq!(of(|e| endpoint_ip(e, bad, &path)).len(), 1, "{bad}");
        }
    }

    #[test]
    fn tolerations_are_checked() {
        let path = Path::new("t");
        let bad = [
            json!({"operator": "Equal"}),
            json!({"key": "a", "operator": "Exists", "value": "x"}),
            json!({"key": "a", "effect": "No"}),
        ];
        let found = of(|e| tolerations(e, &bad, &path));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[2]
                .ends_with("supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"")
        );
    }
}
