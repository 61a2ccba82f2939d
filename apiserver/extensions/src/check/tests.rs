//! Definitions with one thing wrong each, and the sentence each gets.

use serde_json::{Value, json};

use super::*;

fn crd(schema: Value) -> Value {
    json!({"metadata": {"name": "tests.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
        "names": {"plural": "tests", "singular": "test", "kind": "Test", "listKind": "TestList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}, "status": {"storedVersions": ["v1"]}})
}

fn told(crd: &Value) -> Vec<String> {
    create(crd).iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_definition_passes() {
    assert_eq!(
        told(&crd(
            json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string", "default": "x"}, "p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}}}}}})
        )),
        Vec::<String>::new()
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused_by_path() {
    assert_eq!(
        told(&crd(
            json!({"type": "object", "properties": {"spec": {"properties": {"a": {"type": "string"}}}}})
        )),
        [
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
        ]
    );
    assert_eq!(
        told(&crd(
            json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]})
        )),
        [
            "spec.validation.openAPIV3Schema.properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[b]"
        ]
    );
    assert_eq!(
        told(&crd(json!({"type": "object", "$ref": "#/definitions/x"}))),
        ["spec.validation.openAPIV3Schema.$ref: Forbidden: $ref is not supported"]
    );
    assert_eq!(told(&crd(json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}))),
        ["spec.validation.openAPIV3Schema.properties[a].default: Invalid value: \"string\": spec.validation.openAPIV3Schema.properties[a].default in body must be of type integer: \"string\""]
            .map(|s| s.replace("spec.validation.openAPIV3Schema.properties[a].default in body", " in body")));
    assert!(
        told(&crd(
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})
        ))[0]
            .contains("must be a valid regular expression, but isn't: error parsing regexp")
    );
}

#[test]
fn names_versions_and_conversion_are_checked() {
    let mut wrong = crd(json!({"type": "object"}));
    wrong["metadata"]["name"] = "other.example.com".into();
    wrong["spec"]["scope"] = "Somewhere".into();
    wrong["spec"]["versions"][0]["storage"] = false.into();
    wrong["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let told = told(&wrong);
    for expected in [
        "metadata.name: Invalid value: \"other.example.com\": must be spec.names.plural+\".\"+spec.group",
        "spec.scope: Unsupported value: \"Somewhere\": supported values: \"Cluster\", \"Namespaced\"",
        "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        "spec.conversion.conversionReviewVersions: Required value",
    ] {
        assert!(
            told.iter().any(|t| t == expected),
            "{expected} in {told:#?}"
        );
    }
    assert!(
        told.iter()
            .any(|t| t.ends_with("must have exactly one version marked as storage version"))
    );
}

#[test]
fn stored_versions_must_stay() {
    let old = crd(json!({"type": "object"}));
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    new["status"]["storedVersions"] = json!(["v1", "v2"]);
    let told: Vec<String> = update(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with(
        "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"
    ));
}

#[test]
fn protected_groups_need_an_approval() {
    let mut protected = crd(json!({"type": "object"}));
    protected["spec"]["group"] = "test.k8s.io".into();
    protected["metadata"]["name"] = "tests.test.k8s.io".into();
    assert!(told(&protected)[0].starts_with(
        "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups"
    ));
    protected["metadata"]["annotations"] =
        json!({"api-approved.kubernetes.io": "unapproved, test"});
    assert!(told(&protected).is_empty());
    assert_eq!(
        approval::condition(&protected).map(|c| c["reason"].clone()),
        Some("UnapprovedAnnotation".into())
    );
}

#[test]
fn a_huge_schema_is_walked_in_bounds() {
    let mut properties = serde_json::Map::new();
    for at in 0..100_000 {
        properties.insert(format!("p{at}"), json!({"type": "string"}));
    }
    assert!(told(&crd(json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}))).is_empty());
}
