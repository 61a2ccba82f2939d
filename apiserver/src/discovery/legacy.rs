//! From a plain list of resources to aggregated discovery, for servers that only have the former.

use serde_json::{Map, Value, json};

/// The resources of an `APIResourceList`, as aggregated discovery lists them.
pub fn aggregated(list: &Value) -> Vec<Value> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let listed = list["resources"].as_array();
    let mut found: Vec<(String, Map<String, Value>)> = Vec::new();
    let mut subs: Vec<(String, Value)> = Vec::new();
    for resource in listed.into_iter().flatten() {
        let kind = json!({"group": text(resource, "group"), "version": text(resource, "version"), "kind": text(resource, "kind")});
        let name = text(resource, "name");
        if let Some((owner, sub)) = name.split_once('/') {
            let row = json!({"subresource": sub, "responseKind": kind, "verbs": resource["verbs"]});
            subs.push((owner.to_owned(), row));
            continue;
        }
        let scope = if resource["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let mut row = Map::new();
        row.insert("resource".into(), name.clone().into());
        row.insert("responseKind".into(), kind);
        row.insert("scope".into(), scope.into());
        row.insert(
            "singularResource".into(),
            text(resource, "singularName").into(),
        );
        row.insert("verbs".into(), resource["verbs"].clone());
        for key in ["shortNames", "categories"] {
            if resource[key].is_array() {
                row.insert(key.into(), resource[key].clone());
            }
        }
        found.push((name, row));
    }
    for (owner, sub) in subs {
        if let Some((_, row)) = found.iter_mut().find(|(name, _)| *name == owner) {
            let list = row
                .entry("subresources")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = list.as_array_mut() {
                list.push(sub);
            }
        }
    }
    found
        .into_iter()
        .map(|(_, row)| Value::Object(row))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_go_to_their_resources() {
        let list = json!({"resources": [
            {"name": "foos", "singularName": "foo", "namespaced": true, "kind": "Foo", "verbs": ["get"], "shortNames": ["f"]},
            {"name": "foos/status", "singularName": "", "namespaced": true, "kind": "Foo", "verbs": ["update"]}]});
        let kind = json!({"group": "", "version": "", "kind": "Foo"});
        assert_eq!(
            aggregated(&list),
            [
                json!({"resource": "foos", "responseKind": kind, "scope": "Namespaced", "singularResource": "foo", "verbs": ["get"], "shortNames": ["f"],
                "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}]})
            ]
        );
    }
}
