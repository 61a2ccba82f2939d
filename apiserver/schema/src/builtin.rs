//! The built-in kinds' types, compiled once from the tables beside this file.
//!
//! `fields.tsv` is written by `e2e/upstream/fields`; `merge-keys.tsv` has what Go's reflection can't
//! see: list types, map types and their keys.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use crate::types::{
    Field, List, ListKind, Map, Name, PatchStrategy, Scalar, ScalarKind, SchemaOr, Struct, Type,
};

const FIELDS: &str = include_str!("fields.tsv");
pub(crate) const MERGE_KEYS: &str = include_str!("merge-keys.tsv");

/// Defaults that apply needs to identify list elements.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| Schema::compile(FIELDS, MERGE_KEYS));

/// A set of types, found by kind or by OpenAPI name.
#[derive(Debug)]
pub struct Schema {
    /// Sorted, so that a look-up needs no owned key.
    kinds: Vec<((Name, Name, Name), Type)>,
    types: HashMap<Name, Type>,
}

impl Schema {
    /// The built-in kinds of v1.36.
    pub fn builtin() -> &'static Schema {
        &BUILTIN
    }

    /// The type of a kind; the core group is the empty string.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Type> {
        let wanted = (group, version, kind);
        let at = self
            .kinds
            .binary_search_by(|((g, v, k), _)| (&**g, &**v, &**k).cmp(&wanted))
            .ok()?;
        Some(&self.kinds[at].1)
    }

    /// The type with an OpenAPI name, as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(&self, name: &str) -> Option<&Type> {
        self.types.get(name)
    }

    /// Every struct.
    pub fn structs(&self) -> impl Iterator<Item = &Arc<Struct>> {
        self.types.values().filter_map(Type::as_struct)
    }

    /// Every kind with its group and version.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &str, &str, &Type)> {
        self.kinds
            .iter()
            .map(|((group, version, kind), ty)| (&**group, &**version, &**kind, ty))
    }

    fn compile(fields: &str, merge_keys: &str) -> Schema {
        let mut compiler = Compiler {
            names: HashSet::new(),
            structs: HashMap::new(),
            markers: markers(merge_keys),
        };
        let rows: Vec<Row<'_>> = fields.lines().skip(1).filter_map(Row::parse).collect();
        for row in &rows {
            if row.field == "(type)" {
                compiler.declare(row);
            }
        }
        let mut kinds = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            let name = rows[start].ty;
            let end = start
                + rows[start..]
                    .iter()
                    .take_while(|row| row.ty == name)
                    .count();
            let Some(declared) = compiler.structs.get(name).cloned() else {
                start = end;
                continue;
            };
            let mut list = Vec::with_capacity(end - start);
            for row in &rows[start..end] {
                match row.field {
                    "(type)" => {}
                    "(kind)" => {
                        let mut parts =
                            row.reference.splitn(3, '/').map(|part| compiler.name(part));
                        if let (Some(group), Some(version), Some(kind)) =
                            (parts.next(), parts.next(), parts.next())
                        {
                            kinds.push(((group, version, kind), Type::Struct(declared.clone())));
                        }
                    }
                    _ => list.extend(compiler.field(row)),
                }
            }
            declared.set_fields(list);
            start = end;
        }
        kinds.sort_by(|(a, _), (b, _)| a.cmp(b));
        let types = compiler
            .structs
            .into_iter()
            .map(|(name, ty)| (name, Type::Struct(ty)))
            .collect();
        Schema { kinds, types }
    }
}

/// A line of `fields.tsv`.
struct Row<'a> {
    ty: &'a str,
    field: &'a str,
    reference: &'a str,
    flags: &'a str,
    numbers: &'a str,
    patch: &'a str,
    go: &'a str,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Row<'a>> {
        let mut columns = line.split('\t');
        Some(Row {
            ty: columns.next()?,
            field: columns.next()?,
            reference: columns.next()?,
            flags: columns.next()?,
            numbers: columns.next()?,
            patch: columns.next()?,
            go: columns.next()?,
        })
    }
}

/// What `merge-keys.tsv` says of a field, or of a schema under `(schema)`.
struct Marker {
    list: Option<ListKind>,
    atomic: Option<bool>,
}

fn markers(table: &str) -> HashMap<(&str, &str), Marker> {
    let mut markers = HashMap::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let column = |at: usize| columns.get(at).copied().unwrap_or_default();
        let list = match column(4) {
            "atomic" => Some(ListKind::Atomic),
            "set" => Some(ListKind::Set),
            "map" => Some(ListKind::Map(
                column(5)
                    .split(',')
                    .map(|key| Name::from(key.trim()))
                    .collect(),
            )),
            _ => None,
        };
        let atomic = match column(8) {
            "atomic" => Some(true),
            "granular" => Some(false),
            _ => None,
        };
        markers.insert((column(0), column(1)), Marker { list, atomic });
    }
    markers
}

struct Compiler<'a> {
    names: HashSet<Name>,
    structs: HashMap<Name, Arc<Struct>>,
    markers: HashMap<(&'a str, &'a str), Marker>,
}

impl Compiler<'_> {
    fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        let name = Name::from(text);
        self.names.insert(name.clone());
        name
    }

    fn declare(&mut self, row: &Row<'_>) {
        let atomic = self
            .markers
            .get(&(row.ty, "(schema)"))
            .and_then(|marker| marker.atomic)
            .unwrap_or(false);
        let (name, go) = (self.name(row.ty), self.name(row.go));
        let ty = Struct::new(name.clone(), go, atomic, false);
        self.structs.insert(name, Arc::new(ty));
    }

    /// A field, unless its reference leads nowhere (which the tests rule out).
    fn field(&mut self, row: &Row<'_>) -> Option<Field> {
        let (list, atomic) = self
            .markers
            .get(&(row.ty, row.field))
            .map(|marker| (marker.list.clone(), marker.atomic))
            .unwrap_or_default();
        let list_marked = list.is_some();
        let ty = self.reference(row.reference, list.unwrap_or_default(), atomic)?;
        let (strategies, key) = row.patch.split_once(':').unwrap_or((row.patch, ""));
        let has = |strategy: &str| strategies.split(',').any(|s| s == strategy);
        let default = KEY_DEFAULTS
            .iter()
            .find(|(ty, field, _)| *ty == row.ty && *field == row.field);
        Some(Field {
            name: self.name(row.field),
            ty,
            pointer: row.flags.contains('p'),
            omit_empty: row.flags.contains('o'),
            omit_zero: row.flags.contains('z'),
            numbers: row
                .numbers
                .split('.')
                .filter_map(|number| number.parse().ok())
                .collect(),
            embedded: (!row.go.is_empty()).then(|| self.name(row.go)),
            patch: PatchStrategy {
                merge: has("merge"),
                replace: has("replace"),
                retain_keys: has("retainKeys"),
                merge_key: (!key.is_empty()).then(|| self.name(key)),
            },
            atomic,
            list_marked,
            default: default.map(|(_, _, value)| (*value).into()),
        })
    }

    fn reference(&mut self, text: &str, kind: ListKind, atomic: Option<bool>) -> Option<Type> {
        if let Some(rest) = text.strip_prefix("[]") {
            let (go, rest) = self.go_name(rest);
            let (pointer, rest) = match rest.strip_prefix('*') {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            let element = self.reference(rest, ListKind::Atomic, None)?;
            return Some(Type::List(Arc::new(List {
                element,
                pointer,
                kind,
                go,
            })));
        }
        if let Some(rest) = text.strip_prefix("{}") {
            let (go, rest) = self.go_name(rest);
            let value = self.reference(rest.trim_start_matches('*'), ListKind::Atomic, None)?;
            return Some(Type::Map(Arc::new(Map {
                value,
                atomic: atomic.unwrap_or(false),
                go,
            })));
        }
        if let Some(found) = self.structs.get(text) {
            return Some(Type::Struct(found.clone()));
        }
        let (kind, go) = text.split_once('=').unwrap_or((text, ""));
        let union = match kind {
            "SchemaOrArray" => Some(SchemaOr::Array),
            "SchemaOrBool" => Some(SchemaOr::Bool),
            "SchemaOrStringArray" => Some(SchemaOr::StringArray),
            _ => None,
        };
        if let Some(union) = union {
            let schema = format!(
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{go}.JSONSchemaProps"
            );
            let schema = self.structs.get(schema.as_str())?.clone();
            return Some(Type::SchemaOr(union, schema));
        }
        let (kind, go_default) = scalar(kind)?;
        let go = self.name(if go.is_empty() { go_default } else { go });
        Some(Type::Scalar(Scalar { kind, go }))
    }

    /// Splits `<v1.ResourceList>Quantity`.
    fn go_name<'t>(&mut self, text: &'t str) -> (Option<Name>, &'t str) {
        match text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
            Some((name, rest)) => (Some(self.name(name)), rest),
            None => (None, text),
        }
    }
}

/// A scalar's kind and Go name by its name in the table.
fn scalar(name: &str) -> Option<(ScalarKind, &'static str)> {
    Some(match name {
        "string" => (ScalarKind::String, "string"),
        "bool" => (ScalarKind::Bool, "bool"),
        "int32" => (ScalarKind::Int32, "int32"),
        "int64" => (ScalarKind::Int64, "int64"),
        "int" => (ScalarKind::Int64, "int"),
        "uint8" => (ScalarKind::Uint(8), "uint8"),
        "uint16" => (ScalarKind::Uint(16), "uint16"),
        "uint32" => (ScalarKind::Uint(32), "uint32"),
        "uint64" => (ScalarKind::Uint(64), "uint64"),
        "float64" => (ScalarKind::Float64, "float64"),
        "bytes" => (ScalarKind::Bytes, "[]uint8"),
        "Quantity" => (ScalarKind::Quantity, "resource.Quantity"),
        "IntOrString" => (ScalarKind::IntOrString, "intstr.IntOrString"),
        "Time" => (ScalarKind::Time, "v1.Time"),
        "MicroTime" => (ScalarKind::MicroTime, "v1.MicroTime"),
        "Duration" => (ScalarKind::Duration, "v1.Duration"),
        "FieldsV1" => (ScalarKind::FieldsV1, "v1.FieldsV1"),
        "RawExtension" => (ScalarKind::RawExtension, "runtime.RawExtension"),
        "JSON" => (ScalarKind::Json, "v1.JSON"),
        "any" => (ScalarKind::Untyped, "interface {}"),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_row_becomes_a_field() {
        let rows = FIELDS.lines().skip(1).filter(|line| {
            let field = line.split('\t').nth(1).unwrap();
            field != "(type)" && field != "(kind)"
        });
        let fields: usize = Schema::builtin()
            .structs()
            .map(|ty| ty.fields().len())
            .sum();
        assert_eq!(fields, rows.count());
    }

    #[test]
    fn every_marker_meets_its_field() {
        for line in MERGE_KEYS.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let ty = Schema::builtin()
                .named(columns[0])
                .unwrap()
                .as_struct()
                .unwrap();
            if columns[1].starts_with("(schema)") || columns[1].starts_with("x-kubernetes") {
                continue;
            }
            let field = ty.field(columns[1]).unwrap();
            assert_eq!(
                field.patch.merge_key.as_deref().unwrap_or(""),
                columns[7],
                "{line}"
            );
            if columns[4] == "map" {
                let Type::List(list) = &field.ty else {
                    panic!("{line}")
                };
                let ListKind::Map(keys) = &list.kind else {
                    panic!("{line}")
                };
                let element = list.element.as_struct().unwrap();
                assert!(
                    keys.iter().all(|key| element.field(key).is_some()),
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn kinds_are_found() {
        let pod = Schema::builtin().kind("", "v1", "Pod").unwrap();
        let spec = pod.as_struct().unwrap().field("spec").unwrap();
        let spec = spec.ty.as_struct().unwrap();
        assert_eq!(&*spec.go, "v1.PodSpec");
        assert_eq!(
            spec.field("containers").unwrap().ty.go_name(),
            "[]v1.Container"
        );
        assert!(Schema::builtin().kind("apps", "v1", "Deployment").is_some());
        assert!(Schema::builtin().kind("apps", "v2", "Deployment").is_none());
    }
}
