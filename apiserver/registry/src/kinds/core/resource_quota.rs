//! ResourceQuota: how much a namespace may use.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, copy, set};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};
use crate::validation::{IMMUTABLE, quantity, resource_quantity};

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const EXISTS_ONLY: &[&str] = &[
    "BestEffort",
    "NotBestEffort",
    "Terminating",
    "NotTerminating",
    "CrossNamespacePodAffinity",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// The rules of ResourceQuota.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn prepare_for_create(&self, quota: &mut Value, _context: &Context<'_>) {
        set(quota, "status", json!({}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate(&self, quota: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (quota.part("spec"), Path::new("spec"));
        amounts(&mut errors, spec.part("hard"), &path.child("hard"));
        scopes(&mut errors, spec, &path.child("scopes"));
        scope_selector(
            &mut errors,
            spec,
            &path.child("scopeSelector.matchExpressions"),
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let list = |q: &Value| {
            q.items("spec.scopes")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_string)
                .collect::<BTreeSet<_>>()
        };
        if list(new) != list(old) {
            let spec = Path::new("spec");
            errors.push(Error::invalid(
                &spec.child("scopes"),
                new.items("spec.scopes"),
                IMMUTABLE,
            ));
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Request", "What is used of what may be requested."),
            text("Limit", "What is used of the limits."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, quota: &Value, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in quota.entries("status.hard") {
            let used = quota
                .part("status.used")
                .get(name)
                .map_or("0".to_string(), |u| quantity(u).to_string());
            let shown = format!("{name}: {used}/{}", quantity(hard));
            if name.starts_with("limits.") {
                limits.push(shown)
            } else {
                requests.push(shown)
            }
        }
        vec![
            print::name(quota),
            requests.join(", ").into(),
            limits.join(", ").into(),
            print::age(quota, now),
        ]
    }
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn amounts(errors: &mut ErrorList, list: &Value, path: &Path<'_>) {
    for (name, amount) in list.as_object().into_iter().flatten() {
        let at = path.key(name);
        let found = names::qualified_name(name);
        if !found.is_empty() {
            faults(errors, &at, name, found);
        } else if !name.contains('/') && !is_standard(name) {
            if name != "storage" {
                errors.push(Error::invalid(
                    &at,
                    name,
                    "must be a standard resource type or fully qualified",
                ));
            }
            errors.push(Error::invalid(
                &at,
                name,
                "must be a standard resource for quota",
            ));
        }
        resource_quantity(errors, name, amount, &at);
    }
}

fn scope_fits(scope: &str, resource: &str) -> bool {
    if !is_standard(resource) {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn conflicting(scopes: &BTreeSet<&str>) -> usize {
    [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ]
    .iter()
    .filter(|(a, b)| scopes.contains(a) && scopes.contains(b))
    .count()
}

fn scopes(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let list = spec.items("scopes");
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    for scope in &texts {
        if !SCOPES.contains(scope) {
            errors.push(Error::invalid(path, list, "unsupported scope"));
        }
        for _ in spec.entries("hard").filter(|(r, _)| !scope_fits(scope, r)) {
            errors.push(Error::invalid(
                path,
                list,
                "unsupported scope applied to resource",
            ));
        }
    }
    for _ in 0..conflicting(&texts.iter().copied().collect()) {
        errors.push(Error::invalid(path, list, "conflicting scopes"));
    }
}

fn scope_selector(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for requirement in spec.items("scopeSelector.matchExpressions") {
        let (scope, operator, values) = (
            requirement.text("scopeName"),
            requirement.text("operator"),
            requirement.items("values"),
        );
        if !SCOPES.contains(&scope) {
            errors.push(Error::invalid(
                &path.child("scopeName"),
                scope,
                "unsupported scope",
            ));
        }
        for _ in spec.entries("hard").filter(|(r, _)| !scope_fits(scope, r)) {
            errors.push(Error::invalid(
                path,
                spec.part("scopeSelector"),
                "unsupported scope applied to resource",
            ));
        }
        if EXISTS_ONLY.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(Error::invalid(&path.child("operator"), operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(Error::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(Error::invalid(&path.child("values"), values, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        seen.insert(scope);
    }
    for _ in 0..conflicting(&seen) {
        errors.push(Error::invalid(
            path,
            spec.items("scopes"),
            "conflicting scopes",
        ));
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    for side in ["hard", "used"] {
        amounts(
            &mut errors,
            new.part("status").part(side),
            &path.child(side),
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_checked() {
        let quota = json!({"spec": {"hard": {"x": "1", "pods": "0.5"}, "scopes": ["BestEffort", "NotBestEffort"]}});
        let found: Vec<String> = Rules
            .validate(&quota, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec.hard[pods]: Invalid value: \"0.5\": must be an integer",
                "spec.hard[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
                "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"
            ]
        );
    }

    #[test]
    fn use_is_shown() {
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"limits.cpu": "2", "pods": "5"}, "used": {"pods": "1"}}});
        assert_eq!(
            Rules.row(&quota, Timestamp::UNIX_EPOCH)[1..3],
            ["pods: 1/5", "limits.cpu: 0/2"]
        );
    }
}
