//! Validation of environment variables and of references to a pod's own fields.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use keelson_api::quantity::Quantity;
use serde_json::Value;

use crate::access::Access;
use crate::meta::faults;
use crate::validation::{quantity, required};

/// Fields that an environment variable can show.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Every field that a reference may name somewhere.
const LABELS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const SOURCES: &[&str] = &[
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// The list `env`.
pub(super) fn variables(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    for (i, variable) in list.iter().enumerate() {
        let (at, name) = (path.index(i), variable.text("name"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else {
            faults(errors, &at.child("name"), name, names::env_var_name(name));
        }
        if variable.has("valueFrom") {
            value_from(errors, variable, &at.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut ErrorList, variable: &Value, path: &Path<'_>) {
    let source = variable.part("valueFrom");
    if source.has("fieldRef") {
        field_reference(
            errors,
            source.part("fieldRef"),
            FIELDS,
            &path.child("fieldRef"),
        );
    }
    if source.has("resourceFieldRef") {
        resource_reference(
            errors,
            source.part("resourceFieldRef"),
            false,
            &path.child("resourceFieldRef"),
        );
    }
    for kind in ["configMapKeyRef", "secretKeyRef"]
        .into_iter()
        .filter(|k| source.has(k))
    {
        let (reference, at) = (source.part(kind), path.child(kind));
        let name = reference.text("name");
        faults(
            errors,
            &at.child("name"),
            name,
            names::dns1123_subdomain(name),
        );
        key(errors, reference, &at);
    }
    if source.has("fileKeyRef") {
        let (reference, at) = (source.part("fileKeyRef"), path.child("fileKeyRef"));
        let key = reference.text("key");
        if key.is_empty() {
            errors.push(Error::required(&at.child("key"), ""));
        } else {
            faults(errors, &at.child("key"), key, names::env_var_name(key));
        }
        required(errors, reference, "volumeName", &at);
        if reference.text("path").is_empty() {
            errors.push(Error::required(&at.child("path"), ""));
        } else {
            super::volumes::relative_path(errors, reference.text("path"), &at.child("path"));
        }
    }
    let count = SOURCES.iter().filter(|k| source.has(k)).count();
    if count == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(Error::invalid(path, "", detail));
    } else if !variable.text("value").is_empty() {
        errors.push(Error::invalid(
            path,
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if count > 1 {
        errors.push(Error::invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        ));
    }
}

fn key(errors: &mut ErrorList, reference: &Value, path: &Path<'_>) {
    let key = reference.text("key");
    if key.is_empty() {
        errors.push(Error::required(&path.child("key"), ""));
    } else {
        faults(errors, &path.child("key"), key, names::config_map_key(key));
    }
}

/// The list `envFrom`.
pub(super) fn sources(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    for (i, source) in list.iter().enumerate() {
        let (at, prefix) = (path.index(i), source.text("prefix"));
        if !prefix.is_empty() {
            faults(
                errors,
                &at.child("prefix"),
                prefix,
                names::env_var_name(prefix),
            );
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|k| source.has(k))
        {
            count += 1;
            let (name, here) = (source.part(kind).text("name"), at.child(kind));
            if name.is_empty() {
                errors.push(Error::required(&here.child("name"), ""));
            } else {
                faults(
                    errors,
                    &here.child("name"),
                    name,
                    NameRule::Subdomain.check(name, true),
                );
            }
        }
        if count == 0 {
            errors.push(Error::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ));
        } else if count > 1 {
            errors.push(Error::invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            ));
        }
    }
}

/// `metadata.labels['key']` taken apart.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['")
}

/// A reference to one of the pod's own fields.
pub(super) fn field_reference(
    errors: &mut ErrorList,
    reference: &Value,
    allowed: &[&str],
    path: &Path<'_>,
) {
    let (version, field) = (reference.text("apiVersion"), reference.text("fieldPath"));
    for (key, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            errors.push(Error::required(&path.child(key), ""));
            return;
        }
    }
    let at = path.child("fieldPath");
    if version != "v1" {
        errors.push(Error::invalid(
            &at,
            field,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        ));
        return;
    }
    if let Some((map, subscript)) = subscripted(field) {
        match map {
            "metadata.annotations" => faults(
                errors,
                path,
                &subscript.to_lowercase(),
                names::qualified_name(&subscript.to_lowercase()),
            ),
            "metadata.labels" => faults(errors, path, subscript, names::qualified_name(subscript)),
            other => errors.push(Error::invalid(
                &at,
                field,
                format!(
                    "error converting fieldPath: field label does not support subscript: {other}"
                ),
            )),
        }
    } else if !LABELS.contains(&field) {
        errors.push(Error::invalid(
            &at,
            field,
            format!("error converting fieldPath: field label not supported: {field}"),
        ));
    } else if !allowed.contains(&field) {
        errors.push(Error::not_supported(&at, field, allowed));
    }
}

/// A reference to what a container requests or is limited to.
pub(super) fn resource_reference(
    errors: &mut ErrorList,
    reference: &Value,
    volume: bool,
    path: &Path<'_>,
) {
    let resource = reference.text("resource");
    let huge =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && reference.text("containerName").is_empty() {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(Error::not_supported(
            &path.child("resource"),
            resource,
            RESOURCES,
        ));
    }
    divisor(errors, resource, reference.part("divisor"), path);
}

fn divisor(errors: &mut ErrorList, resource: &str, divisor: &Value, path: &Path<'_>) {
    const BYTES: &[&str] = &[
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let amount = quantity(divisor);
    if amount == Quantity::ZERO {
        return;
    }
    let (known, what): (BTreeSet<&str>, &str) = match resource
        .split_once('.')
        .map_or("", |(_, r)| r)
    {
        "cpu" => (["1m", "1"].into(), "1m and 1 are supported with the cpu"),
        "memory" => (BYTES.iter().copied().collect(), "memory"),
        "ephemeral-storage" => (BYTES.iter().copied().collect(), "local ephemeral storage"),
        other if other.starts_with("hugepages-") => (BYTES.iter().copied().collect(), "hugepages"),
        _ => return,
    };
    if !known.contains(amount.to_string().as_str()) {
        let detail = if known.len() == 2 {
            format!("only divisor's values {what} resource")
        } else {
            format!(
                "only divisor's values {} are supported with the {what} resource",
                BYTES.join(", ")
            )
        };
        errors.push(Error::invalid(&path.child("divisor"), resource, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(list: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        variables(&mut errors, list.as_array().unwrap(), &Path::new("env"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn variables_are_checked() {
        assert_eq!(of(json!([{"value": "x"}])), ["env[0].name: Required value"]);
        assert_eq!(
            of(json!([{"name": "a=b"}])),
            [
                "env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='"
            ]
        );
        assert_eq!(
            of(
                json!([{"name": "a", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}])
            ),
            [
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
            ]
        );
        assert_eq!(
            of(
                json!([{"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.phase"}}}])
            ),
            [
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
            ]
        );
        assert!(of(json!([{"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['x/y']"}}}])).is_empty());
        assert_eq!(
            of(
                json!([{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}])
            ),
            [
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            ]
        );
    }
}
