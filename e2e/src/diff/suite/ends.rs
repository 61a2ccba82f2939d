//! Scenarios of a kind: deletion with its options and finalizers, and the subresources status and scale.

use serde_json::{Value, json};

use super::{Kind, TABLE, name_of};
use crate::diff::mutate;
use crate::diff::scenario::{Scenario, Step};

impl Kind<'_> {
    pub(super) fn deletion(&self) -> Scenario {
        let (object, at) = self.own("deletion");
        let options = |name: &str, path: &str, body: Value| Step::json(name, "DELETE", path, body);
        let create = || {
            Step::json("create", "POST", &self.path, object.clone())
                .keep("uid", "/metadata/uid")
                .keep("rv", "/metadata/resourceVersion")
        };
        let mut held = object.clone();
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        let steps = vec![
            create(),
            Step::new("dry run", "DELETE", &format!("{at}?dryRun=All")),
            options(
                "another uid",
                &at,
                json!({"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}}),
            ),
            options(
                "another revision",
                &at,
                json!({"preconditions": {"resourceVersion": "1"}}),
            ),
            options(
                "two policies",
                &at,
                json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            ),
            options(
                "an unknown policy",
                &at,
                json!({"propagationPolicy": "Sometimes"}),
            ),
            options(
                "a bad grace period",
                &at,
                json!({"gracePeriodSeconds": "x"}),
            ),
            options(
                "options of another kind",
                &at,
                json!({"kind": "Pod", "apiVersion": "v1"}),
            ),
            options(
                "unknown options, Strict",
                &format!("{at}?fieldValidation=Strict"),
                json!({"kind": "DeleteOptions", "apiVersion": "v1", "unknown": 1}),
            ),
            options(
                "dry run in options",
                &at,
                json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
            ),
            options(
                "a bad dry run in options",
                &at,
                json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["Some"]}),
            ),
            options(
                "uid and revision",
                &at,
                json!({"preconditions": {"uid": "${uid}", "resourceVersion": "${rv}"}, "gracePeriodSeconds": 0}),
            ),
            create(),
            options(
                "foreground",
                &at,
                json!({"propagationPolicy": "Foreground"}),
            ),
            Step::new("get, waiting for dependents", "GET", &at),
            Step::patch(
                "remove the finalizers",
                "merge",
                &at,
                json!({"metadata": {"finalizers": null}}),
            ),
            create(),
            options("orphan", &at, json!({"propagationPolicy": "Orphan"})),
            Step::patch(
                "remove the finalizers",
                "merge",
                &at,
                json!({"metadata": {"finalizers": null}}),
            ),
            create(),
            options("orphanDependents", &at, json!({"orphanDependents": true})),
            Step::patch(
                "remove the finalizers",
                "merge",
                &at,
                json!({"metadata": {"finalizers": null}}),
            ),
            Step::json("create with a finalizer", "POST", &self.path, held),
            Step::new("delete with a finalizer", "DELETE", &at),
            Step::new("get while held", "GET", &at),
            Step::new("delete again", "DELETE", &at),
            Step::patch(
                "add a finalizer while being deleted",
                "merge",
                &at,
                json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}),
            ),
            Step::patch(
                "a label while being deleted",
                "merge",
                &at,
                json!({"metadata": {"labels": {"late": "yes"}}}),
            ),
            Step::patch(
                "remove the last finalizer",
                "json",
                &at,
                json!([{"op": "remove", "path": "/metadata/finalizers"}]),
            ),
            Step::new("get after", "GET", &at),
            create(),
            Step::new(
                "delete with a grace period",
                "DELETE",
                &format!("{at}?gracePeriodSeconds=0"),
            ),
            create(),
            Step::new(
                "delete with a bad grace period",
                "DELETE",
                &format!("{at}?gracePeriodSeconds=x"),
            ),
            Step::new(
                "delete with a policy",
                "DELETE",
                &format!("{at}?propagationPolicy=Background"),
            ),
            Step::new(
                "delete a collection of nothing",
                "DELETE",
                &format!("{}?labelSelector=diff%3Dnone", self.path),
            ),
            Step::new(
                "delete a collection, bad selector",
                "DELETE",
                &format!("{}?labelSelector=%3D%3D", self.path),
            ),
        ];
        self.scenario("deletion", steps)
    }

    pub(super) fn status(&self) -> Option<Scenario> {
        let verbs = self.resource.subresources.get("status")?;
        let (object, at) = self.own("status");
        let path = format!("{at}/status");
        let mut changed = object.clone();
        changed["status"] = self.file.status.clone();
        changed["metadata"]["labels"]["from"] = json!("status");
        let mut steps = vec![
            Step::json("create", "POST", &self.path, object.clone()),
            Step::new("get status", "GET", &path),
        ];
        if verbs.iter().any(|v| v == "update") {
            steps.extend([
                Step::json("update status", "PUT", &path, changed.clone()),
                Step::json("update cannot set status", "PUT", &at, object.clone()),
                Step::patch("merge patch of status", "merge", &path, json!({"status": self.file.status, "metadata": {"annotations": {"from": "status"}}})),
                Step::patch("apply of status", "apply", &format!("{path}?fieldManager=s&force=true"), json!({
                    "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {"name": name_of(&at)}, "status": self.file.status})),
                Step::patch("status of a wrong type", "merge", &path, json!({"status": "x"})),
                Step::json("dry run", "PUT", &format!("{path}?dryRun=All"), object.clone()),
            ]);
            for mutation in mutate::all(&json!({"status": self.file.status}), &self.file.leave) {
                let mut body = object.clone();
                body["status"] = mutation.object["status"].clone();
                steps.push(Step::json(
                    &format!("status {}", mutation.name),
                    "PUT",
                    &format!("{path}?dryRun=All"),
                    body,
                ));
            }
        }
        steps.extend([
            Step::new("POST status", "POST", &path),
            Step::new("DELETE status", "DELETE", &path),
            Step::new("delete", "DELETE", &at),
        ]);
        Some(self.scenario("status", steps))
    }

    pub(super) fn scale(&self) -> Option<Scenario> {
        self.resource.subresources.get("scale")?;
        let (object, at) = self.own("scale");
        let path = format!("{at}/scale");
        let scale = |replicas: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name_of(&at), "namespace": "{ns}"}, "spec": {"replicas": replicas}});
        let mut stale = scale(json!(2));
        stale["metadata"]["resourceVersion"] = json!("1");
        let mut other = scale(json!(2));
        other["metadata"]["name"] = json!("other");
        let steps = vec![
            Step::json("create", "POST", &self.path, object),
            Step::new("get scale", "GET", &path),
            Step::json("scale", "PUT", &path, scale(json!(3))),
            Step::json("scale to less than nothing", "PUT", &path, scale(json!(-1))),
            Step::json("scale to a word", "PUT", &path, scale(json!("x"))),
            Step::json("scale at a stale revision", "PUT", &path, stale),
            Step::json("scale another", "PUT", &path, other),
            Step::json(
                "scale by another kind",
                "PUT",
                &path,
                json!({"apiVersion": "v1", "kind": "Pod"}),
            ),
            Step::patch(
                "patch scale",
                "merge",
                &path,
                json!({"spec": {"replicas": 5}}),
            ),
            Step::patch(
                "json patch of scale",
                "json",
                &path,
                json!([{"op": "replace", "path": "/spec/replicas", "value": 6}]),
            ),
            Step::patch(
                "apply scale",
                "apply",
                &format!("{path}?fieldManager=s&force=true"),
                scale(json!(7)),
            ),
            Step::json(
                "dry run",
                "PUT",
                &format!("{path}?dryRun=All"),
                scale(json!(9)),
            ),
            Step::new("get scale as Table", "GET", &path).header("accept", TABLE),
            Step::new("get", "GET", &at),
            Step::new("delete", "DELETE", &at),
        ];
        Some(self.scenario("scale", steps))
    }
}
