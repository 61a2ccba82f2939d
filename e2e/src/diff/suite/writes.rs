//! Scenarios of a kind: writes and what is wrong with them: a life's course, fields that aren't there, odd metadata.

use serde_json::{Value, json};

use super::{Kind, with_annotation};
use crate::diff::scenario::{Body, Scenario, Step};

impl Kind<'_> {
    pub(super) fn life(&self) -> Scenario {
        let (object, at) = self.own("life");
        let labelled = |value: &str| {
            let mut object = object.clone();
            object["metadata"]["labels"]["step"] = json!(value);
            object
        };
        let mut stale = labelled("stale");
        stale["metadata"]["resourceVersion"] = json!("1");
        let mut future = labelled("future");
        future["metadata"]["resourceVersion"] = json!("99999999");
        let mut odd = labelled("odd");
        odd["metadata"]["resourceVersion"] = json!("abc");
        let mut renamed = labelled("renamed");
        renamed["metadata"]["name"] = json!("another-name");
        let mut other_uid = labelled("uid");
        other_uid["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
        let mut elsewhere = labelled("elsewhere");
        elsewhere["metadata"]["namespace"] = json!("elsewhere");
        let mut with_revision = object.clone();
        with_revision["metadata"]["resourceVersion"] = json!("5");
        let mut own_fields = labelled("server's fields");
        own_fields["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
        own_fields["metadata"]["generation"] = json!(77);
        own_fields["metadata"]["selfLink"] = json!("/self");
        let mut fresh = labelled("fresh");
        fresh["metadata"]["resourceVersion"] = json!("${rv}");
        let steps = vec![
            Step::new("get what is not there", "GET", &at),
            Step::json("update what is not there", "PUT", &at, object.clone()),
            Step::new("delete what is not there", "DELETE", &at),
            Step::json(
                "create with a resourceVersion",
                "POST",
                &self.path,
                with_revision,
            ),
            Step::json(
                "create for another namespace",
                "POST",
                &self.path,
                elsewhere,
            ),
            Step::json(
                "dry run of create",
                "POST",
                &format!("{}?dryRun=All", self.path),
                object.clone(),
            ),
            Step::json(
                "bad dry run",
                "POST",
                &format!("{}?dryRun=Some", self.path),
                object.clone(),
            ),
            Step::json("create", "POST", &self.path, object.clone())
                .keep("rv", "/metadata/resourceVersion"),
            Step::new("get", "GET", &at),
            Step::json("create again", "POST", &self.path, object.clone()),
            Step::json("update with labels", "PUT", &at, fresh)
                .keep("rv", "/metadata/resourceVersion"),
            Step::json("update with a stale revision", "PUT", &at, stale),
            Step::json("update with a future revision", "PUT", &at, future),
            Step::json("update with an odd revision", "PUT", &at, odd),
            Step::json("update under another name", "PUT", &at, renamed),
            Step::json("update with another uid", "PUT", &at, other_uid),
            Step::json("update without a revision", "PUT", &at, labelled("none")),
            Step::json("update with the server's fields", "PUT", &at, own_fields),
            Step::json("update that changes nothing", "PUT", &at, labelled("none")),
            Step::json(
                "dry run of update",
                "PUT",
                &format!("{at}?dryRun=All"),
                labelled("dry"),
            ),
            Step::new("get after updates", "GET", &at),
            Step::new("POST on an object", "POST", &at),
            Step::new("PUT on a collection", "PUT", &self.path),
            Step::new("PATCH on a collection", "PATCH", &self.path),
            Step::new("an unknown subresource", "GET", &format!("{at}/nothing")),
            Step::new("delete", "DELETE", &at),
            Step::new("get after delete", "GET", &at),
        ];
        self.scenario("life", steps)
    }

    pub(super) fn field_validation(&self) -> Scenario {
        let (object, at) = self.own("fields");
        let mut unknown = object.clone();
        unknown["metadata"]["unknown"] = json!({"a": 1});
        unknown["other"] = json!(1);
        let text = object.to_string();
        let twice = format!(r#"{{"kind":"Twice",{}"#, text.trim_start_matches('{'));
        let wrong_case = text.replace("\"metadata\"", "\"Metadata\"");
        let mut steps = Vec::new();
        for mode in ["Strict", "Warn", "Ignore", "Bogus"] {
            let path = format!("{}?dryRun=All&fieldValidation={mode}", self.path);
            steps.push(Step::json(
                &format!("unknown fields, {mode}"),
                "POST",
                &path,
                unknown.clone(),
            ));
            let mut step = Step::json(
                &format!("a field twice, {mode}"),
                "POST",
                &path,
                Value::Null,
            );
            step.body = Body::Text(twice.clone());
            steps.push(step);
        }
        let path = format!("{}?dryRun=All", self.path);
        let raw = |name: &str, text: &str| {
            let mut step = Step::json(name, "POST", &path, Value::Null);
            step.body = Body::Text(text.into());
            step
        };
        let mut no_kind = object.clone();
        no_kind["kind"] = json!("");
        let mut other_kind = object.clone();
        other_kind["kind"] = json!("Other");
        let mut other_version = object.clone();
        other_version["apiVersion"] = json!("other/v1");
        let mut list = object.clone();
        list["metadata"] = json!([]);
        steps.extend([
            raw("a key of a wrong case", &wrong_case),
            raw("no JSON", "{\"kind\": "),
            raw("empty", ""),
            raw("null", "null"),
            raw("a list", "[]"),
            raw("a string", "\"x\""),
            raw("an empty object", "{}"),
            Step::json("no kind", "POST", &path, no_kind),
            Step::json("another kind", "POST", &path, other_kind),
            Step::json("another version", "POST", &path, other_version),
            Step::json("metadata of a wrong type", "POST", &path, list),
            Step::json("create", "POST", &self.path, object.clone()),
            Step::json(
                "update with unknown fields, Strict",
                "PUT",
                &format!("{at}?fieldValidation=Strict"),
                unknown.clone(),
            ),
            Step::json("update with unknown fields", "PUT", &at, unknown),
            Step::patch(
                "merge patch with unknown fields, Strict",
                "merge",
                &format!("{at}?fieldValidation=Strict"),
                json!({"unknown": 1}),
            ),
            Step::patch(
                "merge patch with unknown fields",
                "merge",
                &at,
                json!({"unknown": 1, "metadata": {"nothing": 2}}),
            ),
            Step::patch(
                "strategic patch with unknown fields, Strict",
                "strategic",
                &format!("{at}?fieldValidation=Strict"),
                json!({"unknown": 1}),
            ),
            Step::patch(
                "json patch with unknown fields, Strict",
                "json",
                &format!("{at}?fieldValidation=Strict"),
                json!([{"op": "add", "path": "/unknown", "value": 1}]),
            ),
            Step::new("delete", "DELETE", &at),
        ]);
        self.scenario("fields", steps)
    }

    pub(super) fn odd_writes(&self) -> Scenario {
        let (object, _) = self.own("odd");
        let path = format!("{}?dryRun=All", self.path);
        let with = |name: &str, change: &dyn Fn(&mut Value)| {
            let mut object = object.clone();
            change(&mut object["metadata"]);
            Step::json(name, "POST", &path, object)
        };
        let mut steps = vec![
            with("generateName", &|m| {
                m["generateName"] = json!("generated-");
                m["name"] = Value::Null;
            }),
            with("generateName of an illegal form", &|m| {
                m["generateName"] = json!("Bad_");
                m["name"] = Value::Null;
            }),
            with("no name", &|m| m["name"] = Value::Null),
            with("an illegal name", &|m| m["name"] = json!("a/b")),
            with("a name of dots", &|m| m["name"] = json!("..")),
            with("an upper-case name", &|m| m["name"] = json!("Upper")),
            with("a long name", &|m| m["name"] = json!("n".repeat(254))),
            with("a name of 64", &|m| m["name"] = json!("n".repeat(64))),
            with("a namespace", &|m| m["namespace"] = json!("default")),
            with("illegal labels", &|m| {
                m["labels"] = json!({"a b": "c", "x": "-y-", "k/l/m": "n", "": ""})
            }),
            with("long labels", &|m| {
                m["labels"] = json!({"k": "v".repeat(64), ("p".repeat(254) + "/x"): "y"})
            }),
            with("illegal annotations", &|m| {
                m["annotations"] = json!({"a b": "c", "-x": "y"})
            }),
            with("large annotations", &|m| {
                m["annotations"] = json!({"k": "v".repeat(262_145)})
            }),
            with("illegal finalizers", &|m| {
                m["finalizers"] = json!(["plain", "a b/c", "kubernetes", "foregroundDeletion"])
            }),
            with("conflicting finalizers", &|m| {
                m["finalizers"] = json!(["orphan", "foregroundDeletion"])
            }),
            with("owners", &|m| {
                m["ownerReferences"] = json!([
                {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u", "controller": true},
                {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "v", "controller": true}])
            }),
            with(
                "bad owners",
                &|m| m["ownerReferences"] = json!([{"apiVersion": "a/b/c", "kind": "", "name": "", "uid": ""}, {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]),
            ),
            with(
                "an owner that blocks",
                &|m| m["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "blockOwnerDeletion": true}]),
            ),
            with("a deletion time", &|m| {
                m["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
                m["deletionGracePeriodSeconds"] = json!(5);
            }),
            with("a bad time", &|m| {
                m["creationTimestamp"] = json!("yesterday")
            }),
            with("a negative generation", &|m| m["generation"] = json!(-1)),
            with(
                "managedFields",
                &|m| m["managedFields"] = json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {}}}]),
            ),
            with(
                "bad managedFields",
                &|m| m["managedFields"] = json!([{"manager": "x", "operation": "Explode", "apiVersion": "v1", "fieldsType": "FieldsV9", "fieldsV1": {"x": 1}}]),
            ),
        ];
        let mut big = Step::json("3 MB and a bit", "POST", &path, Value::Null);
        let padded = with_annotation(&object, 3 * 1024 * 1024 + 1024);
        big.body = Body::Text(padded);
        steps.push(big);
        let mut deep = Step::json("10,000 deep", "POST", &path, Value::Null);
        let text = object.to_string();
        deep.body = Body::Text(format!(
            "{{\"x\":{}{},{}",
            "[".repeat(10_001),
            "]".repeat(10_001),
            text.trim_start_matches('{')
        ));
        steps.push(deep);
        self.scenario("odd", steps)
    }
}
