//! Laying an applied configuration over the live object, and taking paths out of an object.

use serde_json::{Map, Value};

use super::element::PathElement;
use super::set::Set;
use super::typed::{Node, Shape, index, items, list_element};
use crate::types::List;

/// The live object with the configuration laid over it.
pub(super) fn merge(live: &Value, config: &Value, node: Node<'_>) -> Value {
    merge_node(Some(live), Some(config), node).unwrap_or(Value::Null)
}

fn merge_node(live: Option<&Value>, config: Option<&Value>, node: Node<'_>) -> Option<Value> {
    let (Some(live), Some(config)) = (live, config) else {
        return config.or(live).cloned();
    };
    let sample = if config.is_null() { live } else { config };
    match node.shape(sample) {
        Shape::Leaf => Some(config.clone()),
        Shape::List(list) => {
            let (before, after) = (items(Some(live)), items(Some(config)));
            if before.is_empty() && after.is_empty() {
                return Some(config.clone());
            }
            Some(Value::Array(merge_list(before, after, list)))
        }
        Shape::Object => {
            let before = live.as_object().filter(|map| !map.is_empty());
            let after = config.as_object().filter(|map| !map.is_empty());
            if before.is_none() && after.is_none() {
                return Some(config.clone());
            }
            let mut merged = Map::new();
            for (name, inner) in before.into_iter().flatten() {
                let laid = after.and_then(|map| map.get(name));
                if let Some(value) = merge_node(Some(inner), laid, node.field(name)) {
                    merged.insert(name.clone(), value);
                }
            }
            for (name, inner) in after.into_iter().flatten() {
                if !before.is_some_and(|map| map.contains_key(name)) {
                    merged.insert(name.clone(), inner.clone());
                }
            }
            Some(Value::Object(merged))
        }
    }
}

/// Elements that both have stand in the configuration's order, the live object's others where they were.
fn merge_list(live: &[Value], config: &[Value], list: &List) -> Vec<Value> {
    let node = Node::new(&list.element);
    let live_index = index(list, live);
    let config_index = index(list, config);
    let live_of = |element: &PathElement| {
        live_index
            .iter()
            .find(|(other, _)| other == element)
            .map(|(_, found)| &found[..])
    };
    let in_config = |element: &PathElement| config_index.iter().any(|(other, _)| other == element);
    // an element that is there twice isn't merged with the new one, but replaced
    let merged_item = |element: &PathElement, new: &Value| {
        let old = match live_of(element) {
            Some([only]) => Some(*only),
            _ => None,
        };
        merge_node(old, Some(new), node)
    };
    let shared: Vec<&PathElement> = config_index
        .iter()
        .map(|(element, _)| element)
        .filter(|element| live_of(element).is_some())
        .collect();
    let mut shared = shared.into_iter();
    let mut next_shared = shared.next();
    let live_elements: Vec<(PathElement, &Value)> = live
        .iter()
        .filter_map(|item| Some((list_element(list, item).ok()?, item)))
        .collect();
    let mut merged: Vec<&PathElement> = Vec::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < live_elements.len() || r < config_index.len() {
        if let (Some((left, _)), Some((right, new))) = (live_elements.get(l), config_index.get(r)) {
            if left == right {
                merged.push(right);
                out.extend(merged_item(right, new[0]));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config(left) && next_shared.is_some_and(|next| next != left) {
                l += 1; // shared, but another one is due
                continue;
            }
        }
        if let Some((left, item)) = live_elements.get(l) {
            if !in_config(left) {
                out.push((*item).clone());
                l += 1;
                continue;
            }
            if merged.contains(&left) {
                l += 1;
            }
        }
        if let Some((right, new)) = config_index.get(r) {
            merged.push(right);
            out.extend(merged_item(right, new[0]));
            r += 1;
            if next_shared == Some(right) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The object without the paths in `gone`. What becomes empty stays, empty.
pub(super) fn remove(value: &Value, gone: &Set, node: Node<'_>) -> Value {
    match node.shape(value) {
        Shape::Leaf => value.clone(),
        Shape::List(list) => {
            let mut kept = Vec::new();
            for item in items(Some(value)) {
                let Ok(element) = list_element(list, item) else {
                    kept.push(item.clone());
                    continue;
                };
                if gone.members.contains(&element) {
                    continue;
                }
                kept.push(match gone.children.get(&element) {
                    Some(inner) if !inner.is_empty() => {
                        remove(item, inner, Node::new(&list.element))
                    }
                    _ => item.clone(),
                });
            }
            Value::Array(kept)
        }
        Shape::Object => {
            let mut kept = Map::new();
            for (name, inner) in value.as_object().into_iter().flatten() {
                let element = node.element(name);
                if gone.members.contains(&element) {
                    continue;
                }
                let rest = match gone.children.get(&element) {
                    Some(below) if !below.is_empty() => remove(inner, below, node.field(name)),
                    _ => inner.clone(),
                };
                kept.insert(name.clone(), rest);
            }
            Value::Object(kept)
        }
    }
}
