//! The scenarios that follow by rule from a kind's objects: the course of a life, every patch, encodings, selectors, paging, watches,
//! preconditions, finalizers, dry runs, field validation, subresources, and every mutation of the full objects.

use serde_json::{Value, json};

use super::corpus::KindFile;
use super::mutate;
use super::resources::Resource;
use super::scenario::{Body, Scenario, Step};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// A kind with its file, ready to make scenarios.
struct Kind<'a> {
    file: &'a KindFile,
    resource: &'a Resource,
    /// The collection.
    path: String,
    /// The minimal object's name.
    name: String,
}

/// Every scenario of a kind's file.
pub fn scenarios(file: &KindFile, resource: &Resource) -> Vec<Scenario> {
    let name = file.minimal["metadata"]["name"].as_str();
    let kind = Kind {
        file,
        resource,
        path: resource.path(),
        name: name.unwrap_or_default().into(),
    };
    let mut all = Vec::new();
    // Names that follow from what the object says can't be made anew for each scenario.
    if file.stored && resource.can("create") && !kind.name.is_empty() && !kind.fixed_name() {
        all.extend([
            kind.life(),
            kind.patches(),
            kind.apply(),
            kind.encodings(),
            kind.reads(),
            kind.field_validation(),
            kind.deletion(),
            kind.odd_writes(),
        ]);
        all.extend(kind.status());
        all.extend(kind.scale());
        all.extend(kind.full_objects());
    }
    all.extend(kind.variants());
    all.extend(kind.created_mutations());
    all.extend(kind.updated_mutations());
    all
}

impl Kind<'_> {
    fn scenario(&self, what: &str, steps: Vec<Step>) -> Scenario {
        Scenario {
            name: format!("{} {what}", self.resource.title()),
            namespaced: self.resource.namespaced,
            steps,
        }
    }

    /// The minimal object under a name of the scenario's own, since cluster-scoped objects share one room.
    fn own(&self, suffix: &str) -> (Value, String) {
        let mut object = self.file.minimal.clone();
        let mut name = self.name.clone();
        if !self.resource.namespaced && !self.fixed_name() {
            name = rename(&name, suffix);
            object["metadata"]["name"] = json!(name);
        }
        object["metadata"]["labels"]["diff"] = json!(suffix);
        let at = format!("{}/{name}", self.path);
        (object, at)
    }

    /// Whether the name follows from what the object says.
    fn fixed_name(&self) -> bool {
        matches!(
            self.resource.plural.as_str(),
            "apiservices" | "customresourcedefinitions"
        )
    }

    fn life(&self) -> Scenario {
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

    fn patches(&self) -> Scenario {
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

    fn apply(&self) -> Scenario {
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

    fn encodings(&self) -> Scenario {
        let (object, at) = self.own("encodings");
        let everywhere = self.resource.path_everywhere();
        let mine = format!("{}?labelSelector=diff%3Dencodings", self.path);
        let get = |name: &str, path: &str, accept: &str| {
            Step::new(name, "GET", path).header("accept", accept)
        };
        let mut yaml = Step::json("create from YAML", "POST", &self.path, Value::Null);
        yaml.content_type = Some("application/yaml".into());
        yaml.body = Body::Text(serde_norway::to_string(&object).unwrap_or_default());
        let mut no_type = Step::json("update without a Content-Type", "PUT", &at, object.clone());
        no_type.content_type = None;
        let mut wrong_type = Step::json("create as text", "POST", &self.path, object.clone());
        wrong_type.content_type = Some("text/plain".into());
        let mut not_protobuf = Step::json(
            "JSON that says it is protobuf",
            "POST",
            &self.path,
            object.clone(),
        );
        not_protobuf.content_type = Some(PROTOBUF.into());
        let steps = vec![
            yaml,
            no_type,
            wrong_type,
            not_protobuf,
            get("as YAML", &at, "application/yaml"),
            get("as protobuf", &at, PROTOBUF),
            get(
                "as protobuf or JSON",
                &at,
                "application/vnd.kubernetes.protobuf,application/json",
            ),
            get("as anything", &at, "*/*"),
            get("as application/*", &at, "application/*"),
            get("as HTML", &at, "text/html"),
            get("as Table", &at, TABLE),
            get(
                "as an old Table",
                &at,
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
            ),
            get(
                "as kubectl asks",
                &at,
                &format!(
                    "{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
                ),
            ),
            get(
                "as an unknown view",
                &at,
                "application/json;as=Chair;v=v1;g=meta.k8s.io",
            ),
            get("as metadata", &at, PARTIAL),
            get(
                "as metadata in protobuf",
                &at,
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            ),
            get(
                "as pretty JSON",
                &format!("{at}?pretty=true"),
                "application/json",
            ),
            get("list as YAML", &mine, "application/yaml"),
            get("list as protobuf", &mine, PROTOBUF),
            get("list as Table", &mine, TABLE),
            get(
                "list as Table without objects",
                &format!("{mine}&includeObject=None"),
                TABLE,
            ),
            get(
                "list as Table with whole objects",
                &format!("{mine}&includeObject=Object"),
                TABLE,
            ),
            get(
                "list as Table, bad includeObject",
                &format!("{mine}&includeObject=Some"),
                TABLE,
            ),
            get("list as metadata", &mine, PARTIAL_LIST),
            get("list as metadata of one", &mine, PARTIAL),
            get(
                "everywhere as Table",
                &format!("{everywhere}?labelSelector=diff%3Dencodings"),
                TABLE,
            ),
            Step::new("delete", "DELETE", &at).header("accept", PROTOBUF),
        ];
        self.scenario("encodings", steps)
    }

    fn reads(&self) -> Scenario {
        let (object, at) = self.own("reads");
        let mut second = object.clone();
        let second_name = rename(&self.name, "two");
        let has_second = !self.fixed_name();
        second["metadata"]["name"] = json!(second_name);
        second["metadata"]["labels"]["more"] = json!("yes");
        let list =
            |name: &str, query: &str| Step::new(name, "GET", &format!("{}?{query}", self.path));
        let mine = "labelSelector=diff%3Dreads";
        let mut steps = vec![
            Step::json("create", "POST", &self.path, object.clone())
                .keep("rv", "/metadata/resourceVersion"),
        ];
        if has_second {
            steps.push(Step::json("create a second", "POST", &self.path, second));
        }
        steps.extend([
            list("list", mine).keep("list", "/metadata/resourceVersion"),
            list("one of two", &format!("{mine}&limit=1")).keep("next", "/metadata/continue"),
            list("the rest", &format!("{mine}&limit=1&continue=${{next}}")),
            list("a forged token", "limit=1&continue=abc"),
            list("a token of another version", "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjAifQ"),
            list("a token with a revision", &format!("{mine}&limit=1&continue=${{next}}&resourceVersion=5")),
            list("a negative limit", "limit=-1&labelSelector=none"),
            list("a limit that is none", "limit=x"),
            list("in", "labelSelector=diff+in+%28reads%2Cx%29%2Cmore"),
            list("notin", "labelSelector=diff%3Dreads%2Cmore+notin+%28yes%29"),
            list("not there", "labelSelector=diff%3Dreads%2C%21more"),
            list("nothing", "labelSelector=diff%3Dnone"),
            list("greater", "labelSelector=diff%3Dreads%2Cmore%3E1"),
            list("a bad selector", "labelSelector=a+b+c"),
            list("a bad value", "labelSelector=a%3D-b-"),
            list("a bad key", "labelSelector=-a%3Db"),
            list("an open list", "labelSelector=a+in+%28b"),
            list("by name", &format!("{mine}&fieldSelector=metadata.name%3D{}", name_of(&at))),
            list("not by name", &format!("{mine}&fieldSelector=metadata.name%21%3D{}", name_of(&at))),
            list("by namespace", &format!("{mine}&fieldSelector=metadata.namespace%3Dnone")),
            list("by an unknown field", "fieldSelector=spec.unknown%3Dx"),
            list("a bad field selector", "fieldSelector=x"),
            list("from the cache", &format!("{mine}&resourceVersion=0")),
            list("not older", &format!("{mine}&resourceVersion=${{rv}}")),
            list("exact", &format!("{mine}&resourceVersion=${{list}}&resourceVersionMatch=Exact")),
            list("not older by name", &format!("{mine}&resourceVersion=${{rv}}&resourceVersionMatch=NotOlderThan")),
            list("a match without a revision", "resourceVersionMatch=Exact"),
            list("a match of an unknown kind", "resourceVersion=5&resourceVersionMatch=Roughly"),
            list("exactly 0", "resourceVersion=0&resourceVersionMatch=Exact"),
            list("a revision that is none", "resourceVersion=abc"),
            Step::new("get from the cache", "GET", &format!("{at}?resourceVersion=0")),
            Step::new("get a revision that is none", "GET", &format!("{at}?resourceVersion=abc")),
            list("watch from the start", &format!("watch=true&{mine}&timeoutSeconds=1&resourceVersion=0")),
            list("watch from a revision", &format!("watch=true&{mine}&timeoutSeconds=1&resourceVersion=${{rv}}")),
            list("watch with initial events", &format!("watch=true&{mine}&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan")),
            list("watch with initial events but no match", &format!("watch=true&{mine}&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true")),
            list("initial events without watch", "sendInitialEvents=true"),
            list("watch as Table", &format!("watch=true&{mine}&timeoutSeconds=1&resourceVersion=0")).header("accept", TABLE),
            list("watch as metadata", &format!("watch=true&{mine}&timeoutSeconds=1&resourceVersion=0")).header("accept", PARTIAL),
            list("watch from a revision that is none", "watch=true&timeoutSeconds=1&resourceVersion=abc"),
            list("watch with a bad timeout", "watch=true&timeoutSeconds=x"),
            list("watch with a match", "watch=true&timeoutSeconds=1&resourceVersion=1&resourceVersionMatch=Exact"),
            Step::new("delete the first", "DELETE", &at),
            list("watch of what happened", &format!("watch=true&{mine}&timeoutSeconds=1&resourceVersion=${{rv}}")),
            Step::new("delete a collection", "DELETE", &format!("{}?{mine}", self.path)),
            list("list after", mine),
        ]);
        self.scenario("reads", steps)
    }

    fn field_validation(&self) -> Scenario {
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

    fn deletion(&self) -> Scenario {
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

    fn odd_writes(&self) -> Scenario {
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

    fn status(&self) -> Option<Scenario> {
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

    fn scale(&self) -> Option<Scenario> {
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

    fn full_objects(&self) -> Vec<Scenario> {
        let one = |(index, object): (usize, &Value)| {
            let at = format!(
                "{}/{}",
                self.path,
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            let mut steps = vec![
                Step::json("create full", "POST", &self.path, object.clone()),
                Step::new("get", "GET", &at),
                Step::new("get as Table", "GET", &at).header("accept", TABLE),
                Step::new("get as protobuf", "GET", &at).header("accept", PROTOBUF),
                Step::json("update full", "PUT", &at, object.clone()),
                Step::patch(
                    "apply full",
                    "apply",
                    &format!("{at}?fieldManager=full&force=true"),
                    object.clone(),
                ),
                Step::patch(
                    "strategic patch of full with itself",
                    "strategic",
                    &at,
                    object.clone(),
                ),
                Step::patch(
                    "merge patch of full with itself",
                    "merge",
                    &at,
                    object.clone(),
                ),
                Step::json(
                    "strict dry run",
                    "POST",
                    &format!("{}?dryRun=All&fieldValidation=Strict", self.path),
                    object.clone(),
                ),
                Step::new("delete", "DELETE", &at),
            ];
            if self.fixed_name() {
                steps.clear();
            }
            self.scenario(&format!("full {index}"), steps)
        };
        self.file.full.iter().enumerate().map(one).collect()
    }

    fn variants(&self) -> Option<Scenario> {
        let query = if self.file.stored { "?dryRun=All" } else { "" };
        let path = format!("{}{query}", self.path);
        let steps: Vec<Step> = self
            .file
            .variants
            .iter()
            .map(|variant| {
                let mut object = if variant.object.is_object() {
                    variant.object.clone()
                } else {
                    self.file.minimal.clone()
                };
                merge(&mut object, &variant.patch);
                Step::json(&variant.name, "POST", &path, object)
            })
            .collect();
        (!steps.is_empty()).then(|| self.scenario("variants", steps))
    }

    fn created_mutations(&self) -> Vec<Scenario> {
        let query = if self.file.stored { "?dryRun=All" } else { "" };
        let path = format!("{}{query}", self.path);
        let mut all = Vec::new();
        for (index, object) in self
            .file
            .full
            .iter()
            .chain(std::iter::once(&self.file.minimal))
            .enumerate()
        {
            if !object.is_object() || !self.resource.can("create") {
                continue;
            }
            let mutations = mutate::all(object, &self.file.leave);
            for (part, chunk) in mutations.chunks(100).enumerate() {
                let steps = chunk
                    .iter()
                    .map(|m| Step::json(&m.name, "POST", &path, m.object.clone()))
                    .collect();
                all.push(self.scenario(&format!("create {index}.{part}"), steps));
            }
        }
        all
    }

    fn updated_mutations(&self) -> Vec<Scenario> {
        if !self.file.stored || !self.resource.can("update") {
            return Vec::new();
        }
        let one = |(index, full): (usize, &Value)| {
            let mut object = full.clone();
            let mut name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if !self.resource.namespaced && !self.fixed_name() {
                name = rename(&name, "upd");
                object["metadata"]["name"] = json!(name);
            }
            let at = format!("{}/{name}", self.path);
            let dry = format!("{at}?dryRun=All");
            let mut steps = vec![Step::json("create", "POST", &self.path, object.clone())];
            for update in self.file.updates.iter().filter(|u| u.from == index) {
                let mut changed = if update.object.is_object() {
                    update.object.clone()
                } else {
                    object.clone()
                };
                merge(&mut changed, &update.patch);
                steps.push(Step::json(&update.name, "PUT", &dry, changed));
            }
            for m in mutate::updates(&object, &self.file.leave) {
                steps.push(Step::json(&m.name, "PUT", &dry, m.object));
            }
            steps.push(Step::new("get after", "GET", &at));
            steps.push(Step::new("delete", "DELETE", &at));
            self.scenario(&format!("update {index}"), steps)
        };
        self.file.full.iter().enumerate().map(one).collect()
    }
}

/// Another name of the same form: names that are addresses or DNS names keep theirs.
fn rename(name: &str, suffix: &str) -> String {
    if let Ok(address) = name.parse::<std::net::Ipv4Addr>() {
        let [a, b, c, d] = address.octets();
        let more = suffix.bytes().fold(0_u8, u8::wrapping_add);
        return std::net::Ipv4Addr::new(a, b, c.wrapping_add(more), d).to_string();
    }
    match name.split_once('.') {
        Some((first, rest)) => format!("{first}-{suffix}.{rest}"),
        None => format!("{name}-{suffix}"),
    }
}

fn name_of(at: &str) -> &str {
    at.rsplit('/').next().unwrap_or_default()
}

fn with_annotation(object: &Value, bytes: usize) -> String {
    let mut object = object.clone();
    object["metadata"]["annotations"] = json!({"big": "x".repeat(bytes)});
    object.to_string()
}

/// RFC 7386, for changes written in the corpus.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        if !patch.is_null() {
            *target = patch.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            if let Value::Object(map) = target {
                map.remove(key);
            }
        } else {
            merge(&mut target[key], change);
        }
    }
}
