//! Messages against bytes written by hand from the message definitions, and there and back.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::{Schema, normalise};

fn round_trip(group: &str, version: &str, kind: &str, mut object: Value) {
    let ty = Schema::builtin().kind(group, version, kind).unwrap();
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    normalise(&mut object, ty);
    let bytes = encode(&object, ty);
    let meta = type_meta(&bytes).unwrap();
    assert_eq!(
        (meta.api_version.as_str(), meta.kind.as_str()),
        (api_version.as_str(), kind)
    );
    let mut read = decode(&bytes, ty).unwrap();
    normalise(&mut read, ty);
    assert_eq!(read, object);
}

#[test]
fn bytes_are_what_the_definitions_say() {
    let ty = Schema::builtin().kind("", "v1", "Namespace").unwrap();
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "a", "labels": {"k": "v"}, "creationTimestamp": "1970-01-01T00:00:05Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {}
    });
    let mut expected = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x31".to_vec();
    // ObjectMeta: name, generateName, namespace, selfLink, uid, resourceVersion, generation, creationTimestamp, labels
    expected.extend(b"\x0a\x1d\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\x04\x08\x05\x10\0\x5a\x06\x0a\x01k\x12\x01v");
    expected.extend(b"\x12\x0c\x0a\x0akubernetes");
    expected.extend(b"\x1a\x02\x0a\0");
    expected.extend(b"\x1a\0\x22\0");
    assert_eq!(encode(&object, ty), expected);
}

#[test]
fn objects_survive_a_round_trip() {
    round_trip(
        "",
        "v1",
        "Pod",
        json!({
            "metadata": {
                "name": "p", "generation": 3, "deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 0,
                "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]
            },
            "spec": {
                "containers": [{
                    "name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 10},
                    "readinessProbe": {"tcpSocket": {"port": 8080}},
                    "securityContext": {"runAsUser": -1, "privileged": false}
                }],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "x", "defaultMode": 420}}],
                "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}],
                "securityContext": {"supplementalGroups": [1, 2, 3000000000u64]},
                "priority": -5, "activeDeadlineSeconds": 7
            },
            "status": {"phase": "Running", "startTime": "2026-01-02T03:04:05Z"}
        }),
    );
    round_trip(
        "",
        "v1",
        "Secret",
        json!({"data": {"a": "AAEC", "b": ""}, "type": "Opaque"}),
    );
    round_trip(
        "coordination.k8s.io",
        "v1",
        "Lease",
        json!({
            "spec": {"holderIdentity": "h", "renewTime": "2026-01-02T03:04:05.123456Z", "leaseDurationSeconds": 40}
        }),
    );
    round_trip(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        json!({
            "spec": {"user": "u", "extra": {"k": ["a", "b"]}, "resourceAttributes": {"verb": "get"}}
        }),
    );
    round_trip(
        "apps",
        "v1",
        "ControllerRevision",
        json!({"revision": 3, "data": {"spec": {"x": [1, null]}}}),
    );
    round_trip(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        json!({
            "spec": {"group": "g", "scope": "Namespaced", "names": {"kind": "K", "plural": "ks"}, "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "default": {"a": 1}, "properties": {
                        "a": {"type": "integer", "minimum": 0.5, "enum": [1, 2]},
                        "b": {"type": "array", "items": {"type": "string"}},
                        "c": {"additionalProperties": true}, "d": {"additionalProperties": {"type": "string"}}
                    },
                    "x-kubernetes-preserve-unknown-fields": true
                }}}]}
        }),
    );
}

#[test]
fn lists_and_watch_frames() {
    let ty = Schema::builtin().kind("", "v1", "ConfigMap").unwrap();
    let item = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let message = message(&item, ty);
    let body = list(
        "v1",
        "ConfigMapList",
        &json!({"resourceVersion": "7"}),
        [&message[..], &message[..]],
    );
    let list_type = Schema::builtin().kind("", "v1", "ConfigMapList").unwrap();
    let mut read = decode(&body, list_type).unwrap();
    normalise(&mut read, list_type);
    assert_eq!(read["metadata"]["resourceVersion"], "7");
    assert_eq!(read["items"], json!([item, item]));
    let frame = watch_frame("ADDED", &encode(&item, ty));
    assert_eq!(
        usize::try_from(u32::from_be_bytes(frame[..4].try_into().unwrap())).unwrap(),
        frame.len() - 4
    );
    assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
}

#[test]
fn broken_bytes_are_refused() {
    let ty = Schema::builtin().kind("", "v1", "Pod").unwrap();
    assert!(decode(b"{}", ty).is_err());
    let body = encode(
        &json!({"metadata": {"name": "abc"}, "spec": {"containers": []}}),
        ty,
    );
    for end in 5..body.len() - 4 {
        // a message cut short is an error or a shorter message, never a panic
        let _ = decode(&body[..end], ty);
    }
    let schema = Schema::builtin()
        .kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
        .unwrap();
    let mut nested = Vec::new();
    for _ in 0..5000 {
        let mut outer = Vec::new();
        put_bytes(&mut outer, 35, &nested);
        nested = outer;
    }
    let _ = decode(&envelope("v1", "X", &nested), schema);
}
