//! The documents as clients read them.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::Reader;

fn deployments() -> Resource {
    let verbs = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    Resource {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
        namespaced: true,
        verbs: verbs.map(String::from).to_vec(),
        subresources: vec![Subresource {
            name: "scale".into(),
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: vec!["get".into(), "patch".into(), "update".into()],
        }],
        custom: None,
        custom_v2: None,
    }
}

fn custom() -> Resource {
    Resource {
        group: "stable.example.com".into(),
        version: "v1".into(),
        kind: "CronTab".into(),
        plural: "crontabs".into(),
        namespaced: true,
        verbs: vec!["get".into(), "list".into(), "patch".into()],
        subresources: Vec::new(),
        custom: Some(Arc::new(
            json!({"type": "object", "properties": {"spec": {"type": "object"}}}),
        )),
        custom_v2: None,
    }
}

fn parse(document: &Document) -> Value {
    serde_json::from_slice(&document.bytes()).unwrap()
}

#[test]
fn the_index_points_at_the_documents() {
    let documents = Documents::new("v1.36.2", vec![deployments(), custom()]);
    let index = documents.v3_index();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let document = documents.v3("apis/apps/v1").unwrap();
    assert_eq!(
        url,
        format!("/openapi/v3/apis/apps/v1?hash={}", document.hash)
    );
    assert!(documents.v3("apis/apps/v2").is_none());
    // another resource leaves the hash of this group alone
    assert_eq!(
        Documents::new("v1.36.2", vec![deployments()])
            .v3("apis/apps/v1")
            .unwrap()
            .hash,
        document.hash
    );
}

#[test]
fn v3_has_what_explain_apply_and_validate_read() {
    let documents = Documents::new("v1.36.2", vec![deployments()]);
    let document = parse(&documents.v3("apis/apps/v1").unwrap());
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    assert!(
        deployment["description"]
            .as_str()
            .unwrap()
            .contains("Deployment")
    );
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(
        ports["items"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.ContainerPort"
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"],
        "TCP"
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.Container"]["required"],
        json!(["name"])
    );
    assert_eq!(
        schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"],
        "int-or-string"
    );
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
    );
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    let scale =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(
        scale["x-kubernetes-group-version-kind"]["group"],
        "autoscaling"
    );
    assert_eq!(
        document["paths"]["/apis/apps/v1/deployments"].get("post"),
        None
    );
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, prefix: &str, schemas: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let name = reference.strip_prefix(prefix).unwrap();
                    assert!(schemas.get(name).is_some(), "{name}");
                }
                object
                    .values()
                    .for_each(|value| check(value, prefix, schemas));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, prefix, schemas)),
            _ => {}
        }
    }
    let extensions = Resource {
        group: "apiextensions.k8s.io".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
        namespaced: false,
        ..deployments()
    };
    let documents = Documents::new("v1.36.2", vec![deployments(), custom(), extensions]);
    for path in documents.group_versions() {
        let document = parse(&documents.v3(path).unwrap());
        check(
            &document,
            "#/components/schemas/",
            &document["components"]["schemas"],
        );
    }
    let document = parse(&documents.v2_json());
    check(&document, "#/definitions/", &document["definitions"]);
}

#[test]
fn v2_in_protobuf_holds_all_definitions() {
    let documents = Documents::new("v1.36.2", vec![deployments()]);
    let json = parse(&documents.v2_json());
    let bytes = documents.v2_protobuf().bytes();
    let mut fields = Reader::new(&bytes);
    let mut definitions = 0;
    while let Some(field) = fields.next().unwrap() {
        if field.number == 1 {
            assert_eq!(field.bytes, b"2.0");
        }
        if field.number == 9 {
            let mut named = Reader::new(field.bytes);
            while let Some(definition) = named.next().unwrap() {
                let mut parts = Reader::new(definition.bytes);
                let name = std::str::from_utf8(parts.next().unwrap().unwrap().bytes).unwrap();
                assert!(json["definitions"].get(name).is_some());
                definitions += 1;
            }
        }
    }
    assert_eq!(definitions, json["definitions"].as_object().unwrap().len());
}

#[test]
fn what_stays_is_not_built_again() {
    let (own, other) = (Arc::new(deployments()), Arc::new(custom()));
    let first = Documents::after(None, "v1.36.2", [own.clone()].into_iter());
    let built = first.v3("apis/apps/v1").unwrap();
    let second = Documents::after(Some(&first), "v1.36.2", [own, other].into_iter());
    assert!(Arc::ptr_eq(&built, &second.v3("apis/apps/v1").unwrap()));
    assert_ne!(first.v2_json().hash, second.v2_json().hash);
}
