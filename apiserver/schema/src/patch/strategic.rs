//! Strategic merge: a merge patch that knows which lists are maps, and carries directives.
//!
//! The type gives merge keys and strategies. Directives: `$patch` (replace, delete, merge) in maps and list
//! elements, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.

use serde_json::{Map, Value};

use super::{PatchError, kind};
use crate::types::{PatchStrategy, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of type `ty`.
pub fn strategic(original: &Value, patch: &Value, ty: &Type) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Invalid(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            kind(patch)
        )));
    };
    let original = original.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge_map(original, patch.clone(), ty)?))
}

fn merge_map(mut original: Object, mut patch: Object, ty: &Type) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => {
                patch.insert(DIRECTIVE.to_owned(), directive.clone());
                Err(bad_directive(&directive, &patch))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, ty)?;
    for (key, change) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM_LIST) {
            None => (key, false),
            Some(rest) => match rest.strip_prefix('/') {
                Some(list) => (list.to_owned(), true),
                None => {
                    return Err(PatchError::Invalid(
                        "invalid patch format of primitive list".to_owned(),
                    ));
                }
            },
        };
        if change.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), change) {
            (Some(Value::Object(old)), Value::Object(change)) => {
                let (ty, strategy) = field(ty, &key)?;
                Some(Value::Object(if strategy.replace {
                    change
                } else {
                    merge_map(old, change, ty)?
                }))
            }
            (Some(Value::Array(old)), Value::Array(change)) => {
                let (element, strategy) = list_field(ty, &key)?;
                Some(Value::Array(merge_list(
                    old, change, element, strategy, deletes,
                )?))
            }
            (old, _) if deletes => old,
            (_, change) => without_directives(without_nulls(change)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// Clears what `$retainKeys` doesn't name.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(list) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let invalid = || PatchError::Invalid("invalid patch format of retainKeys".to_owned());
    let Value::Array(retained) = list else {
        return Err(invalid());
    };
    let is_retained = |key: &str| retained.iter().any(|name| name == key);
    for (key, change) in patch.iter() {
        let exempt =
            change.is_null() || key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER);
        if !exempt && !is_retained(key) {
            return Err(invalid());
        }
    }
    original.retain(|key, _| is_retained(key));
    Ok(())
}

/// Merges the lists that have a `$setElementOrder`, and puts them in that order.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    ty: &Type,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let invalid =
            || PatchError::Invalid("invalid patch format of setElementOrder list".to_owned());
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(invalid());
        };
        let key = directive[ELEMENT_ORDER.len()..]
            .strip_prefix('/')
            .ok_or_else(invalid)?;
        let as_list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(PatchError::Internal(format!(
                "expected a []interface {{}}, but received a {}",
                kind(other)
            ))),
        };
        let old = as_list(original.get(key))?;
        let change = as_list(patch.get(key))?;
        let (element, strategy) = list_field(ty, key)?;
        let merge_key = strategy.merge_key.as_deref();
        check_order(change.as_deref().unwrap_or_default(), &order, merge_key)?;
        let live = match (&old, &change) {
            (Some(old), Some(change)) => order_after_deletion(old, change, merge_key),
            _ => old.clone().unwrap_or_default(),
        };
        let merged = match (&old, change) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(change)) => match without_directives(Value::Array(change)) {
                Some(Value::Array(items)) => items,
                _ => continue,
            },
            (Some(old), Some(change)) => merge_list(old.clone(), change, element, strategy, false)?,
        };
        let sorted = in_order(merged, &order, &live, merge_key)?;
        original.insert(key.to_owned(), Value::Array(sorted));
        patch.remove(key);
    }
    Ok(())
}

/// The order that the live list gives. Upstream deletes in place, so what the patch adds moves up into it.
fn order_after_deletion(old: &[Value], change: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let Some(key) = merge_key else {
        return old.to_vec();
    };
    let is_deletion = |item: &&Value| item.get(DIRECTIVE).is_some_and(|name| name == "delete");
    let deleted = |item: &Value| {
        let mut deletions = change.iter().filter(is_deletion);
        deletions.any(|deletion| deletion.get(key) == item.get(key))
    };
    let mut order: Vec<Value> = old.iter().filter(|item| !deleted(item)).cloned().collect();
    if order.len() < old.len() {
        for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
            if order.len() < old.len() && !order.iter().any(|other| other.get(key) == item.get(key))
            {
                order.push(item.clone());
            }
        }
    }
    order
}

/// Refuses a patch list whose elements are not in the order that its directive gives.
fn check_order(
    change: &[Value],
    order: &[Value],
    merge_key: Option<&str>,
) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, merge_key)?;
        loop {
            let Some(candidate) = rest.next() else {
                return Err(PatchError::Internal(format!(
                    "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                    go_list(change),
                    go_list(order)
                )));
            };
            if identity(candidate, merge_key)? == wanted {
                break;
            }
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    element: &Type,
    strategy: &PatchStrategy,
    deletes: bool,
) -> Result<Vec<Value>, PatchError> {
    if !strategy.merge && !deletes {
        return Ok(patch);
    }
    let Some(first) = original.iter().chain(&patch).next() else {
        return Ok(original);
    };
    let objects = first.is_object();
    for item in original.iter().chain(&patch) {
        if item.is_array() {
            return Err(PatchError::NotApplicable(
                "lists of lists are not supported".to_owned(),
            ));
        }
        if item.is_object() != objects {
            return Err(PatchError::Internal(format!(
                "list element types are not identical: {} and {}",
                kind(first),
                kind(item)
            )));
        }
    }
    if !objects {
        if deletes {
            return Ok(original
                .into_iter()
                .filter(|item| !patch.contains(item))
                .collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return in_order(merged, &patch, &original, None);
    }
    let Some(merge_key) = strategy.merge_key.as_deref() else {
        return Err(PatchError::Internal(
            "cannot merge lists without merge key for struct".to_owned(),
        ));
    };
    let (original, patch) = apply_element_directives(original, patch, merge_key)?;
    let live = original.clone();
    let mut merged = original;
    for change in &patch {
        let wanted = identity(change, Some(merge_key))?;
        let found = merged
            .iter_mut()
            .find(|item| item.get(merge_key) == Some(wanted));
        match (found, change) {
            (Some(Value::Object(old)), Value::Object(change)) => {
                let result = merge_map(std::mem::take(old), change.clone(), element)?;
                *old = result;
            }
            _ => merged.push(change.clone()),
        }
    }
    in_order(merged, &patch, &live, Some(merge_key))
}

/// Carries out `$patch` in list elements; what remains of the patch has none.
fn apply_element_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let gone = identity(&item, Some(merge_key))?;
                    original.retain(|old| old.get(merge_key) != Some(gone));
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(PatchError::Internal(
                        "merging lists cannot yet be specified in the patch".to_owned(),
                    ));
                }
                _ => {
                    let object = item.as_object().cloned().unwrap_or_default();
                    return Err(bad_directive(directive, &object));
                }
            },
        }
    }
    Ok(if replace {
        (plain, Vec::new())
    } else {
        (original, plain)
    })
}

/// Puts the elements that `order` names in its order, and the others between them as they were in `live`.
fn in_order(
    items: Vec<Value>,
    order: &[Value],
    live: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    for item in items.iter().chain(order) {
        identity(item, merge_key)?;
    }
    let id = |item: &Value| match merge_key {
        Some(key) => item.get(key).cloned(),
        None => Some(item.clone()),
    };
    let place = |list: &[Value], item: &Value| {
        let wanted = id(item);
        list.iter().position(|other| id(other) == wanted)
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(live, item));
    let mut sorted = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    let mut named = named.into_iter().peekable();
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => {
                let before = matches!(
                    (place(live, other), place(live, name)),
                    (Some(other), Some(name)) if other < name
                );
                if before { others.next() } else { named.next() }
            }
            (Some(_), None) => others.next(),
            (None, _) => named.next(),
        };
        match next {
            Some(item) => sorted.push(item),
            None => return Ok(sorted),
        }
    }
}

/// What identifies a list element: its merge key's value, or itself.
fn identity<'v>(item: &'v Value, merge_key: Option<&str>) -> Result<&'v Value, PatchError> {
    let Some(key) = merge_key else {
        return Ok(item);
    };
    let Value::Object(object) = item else {
        return Err(PatchError::Internal(format!(
            "expected a map[string]interface {{}}, but received a {}",
            kind(item)
        )));
    };
    object.get(key).ok_or_else(|| {
        PatchError::Internal(format!(
            "map: {} does not contain declared merge key: {key}",
            go_text(item)
        ))
    })
}

/// A field's type and strategy.
fn field<'t>(ty: &'t Type, key: &str) -> Result<(&'t Type, &'t PatchStrategy), PatchError> {
    let name = match ty {
        Type::Struct(ty) => match ty.field(key) {
            Some(field) => return Ok((&field.ty, &field.patch)),
            None => ty.go_base(),
        },
        Type::Scalar(scalar) => scalar.go.rsplit('.').next().unwrap_or_default(),
        other => {
            let kind = if matches!(other, Type::Map(_)) {
                "map"
            } else {
                "slice"
            };
            return Err(PatchError::Internal(format!(
                "merging an object in json but data type is not struct, instead is: {kind}"
            )));
        }
    };
    Err(PatchError::Internal(format!(
        "unable to find api field in struct {name} for the json field {key:?}"
    )))
}

/// A list field's element type and the field's strategy.
fn list_field<'t>(ty: &'t Type, key: &str) -> Result<(&'t Type, &'t PatchStrategy), PatchError> {
    let (ty, strategy) = field(ty, key)?;
    match ty {
        Type::List(list) => Ok((&list.element, strategy)),
        _ => Err(PatchError::Internal(
            "expected slice or array type, but got: struct".to_owned(),
        )),
    }
}

/// Drops nulls from what the original doesn't have.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => object
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Drops every map that carries `$patch`; none where the value itself does.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) => {
            if object.contains_key(DIRECTIVE) {
                return None;
            }
            Some(
                object
                    .into_iter()
                    .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                    .collect(),
            )
        }
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        other => Some(other),
    }
}

fn bad_directive(directive: &Value, map: &Object) -> PatchError {
    PatchError::Internal(format!(
        "unknown patch type: {} in map: {}",
        go_text(directive),
        go_text(&Value::Object(map.clone()))
    ))
}

/// A value as Go's `%v` prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => go_list(items),
        Value::Object(object) => {
            let entries: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

fn go_list(items: &[Value]) -> String {
    let items: Vec<String> = items.iter().map(go_text).collect();
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Schema;
    use serde_json::json;

    fn patched(kind: &str, original: Value, patch: Value) -> Result<Value, String> {
        let group = if kind == "Deployment" { "apps" } else { "" };
        let ty = Schema::builtin().kind(group, "v1", kind).unwrap();
        strategic(&original, &patch, ty).map_err(|error| error.to_string())
    }

    fn pod(spec: Value) -> Value {
        json!({"spec": spec})
    }

    #[test]
    fn lists_are_merged_by_key() {
        let result = patched(
            "Pod",
            pod(
                json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "x", "value": "1"}]}, {"name": "b"}]}),
            ),
            pod(
                json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "y", "value": "2"}]}, {"name": "c"}]}),
            ),
        );
        // the patch's elements keep their order, and the server's stay where they were among them
        let containers = result.unwrap()["spec"]["containers"].clone();
        let mut names: Vec<&str> = containers
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(containers[0]["image"], "2");
        assert_eq!(containers[0]["env"].as_array().unwrap().len(), 2);
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let original = pod(json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}));
        let delete = pod(json!({"containers": [{"name": "b", "$patch": "delete"}]}));
        assert_eq!(
            patched("Pod", original.clone(), delete).unwrap(),
            pod(json!({"containers": [{"name": "a"}, {"name": "c"}]}))
        );
        let replace = pod(json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}));
        assert_eq!(
            patched("Pod", original.clone(), replace).unwrap(),
            pod(json!({"containers": [{"name": "z"}]}))
        );
        let order = pod(json!({
            "$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}],
            "containers": [{"name": "d", "image": "i"}]
        }));
        assert_eq!(
            patched("Pod", original.clone(), order).unwrap(),
            pod(
                json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "d", "image": "i"}, {"name": "a"}]})
            )
        );
        let wrong = pod(json!({
            "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
            "containers": [{"name": "b"}, {"name": "a"}]
        }));
        assert!(
            patched("Pod", original.clone(), wrong)
                .unwrap_err()
                .starts_with("The order in patch list:")
        );
        let map = json!({"spec": {"$patch": "replace", "nodeName": "n"}});
        assert_eq!(
            patched("Pod", original, map).unwrap(),
            pod(json!({"nodeName": "n"}))
        );
    }

    #[test]
    fn retain_keys_clear_the_others() {
        let original = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            patched("Deployment", original.clone(), patch).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
        let bad =
            json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
        assert_eq!(
            patched("Deployment", original, bad).unwrap_err(),
            "invalid patch format of retainKeys"
        );
    }

    #[test]
    fn primitive_lists_merge_and_lose() {
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        let add = json!({"metadata": {"finalizers": ["c"]}});
        let added = patched("Pod", original.clone(), add).unwrap();
        assert_eq!(added["metadata"]["finalizers"].as_array().unwrap().len(), 3);
        let remove = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(
            patched("Pod", original, remove).unwrap(),
            json!({"metadata": {"finalizers": ["b"]}})
        );
    }

    #[test]
    fn lists_without_merge_are_replaced_and_nulls_delete() {
        let original = pod(
            json!({"tolerations": [{"key": "a"}], "nodeName": "n", "nodeSelector": {"a": "b"}}),
        );
        let patch = pod(
            json!({"tolerations": [{"key": "b"}], "nodeName": null, "nodeSelector": {"a": null, "c": "d"}}),
        );
        assert_eq!(
            patched("Pod", original, patch).unwrap(),
            pod(json!({"tolerations": [{"key": "b"}], "nodeSelector": {"c": "d"}}))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let original = pod(json!({"containers": [{"name": "a"}]}));
        assert_eq!(
            patched(
                "Pod",
                original.clone(),
                pod(json!({"containers": [{"image": "b"}]}))
            )
            .unwrap_err(),
            "map: map[image:b] does not contain declared merge key: name"
        );
        assert_eq!(
            patched("Pod", original, pod(json!({"$patch": "explode"}))).unwrap_err(),
            "unknown patch type: explode in map: map[$patch:explode]"
        );
        assert!(patched("Pod", json!({}), json!([])).is_err());
    }
}
