//! A set of field paths, and its form in `fieldsV1`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::PathElement;
use super::typed::Node;
use crate::types::Name;

/// A set of paths as a tree: members are in the set, children are what follows an element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) members: BTreeSet<PathElement>,
    pub(super) children: BTreeMap<PathElement, Set>,
}

impl Set {
    /// The set of these paths of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Set {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<PathElement> = path
                .iter()
                .map(|name| PathElement::Field(Name::from(*name)))
                .collect();
            set.insert(&path);
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Set::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|set| set.has(rest)),
        }
    }

    pub(super) fn union(&self, other: &Set) -> Set {
        let mut result = self.clone();
        result.add(other);
        result
    }

    pub(super) fn add(&mut self, other: &Set) {
        self.members.extend(other.members.iter().cloned());
        for (element, set) in &other.children {
            self.children.entry(element.clone()).or_default().add(set);
        }
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        Set {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: self
                .children
                .iter()
                .filter_map(|(element, set)| {
                    let common = set.intersection(other.children.get(element)?);
                    (!common.is_empty()).then(|| (element.clone(), common))
                })
                .collect(),
        }
    }

    pub(super) fn difference(&self, other: &Set) -> Set {
        self.without(other, false)
    }

    /// The difference that takes whole trees away with a member of `other`.
    pub(super) fn recursive_difference(&self, other: &Set) -> Set {
        self.without(other, true)
    }

    fn without(&self, other: &Set, recursive: bool) -> Set {
        let members = self.members.difference(&other.members).cloned().collect();
        let mut children = BTreeMap::new();
        for (element, set) in &self.children {
            if recursive && other.members.contains(element) {
                continue;
            }
            let rest = match other.children.get(element) {
                Some(gone) => set.without(gone, recursive),
                None => set.clone(),
            };
            if !rest.is_empty() {
                children.insert(element.clone(), rest);
            }
        }
        Set { members, children }
    }

    /// The set with the structs' fields on the way as members, which ownership leaves out.
    pub(super) fn with_named_fields(&self, node: Node<'_>) -> Set {
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (element, set) in &self.children {
            if let PathElement::Field(name) = element
                && node.declares(name)
            {
                members.insert(element.clone());
            }
            children.insert(element.clone(), set.with_named_fields(node.child(element)));
        }
        Set { members, children }
    }

    /// Calls `each` with every path in it.
    pub(super) fn walk(&self, each: &mut dyn FnMut(&[PathElement])) {
        self.walk_from(&mut Vec::new(), each);
    }

    fn walk_from(&self, path: &mut Vec<PathElement>, each: &mut dyn FnMut(&[PathElement])) {
        for member in &self.members {
            path.push(member.clone());
            each(path);
            path.pop();
        }
        for (element, set) in &self.children {
            path.push(element.clone());
            set.walk_from(path, each);
            path.pop();
        }
    }

    /// Reads FieldsV1.
    pub(super) fn decode(fields: &Value) -> Result<Set, String> {
        match fields {
            Value::Null => Ok(Set::default()),
            Value::Object(entries) => Self::decode_entries(entries),
            _ => Err("fieldsV1 must be an object".to_owned()),
        }
    }

    fn decode_entries(entries: &Map<String, Value>) -> Result<Set, String> {
        let mut set = Set::default();
        for (key, value) in entries {
            if key == "." {
                continue;
            }
            let Some(element) = PathElement::parse(key)? else {
                continue;
            };
            let Value::Object(inner) = value else {
                return Err(format!("{key} must hold an object"));
            };
            let child = Self::decode_entries(inner)?;
            if child.members.is_empty() && child.children.is_empty() {
                set.members.insert(element);
                continue;
            }
            if inner.contains_key(".") {
                set.members.insert(element.clone());
            }
            set.children.insert(element, child);
        }
        Ok(set)
    }

    /// Writes FieldsV1.
    pub(super) fn encode(&self) -> Value {
        let mut entries = Map::new();
        for member in &self.members {
            if !self.children.contains_key(member) {
                entries.insert(member.encode(), Value::Object(Map::new()));
            }
        }
        for (element, set) in &self.children {
            let mut inner = set.encode();
            if self.members.contains(element)
                && let Value::Object(inner) = &mut inner
                && !inner.is_empty()
            {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            entries.insert(element.encode(), inner);
        }
        Value::Object(entries)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_v1_survives_a_round_trip() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:containers": {
                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}},
                    "i:3": {}
                }
            }
        });
        assert_eq!(Set::decode(&fields).unwrap().encode(), fields);
        assert!(Set::decode(&json!({"x": {}})).is_err());
        assert!(Set::decode(&json!({"q:unknown": {}})).unwrap().is_empty());
    }

    #[test]
    fn differences() {
        let set = Set::of_fields(&[&["a"], &["a", "b"], &["a", "b", "c"], &["d", "e"]]);
        let plain = set.difference(&Set::of_fields(&[&["a", "b"], &["d", "e"]]));
        assert_eq!(plain, Set::of_fields(&[&["a"], &["a", "b", "c"]]));
        let recursive = set.recursive_difference(&Set::of_fields(&[&["a", "b"]]));
        assert_eq!(recursive, Set::of_fields(&[&["a"], &["d", "e"]]));
        let common = set.intersection(&Set::of_fields(&[&["a", "b", "c"], &["d"]]));
        assert_eq!(common, Set::of_fields(&[&["a", "b", "c"]]));
    }
}
