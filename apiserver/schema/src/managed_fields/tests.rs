//! Ownership through the life of objects.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::{FieldValidation, decode_value};
use crate::{Schema, normalise};

const NO_RESET: &[&[&str]] = &[];

struct Cluster {
    ty: &'static Type,
    api_version: &'static str,
    reset: Set,
    object: Option<Value>,
    second: i64,
}

impl Cluster {
    fn new(group: &str, kind: &str) -> Cluster {
        Cluster {
            ty: Schema::builtin().kind(group, "v1", kind).unwrap(),
            api_version: if group.is_empty() { "v1" } else { "apps/v1" },
            reset: Set::of_fields(if kind == "Deployment" {
                &[&["status"]]
            } else {
                NO_RESET
            }),
            object: None,
            second: 1_700_000_000,
        }
    }

    fn write<'a>(&'a self, manager: &'a str) -> Write<'a> {
        Write {
            manager,
            api_version: self.api_version,
            subresource: "",
            now: Timestamp::from_second(self.second).unwrap(),
            ty: self.ty,
            reset: &self.reset,
            convert: &|_, _| None,
        }
    }

    fn store(&mut self, mut object: Value) {
        object["metadata"]["uid"] = json!("u");
        if let Some(old) = &self.object {
            keep_times(old, &mut object);
        }
        self.object = Some(object);
        self.second += 1;
    }

    fn apply(
        &mut self,
        manager: &str,
        mut config: Value,
        force: bool,
    ) -> Result<Value, ApplyError> {
        config["apiVersion"] = json!(self.api_version);
        let applied = apply(&self.write(manager), self.object.as_ref(), &config, force)?;
        let mut object = decode_value(applied, self.ty, FieldValidation::Strict)
            .unwrap()
            .object;
        normalise(&mut object, self.ty);
        self.store(object.clone());
        Ok(self.object.clone().unwrap())
    }

    fn update(&mut self, manager: &str, mut object: Value) -> Value {
        object["apiVersion"] = json!(self.api_version);
        update(&self.write(manager), self.object.as_ref(), &mut object);
        self.store(object);
        self.object.clone().unwrap()
    }

    fn fields(&self, manager: &str) -> Value {
        let entries = self.object.as_ref().unwrap()["metadata"]["managedFields"]
            .as_array()
            .cloned();
        entries
            .unwrap_or_default()
            .into_iter()
            .find(|entry| entry["manager"] == manager)
            .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
    }
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "c", "image": image,
                    "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]
                }]}
            }
        }
    })
}

#[test]
fn create_owns_what_it_sent() {
    let mut cluster = Cluster::new("apps", "Deployment");
    let object = cluster.update("kubectl-create", deployment(3, "a"));
    assert_eq!(
        cluster.fields("kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {
                            ".": {},
                            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                            "k:{\"containerPort\":80,\"protocol\":\"UDP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}
                        }
                    }}}
                }
            }
        })
    );
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["time"], "2023-11-14T22:13:20Z");
    assert_eq!(entry["fieldsType"], "FieldsV1");
}

#[test]
fn an_update_without_change_changes_nothing() {
    let mut cluster = Cluster::new("apps", "Deployment");
    let created = cluster.update("a", deployment(3, "a"));
    assert_eq!(cluster.update("b", created.clone()), created);
}

#[test]
fn conflicts_name_the_owner_and_force_takes_over() {
    let mut cluster = Cluster::new("apps", "Deployment");
    cluster.apply("helm", deployment(3, "a"), false).unwrap();
    let mut scaled = cluster.object.clone().unwrap();
    scaled["spec"]["replicas"] = json!(5);
    cluster.update("kubectl", scaled);
    let error = cluster
        .apply("helm", deployment(3, "a"), false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    let ApplyError::Conflict(conflicts) = error else {
        panic!()
    };
    assert_eq!(
        conflicts[0].message(),
        "conflict with \"kubectl\" using apps/v1"
    );
    // the same value is no conflict: both own it
    cluster.apply("helm", deployment(5, "a"), false).unwrap();
    assert_eq!(
        cluster.fields("kubectl"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let two = cluster
        .apply("other", deployment(7, "b"), false)
        .unwrap_err()
        .to_string();
    assert_eq!(
        two,
        "Apply failed with 3 conflicts: conflicts with \"helm\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image\nconflicts with \"kubectl\" using apps/v1:\n- .spec.replicas"
    );
    let forced = cluster.apply("other", deployment(7, "b"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 7);
    assert_eq!(cluster.fields("kubectl"), Value::Null);
    assert_eq!(cluster.fields("helm")["f:spec"].get("f:replicas"), None);
}

#[test]
fn what_is_no_longer_applied_is_removed_unless_others_own_it() {
    let mut cluster = Cluster::new("", "ConfigMap");
    let config =
        |data: Value| json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    cluster
        .apply("a", config(json!({"x": "1", "y": "1", "z": "1"})), false)
        .unwrap();
    cluster
        .apply("b", config(json!({"y": "1"})), false)
        .unwrap();
    let mut edited = cluster.object.clone().unwrap();
    edited["data"]["w"] = json!("1");
    cluster.update("editor", edited);
    let object = cluster
        .apply("a", config(json!({"z": "1"})), false)
        .unwrap();
    assert_eq!(object["data"], json!({"w": "1", "y": "1", "z": "1"}));
    let object = cluster
        .apply(
            "a",
            json!({"kind": "ConfigMap", "metadata": {"name": "c"}}),
            false,
        )
        .unwrap();
    assert_eq!(object["data"], json!({"w": "1", "y": "1"}));
    assert_eq!(cluster.fields("a"), Value::Null);
}

#[test]
fn list_elements_come_and_go_by_key() {
    let mut cluster = Cluster::new("apps", "Deployment");
    cluster.apply("a", deployment(1, "i"), false).unwrap();
    let mut sidecar = json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let object = cluster.apply("b", sidecar.clone(), false).unwrap();
    let names = |object: &Value| -> Vec<String> {
        object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&object), ["c", "side"]);
    let object = cluster.apply("a", deployment(1, "i"), false).unwrap();
    assert_eq!(names(&object), ["c", "side"]);
    sidecar["spec"] = json!({});
    let object = cluster.apply("b", sidecar, false).unwrap();
    assert_eq!(names(&object), ["c"]);
}

#[test]
fn applying_to_an_unmanaged_object_keeps_what_was_before() {
    let mut cluster = Cluster::new("", "ConfigMap");
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "uid": "u"}, "data": {"a": "1"}});
    normalise(&mut object, cluster.ty);
    cluster.object = Some(object.clone());
    object["data"]["b"] = json!("2");
    assert_eq!(
        cluster.update("m", object)["metadata"].get("managedFields"),
        None
    );
    let config = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "9"}});
    let error = cluster.apply("a", config.clone(), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    let object = cluster.apply("a", config, true).unwrap();
    assert_eq!(object["data"], json!({"a": "9", "b": "2"}));
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut cluster = Cluster::new("", "ConfigMap");
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "annotations": {}}, "data": {"a": "1"}});
    let mut object = last.clone();
    object["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    cluster.update("kubectl-client-side-apply", object);
    let config = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "2"}});
    let object = cluster.apply("kubectl", config, false).unwrap();
    assert_eq!(object["data"]["a"], "2");
    let renewed = object["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap();
    assert!(renewed.contains(r#""a":"2""#));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut cluster = Cluster::new("apps", "Deployment");
    let mut config = deployment(1, "a");
    config["spec"]["oops"] = json!(1);
    assert_eq!(
        cluster.apply("a", config, false).unwrap_err().to_string(),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.oops: field not declared in schema"
    );
    let mut config = deployment(1, "a");
    config["spec"]["replicas"] = json!("1");
    assert!(
        cluster
            .apply("a", config, false)
            .unwrap_err()
            .to_string()
            .ends_with(".spec.replicas: expected numeric (int or float), got string")
    );
    let mut config = deployment(1, "a");
    config["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(
        cluster.apply("a", config, false).unwrap_err().to_string(),
        "metadata.managedFields must be nil"
    );
}

#[test]
fn managers_can_be_reset_and_are_capped() {
    let mut cluster = Cluster::new("", "ConfigMap");
    for n in 0..14 {
        let mut object = cluster
            .object
            .clone()
            .unwrap_or_else(|| json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}}));
        object["data"][format!("k{n}")] = json!("v");
        cluster.update(&format!("m{n}"), object);
    }
    let entries = cluster.object.as_ref().unwrap()["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(entries, 10);
    assert!(
        cluster.fields("ancient-changes")["f:data"]
            .get("f:k0")
            .is_some()
    );
    let mut object = cluster.object.clone().unwrap();
    object["metadata"]["managedFields"] = json!([]);
    let object = cluster.update("r", object);
    assert_eq!(object["metadata"].get("managedFields"), None);
}

fn any_config() -> impl Strategy<Value = Value> {
    let port = (80..83u16, prop_oneof![Just("TCP"), Just("UDP")]);
    let container = ("[a-c]", "[x-z]", prop::collection::vec(port, 0..3));
    (
        prop::option::of(1..4u32),
        prop::collection::vec(container, 1..3),
        prop::collection::btree_map("[a-d]", "[a-b]", 0..3),
        prop::collection::btree_set("[f-h]", 0..3),
    )
        .prop_map(|(replicas, containers, labels, finalizers)| {
            let mut seen = std::collections::BTreeSet::new();
            let containers: Vec<Value> = containers
                .into_iter()
                .filter(|(name, ..)| seen.insert(name.clone()))
                .map(|(name, image, ports)| {
                    let mut keys = std::collections::BTreeSet::new();
                    let ports: Vec<Value> = ports
                        .into_iter()
                        .filter(|port| keys.insert(*port))
                        .map(
                            |(port, protocol)| json!({"containerPort": port, "protocol": protocol}),
                        )
                        .collect();
                    let mut container = json!({"name": name, "image": image});
                    if !ports.is_empty() {
                        container["ports"] = json!(ports);
                    }
                    container
                })
                .collect();
            let mut config = json!({
                "kind": "Deployment",
                "metadata": {"name": "web"},
                "spec": {"template": {"spec": {"containers": containers}}}
            });
            // upstream too finds conflicts over empty maps, which aren't stored
            if !labels.is_empty() {
                config["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                config["metadata"]["finalizers"] = json!(finalizers);
            }
            if let Some(replicas) = replicas {
                config["spec"]["replicas"] = json!(replicas);
            }
            config
        })
}

/// Everything a configuration sets must stand in the object.
fn holds(object: &Value, config: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => {
            config.iter().all(|(key, value)| match object.get(key) {
                None | Some(Value::Null) => empty(value),
                Some(inner) => holds(inner, value),
            })
        }
        (Value::Array(items), Value::Array(wanted)) => wanted
            .iter()
            .all(|item| items.iter().any(|other| holds(other, item))),
        (a, b) => a == b,
    }
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in any_config(), second in any_config(), third in any_config()) {
        let mut cluster = Cluster::new("apps", "Deployment");
        cluster.apply("a", first, true).unwrap();
        let mut edited = cluster.object.clone().unwrap();
        edited["spec"]["replicas"] = json!(9);
        cluster.update("editor", edited);
        cluster.apply("b", second, true).unwrap();
        let once = cluster.apply("a", third.clone(), true).unwrap();
        let mut wanted = third.clone();
        wanted["apiVersion"] = json!("apps/v1");
        let complete = holds(&once, &wanted);
        prop_assert!(complete);
        prop_assert_eq!(cluster.apply("a", third, false).unwrap(), once);
    }

    #[test]
    fn a_lone_applier_gets_what_it_applies(first in any_config(), second in any_config()) {
        let mut cluster = Cluster::new("apps", "Deployment");
        cluster.apply("a", first, false).unwrap();
        let through = cluster.apply("a", second.clone(), false).unwrap();
        let mut fresh = Cluster::new("apps", "Deployment");
        let direct = fresh.apply("a", second, false).unwrap();
        prop_assert_eq!(&through["metadata"].get("labels"), &direct["metadata"].get("labels"));
        prop_assert_eq!(&through["spec"].get("replicas"), &direct["spec"].get("replicas"));
        let count = |object: &Value| object["spec"]["template"]["spec"]["containers"].as_array().map_or(0, Vec::len);
        prop_assert_eq!(count(&through), count(&direct));
    }
}
