//! Validation of where a pod may run: affinity, spreading, selectors; and of its names in the DNS.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::Access;
use crate::meta::faults;
use crate::validation::{ip, label_selector, one_of};

/// `affinity`.
pub(super) fn affinity(errors: &mut ErrorList, affinity: &Value, path: &Path<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let (node, at) = (affinity.part("nodeAffinity"), path.child("nodeAffinity"));
    if node.has(REQUIRED) {
        node_selector(errors, node.part(REQUIRED), &at.child(REQUIRED));
    }
    let list = at.child(PREFERRED);
    for (i, term) in node.items(PREFERRED).iter().enumerate() {
        let here = list.index(i);
        weight(errors, term, &here);
        node_term(
            errors,
            term.part("preference"),
            false,
            &here.child("preference"),
        );
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (affinity.part(kind), path.child(kind));
        let list = at.child(REQUIRED);
        for (i, term) in pods.items(REQUIRED).iter().enumerate() {
            pod_term(errors, term, &list.index(i));
        }
        let list = at.child(PREFERRED);
        for (i, term) in pods.items(PREFERRED).iter().enumerate() {
            let here = list.index(i);
            weight(errors, term, &here);
            pod_term(
                errors,
                term.part("podAffinityTerm"),
                &here.child("podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut ErrorList, term: &Value, path: &Path<'_>) {
    let weight = term.number("weight");
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(
            &path.child("weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// A required node selector.
pub fn node_selector(errors: &mut ErrorList, selector: &Value, path: &Path<'_>) {
    let list = path.child("nodeSelectorTerms");
    if selector.is_blank("nodeSelectorTerms") {
        errors.push(Error::required(
            &list,
            "must have at least one node selector term",
        ));
    }
    for (i, term) in selector.items("nodeSelectorTerms").iter().enumerate() {
        node_term(errors, term, true, &list.index(i));
    }
}

fn node_term(errors: &mut ErrorList, term: &Value, check_values: bool, path: &Path<'_>) {
    let list = path.child("matchExpressions");
    for (i, requirement) in term.items("matchExpressions").iter().enumerate() {
        node_requirement(errors, requirement, check_values, &list.index(i));
    }
    let list = path.child("matchFields");
    for (i, requirement) in term.items("matchFields").iter().enumerate() {
        let (at, operator, values) = (
            list.index(i),
            requirement.text("operator"),
            requirement.items("values"),
        );
        if !matches!(operator, "In" | "NotIn") {
            errors.push(Error::invalid(
                &at.child("operator"),
                operator,
                "not a valid selector operator",
            ));
        } else if values.len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&at.child("values"), detail));
        }
        let key = requirement.text("key");
        if key != "metadata.name" {
            errors.push(Error::invalid(
                &at.child("key"),
                key,
                "not a valid field selector key",
            ));
            continue;
        }
        let list = at.child("values");
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            faults(
                errors,
                &list.index(j),
                value,
                names::dns1123_subdomain(value),
            );
        }
    }
}

fn node_requirement(
    errors: &mut ErrorList,
    requirement: &Value,
    check_values: bool,
    path: &Path<'_>,
) {
    let (operator, values) = (requirement.text("operator"), requirement.items("values"));
    let at = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(
                &at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(Error::forbidden(
                &at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(Error::required(
                &at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = requirement.text("key");
    faults(errors, &path.child("key"), key, names::qualified_name(key));
    if check_values {
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            faults(errors, &at.index(i), value, names::label_value(value));
        }
    }
}

fn pod_term(errors: &mut ErrorList, term: &Value, path: &Path<'_>) {
    for field in ["labelSelector", "namespaceSelector"] {
        if term.has(field) {
            label_selector(errors, term.part(field), &path.child(field));
        }
    }
    for name in term.items("namespaces").iter().filter_map(Value::as_str) {
        faults(
            errors,
            &path.child("namespace"),
            name,
            names::dns1123_label(name),
        );
    }
    label_keys(errors, term, path);
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.push(Error::required(
            &path.child("topologyKey"),
            "can not be empty",
        ));
    }
    faults(
        errors,
        &path.child("topologyKey"),
        key,
        names::qualified_name(key),
    );
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a selector. The strategy has merged them into it by now, the last of
/// its requirements, so that only keys that were there before are refused.
fn label_keys(errors: &mut ErrorList, term: &Value, path: &Path<'_>) {
    let mut all = BTreeSet::new();
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let list = path.child(field);
        let keys = term.items(field);
        if !keys.is_empty() && !term.has("labelSelector") {
            errors.push(Error::forbidden(
                &list,
                "must not be specified when labelSelector is not set",
            ));
        }
        for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            faults(errors, &list.index(i), key, names::qualified_name(key));
            if !all.insert(key) {
                errors.push(Error::invalid(
                    &list.index(i),
                    key,
                    "exists in both matchLabelKeys and mismatchLabelKeys",
                ));
            }
            let in_labels = term.part("labelSelector.matchLabels").get(key).is_some();
            let uses = term
                .items("labelSelector.matchExpressions")
                .iter()
                .filter(|e| e.text("key") == key)
                .count();
            if in_labels || uses > 1 {
                errors.push(Error::invalid(
                    &list.index(i),
                    key,
                    "exists in both matchLabelKeys and labelSelector",
                ));
            }
        }
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    for (i, constraint) in list.iter().enumerate() {
        let at = path.index(i);
        let (key, action) = (
            constraint.text("topologyKey"),
            constraint.text("whenUnsatisfiable"),
        );
        if constraint.number("maxSkew") <= 0 {
            errors.push(Error::invalid(
                &at.child("maxSkew"),
                constraint.number("maxSkew"),
                "must be greater than zero",
            ));
        }
        if key.is_empty() {
            errors.push(Error::required(
                &at.child("topologyKey"),
                "can not be empty",
            ));
        }
        one_of(
            errors,
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
            &at.child("whenUnsatisfiable"),
        );
        let repeated =
            |c: &Value| c.text("topologyKey") == key && c.text("whenUnsatisfiable") == action;
        if list[i + 1..].iter().any(repeated) {
            errors.push(Error::duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            ));
        }
        if let Some(domains) = constraint.int("minDomains") {
            let here = at.child("minDomains");
            if domains <= 0 {
                errors.push(Error::invalid(&here, domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                errors.push(Error::invalid(&here, domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if constraint.has(field) {
                one_of(
                    errors,
                    constraint.text(field),
                    &["Honor", "Ignore"],
                    &at.child(field),
                );
            }
        }
        label_keys(errors, constraint, &at);
        if constraint.has("labelSelector") {
            label_selector(
                errors,
                constraint.part("labelSelector"),
                &at.child("labelSelector"),
            );
        }
    }
}

/// `dnsConfig`.
pub(super) fn dns(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    const SERVERS: usize = 3;
    const SEARCHES: usize = 32;
    const SEARCH_LENGTH: usize = 2048;
    let config = spec.part("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            errors.push(Error::required(
                path,
                "must provide `dnsConfig` when `dnsPolicy` is None",
            ));
            return;
        }
        if config.is_blank("nameservers") {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(&path.child("nameservers"), detail));
            return;
        }
    }
    let (servers, at) = (config.items("nameservers"), path.child("nameservers"));
    if servers.len() > SERVERS {
        errors.push(Error::invalid(
            &at,
            servers,
            format!("must not have more than {SERVERS} nameservers"),
        ));
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        ip(errors, server, &at.index(i));
    }
    let (searches, at) = (config.items("searches"), path.child("searches"));
    if searches.len() > SEARCHES {
        errors.push(Error::invalid(
            &at,
            searches,
            format!("must not have more than {SEARCHES} search paths"),
        ));
    }
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > SEARCH_LENGTH {
        let detail = format!(
            "must not have more than {SEARCH_LENGTH} characters (including spaces) in the search list"
        );
        errors.push(Error::invalid(&at, searches, detail));
    }
    for (i, search) in texts.into_iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        faults(
            errors,
            &at.index(i),
            search,
            names::dns1123_subdomain_with_underscore(search),
        );
    }
    let at = path.child("options");
    for (i, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.push(Error::required(&at.index(i), "must not be empty"));
        }
    }
}

/// `hostAliases`.
pub(super) fn host_aliases(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    for (i, alias) in list.iter().enumerate() {
        let at = path.index(i);
        ip(errors, alias.text("ip"), &at.child("ip"));
        let names_path = at.child("hostnames");
        for (j, name) in alias
            .items("hostnames")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            faults(
                errors,
                &names_path.index(j),
                name,
                names::dns1123_subdomain(name),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn affinity_is_checked() {
        let mut errors = ErrorList::new();
        let bad = json!({
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt"}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": {"topologyKey": "k"}}]}
        });
        affinity(&mut errors, &bad, &Path::new("a"));
        assert_eq!(
            texts(&errors),
            [
                "a.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
                "a.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100"
            ]
        );
    }

    #[test]
    fn spreading_is_checked() {
        let mut errors = ErrorList::new();
        let list = [
            json!({"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1}),
            json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}),
        ];
        spread(&mut errors, &list, &Path::new("t"));
        assert_eq!(
            texts(&errors),
            [
                "t[0].maxSkew: Invalid value: 0: must be greater than zero",
                "t[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, ScheduleAnyway}\"",
                "t[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"
            ]
        );
    }

    #[test]
    fn dns_is_checked() {
        let mut errors = ErrorList::new();
        dns(&mut errors, &json!({"dnsPolicy": "None"}), &Path::new("d"));
        assert_eq!(
            texts(&errors),
            ["d: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
        );
    }
}
