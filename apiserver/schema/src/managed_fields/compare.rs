//! What changed between two objects, as sets of paths.

use serde_json::Value;

use super::element::PathElement;
use super::set::Set;
use super::typed::{Node, Shape, index, items};
use crate::types::List;

/// The paths that a new object adds, changes and removes.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Comparison {
    /// Leaves out the fields that a write doesn't own whatever it sends.
    pub(super) fn without(self, reset: &Set) -> Comparison {
        if reset.is_empty() {
            return self;
        }
        Comparison {
            added: self.added.recursive_difference(reset),
            modified: self.modified.recursive_difference(reset),
            removed: self.removed.recursive_difference(reset),
        }
    }
}

/// Compares two objects of a type.
pub(super) fn compare(old: &Value, new: &Value, node: Node<'_>) -> Comparison {
    let mut walker = Walker {
        path: Vec::new(),
        found: Comparison::default(),
    };
    walker.node(Some(old), Some(new), node);
    walker.found
}

struct Walker {
    path: Vec<PathElement>,
    found: Comparison,
}

impl Walker {
    fn node(&mut self, old: Option<&Value>, new: Option<&Value>, node: Node<'_>) {
        let Some(sample) = new.or(old) else {
            return;
        };
        let shape = match (old, new) {
            // only where nothing is known can the two be seen differently
            (Some(old), Some(new)) if !old.is_null() && !new.is_null() => {
                match (node.shape(old), node.shape(new)) {
                    (Shape::Object, Shape::Leaf) | (Shape::Leaf, Shape::Object) => Shape::Leaf,
                    (shape, _) => shape,
                }
            }
            (Some(old), Some(Value::Null)) => node.shape(old),
            _ => node.shape(sample),
        };
        let is_leaf = match shape {
            Shape::Leaf => true,
            Shape::List(list) => {
                let (before, after) = (items(old), items(new));
                let empty = before.is_empty() && after.is_empty();
                if !empty {
                    self.list(before, after, list);
                }
                empty
            }
            Shape::Object => {
                let before = old.and_then(Value::as_object).filter(|map| !map.is_empty());
                let after = new.and_then(Value::as_object).filter(|map| !map.is_empty());
                for (name, inner) in before.into_iter().flatten() {
                    self.path.push(node.element(name));
                    self.node(
                        Some(inner),
                        after.and_then(|map| map.get(name)),
                        node.field(name),
                    );
                    self.path.pop();
                }
                for (name, inner) in after.into_iter().flatten() {
                    if before.is_some_and(|map| map.contains_key(name)) {
                        continue;
                    }
                    self.path.push(node.element(name));
                    self.node(None, Some(inner), node.field(name));
                    self.path.pop();
                }
                before.is_none() && after.is_none()
            }
        };
        match (old, new) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            (Some(old), Some(new)) if is_leaf && old != new => {
                self.found.modified.insert(&self.path);
            }
            _ => {}
        }
    }

    fn list(&mut self, before: &[Value], after: &[Value], list: &List) {
        let before = index(list, before);
        let after = index(list, after);
        let find = |indexed: &[(PathElement, Vec<&Value>)], element: &PathElement| {
            indexed.iter().position(|(other, _)| other == element)
        };
        for (element, old) in &before {
            let new = find(&after, element).map_or(&[][..], |at| &after[at].1[..]);
            self.items(element, old, new, list);
        }
        for (element, new) in &after {
            if find(&before, element).is_none() {
                self.items(element, &[], new, list);
            }
        }
    }

    /// Compares what has one identity; duplicates count as one value.
    fn items(&mut self, element: &PathElement, old: &[&Value], new: &[&Value], list: &List) {
        let node = Node::new(&list.element);
        self.path.push(element.clone());
        match (old, new) {
            ([], []) => {}
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    self.found.modified.insert(&self.path);
                }
            }
            ([_, _, ..], rest) => {
                if let [only] = rest {
                    self.node(None, Some(only), node);
                }
                self.found.removed.insert(&self.path);
            }
            (rest, [_, _, ..]) => {
                if let [only] = rest {
                    self.node(Some(only), None, node);
                }
                self.found.added.insert(&self.path);
            }
            (old, new) => self.node(old.first().copied(), new.first().copied(), node),
        }
        self.path.pop();
    }
}
