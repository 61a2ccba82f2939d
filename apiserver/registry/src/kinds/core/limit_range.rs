//! LimitRange: what a pod, container or claim of a namespace may ask for, and asks for by default.

use std::collections::{BTreeMap, BTreeSet};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::{Value, json};

use crate::access::{Access, items_mut, slot};
use crate::meta::faults;
use crate::pod::resources::may_overcommit;
use crate::strategy::{Context, Strategy};
use crate::validation::quantity;

const SIDES: [&str; 5] = [
    "max",
    "min",
    "default",
    "defaultRequest",
    "maxLimitRequestRatio",
];

/// The rules of LimitRange.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, range: &mut Value) {
        for limit in items_mut(range, "spec.limits") {
            if limit.text("type") == "Container" {
                fill(limit, "max", "default");
                fill(limit, "default", "defaultRequest");
                fill(limit, "min", "defaultRequest");
            }
        }
    }

    fn validate(&self, range: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        let list = spec.child("limits");
        let mut types = BTreeSet::new();
        for (i, limit) in range.items("spec.limits").iter().enumerate() {
            let (at, kind) = (list.index(i), limit.text("type"));
            let found = names::qualified_name(kind);
            if !found.is_empty() {
                faults(&mut errors, &at.child("type"), kind, found);
            } else if !kind.contains('/')
                && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
            {
                errors.push(Error::invalid(
                    &at.child("type"),
                    kind,
                    "must be a standard limit type or fully qualified",
                ));
            }
            if !types.insert(kind) {
                errors.push(Error::duplicate(&at.child("type"), kind));
            }
            item(&mut errors, limit, &at);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// What one side says and the other does not is taken over.
fn fill(limit: &mut Value, from: &str, to: &str) {
    let Some(source) = limit.part(from).as_object().cloned() else {
        return;
    };
    let target = slot(limit, to);
    if !target.is_object() {
        *target = json!({});
    }
    for (name, amount) in source {
        if target.get(&name).is_none() {
            target[name] = amount;
        }
    }
}

fn resource_name(errors: &mut ErrorList, kind: &str, name: &str, path: &Path<'_>) {
    let found = names::qualified_name(name);
    if !found.is_empty() {
        faults(errors, path, name, found);
        return;
    }
    if name.contains('/') {
        return;
    }
    let container =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if matches!(kind, "Pod" | "Container") {
        if !container {
            errors.push(Error::invalid(
                path,
                name,
                "must be a standard resource for containers",
            ));
        }
    } else if !container
        && !matches!(
            name,
            "storage" | "pods" | "services" | "secrets" | "configmaps" | "persistentvolumeclaims"
        )
    {
        errors.push(Error::invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        ));
    }
}

fn item(errors: &mut ErrorList, limit: &Value, path: &Path<'_>) {
    let kind = limit.text("type");
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut sides: BTreeMap<&str, BTreeMap<&str, Quantity>> = BTreeMap::new();
    for side in SIDES {
        let at = path.child(side);
        if kind == "Pod" && side.starts_with("default") {
            if !limit.is_blank(side) {
                errors.push(Error::forbidden(
                    &at,
                    "may not be specified when `type` is 'Pod'",
                ));
            }
            continue;
        }
        for (name, amount) in limit.entries(side) {
            resource_name(errors, kind, name, &at.key(name));
            names.insert(name);
            sides
                .entry(side)
                .or_default()
                .insert(name, quantity(amount));
        }
    }
    let has_storage = |side: &str| limit.part(side).get("storage").is_some();
    if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(&path.child("limits"), detail));
    }
    for name in names {
        compare(
            errors,
            name,
            |side| sides.get(side).and_then(|s| s.get(name)).copied(),
            path,
        );
    }
}

fn compare(
    errors: &mut ErrorList,
    name: &str,
    get: impl Fn(&str) -> Option<Quantity>,
    path: &Path<'_>,
) {
    let mut wrong = |side: &str, shown: Quantity, detail: String| {
        let at = path.child(side);
        errors.push(Error::invalid(&at.key(name), shown.to_string(), detail));
    };
    let (min, max, default, request, ratio) = (
        get("min"),
        get("max"),
        get("default"),
        get("defaultRequest"),
        get("maxLimitRequestRatio"),
    );
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        wrong(
            "min",
            min,
            format!("min value {min} is greater than max value {max}"),
        );
    }
    if let Some(request) = request {
        if let Some(min) = min.filter(|m| *m > request) {
            wrong(
                "defaultRequest",
                request,
                format!("min value {min} is greater than default request value {request}"),
            );
        }
        if let Some(max) = max.filter(|m| request > *m) {
            wrong(
                "defaultRequest",
                request,
                format!("default request value {request} is greater than max value {max}"),
            );
        }
        if let Some(default) = default.filter(|d| request > *d) {
            wrong(
                "defaultRequest",
                request,
                format!(
                    "default request value {request} is greater than default limit value {default}"
                ),
            );
        }
    }
    if let Some(default) = default {
        if let Some(min) = min.filter(|m| *m > default) {
            wrong(
                "default",
                min,
                format!("min value {min} is greater than default value {default}"),
            );
        }
        if let Some(max) = max.filter(|m| default > *m) {
            wrong(
                "default",
                max,
                format!("default value {default} is greater than max value {max}"),
            );
        }
    }
    if let Some(ratio) = ratio {
        if ratio.as_f64() < 1.0 {
            wrong(
                "maxLimitRequestRatio",
                ratio,
                format!("ratio {ratio} is less than 1"),
            );
        }
        if let (Some(min), Some(max)) = (min, max) {
            let bound = max.as_f64() / min.as_f64();
            if ratio.as_f64() > bound {
                wrong(
                    "maxLimitRequestRatio",
                    ratio,
                    format!("ratio {ratio} is greater than max/min = {bound:.6}"),
                );
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && !may_overcommit(name)
        && default != request
    {
        wrong(
            "defaultRequest",
            request,
            format!(
                "default value {default} must equal to defaultRequest value {request} in {name}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn containers_get_defaults() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        Rules.default(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(
            (&limit["default"], &limit["defaultRequest"]),
            (&json!({"cpu": "2"}), &json!({"cpu": "2", "memory": "1Mi"}))
        );
    }

    #[test]
    fn bounds_fit_together() {
        let range = json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "default": {"cpu": "1"}}]}});
        let found: Vec<String> = Rules
            .validate(&range, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
            ]
        );
    }
}
