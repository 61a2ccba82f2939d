//! Whether a policy or a binding is about a request, and as what: `matchConstraints` and `matchResources`.

use keelson_auth::Lookup;
use keelson_registry::access::Access;
use serde_json::Value;

use super::versions;
use crate::request::{Kind, Request, Resource};
use crate::webhooks::matching;

/// As what a request matched: its own kind, or an equivalent one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matched {
    /// The resource.
    pub resource: Resource,
    /// The kind.
    pub kind: Kind,
}

impl Matched {
    /// An object of this kind as one of the request's.
    pub(crate) fn back(&self, object: Value, request: &Request) -> Value {
        if self.kind == request.kind {
            return object;
        }
        versions::convert(&object, &self.kind, &request.kind)
    }

    fn own(request: &Request) -> Matched {
        Matched {
            resource: request.resource.clone(),
            kind: request.kind.clone(),
        }
    }
}

/// Whether a policy's `matchConstraints` or a binding's `matchResources` take the request in; none take in everything. Errors
/// of selectors count only if the rules do.
pub(crate) async fn matches(
    criteria: &Value,
    request: &Request,
    lookup: &dyn Lookup,
) -> Result<Option<Matched>, String> {
    if criteria.is_null() {
        return Ok(Some(Matched::own(request)));
    }
    // Rules are cheap to look at, and most requests fail them.
    let rules = criteria.items("resourceRules");
    let matched = if rules.is_empty() {
        Some(Matched::own(request))
    } else {
        named(criteria, rules, request)
    };
    let Some(matched) = matched else {
        return Ok(None);
    };
    if named(criteria, criteria.items("excludeResourceRules"), request).is_some() {
        return Ok(None);
    }
    let namespace = matching::namespace(criteria, request, lookup).await;
    if matches!(namespace, Ok(false)) {
        return Ok(None);
    }
    if !matching::object(criteria, request).map_err(|status| status.message.clone())? {
        return Ok(None);
    }
    namespace.map_err(|status| status.message.clone())?;
    Ok(Some(matched))
}

/// As what one of the rules names the request: as itself if any does, as an equivalent otherwise.
fn named(criteria: &Value, rules: &[Value], request: &Request) -> Option<Matched> {
    let takes = |rule: &Value, resource: &Resource| {
        if !matching::names(rule, request, resource) {
            return false;
        }
        let names = rule.items("resourceNames");
        names.is_empty() || names.iter().any(|name| name == request.name.as_str())
    };
    if rules.iter().any(|rule| takes(rule, &request.resource)) {
        return Some(Matched::own(request));
    }
    if rules.is_empty() || criteria.text("matchPolicy") != "Equivalent" {
        return None;
    }
    rules.iter().find_map(|rule| {
        versions::equivalents(&request.resource).find_map(|(resource, kind)| {
            let kind = if request.subresource.is_empty() {
                kind
            } else {
                request.kind.clone()
            };
            takes(rule, &resource).then_some(Matched { resource, kind })
        })
    })
}

#[cfg(test)]
mod tests {
    use keelson_auth::lookup::testing::Objects;
    use serde_json::json;

    use super::*;
    use crate::testing::create;

    async fn takes(criteria: Value, request: &Request) -> Option<Matched> {
        let objects = Objects::default();
        objects.put(
            "namespaces",
            &json!({"metadata": {"name": "ns", "labels": {"team": "a"}}}),
        );
        matches(&criteria, request, &objects).await.unwrap()
    }

    fn rule(group: &str, version: &str, resource: &str) -> Value {
        json!({"operations": ["*"], "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
    }

    #[tokio::test]
    async fn rules_exclusions_names_and_selectors_must_agree() {
        let request = create(
            "apps",
            "deployments",
            json!({"kind": "Deployment", "metadata": {"name": "d", "labels": {"x": "y"}}}),
        );
        let own = rule("apps", "v1", "deployments");
        let mut named = own.clone();
        named["resourceNames"] = json!(["d"]);
        let mut other = own.clone();
        other["resourceNames"] = json!(["e"]);
        for (criteria, expected) in [
            (Value::Null, true),
            (json!({"resourceRules": [own]}), true),
            (json!({"resourceRules": [named]}), true),
            (json!({"resourceRules": [other]}), false),
            (
                json!({"resourceRules": [own], "excludeResourceRules": [named]}),
                false,
            ),
            (json!({"excludeResourceRules": [other]}), true),
            (json!({"resourceRules": [rule("", "v1", "pods")]}), false),
            (
                json!({"resourceRules": [own], "namespaceSelector": {"matchLabels": {"team": "a"}}}),
                true,
            ),
            (
                json!({"resourceRules": [own], "namespaceSelector": {"matchLabels": {"team": "b"}}}),
                false,
            ),
            (
                json!({"resourceRules": [own], "objectSelector": {"matchLabels": {"x": "z"}}}),
                false,
            ),
        ] {
            assert_eq!(
                takes(criteria.clone(), &request).await.is_some(),
                expected,
                "{criteria}"
            );
        }
    }

    #[tokio::test]
    async fn equivalent_versions_match_unless_they_must_be_exact() {
        let mut request = create(
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}}),
        );
        request.resource.version = "v1".into();
        request.kind.version = "v1".into();
        let criteria = |policy: &str| json!({"matchPolicy": policy, "resourceRules": [rule("autoscaling", "v2", "horizontalpodautoscalers")]});
        let matched = takes(criteria("Equivalent"), &request).await.unwrap();
        assert_eq!(
            (
                matched.kind.version.as_str(),
                matched.resource.version.as_str()
            ),
            ("v2", "v2")
        );
        assert_eq!(takes(criteria("Exact"), &request).await, None);
    }
}
