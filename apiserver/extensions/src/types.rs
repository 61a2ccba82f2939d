//! The schema as `keelson-schema` sees types: what server-side apply merges by.

use std::sync::{Arc, LazyLock};

use keelson_schema::types::{Field, List, ListKind, Map, Name, PatchStrategy, ScalarKind, Struct};
use keelson_schema::{Schema as Types, Type};

use crate::schema::{Additional, Schema};

static UNTYPED_LIST: LazyLock<Type> = LazyLock::new(|| list(Type::untyped(), ListKind::Atomic));

/// The type of a whole object.
pub fn of_object(schema: Option<&Schema>, preserves_all: bool) -> Type {
    let mut fields = vec![field("apiVersion", text()), field("kind", text())];
    if let Some(meta) = Types::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        fields.push(field("metadata", meta.clone()));
    }
    let keeps = preserves_all || schema.is_none_or(|s| s.preserve_unknown);
    if let Some(schema) = schema {
        for (name, property) in &schema.properties {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                fields.push(field(name, of(property)));
            }
        }
    }
    let atomic = schema.and_then(|s| s.map_type.as_deref()) == Some("atomic");
    structure(fields, atomic, keeps)
}

fn of(schema: &Schema) -> Type {
    if schema.int_or_string {
        return Type::scalar(ScalarKind::IntOrString, "intstr.IntOrString");
    }
    let atomic = schema.map_type.as_deref() == Some("atomic");
    match schema.ty.as_str() {
        "array" => {
            let Some(items) = &schema.items else {
                return UNTYPED_LIST.clone();
            };
            let kind = match schema.list_type.as_deref() {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(
                    schema
                        .map_keys
                        .iter()
                        .map(|k| Name::from(k.as_str()))
                        .collect(),
                ),
                _ => ListKind::Atomic,
            };
            list(of(items), kind)
        }
        "object" if schema.embedded => embedded(schema, atomic),
        "object" => match &schema.additional {
            Some(Additional::Schema(inner)) if schema.properties.is_empty() => {
                map(of(inner), atomic)
            }
            Some(Additional::Any(true)) if schema.properties.is_empty() => {
                map(Type::untyped(), atomic)
            }
            _ if schema.properties.is_empty() && schema.preserve_unknown => {
                if atomic {
                    map(Type::untyped(), true)
                } else {
                    Type::untyped()
                }
            }
            _ => structure(declared(schema), atomic, schema.preserve_unknown),
        },
        "string" => text(),
        "boolean" => Type::scalar(ScalarKind::Bool, "bool"),
        "integer" => Type::scalar(ScalarKind::Int64, "int64"),
        "number" => Type::scalar(ScalarKind::Float64, "float64"),
        _ => Type::untyped(),
    }
}

fn declared(schema: &Schema) -> Vec<Field> {
    let declared = schema.properties.iter().map(|(name, property)| Field {
        default: property.default.clone(),
        ..field(name, of(property))
    });
    declared.collect()
}

fn embedded(schema: &Schema, atomic: bool) -> Type {
    let mut fields = declared(schema);
    fields.retain(|f| !matches!(&*f.name, "apiVersion" | "kind" | "metadata"));
    fields.push(field("apiVersion", text()));
    fields.push(field("kind", text()));
    if let Some(meta) = Types::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        fields.push(field("metadata", meta.clone()));
    }
    structure(fields, atomic, schema.preserve_unknown)
}

fn text() -> Type {
    Type::scalar(ScalarKind::String, "string")
}

fn structure(fields: Vec<Field>, atomic: bool, keeps: bool) -> Type {
    let ty = Struct::custom(atomic, keeps);
    ty.set_fields(fields);
    Type::Struct(Arc::new(ty))
}

fn list(element: Type, kind: ListKind) -> Type {
    Type::List(Arc::new(List {
        element,
        pointer: false,
        kind,
        go: None,
    }))
}

fn map(value: Type, atomic: bool) -> Type {
    Type::Map(Arc::new(Map {
        value,
        atomic,
        go: None,
    }))
}

fn field(name: &str, ty: Type) -> Field {
    let list_marked = matches!(&ty, Type::List(_));
    Field {
        name: Name::from(name),
        ty,
        pointer: true,
        omit_empty: true,
        omit_zero: false,
        numbers: Vec::new(),
        embedded: None,
        patch: PatchStrategy::default(),
        atomic: None,
        list_marked,
        default: None,
    }
}
