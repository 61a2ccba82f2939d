//! Types as OpenAPI schemas, with Kubernetes's markers.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::builtin::{MERGE_KEYS, Schema};
use crate::types::{Field, ListKind, PatchStrategy, ScalarKind, SchemaOr, Struct, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// What reflection can't see: required fields, enumerations and defaults.
pub(super) const FACTS: &str = include_str!("facts.tsv");

/// A line of `facts.tsv`.
#[derive(Clone, Copy, Default)]
struct Fact {
    required: bool,
    values: &'static str,
    default: &'static str,
}

static BY_FIELD: LazyLock<HashMap<(&str, &str), Fact>> = LazyLock::new(|| {
    let mut facts = HashMap::new();
    for line in FACTS.lines().skip(1) {
        let mut columns = line.split('\t');
        let mut column = || columns.next().unwrap_or_default();
        let key = (column(), column());
        let required = column() == "required";
        let (values, default) = (column(), column());
        facts.insert(
            key,
            Fact {
                required,
                values,
                default,
            },
        );
    }
    facts
});

/// The version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

/// Gathers the schemas that a document refers to.
pub(super) struct Schemas<'s> {
    schema: &'s Schema,
    pub(super) dialect: Dialect,
    descriptions: Map<String, Value>,
    kinds: HashMap<&'s str, Vec<(&'s str, &'s str, &'s str)>>,
    wanted: BTreeSet<String>,
    done: Map<String, Value>,
}

impl<'s> Schemas<'s> {
    pub(super) fn new(
        schema: &'s Schema,
        dialect: Dialect,
        descriptions: Map<String, Value>,
    ) -> Self {
        let mut kinds: HashMap<&str, Vec<(&str, &str, &str)>> = HashMap::new();
        for (group, version, kind, ty) in schema.kinds() {
            if let Type::Struct(ty) = ty {
                kinds
                    .entry(&ty.name)
                    .or_default()
                    .push((group, version, kind));
            }
        }
        Schemas {
            schema,
            dialect,
            descriptions,
            kinds,
            wanted: BTreeSet::new(),
            done: Map::new(),
        }
    }

    /// A reference to a kind; none where it's unknown.
    pub(super) fn kind(&mut self, group: &str, version: &str, kind: &str) -> Option<Value> {
        let ty = self.schema.kind(group, version, kind)?.as_struct()?;
        Some(self.reference(&ty.name))
    }

    /// The dialect they are written in.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A reference to one of meta's types.
    pub(super) fn meta(&mut self, name: &str) -> Value {
        self.reference(&format!("{META}.{name}"))
    }

    /// What stands for `metadata` in a custom resource.
    pub(super) fn object_meta(&mut self) -> Value {
        let text = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
        let mut reference = self.meta("ObjectMeta");
        match self.dialect {
            Dialect::V2 => {
                reference["description"] = json!(text);
                reference
            }
            // What stands beside a reference is not read there.
            Dialect::V3 => json!({"description": text, "allOf": [reference]}),
        }
    }

    /// A reference to a schema that is given as it is.
    pub(super) fn custom(&mut self, name: &str, schema: Value) -> Value {
        self.done.insert(name.to_owned(), schema);
        self.reference(name)
    }

    /// All schemas that were referred to.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(name) = self.wanted.pop_first() {
            if self.done.contains_key(&name) {
                continue;
            }
            let built = match self.schema.named(&name) {
                Some(Type::Struct(ty)) => self.object(&ty.clone()),
                _ => self.special(&name),
            };
            self.done.insert(name, built);
        }
        self.done
    }

    pub(super) fn reference(&mut self, name: &str) -> Value {
        self.wanted.insert(name.to_owned());
        let place = match self.dialect {
            Dialect::V2 => "definitions",
            Dialect::V3 => "components/schemas",
        };
        json!({ "$ref": format!("#/{place}/{name}") })
    }

    fn object(&mut self, ty: &Struct) -> Value {
        let facts = self
            .descriptions
            .get(&*ty.name)
            .cloned()
            .unwrap_or_default();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in ty.fields() {
            if fact(ty, field).required {
                required.push(Value::from(&*field.name));
            }
            let mut property = self.property(ty, field);
            let text = facts.get("p").and_then(|fields| fields.get(&*field.name));
            if let (Some(text), Value::Object(property)) = (text, &mut property) {
                property.insert("description".to_owned(), text.clone());
            }
            unwrap_lone_reference(&mut property);
            properties.insert(field.name.to_string(), property);
        }
        let mut schema = Map::new();
        let mut put = |name: &str, value: Value| schema.insert(name.to_owned(), value);
        if let Some(text) = facts.get("d") {
            put("description", text.clone());
        }
        put("type", json!("object"));
        if !properties.is_empty() {
            put("properties", Value::Object(properties));
        }
        if !required.is_empty() {
            put("required", Value::Array(required));
        }
        if let Some(Value::Object(unions)) = extensions(&ty.name) {
            for (name, value) in unions {
                put(&name, value);
            }
        }
        if ty.atomic {
            put("x-kubernetes-map-type", json!("atomic"));
        }
        if let Some(kinds) = self.kinds.get(&*ty.name) {
            let kinds: Vec<Value> = kinds
                .iter()
                .map(|(group, version, kind)| {
                    json!({ "group": group, "kind": kind, "version": version })
                })
                .collect();
            put("x-kubernetes-group-version-kind", Value::Array(kinds));
        }
        Value::Object(schema)
    }

    fn property(&mut self, owner: &Struct, field: &Field) -> Value {
        let mut property = match self.value(&field.ty, !field.pointer) {
            Value::Object(property) => property,
            other => return other,
        };
        if let Some(atomic) = field.atomic {
            let kind = if atomic { "atomic" } else { "granular" };
            property.insert("x-kubernetes-map-type".to_owned(), json!(kind));
        }
        mark(&mut property, &field.patch);
        if field.list_marked && !matches!(field.ty, Type::List(_)) {
            property.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
        }
        if !field.list_marked {
            property.remove("x-kubernetes-list-type");
        }
        let fact = fact(owner, field);
        if !fact.values.is_empty() && self.dialect == Dialect::V3 {
            let values: Vec<&str> = fact.values.split('|').collect();
            let target = match property.get_mut("items") {
                Some(Value::Object(items)) => items,
                _ => &mut property,
            };
            target.insert("enum".to_owned(), json!(values));
        }
        let default: Option<Value> = serde_json::from_str(fact.default).ok();
        if let Some(default) = default {
            property.insert("default".to_owned(), default);
        } else if !field.pointer
            && !field.omit_empty
            && self.dialect == Dialect::V3
            && let Some(zero) = zero(&field.ty)
        {
            property.insert("default".to_owned(), zero);
        }
        Value::Object(property)
    }

    /// A value's schema. `by_value`: the Go field or element is no pointer, so that v3 shows its zero.
    fn value(&mut self, ty: &Type, by_value: bool) -> Value {
        let name = match ty {
            Type::Struct(ty) => ty.name.to_string(),
            Type::SchemaOr(union, _) => format!("{EXTENSIONS}.{}", union_name(*union)),
            Type::List(list) => {
                let items = self.element(&list.element, !list.pointer);
                let mut schema = Map::new();
                schema.insert("type".to_owned(), json!("array"));
                schema.insert("items".to_owned(), items);
                let kind = match &list.kind {
                    ListKind::Atomic => "atomic",
                    ListKind::Set => "set",
                    ListKind::Map(keys) => {
                        let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                        schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                        "map"
                    }
                };
                schema.insert("x-kubernetes-list-type".to_owned(), json!(kind));
                return Value::Object(schema);
            }
            Type::Map(map) => {
                let values = self.element(&map.value, true);
                return json!({ "type": "object", "additionalProperties": values });
            }
            Type::Scalar(scalar) => match special_name(scalar.kind) {
                Some(name) => name,
                None => return scalar_schema(scalar.kind),
            },
        };
        let reference = self.reference(&name);
        if self.dialect == Dialect::V2 {
            return reference;
        }
        let mut schema = Map::new();
        schema.insert("allOf".to_owned(), json!([reference]));
        if by_value && matches!(ty, Type::Struct(_)) {
            schema.insert("default".to_owned(), json!({}));
        }
        Value::Object(schema)
    }

    fn element(&mut self, ty: &Type, by_value: bool) -> Value {
        let mut schema = self.value(ty, by_value);
        if self.dialect == Dialect::V3
            && by_value
            && let (Value::Object(schema), Some(zero)) = (&mut schema, zero(ty))
        {
            schema.insert("default".to_owned(), zero);
        }
        unwrap_lone_reference(&mut schema);
        if let Value::Object(schema) = &mut schema {
            schema.remove("x-kubernetes-list-type");
        }
        schema
    }

    /// The schemas of values with an encoding of their own.
    fn special(&self, name: &str) -> Value {
        let v3 = self.dialect == Dialect::V3;
        let (_, short) = name.rsplit_once('.').unwrap_or(("", name));
        let mut schema = match short {
            "Time" | "MicroTime" => json!({ "type": "string", "format": "date-time" }),
            "Duration" => json!({ "type": "string" }),
            "Quantity" if v3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
            "Quantity" => json!({ "type": "string" }),
            "IntOrString" if v3 => json!({
                "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }]
            }),
            "IntOrString" => json!({ "type": "string", "format": "int-or-string" }),
            "JSON"
            | "JSONSchemaPropsOrArray"
            | "JSONSchemaPropsOrBool"
            | "JSONSchemaPropsOrStringArray" => json!({}),
            _ => json!({ "type": "object" }),
        };
        let text = self.descriptions.get(name).and_then(|facts| facts.get("d"));
        if let (Some(text), Value::Object(schema)) = (text, &mut schema) {
            schema.insert("description".to_owned(), text.clone());
        }
        schema
    }
}

/// A reference needs `allOf` only where something stands beside it.
fn unwrap_lone_reference(schema: &mut Value) {
    if let Value::Object(object) = &*schema
        && object.len() == 1
        && let Some(reference) = schema.pointer("/allOf/0").cloned()
    {
        *schema = reference;
    }
}

fn fact(ty: &Struct, field: &Field) -> Fact {
    BY_FIELD
        .get(&(&*ty.name, &*field.name))
        .copied()
        .unwrap_or_default()
}

/// The further markers of a schema, as unions.
fn extensions(name: &str) -> Option<Value> {
    MERGE_KEYS.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix("\t(schema)\t")?;
        serde_json::from_str(rest.rsplit('\t').next()?).ok()
    })
}

/// Strategic merge's markers.
fn mark(property: &mut Map<String, Value>, patch: &PatchStrategy) {
    let strategies: Vec<&str> = [
        (patch.merge, "merge"),
        (patch.replace, "replace"),
        (patch.retain_keys, "retainKeys"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    if !strategies.is_empty() {
        let strategies = json!(strategies.join(","));
        property.insert("x-kubernetes-patch-strategy".to_owned(), strategies);
    }
    if let Some(key) = &patch.merge_key {
        property.insert("x-kubernetes-patch-merge-key".to_owned(), json!(&**key));
    }
}

fn union_name(union: SchemaOr) -> &'static str {
    match union {
        SchemaOr::Array => "JSONSchemaPropsOrArray",
        SchemaOr::Bool => "JSONSchemaPropsOrBool",
        SchemaOr::StringArray => "JSONSchemaPropsOrStringArray",
    }
}

fn special_name(kind: ScalarKind) -> Option<String> {
    Some(match kind {
        ScalarKind::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        ScalarKind::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        ScalarKind::Time => format!("{META}.Time"),
        ScalarKind::MicroTime => format!("{META}.MicroTime"),
        ScalarKind::Duration => format!("{META}.Duration"),
        ScalarKind::FieldsV1 => format!("{META}.FieldsV1"),
        ScalarKind::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        ScalarKind::Json => format!("{EXTENSIONS}.JSON"),
        _ => return None,
    })
}

fn scalar_schema(kind: ScalarKind) -> Value {
    match kind {
        ScalarKind::String => json!({ "type": "string" }),
        ScalarKind::Bool => json!({ "type": "boolean" }),
        ScalarKind::Int32 | ScalarKind::Uint(8 | 16 | 32) => {
            json!({ "type": "integer", "format": "int32" })
        }
        ScalarKind::Int64 | ScalarKind::Uint(_) => json!({ "type": "integer", "format": "int64" }),
        ScalarKind::Float64 => json!({ "type": "number", "format": "double" }),
        ScalarKind::Bytes => json!({ "type": "string", "format": "byte" }),
        _ => json!({ "type": "object" }),
    }
}

/// The zero that v3 shows as the default of what is no pointer.
fn zero(ty: &Type) -> Option<Value> {
    match ty {
        Type::Struct(_) => Some(json!({})),
        Type::Scalar(scalar) => match scalar.kind {
            ScalarKind::String => Some(json!("")),
            ScalarKind::Bool => Some(json!(false)),
            ScalarKind::Int32 | ScalarKind::Int64 | ScalarKind::Uint(_) => Some(json!(0)),
            ScalarKind::Float64 => Some(json!(0)),
            _ => None,
        },
        _ => None,
    }
}
