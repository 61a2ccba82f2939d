//! Scenarios of a kind: encodings, selectors, paging, resource versions and watches.

use serde_json::{Value, json};

use super::{Kind, PARTIAL, PARTIAL_LIST, PROTOBUF, TABLE, name_of, rename};
use crate::diff::scenario::{Body, Scenario, Step};

impl Kind<'_> {
    pub(super) fn encodings(&self) -> Scenario {
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

    pub(super) fn reads(&self) -> Scenario {
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
}
