//! The parameters of a policy's binding.

use std::sync::Arc;

use keelson_auth::Lookup;
use keelson_registry::access::Access;
use keelson_registry::kinds;
use serde_json::Value;

use super::versions;
use crate::request::Kind;
use crate::webhooks::matching;

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// What a policy's `paramKind` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamKind {
    kind: Kind,
    /// As lookups spell it.
    resource: String,
    namespaced: bool,
}

/// Finds the resource of a policy's `paramKind`, if it has one.
pub(crate) fn kind(policy: &Value, lookup: &dyn Lookup) -> Result<Option<ParamKind>, String> {
    let named = policy.part("spec.paramKind");
    if named.is_null() {
        return Ok(None);
    }
    let (group, version) = named
        .text("apiVersion")
        .split_once('/')
        .unwrap_or(("", named.text("apiVersion")));
    let kind = Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: named.text("kind").to_owned(),
    };
    let found = built_in(&kind).or_else(|| custom(&kind, lookup));
    let Some((plural, namespaced)) = found else {
        return Err(format!(
            "failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'",
            kind.kind
        ));
    };
    let resource = if group.is_empty() {
        plural
    } else {
        format!("{plural}.{group}")
    };
    Ok(Some(ParamKind {
        kind,
        resource,
        namespaced,
    }))
}

fn built_in(kind: &Kind) -> Option<(String, bool)> {
    let found = kinds::find_kind(&kind.group, &kind.version, &kind.kind)?;
    found
        .is_stored()
        .then(|| (found.plural.to_string(), found.namespaced))
}

fn custom(kind: &Kind, lookup: &dyn Lookup) -> Option<(String, bool)> {
    let definitions = lookup.list(DEFINITIONS, "");
    let found = definitions.iter().find(|definition| {
        definition.text("spec.group") == kind.group
            && definition.text("spec.names.kind") == kind.kind
            && definition
                .items("spec.versions")
                .iter()
                .any(|v| v.text("name") == kind.version && v.flag("served"))
    })?;
    Some((
        found.text("spec.names.plural").to_owned(),
        found.text("spec.scope") == "Namespaced",
    ))
}

/// The parameters that a binding names, each for one evaluation; a single none where the policy or the binding has no use for
/// them.
pub(crate) fn collect(
    kind: Option<&ParamKind>,
    binding: &Value,
    namespace: &str,
    lookup: &dyn Lookup,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let reference = binding.part("spec.paramRef");
    let Some(kind) = kind.filter(|_| !reference.is_null()) else {
        return Ok(vec![None]);
    };
    let wanted = reference.text("namespace");
    let namespace = match (kind.namespaced, wanted) {
        (true, "") if namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into(),
            );
        }
        (true, "") => namespace,
        (true, wanted) => wanted,
        (false, "") => "",
        (false, _) => {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into(),
            );
        }
    };
    let name = reference.text("name");
    let selector = reference.part("selector");
    let found: Vec<Arc<Value>> = if !name.is_empty() {
        if !selector.is_null() {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".into());
        }
        lookup
            .get(&kind.resource, namespace, name)
            .into_iter()
            .collect()
    } else if selector.is_null() {
        return Err("one of name or selector must be provided".into());
    } else {
        let selector = matching::selector(selector).map_err(|status| status.message.clone())?;
        let mut all = lookup.list(&kind.resource, namespace);
        all.retain(|object| selector.matches(&matching::labels(object)));
        all
    };
    if found.is_empty() && reference.text("parameterNotFoundAction") == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found
        .into_iter()
        .map(|object| Some(served(object, &kind.kind)))
        .collect())
}

/// The parameter in the version that the policy asks for, where that is of a built-in kind.
fn served(object: Arc<Value>, kind: &Kind) -> Arc<Value> {
    let (group, version) = object
        .text("apiVersion")
        .split_once('/')
        .unwrap_or(("", object.text("apiVersion")));
    if (group, version) == (kind.group.as_str(), kind.version.as_str()) {
        return object;
    }
    let stored = Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: object.text("kind").to_owned(),
    };
    Arc::new(versions::convert(&object, &stored, kind))
}

#[cfg(test)]
mod tests {
    use keelson_auth::lookup::testing::Objects;
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let objects = Objects::default();
        objects.put(
            DEFINITIONS,
            &json!({"metadata": {"name": "limits.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
                "names": {"kind": "Limit", "plural": "limits"}, "versions": [{"name": "v1", "served": true}]}}),
        );
        for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
            objects.put(
                "configmaps",
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ns", "labels": {"l": label}}}),
            );
        }
        objects.put("limits.example.com", &json!({"metadata": {"name": "one"}}));
        objects
    }

    fn names(
        api_version: &str,
        of: &str,
        reference: Value,
        namespace: &str,
    ) -> Result<Vec<String>, String> {
        let objects = objects();
        let policy = json!({"spec": {"paramKind": {"apiVersion": api_version, "kind": of}}});
        let kind = kind(&policy, &objects)?;
        let found = collect(
            kind.as_ref(),
            &json!({"spec": {"paramRef": reference}}),
            namespace,
            &objects,
        )?;
        let name = |o: Option<Arc<Value>>| {
            o.map_or_else(|| "none".into(), |o| o.text("metadata.name").to_owned())
        };
        Ok(found.into_iter().map(name).collect())
    }

    #[test]
    fn parameters_are_found_by_name_and_by_labels() {
        let config_maps =
            |reference: Value, namespace: &str| names("v1", "ConfigMap", reference, namespace);
        assert_eq!(config_maps(json!({"name": "a"}), "ns").unwrap(), ["a"]);
        assert_eq!(
            config_maps(json!({"name": "a", "namespace": "ns"}), "other").unwrap(),
            ["a"]
        );
        assert_eq!(
            config_maps(json!({"selector": {"matchLabels": {"l": "x"}}}), "ns").unwrap(),
            ["a", "b"]
        );
        assert_eq!(config_maps(Value::Null, "ns").unwrap(), ["none"]);
        assert!(
            config_maps(
                json!({"name": "z", "parameterNotFoundAction": "Allow"}),
                "ns"
            )
            .unwrap()
            .is_empty()
        );
        assert_eq!(
            config_maps(
                json!({"name": "z", "parameterNotFoundAction": "Deny"}),
                "ns"
            )
            .unwrap_err(),
            "no params found for policy binding with `Deny` parameterNotFoundAction"
        );
        assert_eq!(
            config_maps(json!({"name": "a"}), "").unwrap_err(),
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
        );
        assert_eq!(
            names("example.com/v1", "Limit", json!({"name": "one"}), "ns").unwrap(),
            ["one"]
        );
        assert_eq!(
            names("example.com/v2", "Limit", json!({"name": "one"}), "ns").unwrap_err(),
            "failed to find resource referenced by paramKind: 'example.com/v2, Kind=Limit'"
        );
    }
}
