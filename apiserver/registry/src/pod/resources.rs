//! Validation of what containers and pods request and are limited to.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::Access;
use crate::meta::faults;
use crate::validation::{is_extended_resource, is_native_resource, quantity, resource_quantity};

/// Whether more of a resource may be promised than there is.
#[must_use]
pub fn may_overcommit(name: &str) -> bool {
    is_native_resource(name) && !name.starts_with("hugepages-")
}

/// The name of a resource of containers.
pub fn container_resource_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    let found = names::qualified_name(name);
    if !found.is_empty() {
        faults(errors, path, name, found);
        return;
    }
    if !name.contains('/') {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-");
        if !standard {
            errors.push(Error::invalid(
                path,
                name,
                "must be a standard resource for containers",
            ));
        }
    } else if !is_native_resource(name) && !is_extended_resource(name) {
        errors.push(Error::invalid(
            path,
            name,
            "doesn't follow extended resource name standard",
        ));
    }
}

fn pod_resource_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    container_resource_name(errors, name, path);
    if !keelson_api::pod::is_pod_level(name) {
        errors.push(Error::not_supported(
            path,
            name,
            &["cpu", "memory", "hugepages-"],
        ));
    }
}

fn huge_page_fault(name: &str, amount: &Value) -> Option<String> {
    let size = quantity(&Value::String(name.strip_prefix("hugepages-")?.to_string())).value();
    let value = quantity(amount);
    (size > 0 && value.value() % size != 0)
        .then(|| format!("{value} is not positive integer multiple of {name}"))
}

/// `resources` of a container; `claims` are the pod's.
pub fn container(
    errors: &mut ErrorList,
    resources: &Value,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
) {
    requirements(errors, resources, container_resource_name, claims, path);
}

/// `overhead` or another bare list of limits.
pub fn limits_only(errors: &mut ErrorList, list: &Value, path: &Path<'_>) {
    let limits = path.child("limits");
    for (name, amount) in list.as_object().into_iter().flatten() {
        container_resource_name(errors, name, &limits.key(name));
        resource_quantity(errors, name, amount, &limits.key(name));
    }
}

fn requirements(
    errors: &mut ErrorList,
    resources: &Value,
    check_name: fn(&mut ErrorList, &str, &Path<'_>),
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let limits = resources.part("limits");
    let (mut basic, mut huge) = (false, false);
    for (side, at) in [("limits", &limits_path), ("requests", &requests_path)] {
        for (name, amount) in resources.entries(side) {
            let here = at.key(name);
            check_name(errors, name, &here);
            resource_quantity(errors, name, amount, &here);
            if side == "requests" {
                against_limit(
                    errors,
                    name,
                    amount,
                    limits.get(name),
                    &limits_path,
                    &requests_path,
                );
            }
            if name.starts_with("hugepages-") {
                huge = true;
                if let Some(fault) = huge_page_fault(name, amount) {
                    errors.push(Error::invalid(&here, quantity(amount).to_string(), fault));
                }
            }
            basic |= matches!(name, "cpu" | "memory");
        }
    }
    if huge && !basic {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(
        errors,
        resources.items("claims"),
        claims,
        &path.child("claims"),
    );
}

fn against_limit(
    errors: &mut ErrorList,
    name: &str,
    request: &Value,
    limit: Option<&Value>,
    limits_path: &Path<'_>,
    requests_path: &Path<'_>,
) {
    let amount = quantity(request);
    match limit.map(quantity) {
        Some(limit) if amount != limit && !may_overcommit(name) => {
            errors.push(Error::invalid(
                requests_path,
                amount.to_string(),
                format!("must be equal to {name} limit of {limit}"),
            ));
        }
        Some(limit) if amount > limit => {
            errors.push(Error::invalid(
                requests_path,
                amount.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            ));
        }
        None if !may_overcommit(name) => {
            errors.push(Error::required(
                limits_path,
                "Limit must be set for non overcommitable resources",
            ));
        }
        _ => {}
    }
}

fn claim_names(errors: &mut ErrorList, list: &[Value], claims: &BTreeSet<&str>, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, claim) in list.iter().enumerate() {
        let (at, name, request) = (path.index(i), claim.text("name"), claim.text("request"));
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        if !request.is_empty() {
            faults(
                errors,
                &at.child("request"),
                request,
                names::dns1123_label(request),
            );
        }
        let key = if request.is_empty() {
            name.to_string()
        } else {
            format!("{name}/{request}")
        };
        let whole_after_part = request.is_empty()
            && seen
                .iter()
                .any(|k: &String| k.starts_with(&format!("{name}/")));
        if seen.contains(name) || seen.contains(&key) || whole_after_part {
            errors.push(Error::duplicate(&at, key.as_str()));
        }
        seen.insert(key);
        if !claims.contains(name) {
            let mut error = Error::not_found(&at, name);
            error.detail = "must be one of the names in pod.spec.resourceClaims".into();
            if claims.is_empty() {
                error.detail.push_str(" which is empty");
            } else {
                let list: Vec<&str> = claims.iter().copied().collect();
                error.detail.push_str(&format!(": {}", list.join(", ")));
            }
            errors.push(error);
        }
    }
}

/// `spec.resources`: allowed names, and consistency with the containers'.
pub fn pod_level(errors: &mut ErrorList, spec: &Value, claims: &BTreeSet<&str>, path: &Path<'_>) {
    use serde::Deserialize as _;
    let resources = spec.part("resources");
    if resources.is_null() {
        return;
    }
    let at = path.child("resources");
    if resources.has("claims") {
        errors.push(Error::forbidden(
            &at.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    requirements(errors, resources, pod_resource_name, claims, &at);
    let mut bare = spec.clone();
    for own in ["resources", "overhead"] {
        crate::access::remove(&mut bare, own);
    }
    let Ok(typed) = k8s_openapi::api::core::v1::PodSpec::deserialize(&bare) else {
        return;
    };
    let requests = at.child("requests");
    for (name, sum) in keelson_api::pod::requests(&typed) {
        let Some(own) = resources.part("requests").get(&name).map(quantity) else {
            continue;
        };
        if sum > own {
            let detail =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(Error::invalid(
                &requests.key(&name),
                own.to_string(),
                detail,
            ));
        }
    }
    let list = at.child("containers");
    for (i, container) in spec.items("containers").iter().enumerate() {
        let item = list.index(i);
        for (name, limit) in container.entries("resources.limits") {
            let Some(own) = resources.part("limits").get(name).map(quantity) else {
                continue;
            };
            if quantity(limit) > own {
                let detail = format!("must be less than or equal to pod limits of {own}");
                errors.push(Error::invalid(
                    &item.key(name).child("limits"),
                    quantity(limit).to_string(),
                    detail,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_stay_within_limits() {
        let path = Path::new("resources");
        let of = |resources: Value| {
            let mut errors = ErrorList::new();
            container(&mut errors, &resources, &BTreeSet::new(), &path);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(of(json!({"limits": {"cpu": "1", "example.com/gpu": "1"}, "requests": {"cpu": "500m", "example.com/gpu": 1}})).is_empty());
        assert_eq!(
            of(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            [
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
            ]
        );
        assert_eq!(
            of(json!({"requests": {"example.com/gpu": "1"}})),
            [
                "resources.limits: Required value: Limit must be set for non overcommitable resources"
            ]
        );
        assert_eq!(
            of(json!({"limits": {"x": "1"}})),
            [
                "resources.limits[x]: Invalid value: \"x\": must be a standard resource for containers"
            ]
        );
        assert_eq!(
            of(json!({"limits": {"hugepages-2Mi": "4Mi"}})),
            ["resources: Forbidden: HugePages require cpu or memory"]
        );
        assert_eq!(
            of(json!({"limits": {"cpu": "-1"}})),
            ["resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
    }
}
