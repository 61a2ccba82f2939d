//! Scenarios of a kind: the patch types and server-side apply.

use serde_json::{Value, json};

use super::Kind;
use crate::diff::scenario::{Body, Scenario, Step};

impl Kind<'_> {
    pub(super) fn patches(&self) -> Scenario {
        let (object, at) = self.own("patches");
        let merge = |name: &str, body: Value| Step::patch(name, "merge", &at, body);
        let strategic = |name: &str, body: Value| Step::patch(name, "strategic", &at, body);
        let list = |name: &str, body: Value| Step::patch(name, "json", &at, body);
        let mut text = merge("malformed merge patch", Value::Null);
        text.body = Body::Text("{".into());
        let mut wrong = merge("a patch of an unknown type", json!({}));
        wrong.content_type = Some("application/patch".into());
        let mut plain = merge("a patch of type JSON", json!({}));
        plain.content_type = Some("application/json".into());
        let finalizers = json!({"metadata": {"$setElementOrder/finalizers": ["a.example/x", "b.example/y"], "finalizers": ["b.example/y"]}});
        let steps = vec![
            merge(
                "patch what is not there",
                json!({"metadata": {"labels": {"a": "b"}}}),
            ),
            Step::json("create", "POST", &self.path, object),
            merge(
                "merge: add a label",
                json!({"metadata": {"labels": {"a": "b"}}}),
            )
            .keep("rv", "/metadata/resourceVersion"),
            merge(
                "merge: remove it",
                json!({"metadata": {"labels": {"a": null}}}),
            ),
            merge("merge: nothing", json!({})),
            merge(
                "merge: an illegal label",
                json!({"metadata": {"labels": {"a": "b c"}}}),
            ),
            merge(
                "merge: a label of a wrong type",
                json!({"metadata": {"labels": {"a": 7}}}),
            ),
            merge(
                "merge: another name",
                json!({"metadata": {"name": "another"}}),
            ),
            merge("merge: another kind", json!({"kind": "Another"})),
            merge("merge: another apiVersion", json!({"apiVersion": "v7"})),
            merge("merge: a list", json!([])),
            merge(
                "merge: a stale revision",
                json!({"metadata": {"resourceVersion": "1", "labels": {"s": "t"}}}),
            ),
            merge(
                "merge: the right revision",
                json!({"metadata": {"annotations": {"r": "t"}}}),
            ),
            merge("merge: an unknown field", json!({"unknown": {"a": 1}})),
            merge("merge: metadata null", json!({"metadata": null})),
            merge("merge: uid", json!({"metadata": {"uid": "x"}})),
            merge("merge: generation", json!({"metadata": {"generation": 99}})),
            text,
            strategic(
                "strategic: annotations",
                json!({"metadata": {"annotations": {"x": "y", "z": ""}}}),
            ),
            strategic(
                "strategic: finalizers",
                json!({"metadata": {"finalizers": ["a.example/x"]}}),
            ),
            strategic("strategic: ordered finalizers", finalizers),
            strategic(
                "strategic: remove a finalizer",
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.example/x"]}}),
            ),
            strategic(
                "strategic: replace labels",
                json!({"metadata": {"labels": {"$patch": "replace", "only": "this"}}}),
            ),
            strategic(
                "strategic: delete annotations",
                json!({"metadata": {"annotations": {"$patch": "delete"}}}),
            ),
            strategic(
                "strategic: a bad directive",
                json!({"metadata": {"labels": {"$patch": "explode"}}}),
            ),
            strategic(
                "strategic: finalizers away",
                json!({"metadata": {"finalizers": null}}),
            ),
            strategic("strategic: an unknown field", json!({"unknown": 1})),
            list(
                "json: add",
                json!([{"op": "add", "path": "/metadata/labels", "value": {"j": "k"}}]),
            ),
            list(
                "json: test and replace",
                json!([{"op": "test", "path": "/metadata/labels/j", "value": "k"}, {"op": "replace", "path": "/metadata/labels/j", "value": "l"}]),
            ),
            list(
                "json: a test that fails",
                json!([{"op": "test", "path": "/metadata/labels/j", "value": "no"}]),
            ),
            list(
                "json: remove what is not there",
                json!([{"op": "remove", "path": "/metadata/labels/none"}]),
            ),
            list(
                "json: replace what is not there",
                json!([{"op": "replace", "path": "/metadata/none/x", "value": 1}]),
            ),
            list(
                "json: copy and move",
                json!([{"op": "copy", "from": "/metadata/labels/j", "path": "/metadata/labels/m"}, {"op": "move", "from": "/metadata/labels/m", "path": "/metadata/labels/n"}]),
            ),
            list(
                "json: an unknown operation",
                json!([{"op": "explode", "path": "/metadata"}]),
            ),
            list("json: no list", json!({"op": "add"})),
            list("json: no path", json!([{"op": "add", "value": 1}])),
            list(
                "json: a wrong type",
                json!([{"op": "add", "path": "/metadata/labels", "value": "x"}]),
            ),
            list("json: empty", json!([])),
            wrong,
            plain,
            Step::patch(
                "dry run of patch",
                "merge",
                &format!("{at}?dryRun=All"),
                json!({"metadata": {"labels": {"dry": "run"}}}),
            ),
            Step::patch(
                "patch with force",
                "merge",
                &format!("{at}?force=true"),
                json!({}),
            ),
            Step::patch(
                "patch by a manager",
                "merge",
                &format!("{at}?fieldManager=me"),
                json!({"metadata": {"labels": {"by": "me"}}}),
            ),
            Step::patch(
                "patch by a manager with a bad name",
                "merge",
                &format!("{at}?fieldManager={}", "m".repeat(130)),
                json!({"metadata": {"labels": {"by": "you"}}}),
            ),
            Step::new("get after patches", "GET", &at),
            Step::new("delete", "DELETE", &at),
        ];
        self.scenario("patches", steps)
    }

    pub(super) fn apply(&self) -> Scenario {
        let (object, at) = self.own("apply");
        let with = |manager: &str, more: &str| format!("{at}?fieldManager={manager}{more}");
        let labelled = |labels: Value| {
            let mut object = object.clone();
            object["metadata"]["labels"] = labels;
            object
        };
        let mut nameless = object.clone();
        nameless["metadata"]["name"] = json!("another");
        let mut managed = object.clone();
        managed["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply"}]);
        let mut unknown = object.clone();
        unknown["unknown"] = json!(1);
        let mut wrong = object.clone();
        wrong["metadata"]["labels"] = json!("x");
        let mut yaml = Step::patch("apply of no YAML", "apply", &with("a", ""), Value::Null);
        yaml.body = Body::Text("a: b: c: [".into());
        let steps = vec![
            Step::patch("apply without a manager", "apply", &at, object.clone()),
            Step::patch(
                "dry run of apply",
                "apply",
                &with("a", "&dryRun=All"),
                object.clone(),
            ),
            Step::patch(
                "apply creates",
                "apply",
                &with("a", ""),
                labelled(json!({"x": "1", "y": "1"})),
            ),
            Step::patch(
                "apply again",
                "apply",
                &with("a", ""),
                labelled(json!({"x": "1", "y": "1"})),
            ),
            Step::patch(
                "apply by another, the same value",
                "apply",
                &with("b", ""),
                labelled(json!({"x": "1"})),
            ),
            Step::patch(
                "apply by another, a conflict",
                "apply",
                &with("b", ""),
                labelled(json!({"x": "2", "y": "3"})),
            ),
            Step::patch(
                "apply by another, forced",
                "apply",
                &with("b", "&force=true"),
                labelled(json!({"x": "2"})),
            ),
            Step::patch(
                "apply by the first, now in conflict",
                "apply",
                &with("a", ""),
                labelled(json!({"x": "1"})),
            ),
            Step::patch(
                "apply that removes",
                "apply",
                &with("a", ""),
                labelled(json!({})),
            ),
            Step::patch(
                "apply that removes more",
                "apply",
                &with("b", ""),
                labelled(json!({})),
            ),
            Step::patch(
                "update by a manager",
                "merge",
                &with("c", ""),
                json!({"metadata": {"labels": {"z": "1"}}}),
            ),
            Step::patch(
                "apply against an update",
                "apply",
                &with("a", ""),
                labelled(json!({"z": "2"})),
            ),
            Step::patch(
                "apply under another name",
                "apply",
                &with("a", ""),
                nameless,
            ),
            Step::patch("apply with managedFields", "apply", &with("a", ""), managed),
            Step::patch(
                "apply with an unknown field",
                "apply",
                &with("a", ""),
                unknown.clone(),
            ),
            Step::patch(
                "apply with an unknown field, strict",
                "apply",
                &with("a", "&fieldValidation=Strict"),
                unknown,
            ),
            Step::patch("apply of a wrong type", "apply", &with("a", ""), wrong),
            Step::patch(
                "apply without kind",
                "apply",
                &with("a", ""),
                json!({"metadata": {"name": self.name}}),
            ),
            yaml,
            Step::patch(
                "clear managedFields",
                "merge",
                &at,
                json!({"metadata": {"managedFields": [{}]}}),
            ),
            Step::new("get after apply", "GET", &at),
            Step::new("delete", "DELETE", &at),
        ];
        self.scenario("apply", steps)
    }
}
