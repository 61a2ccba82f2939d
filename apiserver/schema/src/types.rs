//! Types as data: what decoding, patching, apply and protobuf need to know about a field.
//!
//! [`Type`] is built from the tables for the built-in kinds (`builtin`), and can be built by hand for
//! custom resources. It says nothing about which kinds are served: that's the registry's table.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// An interned name.
pub type Name = Arc<str>;

/// The type of a value.
#[derive(Clone)]
pub enum Type {
    /// A leaf, or a value with an encoding of its own.
    Scalar(Scalar),
    /// A JSON array.
    List(Arc<List>),
    /// A JSON object with free keys.
    Map(Arc<Map>),
    /// A JSON object with declared fields.
    Struct(Arc<Struct>),
    /// One of apiextensions' unions of a schema with something else.
    SchemaOr(SchemaOr, Arc<Struct>),
}

/// A leaf's kind and the name of its Go type, which error messages carry.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// What it holds.
    pub kind: ScalarKind,
    /// The Go type, as `int32` or `v1.Protocol`.
    pub go: Name,
}

/// What a leaf holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarKind {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// An unsigned integer of this many bits.
    Uint(u8),
    /// A float.
    Float64,
    /// Base64 text.
    Bytes,
    /// A resource quantity.
    Quantity,
    /// An integer of 32 bits or a string.
    IntOrString,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// A Go duration.
    Duration,
    /// Field ownership: raw JSON.
    FieldsV1,
    /// An embedded object: raw JSON.
    RawExtension,
    /// Any JSON, null included.
    Json,
    /// Any JSON, of which nothing is known: nested maps are merged field by field.
    Untyped,
}

/// apiextensions' unions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOr {
    /// A schema or a list of them.
    Array,
    /// A schema or a boolean.
    Bool,
    /// A schema or a list of strings.
    StringArray,
}

/// How apply sees a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// One value, owned as a whole.
    #[default]
    Atomic,
    /// Scalars, each owned by itself.
    Set,
    /// Structs identified by these keys.
    Map(Vec<Name>),
}

/// A list's type.
#[derive(Debug)]
pub struct List {
    /// The element.
    pub element: Type,
    /// Whether the Go element is a pointer.
    pub pointer: bool,
    /// How apply sees it.
    pub kind: ListKind,
    /// The Go type's name where it is a named one.
    pub go: Option<Name>,
}

/// A map's type.
#[derive(Debug)]
pub struct Map {
    /// The value.
    pub value: Type,
    /// Whether apply sees it as one value.
    pub atomic: bool,
    /// The Go type's name where it is a named one.
    pub go: Option<Name>,
}

/// A struct's type. Fields are set once, after all structs exist, since schemas may be recursive.
pub struct Struct {
    /// The OpenAPI name, as `io.k8s.api.core.v1.PodSpec`.
    pub name: Name,
    /// The Go name, as `v1.PodSpec`.
    pub go: Name,
    /// Whether apply sees it as one value.
    pub atomic: bool,
    /// Whether fields that aren't declared are kept (custom resources only).
    pub preserve_unknown: bool,
    /// Whether values stay as they are but for metadata (custom resources only): Go reads them as maps.
    pub verbatim: bool,
    fields: OnceLock<Fields>,
}

/// A struct's fields in declaration order, with an index by name.
#[derive(Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    by_name: Vec<u16>,
    by_number: Vec<u16>,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
    /// Whether the Go field is a pointer: absent is not empty.
    pub pointer: bool,
    /// Go's `omitempty`.
    pub omit_empty: bool,
    /// Go's `omitzero`.
    pub omit_zero: bool,
    /// The numbers in protobuf, outermost message first; empty where it isn't in the message.
    pub numbers: Vec<u32>,
    /// The embedded Go structs it comes through, outermost first, with dots.
    pub embedded: Option<Name>,
    /// How strategic merge treats it.
    pub patch: PatchStrategy,
    /// Overrides the struct's or map's own `atomic`.
    pub atomic: Option<bool>,
    /// Whether the schema names its list type; what it doesn't name is atomic.
    pub list_marked: bool,
    /// What apply takes for it where it is a key and absent.
    pub default: Option<serde_json::Value>,
}

/// A field's `patchStrategy` and `patchMergeKey`.
#[derive(Clone, Debug, Default)]
pub struct PatchStrategy {
    /// Lists are merged, by key or by value.
    pub merge: bool,
    /// Maps are replaced.
    pub replace: bool,
    /// `$retainKeys` clears the others.
    pub retain_keys: bool,
    /// The key lists of structs are merged by.
    pub merge_key: Option<Name>,
}

impl Struct {
    /// A struct whose fields are still to be [set](Struct::set_fields).
    pub fn new(name: Name, go: Name, atomic: bool, preserve_unknown: bool) -> Struct {
        Struct {
            name,
            go,
            atomic,
            preserve_unknown,
            verbatim: false,
            fields: OnceLock::new(),
        }
    }

    /// A part of a custom resource, whose fields are still to be [set](Struct::set_fields).
    pub fn custom(atomic: bool, preserve_unknown: bool) -> Struct {
        let go = Name::from("map[string]interface {}");
        Struct {
            verbatim: true,
            ..Struct::new(go.clone(), go, atomic, preserve_unknown)
        }
    }

    /// Sets the fields; a second call changes nothing.
    pub fn set_fields(&self, list: Vec<Field>) {
        let mut by_name: Vec<u16> = (0..list.len())
            .map(|i| u16::try_from(i).unwrap_or(u16::MAX))
            .collect();
        by_name.sort_by(|a, b| list[usize::from(*a)].name.cmp(&list[usize::from(*b)].name));
        let mut by_number = by_name.clone();
        by_number.retain(|i| !list[usize::from(*i)].numbers.is_empty());
        by_number.sort_by(|a, b| {
            list[usize::from(*a)]
                .numbers
                .cmp(&list[usize::from(*b)].numbers)
        });
        // a second call would come from a builder's mistake and can't be honoured: others already read the fields
        let _ = self.fields.set(Fields {
            list,
            by_name,
            by_number,
        });
    }

    /// The fields in declaration order.
    pub fn fields(&self) -> &[Field] {
        self.fields.get().map_or(&[], |fields| &fields.list)
    }

    /// The positions of the fields that are in the protobuf message, by their numbers.
    pub(crate) fn by_number(&self) -> &[u16] {
        self.fields.get().map_or(&[], |fields| &fields.by_number)
    }

    /// The field of this name and its position.
    pub fn position(&self, name: &str) -> Option<(usize, &Field)> {
        let fields = self.fields.get()?;
        let at = fields
            .by_name
            .binary_search_by(|i| (*fields.list[usize::from(*i)].name).cmp(name))
            .ok()?;
        let index = usize::from(fields.by_name[at]);
        Some((index, &fields.list[index]))
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|(_, field)| field)
    }

    /// The Go name without its package.
    pub fn go_base(&self) -> &str {
        self.go.rsplit('.').next().unwrap_or(&self.go)
    }
}

impl Field {
    /// Whether apply sees the field's value as one value.
    pub fn is_atomic(&self) -> bool {
        self.atomic.unwrap_or_else(|| self.ty.is_atomic())
    }
}

impl Type {
    /// A leaf with its Go name.
    pub fn scalar(kind: ScalarKind, go: impl Into<Name>) -> Type {
        Type::Scalar(Scalar {
            kind,
            go: go.into(),
        })
    }

    /// Any JSON of which nothing is known.
    pub fn untyped() -> Type {
        Type::scalar(ScalarKind::Untyped, "interface {}")
    }

    /// Whether apply sees its values as one value.
    pub fn is_atomic(&self) -> bool {
        match self {
            Type::Scalar(scalar) => scalar.kind != ScalarKind::Untyped,
            Type::List(list) => list.kind == ListKind::Atomic,
            Type::Map(map) => map.atomic,
            Type::Struct(ty) => ty.atomic,
            Type::SchemaOr(..) => true,
        }
    }

    /// Whether protobuf puts the list into a message of its own.
    pub(crate) fn is_wrapped_list(&self) -> bool {
        matches!(self, Type::List(list) if list
            .go
            .as_deref()
            .is_some_and(|go| go.ends_with(".ExtraValue") || go.ends_with(".Verbs")))
    }

    /// The struct it is, if it is one.
    pub fn as_struct(&self) -> Option<&Arc<Struct>> {
        match self {
            Type::Struct(ty) => Some(ty),
            _ => None,
        }
    }

    /// The Go type's name, as messages have it.
    pub fn go_name(&self) -> String {
        match self {
            Type::Scalar(scalar) => scalar.go.to_string(),
            Type::List(list) => match &list.go {
                Some(name) => name.to_string(),
                None => format!(
                    "[]{}{}",
                    if list.pointer { "*" } else { "" },
                    list.element.go_name()
                ),
            },
            Type::Map(map) => match &map.go {
                Some(name) => name.to_string(),
                None => format!("map[string]{}", map.value.go_name()),
            },
            Type::Struct(ty) | Type::SchemaOr(_, ty) => ty.go.to_string(),
        }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.go_name()) // not deeper: schemas may be recursive
    }
}

impl fmt::Debug for Struct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
