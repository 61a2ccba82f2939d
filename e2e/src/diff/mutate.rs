//! Makes many objects of one: each leaf deleted, emptied, of a wrong type, too long, out of bounds, illegal; each branch deleted and emptied.

use serde_json::{Value, json};

/// A changed object and what was changed.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// `spec.replicas = -1`.
    pub name: String,
    /// The object.
    pub object: Value,
}

/// What a place may become: nothing (deleted) or another value.
type Change = (String, Option<Value>);

/// Every mutation of an object, but those under the paths of `leave`.
pub fn all(object: &Value, leave: &[String]) -> Vec<Mutation> {
    let mut places = Vec::new();
    find(object, "", "", &mut places);
    let mut found = Vec::new();
    for (path, pointer) in places {
        let dotted = pointer.trim_start_matches('/').replace('/', ".");
        if leave.iter().any(|l| dotted.starts_with(l.as_str())) {
            continue;
        }
        let Some(value) = object.pointer(&pointer) else {
            continue;
        };
        for (what, change) in changes(&path, value) {
            let mut object = object.clone();
            apply(&mut object, &pointer, change);
            found.push(Mutation {
                name: format!("{path} {what}"),
                object,
            });
        }
    }
    found
}

/// One mutation a leaf, to another legal-looking value: what an update may not change.
pub fn updates(object: &Value, leave: &[String]) -> Vec<Mutation> {
    all(object, leave)
        .into_iter()
        .filter(|m| m.name.ends_with("another") || m.name.ends_with("deleted"))
        .collect()
}

fn find(value: &Value, path: &str, pointer: &str, places: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                let (path, pointer) = (format!("{path}.{key}"), format!("{pointer}/{escaped}"));
                if matches!(key.as_str(), "apiVersion" | "kind") && path.matches('.').count() == 1 {
                    continue;
                }
                places.push((path.clone(), pointer.clone()));
                find(child, &path, &pointer, places);
            }
        }
        Value::Array(list) => {
            for (index, child) in list.iter().enumerate() {
                let (path, pointer) = (format!("{path}[{index}]"), format!("{pointer}/{index}"));
                places.push((path.clone(), pointer.clone()));
                find(child, &path, &pointer, places);
            }
        }
        _ => {}
    }
}

fn changes(path: &str, value: &Value) -> Vec<Change> {
    let mut all: Vec<Change> = vec![("deleted".into(), None)];
    let mut to = |what: &str, value: Value| all.push((what.into(), Some(value)));
    match value {
        Value::String(text) => {
            to("= \"\"", json!(""));
            to("= 7", json!(7));
            to("too long", json!("a".repeat(300)));
            to("illegal", json!("Not/A_valid~Näme!"));
            to("another", json!(format!("{text}x")));
        }
        Value::Number(number) => {
            let n = number.as_i64().unwrap_or(1);
            to("= -1", json!(-1));
            to("= 0", json!(0));
            to("= 70000", json!(70_000));
            to("= 2^31", json!(2_147_483_648_i64));
            to("= \"x\"", json!("x"));
            to("= 1.5", json!(1.5));
            to("= n + 1, another", json!(n + 1));
        }
        Value::Bool(on) => {
            to("another", json!(!on));
            to("= \"yes\"", json!("yes"));
        }
        Value::Array(list) => {
            to("= []", json!([]));
            to("= {}", json!({"a": 1}));
            if let Some(first) = list.first() {
                let mut twice = list.clone();
                twice.push(first.clone());
                to("with its first twice", Value::Array(twice));
            }
        }
        Value::Object(_) => {
            to("= {}", json!({}));
            to("= []", json!(["x"]));
            if path.ends_with("abels") || path.ends_with("nnotations") {
                to(
                    "with a bad key",
                    json!({"-a b": "x", "a/b/c": "y", "": "z"}),
                );
            }
        }
        Value::Null => {}
    }
    all
}

fn apply(object: &mut Value, pointer: &str, change: Option<Value>) {
    let Some(value) = change else {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        match object.pointer_mut(parent) {
            Some(Value::Object(map)) => {
                map.remove(&key.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(list)) => {
                if let Ok(index) = key.parse::<usize>()
                    && index < list.len()
                {
                    list.remove(index);
                }
            }
            _ => {}
        }
        return;
    };
    if let Some(place) = object.pointer_mut(pointer) {
        *place = change_unless_same(place, value);
    }
}

fn change_unless_same(old: &Value, new: Value) -> Value {
    if *old == new { json!(null) } else { new }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_changed_but_those_left_alone() {
        let object = json!({"apiVersion": "v1", "kind": "X", "spec": {"n": 3, "a/b": ["x"], "t": {"u": true}}});
        let all = all(&object, &["spec.t".into()]);
        let one = |name: &str| {
            all.iter()
                .find(|m| m.name == name)
                .map(|m| m.object["spec"].clone())
        };
        assert_eq!(
            one(".spec.n deleted"),
            Some(json!({"a/b": ["x"], "t": {"u": true}}))
        );
        assert_eq!(
            one(".spec.a/b[0] deleted"),
            Some(json!({"n": 3, "a/b": [], "t": {"u": true}}))
        );
        assert_eq!(
            one(".spec.a/b[0] = 7"),
            Some(json!({"n": 3, "a/b": [7], "t": {"u": true}}))
        );
        assert!(
            all.iter()
                .all(|m| !m.name.contains("spec.t") && !m.name.contains("kind"))
        );
    }
}
