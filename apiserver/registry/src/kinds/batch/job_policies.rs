//! A job's policies: which failures count, when it has succeeded, when pods are replaced.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::job_status::parse_indexes;
use crate::access::{Access, items_mut, set_default_text};
use crate::meta::faults;
use crate::validation::{not_negative, one_of};

const RULES_MAX: usize = 20;
const PATTERNS_MAX: usize = 20;
const CODES_MAX: usize = 255;
const INDEXES_MAX: usize = 64 * 1024;

/// Fills in the policies.
pub(super) fn default(spec: &mut Value) {
    for rule in items_mut(spec, "podFailurePolicy.rules") {
        for pattern in items_mut(rule, "onPodConditions") {
            set_default_text(pattern, "status", "True");
        }
    }
}

/// Everything wrong with the policies.
pub(super) fn validate(errors: &mut ErrorList, spec: &Value, indexed: bool, path: &Path<'_>) {
    if spec.has("podFailurePolicy") {
        let at = path.child("podFailurePolicy.rules");
        let rules = spec.items("podFailurePolicy.rules");
        if rules.len() > RULES_MAX {
            errors.push(Error::too_many(&at, rules.len(), RULES_MAX));
        }
        for (i, rule) in rules.iter().enumerate() {
            failure_rule(errors, spec, rule, &at.index(i));
        }
    }
    if spec.has("successPolicy") && indexed {
        success(errors, spec, &path.child("successPolicy.rules"));
    }
    if spec.has("podReplacementPolicy") {
        let known: &[&str] = if spec.has("podFailurePolicy") {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        one_of(
            errors,
            spec.text("podReplacementPolicy"),
            known,
            &path.child("podReplacementPolicy"),
        );
    }
}

fn failure_rule(errors: &mut ErrorList, spec: &Value, rule: &Value, path: &Path<'_>) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let (at, action) = (path.child("action"), rule.text("action"));
    match action {
        "" => errors.push(Error::required(
            &at,
            "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        )),
        "FailIndex" if !spec.has("backoffLimitPerIndex") => {
            errors.push(Error::invalid(
                &at,
                action,
                "requires the backoffLimitPerIndex to be set",
            ));
        }
        other => one_of(errors, other, ACTIONS, &at),
    }
    let (codes, conditions) = (rule.has("onExitCodes"), !rule.is_blank("onPodConditions"));
    if codes {
        exit_codes(
            errors,
            spec,
            rule.part("onExitCodes"),
            &path.child("onExitCodes"),
        );
    }
    if conditions {
        pod_conditions(
            errors,
            rule.items("onPodConditions"),
            &path.child("onPodConditions"),
        );
    }
    let mut both = |detail: &str| {
        let mut error = Error::invalid(path, "", detail);
        error.bad_value = None;
        errors.push(error);
    };
    match (codes, conditions) {
        (true, true) => both("specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, false) => both("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn exit_codes(errors: &mut ErrorList, spec: &Value, rule: &Value, path: &Path<'_>) {
    let operator = rule.text("operator");
    if operator.is_empty() {
        errors.push(Error::required(
            &path.child("operator"),
            "valid values: [\"In\" \"NotIn\"]",
        ));
    } else {
        one_of(errors, operator, &["In", "NotIn"], &path.child("operator"));
    }
    let name = rule.text("containerName");
    let known = ["containers", "initContainers"].iter().any(|l| {
        spec.part("template.spec")
            .items(l)
            .iter()
            .any(|c| c.text("name") == name)
    });
    if rule.has("containerName") && !known {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(Error::invalid(&path.child("containerName"), name, detail));
    }
    let (values, at) = (rule.items("values"), path.child("values"));
    if values.is_empty() {
        errors.push(Error::invalid(
            &at,
            values,
            "at least one value is required",
        ));
    } else if values.len() > CODES_MAX {
        errors.push(Error::too_many(&at, values.len(), CODES_MAX));
    }
    let codes: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = BTreeSet::new();
    for (i, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.push(Error::invalid(
                &at.index(i),
                code,
                "must not be 0 for the In operator",
            ));
        }
        if !seen.insert(code) {
            errors.push(Error::duplicate(&at.index(i), code));
        }
    }
    if !codes.is_sorted() {
        errors.push(Error::invalid(&at, values, "must be ordered"));
    }
}

fn pod_conditions(errors: &mut ErrorList, patterns: &[Value], path: &Path<'_>) {
    if patterns.len() > PATTERNS_MAX {
        errors.push(Error::too_many(path, patterns.len(), PATTERNS_MAX));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (at, kind, status) = (path.index(i), pattern.text("type"), pattern.text("status"));
        faults(errors, &at.child("type"), kind, names::qualified_name(kind));
        if status.is_empty() {
            errors.push(Error::required(
                &at.child("status"),
                "valid values: [\"False\" \"True\" \"Unknown\"]",
            ));
        } else {
            one_of(
                errors,
                status,
                &["False", "True", "Unknown"],
                &at.child("status"),
            );
        }
    }
}

fn success(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let (rules, completions) = (
        spec.items("successPolicy.rules"),
        spec.number("completions"),
    );
    if rules.is_empty() {
        errors.push(Error::required(
            path,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
            errors.push(Error::required(
                &at,
                "at least one of succeededCount or succeededIndexes must be specified",
            ));
        }
        let mut total = None;
        if rule.has("succeededIndexes") {
            let (here, text) = (at.child("succeededIndexes"), rule.text("succeededIndexes"));
            if text.len() > INDEXES_MAX {
                errors.push(Error::too_long(&here, INDEXES_MAX));
            }
            match parse_indexes(text, completions) {
                Ok(ranges) => total = Some(ranges.iter().map(|(a, b)| b - a + 1).sum::<i64>()),
                Err(problem) => errors.push(Error::invalid(
                    &here,
                    text,
                    format!("error parsing succeededIndexes: {problem}"),
                )),
            }
        }
        if let Some(count) = rule.int("succeededCount") {
            let here = at.child("succeededCount");
            not_negative(errors, rule, "succeededCount", &at);
            if count > completions {
                let detail = format!(
                    "must be less than or equal to {completions} (the number of specified completions)"
                );
                errors.push(Error::invalid(&here, count, detail));
            }
            if let Some(total) = total.filter(|t| count > *t) {
                let detail = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                );
                errors.push(Error::invalid(&here, count, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failure_rules_are_checked() {
        let mut errors = ErrorList::new();
        let spec = json!({"podFailurePolicy": {"rules": [{"action": "FailJob"}, {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1, 0]}}]}});
        validate(&mut errors, &spec, false, &Path::new("spec"));
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "spec.podFailurePolicy.rules[1].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [1,0]: must be ordered",
            ]
        );
    }
}
