//! Values beside their types: how apply sees a node, which set of paths an object has, and whether an
//! applied configuration fits its type.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::element::{PathElement, Scalar, path_text};
use super::set::Set;
use crate::types::{List, ListKind, Name, ScalarKind, Type};

static UNTYPED: LazyLock<Type> = LazyLock::new(Type::untyped);

/// A type, and whether its field overrides that it's atomic.
#[derive(Clone, Copy)]
pub(super) struct Node<'t> {
    ty: &'t Type,
    atomic: bool,
}

/// How apply sees a value.
pub(super) enum Shape<'t> {
    /// Owned as a whole.
    Leaf,
    /// A list whose elements are owned each.
    List(&'t List),
    /// An object whose fields are owned each.
    Object,
}

impl<'t> Node<'t> {
    pub(super) fn new(ty: &'t Type) -> Node<'t> {
        Node {
            ty,
            atomic: ty.is_atomic(),
        }
    }

    /// How a value of this type is seen; only where nothing is known does the value matter.
    pub(super) fn shape(&self, value: &Value) -> Shape<'t> {
        if self.atomic {
            return Shape::Leaf;
        }
        match self.ty {
            Type::List(list) => Shape::List(list),
            Type::Map(_) | Type::Struct(_) => Shape::Object,
            Type::Scalar(_) if value.is_object() => Shape::Object,
            Type::Scalar(_) | Type::SchemaOr(..) => Shape::Leaf,
        }
    }

    /// The node under a field or key.
    pub(super) fn field(&self, name: &str) -> Node<'t> {
        match self.ty {
            Type::Struct(ty) => match ty.field(name) {
                Some(field) => Node {
                    ty: &field.ty,
                    atomic: field.is_atomic(),
                },
                None => Node::new(&UNTYPED),
            },
            Type::Map(map) => Node::new(&map.value),
            _ => Node::new(&UNTYPED),
        }
    }

    /// The node under any path element.
    pub(super) fn child(&self, element: &PathElement) -> Node<'t> {
        match (element, self.ty) {
            (PathElement::Field(name), _) => self.field(name),
            (_, Type::List(list)) => Node::new(&list.element),
            _ => Node::new(&UNTYPED),
        }
    }

    /// Whether it's a struct with such a field.
    pub(super) fn declares(&self, name: &str) -> bool {
        matches!(self.ty, Type::Struct(ty) if ty.field(name).is_some())
    }

    /// The element of a path for a field, sharing the declared name.
    pub(super) fn element(&self, name: &str) -> PathElement {
        let declared = match self.ty {
            Type::Struct(ty) => ty.field(name).map(|field| field.name.clone()),
            _ => None,
        };
        PathElement::Field(declared.unwrap_or_else(|| Name::from(name)))
    }
}

/// What identifies an element of a list that isn't atomic.
pub(super) fn list_element(list: &List, item: &Value) -> Result<PathElement, String> {
    let ListKind::Map(keys) = &list.kind else {
        return match Scalar::from_value(item) {
            Some(Scalar::Null) => Err(
                "associative list without keys has an element that's an explicit null".to_owned(),
            ),
            Some(value) => Ok(PathElement::Value(value)),
            None if item.is_array() => {
                Err("not supported: associative list with lists as elements".to_owned())
            }
            None => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
        };
    };
    let Value::Object(object) = item else {
        return Err(if item.is_null() {
            "associative list with keys may not have a null element".to_owned()
        } else {
            "associative list with keys may not have non-map elements".to_owned()
        });
    };
    let mut identity = Vec::with_capacity(keys.len());
    for key in keys {
        let value = match object.get(&**key) {
            Some(value) => Scalar::from_value(value),
            None => default(&list.element, key).and_then(Scalar::from_value),
        };
        if let Some(value) = value {
            identity.push((key.clone(), value));
        }
    }
    if identity.is_empty() {
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
    }
    identity.sort();
    Ok(PathElement::Key(identity))
}

fn default<'t>(element: &'t Type, key: &str) -> Option<&'t Value> {
    element.as_struct()?.field(key)?.default.as_ref()
}

/// The items of a list, by what identifies them, in the order of their first appearance.
pub(super) fn index<'v>(list: &List, items: &'v [Value]) -> Vec<(PathElement, Vec<&'v Value>)> {
    let mut places: BTreeMap<PathElement, usize> = BTreeMap::new();
    let mut indexed: Vec<(PathElement, Vec<&Value>)> = Vec::with_capacity(items.len());
    for item in items {
        // what has no identity can't be owned, and was refused where it came from a user
        let Ok(element) = list_element(list, item) else {
            continue;
        };
        match places.get(&element) {
            Some(place) => indexed[*place].1.push(item),
            None => {
                places.insert(element.clone(), indexed.len());
                indexed.push((element, vec![item]));
            }
        }
    }
    indexed
}

/// The items of a list value; null counts as none.
pub(super) fn items(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(items)) => items,
        _ => &[],
    }
}

/// The paths of everything in an object.
pub(super) fn field_set(value: &Value, node: Node<'_>) -> Set {
    let mut set = Set::default();
    collect(value, node, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, node: Node<'_>, path: &mut Vec<PathElement>, set: &mut Set) {
    match node.shape(value) {
        Shape::Leaf => set.insert(path),
        Shape::List(list) => {
            for (element, found) in index(list, items(Some(value))) {
                let inner = Node::new(&list.element);
                path.push(element);
                if let [only] = found[..] {
                    collect(only, inner, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Shape::Object => {
            let Value::Object(object) = value else {
                return;
            };
            for (name, inner) in object {
                path.push(node.element(name));
                collect(inner, node.field(name), path, set);
                let empty = inner.is_null() || inner.as_object().is_some_and(|map| map.is_empty());
                if empty || !node.declares(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// The paths of all lists and objects in a value that can only be replaced as a whole.
pub(super) fn atomics(value: &Value, node: Node<'_>) -> Vec<String> {
    let mut found = Vec::new();
    find_atomics(value, node, &mut Vec::new(), &mut found);
    found
}

fn find_atomics(
    value: &Value,
    node: Node<'_>,
    path: &mut Vec<PathElement>,
    found: &mut Vec<String>,
) {
    match (value, node.ty) {
        (Value::Object(entries), Type::Struct(_) | Type::Map(_)) => {
            if node.atomic {
                found.push(path_text(path));
            }
            for (name, inner) in entries.iter().filter(|(name, _)| node.declares(name)) {
                path.push(node.element(name));
                find_atomics(inner, node.field(name), path, found);
                path.pop();
            }
        }
        (Value::Array(items), Type::List(list)) => {
            if node.atomic {
                found.push(path_text(path));
            }
            for (at, item) in items.iter().enumerate() {
                path.push(PathElement::Index(i64::try_from(at).unwrap_or(i64::MAX)));
                find_atomics(item, Node::new(&list.element), path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Whether an applied configuration fits its type; the error has upstream's words.
pub(super) fn validate(value: &Value, ty: &Type) -> Result<(), String> {
    let mut checker = Checker::default();
    checker.check(value, ty);
    match checker.errors.len() {
        0 => Ok(()),
        1 => Err(checker.errors.swap_remove(0)),
        _ => {
            let lines = checker.errors.iter().map(|error| format!("\n  {error}"));
            Err(format!("errors:{}", lines.collect::<String>()))
        }
    }
}

#[derive(Default)]
struct Checker {
    path: Vec<PathElement>,
    errors: Vec<String>,
}

impl Checker {
    fn refuse(&mut self, message: &str) {
        self.errors
            .push(format!("{}: {message}", path_text(&self.path)));
    }

    fn check_at(&mut self, element: PathElement, value: &Value, ty: &Type) {
        self.path.push(element);
        self.check(value, ty);
        self.path.pop();
    }

    fn check(&mut self, value: &Value, ty: &Type) {
        match (ty, value) {
            (_, Value::Null) | (Type::SchemaOr(..), _) => {}
            (Type::Scalar(scalar), _) => {
                if let Some(message) = check_scalar(value, scalar.kind) {
                    self.refuse(&message);
                }
            }
            (Type::List(list), Value::Array(items)) => self.check_list(items, list),
            (Type::List(_), _) => self.refuse(&format!("expected list, got {}", go_value(value))),
            (Type::Map(map), Value::Object(entries)) => {
                for (name, inner) in entries {
                    let element = PathElement::Field(Name::from(name.as_str()));
                    self.check_at(element, inner, &map.value);
                }
            }
            (Type::Struct(ty), Value::Object(entries)) => {
                for (name, inner) in entries {
                    let element = PathElement::Field(Name::from(name.as_str()));
                    match ty.field(name) {
                        Some(field) => self.check_at(element, inner, &field.ty),
                        None if ty.preserve_unknown => {}
                        None => {
                            self.path.push(element);
                            self.refuse("field not declared in schema");
                            self.path.pop();
                            return;
                        }
                    }
                }
            }
            (Type::Map(_) | Type::Struct(_), _) => {
                self.refuse(&format!("expected map, got {}", go_value(value)));
            }
        }
    }

    fn check_list(&mut self, items: &[Value], list: &List) {
        let mut seen = BTreeSet::new();
        for (at, item) in items.iter().enumerate() {
            let element = if list.kind == ListKind::Atomic {
                PathElement::Index(i64::try_from(at).unwrap_or(i64::MAX))
            } else {
                match list_element(list, item) {
                    Ok(element) => element,
                    Err(message) => return self.refuse(&format!("element {at}: {message}")),
                }
            };
            if !seen.insert(element.clone()) {
                self.refuse(&format!("duplicate entries for key {element}"));
            }
            self.check_at(element, item, &list.element);
        }
    }
}

fn check_scalar(value: &Value, kind: ScalarKind) -> Option<String> {
    match kind {
        ScalarKind::Int32 | ScalarKind::Int64 | ScalarKind::Uint(_) | ScalarKind::Float64 => {
            let got = match value {
                Value::Number(_) => return None,
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            Some(format!("expected numeric (int or float), got {got}"))
        }
        ScalarKind::String | ScalarKind::Bytes | ScalarKind::Duration => (!value.is_string())
            .then(|| format!("expected string, got &value.valueUnstructured{{Value:{value}}}")),
        ScalarKind::Bool => {
            (!value.is_boolean()).then(|| format!("expected boolean, got {}", go_value(value)))
        }
        ScalarKind::Quantity
        | ScalarKind::IntOrString
        | ScalarKind::Time
        | ScalarKind::MicroTime => (value.is_array() || value.is_object())
            .then(|| format!("expected any scalar, got {}", go_value(value))),
        ScalarKind::FieldsV1
        | ScalarKind::RawExtension
        | ScalarKind::Json
        | ScalarKind::Untyped => None,
    }
}

/// A value as Go prints the wrapper upstream has around it.
fn go_value(value: &Value) -> Cow<'static, str> {
    match value {
        Value::String(text) => format!("&{{{text}}}").into(),
        other => format!("&{{{other}}}").into(),
    }
}
