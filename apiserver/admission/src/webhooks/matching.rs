//! Which requests a webhook asks for: its rules, its object selector and its namespace selector. Policies share the single
//! tests.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_api::selector::Selector;
use keelson_auth::{Lookup, Qualified, Status};
use keelson_registry::access::Access;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::request::{Operation, Request, Resource};

/// Whether one of the rules names the request.
pub(super) fn rules(hook: &Value, request: &Request) -> bool {
    // The same resource under another version is equivalent, unless the webhook insists on the very one.
    let exact = hook.text("matchPolicy") == "Exact";
    hook.items("rules").iter().any(|rule| {
        let own = &request.resource;
        operation(rule, request)
            && lists(rule, "apiGroups", &own.group)
            && (lists(rule, "apiVersions", &own.version)
                || (!exact && is_other_version(rule, request)))
            && scope(rule.text("scope"), request)
            && resources(rule, &own.resource, request)
    })
}

/// Whether a rule names the request as one for this resource, which may be an equivalent of the request's own.
pub(crate) fn names(rule: &Value, request: &Request, resource: &Resource) -> bool {
    operation(rule, request)
        && lists(rule, "apiGroups", &resource.group)
        && lists(rule, "apiVersions", &resource.version)
        && scope(rule.text("scope"), request)
        && resources(rule, &resource.resource, request)
}

fn lists(rule: &Value, list: &str, word: &str) -> bool {
    rule.items(list)
        .iter()
        .filter_map(Value::as_str)
        .any(|item| item == "*" || item == word)
}

fn operation(rule: &Value, request: &Request) -> bool {
    lists(rule, "operations", request.operation.as_str())
}

fn resources(rule: &Value, resource: &str, request: &Request) -> bool {
    rule.items("resources")
        .iter()
        .filter_map(Value::as_str)
        .any(|pattern| takes(pattern, resource, &request.subresource))
}

/// Whether the rule names versions under which this server serves the same resource.
fn is_other_version(rule: &Value, request: &Request) -> bool {
    let served = |version: &str| {
        keelson_registry::kinds::find(&request.resource.group, version, &request.resource.resource)
            .is_some()
    };
    rule.items("apiVersions")
        .iter()
        .filter_map(Value::as_str)
        .any(served)
}

fn scope(scope: &str, request: &Request) -> bool {
    // A namespace is a cluster-scoped object, whatever its requests carry.
    let cluster = request.namespace.is_empty() || request.concerns("", "namespaces");
    match scope {
        "Namespaced" => !cluster,
        "Cluster" => cluster,
        _ => true,
    }
}

fn takes(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        None => subresource.is_empty() && (pattern == "*" || pattern == resource),
        Some((r, s)) => (r == "*" || r == resource) && (s == "*" || s == subresource),
    }
}

/// Whether the object selector takes in the object, before or after the change.
pub(crate) fn object(hook: &Value, request: &Request) -> Result<bool, Status> {
    let selector = selector(hook.part("objectSelector"))?;
    if selector.is_empty() {
        return Ok(true);
    }
    let takes = |object: Option<&Value>| {
        object.is_some_and(|o| o.has("metadata") && selector.matches(&labels(o)))
    };
    Ok(takes(request.object.as_ref()) || takes(request.old_object.as_deref()))
}

/// Whether the namespace selector takes in the request's namespace. Cluster-scoped objects are always taken in, namespaces by
/// their own labels.
pub(crate) async fn namespace(
    hook: &Value,
    request: &Request,
    lookup: &dyn Lookup,
) -> Result<bool, Status> {
    let is_namespace = request.concerns("", "namespaces");
    if request.namespace.is_empty() && !is_namespace {
        return Ok(true);
    }
    let selector = selector(hook.part("namespaceSelector"))?;
    if selector.is_empty() {
        return Ok(true);
    }
    if is_namespace
        && request.subresource.is_empty()
        && matches!(request.operation, Operation::Create | Operation::Update)
        && let Some(object) = request.object.as_ref()
    {
        return Ok(selector.matches(&labels(object)));
    }
    let name = if is_namespace {
        &request.name
    } else {
        &request.namespace
    };
    let found = match lookup.get("namespaces", "", name) {
        Some(namespace) => Some(namespace),
        None => lookup.live("namespaces", "", name).await?,
    };
    match found {
        Some(namespace) => Ok(selector.matches(&labels(&namespace))),
        None => Err(Status::not_found(Qualified::new("", "namespaces"), name)),
    }
}

pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    object
        .entries("metadata.labels")
        .filter_map(|(k, v)| Some((k.to_owned(), v.as_str()?.to_owned())))
        .collect()
}

/// A label selector in JSON; none takes in everything.
pub(crate) fn selector(value: &Value) -> Result<Selector, Status> {
    if value.is_null() {
        return Ok(Selector::everything());
    }
    let parsed: LabelSelector = serde_json::from_value(value.clone())
        .map_err(|e| Status::internal(format!("label selector: {e}")))?;
    Selector::from_label_selector(Some(&parsed)).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use keelson_auth::lookup::testing::Objects;
    use serde_json::json;

    use super::*;
    use crate::testing::create;

    fn rule(resources: &[&str], versions: &[&str], scope: &str) -> Value {
        json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["", "apps"], "apiVersions": versions, "resources": resources, "scope": scope}]})
    }

    #[test]
    fn rules_name_resources_and_subresources() {
        let mut pod = create("", "pods", json!({"metadata": {"name": "p"}}));
        for (resources, plain, status) in [
            (["pods"], true, false),
            (["pods/*"], true, true),
            (["*"], true, false),
            (["*/*"], true, true),
            (["pods/status"], false, true),
        ] {
            pod.subresource = String::new();
            assert_eq!(
                rules(&rule(&resources, &["v1"], "*"), &pod),
                plain,
                "{resources:?}"
            );
            pod.subresource = "status".into();
            assert_eq!(
                rules(&rule(&resources, &["*"], ""), &pod),
                status,
                "{resources:?}"
            );
        }
        pod.subresource = String::new();
        assert!(!rules(&rule(&["pods"], &["v2"], "*"), &pod));
        assert!(!rules(&rule(&["pods"], &["v1"], "Cluster"), &pod));
        pod.operation = Operation::Update;
        assert!(!rules(&rule(&["pods"], &["v1"], "*"), &pod));
    }

    #[tokio::test]
    async fn selectors_look_at_the_object_and_its_namespace() {
        let objects = Objects::default();
        objects.put(
            "namespaces",
            &json!({"metadata": {"name": "ns", "labels": {"team": "a"}}}),
        );
        let request = create(
            "",
            "pods",
            json!({"metadata": {"name": "p", "labels": {"app": "x"}}}),
        );
        let select = |labels: Value| json!({"objectSelector": {"matchLabels": labels}, "namespaceSelector": {"matchLabels": labels}});
        assert!(object(&select(json!({"app": "x"})), &request).unwrap());
        assert!(!object(&select(json!({"app": "y"})), &request).unwrap());
        assert!(
            namespace(&select(json!({"team": "a"})), &request, &objects)
                .await
                .unwrap()
        );
        assert!(
            !namespace(&select(json!({"team": "b"})), &request, &objects)
                .await
                .unwrap()
        );
        let own = create(
            "",
            "namespaces",
            json!({"metadata": {"name": "new", "labels": {"team": "b"}}}),
        );
        assert!(
            namespace(&select(json!({"team": "b"})), &own, &objects)
                .await
                .unwrap()
        );
    }
}
