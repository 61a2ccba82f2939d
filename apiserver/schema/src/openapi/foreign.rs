//! OpenAPI v2 documents of other servers, and how they are merged into this server's: their paths, and the definitions
//! that those need, under other names where they differ from definitions of the same name.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

const DEFINITION: &str = "#/definitions/";
const PARAMETER: &str = "#/parameters/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// What another server's document says of the paths that are its own.
#[derive(Debug, Default)]
pub struct Foreign {
    /// What identifies the content: the server's ETag, or one made of the content.
    pub tag: String,
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
    parameters: Map<String, Value>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    paths: Map<String, Value>,
    #[serde(default)]
    definitions: Map<String, Value>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

impl Foreign {
    /// Reads a document, and keeps what its paths below `prefix` need.
    pub fn read(body: &[u8], prefix: &str, etag: String) -> Result<Foreign, serde_json::Error> {
        let mut whole: Whole = serde_json::from_slice(body)?;
        whole.paths.retain(|path, _| path.starts_with(prefix));
        let mut needed = BTreeSet::new();
        let mut waiting: Vec<String> = Vec::new();
        for item in whole.paths.values() {
            references(item, &mut waiting);
        }
        while let Some(reference) = waiting.pop() {
            if needed.contains(&reference) {
                continue;
            }
            let found = match reference.strip_prefix(DEFINITION) {
                Some(name) => whole.definitions.get(name),
                None => reference
                    .strip_prefix(PARAMETER)
                    .and_then(|name| whole.parameters.get(name)),
            };
            if let Some(found) = found {
                references(found, &mut waiting);
            }
            needed.insert(reference);
        }
        let is_needed = |kind: &str, name: &str| needed.contains(&format!("{kind}{name}"));
        whole.definitions.retain(|n, _| is_needed(DEFINITION, n));
        whole.parameters.retain(|n, _| is_needed(PARAMETER, n));
        let tag = if etag.is_empty() {
            let digest = Sha256::digest(body);
            digest.iter().map(|byte| format!("{byte:02X}")).collect()
        } else {
            etag
        };
        Ok(Foreign {
            tag,
            paths: whole.paths,
            definitions: whole.definitions,
            parameters: whole.parameters,
        })
    }

    /// Adds it to a document; paths that are there already stay as they are.
    pub(super) fn merge_into(&self, document: &mut Value) {
        let renamed = self.renamed(document);
        let rename = |value: &Value| {
            let mut value = value.clone();
            if !renamed.is_empty() {
                rewrite(&mut value, &renamed);
            }
            value
        };
        for (name, definition) in &self.definitions {
            let name = renamed.get(name).unwrap_or(name);
            let Some(definitions) = section(document, "definitions") else {
                return;
            };
            match definitions.get_mut(name) {
                Some(there) => add_kinds(there, definition),
                None => {
                    definitions.insert(name.clone(), rename(definition));
                }
            }
        }
        for (key, own) in [("parameters", &self.parameters), ("paths", &self.paths)] {
            if own.is_empty() {
                continue;
            }
            let Some(section) = section(document, key) else {
                return;
            };
            for (name, value) in own {
                if !section.contains_key(name) {
                    section.insert(name.clone(), rename(value));
                }
            }
        }
    }

    /// The definitions that must be called otherwise.
    fn renamed(&self, document: &Value) -> BTreeMap<String, String> {
        let mut renamed = BTreeMap::new();
        let there = &document["definitions"];
        for (name, definition) in &self.definitions {
            let fits = |candidate: &str| match there.get(candidate) {
                Some(other) => is_same(other, definition),
                None => candidate == name || !self.definitions.contains_key(candidate),
            };
            if fits(name) {
                continue;
            }
            let other = (2..)
                .map(|n| format!("{name}_v{n}"))
                .find(|candidate| fits(candidate));
            if let Some(other) = other {
                renamed.insert(name.clone(), other);
            }
        }
        renamed
    }
}

fn section<'d>(document: &'d mut Value, key: &str) -> Option<&'d mut Map<String, Value>> {
    let section = &mut document[key];
    if !section.is_object() {
        *section = Value::Object(Map::new());
    }
    section.as_object_mut()
}

/// Whether two definitions say the same, but for the kinds they are of.
fn is_same(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else {
        return a == b;
    };
    let without = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(KINDS));
    without(a) == without(b)
        && a.iter()
            .filter(|(key, _)| *key != KINDS)
            .all(|(key, value)| b.get(key) == Some(value))
}

/// Adds the kinds of a definition to those of an equal one.
fn add_kinds(to: &mut Value, from: &Value) {
    let Some(kinds) = from.get(KINDS).and_then(Value::as_array) else {
        return;
    };
    let Some(map) = to.as_object_mut() else {
        return;
    };
    let own = map.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(own) = own.as_array_mut() {
        for kind in kinds {
            if !own.contains(kind) {
                own.push(kind.clone());
            }
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => found.push(text.clone()),
                    other => references(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

fn rewrite(value: &mut Value, renamed: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        let new = text.strip_prefix(DEFINITION).and_then(|n| renamed.get(n));
                        if let Some(new) = new {
                            *text = format!("{DEFINITION}{new}");
                        }
                    }
                    other => rewrite(other, renamed),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rewrite(v, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn foreign(meta: &str) -> Foreign {
        let document = json!({
            "paths": {"/apis/a/v1/foos": {"get": {"schema": {"$ref": "#/definitions/Foo"}, "parameters": [{"$ref": "#/parameters/p"}]}},
                "/apis/b/v1/bars": {"get": {"schema": {"$ref": "#/definitions/Bar"}}}},
            "definitions": {"Foo": {"properties": {"metadata": {"$ref": "#/definitions/Meta"}}}, "Meta": {"description": meta, KINDS: [{"kind": "B"}]}, "Bar": {}},
            "parameters": {"p": {"name": "p"}, "q": {}},
        });
        Foreign::read(
            document.to_string().as_bytes(),
            "/apis/a/v1/",
            String::new(),
        )
        .unwrap()
    }

    fn own() -> Value {
        json!({"paths": {"/own": {}}, "definitions": {"Meta": {"description": "same", KINDS: [{"kind": "A"}]}}})
    }

    #[test]
    fn only_what_the_paths_need_is_added() {
        let mut document = own();
        foreign("same").merge_into(&mut document);
        let keys = |key: &str| -> Vec<String> {
            let map = document[key].as_object().unwrap();
            map.keys().cloned().collect()
        };
        assert_eq!(keys("paths"), ["/apis/a/v1/foos", "/own"]);
        assert_eq!(keys("definitions"), ["Foo", "Meta"]);
        assert_eq!(keys("parameters"), ["p"]);
        assert_eq!(
            document["definitions"]["Meta"][KINDS],
            json!([{"kind": "A"}, {"kind": "B"}])
        );
    }

    #[test]
    fn what_differs_gets_another_name() {
        let mut document = own();
        foreign("other").merge_into(&mut document);
        assert_eq!(
            document["definitions"]["Foo"]["properties"]["metadata"]["$ref"],
            "#/definitions/Meta_v2"
        );
        assert_eq!(document["definitions"]["Meta_v2"]["description"], "other");
        assert_eq!(document["definitions"]["Meta"]["description"], "same");
    }
}
