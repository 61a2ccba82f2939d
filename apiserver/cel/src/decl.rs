//! Declared types with the sizes that cost estimates need: what upstream calls DeclType.
//!
//! They are made of structural schemas (custom resources) or of the types of built-in kinds, and say how the JSON of such a
//! value is seen by expressions.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock, OnceLock};

use keelson_schema::types::{ListKind, ScalarKind, Type as SchemaType};
use serde_json::{Value as Json, json};

use crate::limits::MAX_REQUEST_BYTES;
use crate::names::escape;
use crate::types::Type;

/// A declared type.
#[derive(Debug)]
pub struct Decl {
    pub(crate) kind: DeclKind,
    /// The most elements, characters or bytes.
    pub(crate) max_elements: u64,
    /// The fewest bytes that a value takes in JSON.
    pub(crate) min_size: u64,
}

/// What a declared type is.
#[derive(Debug)]
pub(crate) enum DeclKind {
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Date,
    Duration,
    List(Arc<Decl>, Listing),
    Map(Arc<Decl>),
    Object(ObjectDecl),
}

/// How lists are compared and joined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// An object's fields, by their identifiers in expressions.
#[derive(Debug)]
pub(crate) struct ObjectDecl {
    pub name: OnceLock<Arc<str>>,
    fields: OnceLock<BTreeMap<String, DeclField>>,
}

/// A field of an object.
#[derive(Debug)]
pub(crate) struct DeclField {
    pub property: String,
    pub decl: Arc<Decl>,
}

impl ObjectDecl {
    fn unnamed() -> ObjectDecl {
        ObjectDecl {
            name: OnceLock::new(),
            fields: OnceLock::new(),
        }
    }

    pub fn field(&self, identifier: &str) -> Option<&DeclField> {
        self.fields.get()?.get(identifier)
    }

    pub fn fields(&self) -> impl Iterator<Item = (&String, &DeclField)> {
        self.fields.get().into_iter().flatten()
    }
}

static DYNAMIC: LazyLock<Arc<Decl>> =
    LazyLock::new(|| Decl::simple(DeclKind::Dyn, u64::MAX >> 1, 1));
static STRING: LazyLock<Arc<Decl>> =
    LazyLock::new(|| Decl::simple(DeclKind::String, MAX_REQUEST_BYTES - 2, 2));

impl Decl {
    fn simple(kind: DeclKind, max_elements: u64, min_size: u64) -> Arc<Decl> {
        Arc::new(Decl {
            kind,
            max_elements,
            min_size,
        })
    }

    /// Anything.
    pub fn dynamic() -> Arc<Decl> {
        DYNAMIC.clone()
    }

    /// Text.
    pub fn string() -> Arc<Decl> {
        STRING.clone()
    }

    /// Booleans.
    pub fn boolean() -> Arc<Decl> {
        Decl::simple(DeclKind::Bool, 0, 4)
    }

    /// Integers.
    pub fn integer() -> Arc<Decl> {
        Decl::simple(DeclKind::Int, 0, 1)
    }

    /// Points in time.
    pub fn timestamp() -> Arc<Decl> {
        Decl::simple(DeclKind::Timestamp, 32, 21)
    }

    /// Lists.
    pub fn list(element: Arc<Decl>) -> Arc<Decl> {
        Decl::simple(DeclKind::List(element, Listing::Atomic), u64::MAX >> 1, 2)
    }

    /// Maps from strings.
    pub fn map(value: Arc<Decl>) -> Arc<Decl> {
        Decl::simple(DeclKind::Map(value), u64::MAX >> 1, 2)
    }

    /// Objects of a name with these properties.
    pub fn object(name: &str, properties: &[(&str, Arc<Decl>)]) -> Arc<Decl> {
        let object = ObjectDecl::unnamed();
        let fields = properties.iter().filter_map(|(property, decl)| {
            let field = DeclField {
                property: (*property).to_owned(),
                decl: decl.clone(),
            };
            Some((escape(property)?.into_owned(), field))
        });
        object.name.get_or_init(|| name.into());
        object.fields.get_or_init(|| fields.collect());
        Decl::simple(DeclKind::Object(object), 0, 2)
    }

    /// A map's key, of whose size upstream knows nothing.
    pub(crate) fn key() -> Arc<Decl> {
        Decl::simple(DeclKind::String, 0, 2)
    }

    /// Whether it says how large values are.
    pub(crate) fn is_sized(&self) -> bool {
        self.max_elements < u64::MAX >> 1
    }

    /// How often such a value can be in one request.
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_BYTES / (self.min_size + 1)
    }

    /// The type that expressions see. Objects must have been [named](Decl::assign_names).
    pub(crate) fn cel_type(&self) -> Type {
        match &self.kind {
            DeclKind::Dyn => Type::Dyn,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::String => Type::String,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Timestamp | DeclKind::Date => Type::Timestamp,
            DeclKind::Duration => Type::Duration,
            DeclKind::List(element, _) => Type::list(element.cel_type()),
            DeclKind::Map(value) => Type::map(Type::String, value.cel_type()),
            DeclKind::Object(object) => Type::Object(
                object
                    .name
                    .get()
                    .cloned()
                    .unwrap_or_else(|| "object".into()),
            ),
        }
    }

    /// Names objects that have no name by their path, and gathers all that are reachable by name.
    pub(crate) fn assign_names(
        self: &Arc<Decl>,
        path: &str,
        found: &mut std::collections::HashMap<Arc<str>, Arc<Decl>>,
    ) {
        match &self.kind {
            DeclKind::List(element, _) => element.assign_names(&format!("{path}.@idx"), found),
            DeclKind::Map(value) => value.assign_names(&format!("{path}.@elem"), found),
            DeclKind::Object(object) => {
                let name = object.name.get_or_init(|| path.into()).clone();
                if found.insert(name.clone(), self.clone()).is_none() {
                    for (field, DeclField { decl, .. }) in object.fields() {
                        decl.assign_names(&format!("{name}.{field}"), found);
                    }
                }
            }
            _ => {}
        }
    }

    /// The declared type of a structural schema (a JSONSchemaProps as JSON); `None` where expressions can't see such values.
    pub fn from_schema(schema: &Json, resource_root: bool) -> Option<Arc<Decl>> {
        stacker::maybe_grow(64 * 1024, 1024 * 1024, || {
            from_schema(schema, resource_root)
        })
    }

    /// The declared type of a custom resource's schema, as clients see it: with all of `metadata`, which has a type of its own.
    pub fn of_custom_resource(schema: &Json, metadata: Arc<Decl>) -> Arc<Decl> {
        let (mut fields, min_size) =
            stacker::maybe_grow(64 * 1024, 1024 * 1024, || fields(schema, true));
        let field = DeclField {
            property: "metadata".to_owned(),
            decl: metadata,
        };
        fields.insert("metadata".to_owned(), field);
        let object = ObjectDecl::unnamed();
        object.fields.get_or_init(|| fields);
        Decl::simple(DeclKind::Object(object), 0, min_size)
    }

    /// The declared type of a built-in kind's type.
    pub fn from_type(ty: &SchemaType) -> Arc<Decl> {
        from_type(ty, &mut Vec::new())
    }
}

fn flag(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn limit(schema: &Json, key: &str) -> Option<u64> {
    let value = schema.get(key)?;
    value
        .as_u64()
        .or_else(|| value.as_i64().map(|n| n.max(0).unsigned_abs()))
}

fn text<'s>(schema: &'s Json, key: &str) -> &'s str {
    schema.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn from_schema(schema: &Json, resource_root: bool) -> Option<Arc<Decl>> {
    const MAX_STRING: u64 = MAX_REQUEST_BYTES - 2;
    let max_length = limit(schema, "maxLength");
    // a length counts characters, of up to four bytes
    let max_bytes = max_length.map(|n| n.saturating_mul(4));
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Decl::simple(
            DeclKind::Dyn,
            max_bytes.unwrap_or(MAX_STRING),
            1,
        ));
    }
    let embedded = |schema: &Json| flag(schema, "x-kubernetes-embedded-resource");
    Some(match text(schema, "type") {
        "array" => {
            let items = schema.get("items")?;
            let element = Decl::from_schema(items, embedded(items))?;
            let max = limit(schema, "maxItems").unwrap_or(MAX_STRING / (element.min_size + 1));
            let listing = match text(schema, "x-kubernetes-list-type") {
                "set" => Listing::Set,
                "map" => Listing::Map(keys(schema)),
                _ => Listing::Atomic,
            };
            Decl::simple(DeclKind::List(element, listing), max, 2)
        }
        "object" => match schema.get("additionalProperties") {
            Some(values @ Json::Object(_)) => {
                let value = Decl::from_schema(values, embedded(values))?;
                let max =
                    limit(schema, "maxProperties").unwrap_or(MAX_STRING / (value.min_size + 6));
                Decl::simple(DeclKind::Map(value), max, 2)
            }
            _ => object(schema, resource_root),
        },
        "string" => match text(schema, "format") {
            "byte" => Decl::simple(DeclKind::Bytes, max_length.unwrap_or(MAX_STRING), 2),
            "duration" => Decl::simple(DeclKind::Duration, 32, 3),
            "date" => Decl::simple(DeclKind::Date, 12, 12),
            "date-time" => Decl::simple(DeclKind::Timestamp, 32, 21),
            _ => {
                let words = schema.get("enum").and_then(Json::as_array);
                let longest = words.filter(|words| !words.is_empty()).map(|words| {
                    let lengths = words.iter().filter_map(Json::as_str).map(str::len);
                    lengths.max().unwrap_or(0) as u64
                });
                let max = max_bytes.or(longest).unwrap_or(MAX_STRING);
                Decl::simple(DeclKind::String, max, 2)
            }
        },
        "boolean" => Decl::boolean(),
        "number" => Decl::simple(DeclKind::Double, 0, 1),
        "integer" => Decl::integer(),
        _ => return None,
    })
}

fn keys(schema: &Json) -> Vec<String> {
    let keys = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Json::as_array);
    keys.into_iter()
        .flatten()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect()
}

fn object(schema: &Json, resource_root: bool) -> Arc<Decl> {
    let (fields, min_size) = fields(schema, resource_root);
    let object = ObjectDecl::unnamed();
    object.fields.get_or_init(|| fields);
    Decl::simple(DeclKind::Object(object), 0, min_size)
}

/// The fields of an object's schema, and the fewest bytes that all take.
fn fields(schema: &Json, resource_root: bool) -> (BTreeMap<String, DeclField>, u64) {
    let required: HashSet<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let mut properties: BTreeMap<&str, Json> = BTreeMap::new();
    let declared = schema.get("properties").and_then(Json::as_object);
    for (name, property) in declared.into_iter().flatten() {
        properties.insert(name, property.clone());
    }
    if resource_root {
        let string = json!({"type": "string"});
        properties.insert("kind", string.clone());
        properties.insert("apiVersion", string.clone());
        let metadata =
            json!({"type": "object", "properties": {"name": string, "generateName": string}});
        properties.insert("metadata", metadata);
    }
    let mut min_size = 2;
    let mut fields = BTreeMap::new();
    for (name, property) in properties {
        let Some(decl) =
            Decl::from_schema(&property, flag(&property, "x-kubernetes-embedded-resource"))
        else {
            continue;
        };
        if required.contains(name) && property.get("default").is_none() {
            min_size += name.len() as u64 + decl.min_size + 4;
        }
        if let Some(identifier) = escape(name) {
            let field = DeclField {
                property: name.to_owned(),
                decl,
            };
            fields.insert(identifier.into_owned(), field);
        }
    }
    (fields, min_size)
}

/// Structs may be recursive: one that is being made is found in `open`.
fn from_type(ty: &SchemaType, open: &mut Vec<(Arc<str>, Arc<Decl>)>) -> Arc<Decl> {
    match ty {
        SchemaType::Scalar(scalar) => match scalar.kind {
            ScalarKind::String | ScalarKind::Quantity => Decl::string(),
            ScalarKind::Bool => Decl::boolean(),
            ScalarKind::Int32 | ScalarKind::Int64 | ScalarKind::Uint(_) => Decl::integer(),
            ScalarKind::Float64 => Decl::simple(DeclKind::Double, 0, 1),
            ScalarKind::Bytes => Decl::simple(DeclKind::Bytes, MAX_REQUEST_BYTES - 2, 2),
            ScalarKind::Time | ScalarKind::MicroTime => Decl::simple(DeclKind::Timestamp, 32, 21),
            ScalarKind::Duration => Decl::string(),
            ScalarKind::IntOrString
            | ScalarKind::FieldsV1
            | ScalarKind::RawExtension
            | ScalarKind::Json
            | ScalarKind::Untyped => Decl::dynamic(),
        },
        SchemaType::List(list) => {
            let listing = match &list.kind {
                ListKind::Atomic => Listing::Atomic,
                ListKind::Set => Listing::Set,
                ListKind::Map(keys) => Listing::Map(keys.iter().map(ToString::to_string).collect()),
            };
            Decl::simple(
                DeclKind::List(from_type(&list.element, open), listing),
                u64::MAX >> 1,
                2,
            )
        }
        SchemaType::Map(map) => Decl::map(from_type(&map.value, open)),
        SchemaType::SchemaOr(..) => Decl::dynamic(),
        SchemaType::Struct(ty) => {
            if let Some((_, decl)) = open.iter().find(|(name, _)| *name == ty.name) {
                return decl.clone();
            }
            let object = ObjectDecl::unnamed();
            let decl = Decl::simple(DeclKind::Object(object), 0, 2);
            open.push((ty.name.clone(), decl.clone()));
            let fields = ty.fields().iter().filter_map(|field| {
                let declared = DeclField {
                    property: field.name.to_string(),
                    decl: from_type(&field.ty, open),
                };
                Some((escape(&field.name)?.into_owned(), declared))
            });
            let fields = fields.collect();
            if let DeclKind::Object(object) = &decl.kind {
                object.name.get_or_init(|| ty.name.clone());
                object.fields.get_or_init(|| fields);
            }
            decl
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max(schema: Json) -> u64 {
        Decl::from_schema(&schema, false).unwrap().max_elements
    }

    #[test]
    fn sizes_follow_the_schema() {
        assert_eq!(max(json!({"type": "string"})), 3_145_726);
        assert_eq!(max(json!({"type": "string", "maxLength": 10})), 40);
        assert_eq!(max(json!({"type": "string", "enum": ["a", "abc"]})), 3);
        assert_eq!(
            max(json!({"type": "array", "items": {"type": "string"}})),
            3_145_726 / 3
        );
        assert_eq!(
            max(json!({"type": "array", "items": {"type": "string"}, "maxItems": 7})),
            7
        );
        assert_eq!(
            max(json!({"type": "object", "additionalProperties": {"type": "integer"}})),
            3_145_726 / 7
        );
        let object =
            json!({"type": "object", "required": ["ab"], "properties": {"ab": {"type": "string"}}});
        assert_eq!(
            Decl::from_schema(&object, false).unwrap().min_size,
            2 + 2 + 2 + 4
        );
        assert!(
            Decl::from_schema(
                &json!({"x-kubernetes-preserve-unknown-fields": true}),
                false
            )
            .is_none()
        );
    }

    #[test]
    fn recursive_kinds_end() {
        let schema = keelson_schema::Schema::builtin();
        let ty = schema
            .kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
            .unwrap();
        let mut found = std::collections::HashMap::new();
        Decl::from_type(ty).assign_names("x", &mut found);
        assert!(found.keys().any(|name| name.ends_with("JSONSchemaProps")));
    }
}
