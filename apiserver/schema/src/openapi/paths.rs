//! Resources as OpenAPI paths and operations.

use serde_json::{Map, Value, json};

use super::schemas::{Dialect, Schemas};
use super::{Resource, Subresource};

const OUTPUTS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A group, version and kind.
type Gvk<'a> = (&'a str, &'a str, &'a str);

/// Where an operation stands.
struct Place<'r> {
    resource: &'r Resource,
    subresource: Option<&'r Subresource>,
    namespaced: bool,
    collection: bool,
}

/// A verb, its HTTP method and the action that upstream names it.
const ITEM_VERBS: &[(&str, &str, &str)] = &[
    ("get", "get", "get"),
    ("update", "put", "put"),
    ("patch", "patch", "patch"),
    ("delete", "delete", "delete"),
    ("create", "post", "post"),
];
const COLLECTION_VERBS: &[(&str, &str, &str)] = &[
    ("list", "get", "list"),
    ("create", "post", "post"),
    ("deletecollection", "delete", "deletecollection"),
];

/// The paths of all resources; what they refer to is put into `schemas`.
pub(super) fn paths(resources: &[&Resource], schemas: &mut Schemas<'_>) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let base = if resource.group.is_empty() {
            format!("/api/{}", resource.version)
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        if !paths.contains_key(&format!("{base}/")) {
            let resources = schemas.meta("APIResourceList");
            let mut read = Map::new();
            read.insert("description".to_owned(), json!("get available resources"));
            read.insert(
                "operationId".to_owned(),
                json!(format!("get{}Resources", tag(resource))),
            );
            read.insert("tags".to_owned(), json!([tag(resource)]));
            read.insert(
                "responses".to_owned(),
                responses(schemas.dialect, "get", &resources),
            );
            paths.insert(format!("{base}/"), json!({ "get": read }));
        }
        let plural = &resource.plural;
        let place = |namespaced, collection| Place {
            resource,
            subresource: None,
            namespaced,
            collection,
        };
        let collection = if resource.namespaced {
            let all = item(&place(false, true), &[COLLECTION_VERBS[0]], schemas);
            insert(&mut paths, format!("{base}/{plural}"), all);
            format!("{base}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{base}/{plural}")
        };
        let namespaced = resource.namespaced;
        let operations = item(&place(namespaced, true), COLLECTION_VERBS, schemas);
        insert(&mut paths, collection.clone(), operations);
        let single = format!("{collection}/{{name}}");
        // creating stands at the collection
        let operations = item(&place(namespaced, false), &ITEM_VERBS[..4], schemas);
        insert(&mut paths, single.clone(), operations);
        for subresource in &resource.subresources {
            let place = Place {
                subresource: Some(subresource),
                ..place(namespaced, false)
            };
            let operations = item(&place, ITEM_VERBS, schemas);
            insert(
                &mut paths,
                format!("{single}/{}", subresource.name),
                operations,
            );
        }
    }
    paths
}

fn insert(paths: &mut Map<String, Value>, path: String, item: Map<String, Value>) {
    if item.keys().any(|key| key != "parameters") {
        paths.insert(path, Value::Object(item));
    }
}

/// One path: its operations and the parameters they share.
fn item(
    place: &Place<'_>,
    verbs: &[(&str, &str, &str)],
    schemas: &mut Schemas<'_>,
) -> Map<String, Value> {
    let known = match place.subresource {
        Some(subresource) => &subresource.verbs,
        None => &place.resource.verbs,
    };
    let dialect = schemas.dialect;
    let mut item = Map::new();
    for (verb, method, action) in verbs {
        if known.iter().any(|name| name == verb)
            && let Some(operation) = operation(place, verb, action, schemas)
        {
            item.insert((*method).to_owned(), operation);
        }
    }
    let mut shared = Vec::new();
    if !place.collection {
        shared.push(parameter(
            dialect,
            "name",
            "path",
            "string",
            "name of the object",
        ));
    }
    if place.namespaced {
        shared.push(parameter(
            dialect,
            "namespace",
            "path",
            "string",
            "namespace of the object",
        ));
    }
    shared.push(parameter(
        dialect,
        "pretty",
        "query",
        "string",
        "answer with indentation",
    ));
    item.insert("parameters".to_owned(), Value::Array(shared));
    item
}

fn operation(
    place: &Place<'_>,
    verb: &str,
    action: &str,
    schemas: &mut Schemas<'_>,
) -> Option<Value> {
    let resource = place.resource;
    let gvk: Gvk<'_> = match place.subresource {
        Some(subresource) => (&subresource.group, &subresource.version, &subresource.kind),
        None => (&resource.group, &resource.version, &resource.kind),
    };
    let object = object(resource, place.subresource.is_some(), gvk, schemas)?;
    let (input, output) = match verb {
        "list" => (None, list(resource, &object, schemas)),
        "create" | "update" => (Some(object.clone()), object),
        "patch" => (Some(schemas.meta("Patch")), object),
        "delete" | "deletecollection" => {
            (Some(schemas.meta("DeleteOptions")), schemas.meta("Status"))
        }
        _ => (None, object),
    };
    let dialect = schemas.dialect;
    let mut operation = Map::new();
    let mut put = |name: &str, value: Value| operation.insert(name.to_owned(), value);
    let mut parameters = query_parameters(dialect, verb);
    let consumes: &[&str] = if verb == "patch" { PATCHES } else { &["*/*"] };
    match (dialect, input) {
        (Dialect::V2, Some(schema)) => {
            put("consumes", json!(consumes));
            parameters.push(json!({ "name": "body", "in": "body", "required": !verb.starts_with("delete"), "schema": schema }));
        }
        (Dialect::V2, None) => {
            put("consumes", json!(["*/*"]));
        }
        (Dialect::V3, Some(schema)) => {
            let content = content(consumes, &schema);
            put(
                "requestBody",
                json!({ "content": content, "required": !verb.starts_with("delete") }),
            );
        }
        (Dialect::V3, None) => {}
    }
    if dialect == Dialect::V2 {
        put("produces", json!(OUTPUTS));
        put("schemes", json!(["https"]));
    }
    put("description", json!(describe(verb, gvk.2, place)));
    put("operationId", json!(operation_id(verb, place)));
    put("tags", json!([tag(resource)]));
    put("parameters", Value::Array(parameters));
    put("responses", responses(dialect, verb, &output));
    put("x-kubernetes-action", json!(action));
    put(
        "x-kubernetes-group-version-kind",
        json!({ "group": gvk.0, "kind": gvk.2, "version": gvk.1 }),
    );
    Some(Value::Object(operation))
}

/// A reference to what the place takes and answers.
fn object(
    resource: &Resource,
    is_subresource: bool,
    gvk: Gvk<'_>,
    schemas: &mut Schemas<'_>,
) -> Option<Value> {
    let own = gvk.0 == resource.group && gvk.1 == resource.version && gvk.2 == resource.kind;
    let custom = match schemas.dialect() {
        Dialect::V2 => resource.custom_v2.as_ref().or(resource.custom.as_ref()),
        Dialect::V3 => resource.custom.as_ref(),
    };
    match custom {
        Some(custom) if !is_subresource || own => {
            let mut schema = (**custom).clone();
            if let Value::Object(schema) = &mut schema {
                if let Some(Value::Object(properties)) = schema.get_mut("properties") {
                    properties.insert("metadata".to_owned(), schemas.object_meta());
                }
                schema.insert(
                    "x-kubernetes-group-version-kind".to_owned(),
                    json!([{ "group": gvk.0, "kind": gvk.2, "version": gvk.1 }]),
                );
            }
            Some(schemas.custom(&custom_name(resource), schema))
        }
        _ => schemas.kind(gvk.0, gvk.1, gvk.2),
    }
}

fn list(resource: &Resource, object: &Value, schemas: &mut Schemas<'_>) -> Value {
    let kind = format!("{}List", resource.kind);
    if let Some(reference) = schemas.kind(&resource.group, &resource.version, &kind) {
        return reference;
    }
    let metadata = schemas.meta("ListMeta");
    let schema = json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": metadata,
            "items": { "type": "array", "items": object }
        },
        "x-kubernetes-group-version-kind": [
            { "group": resource.group, "kind": kind, "version": resource.version }
        ]
    });
    schemas.custom(&format!("{}List", custom_name(resource)), schema)
}

/// A custom kind's schema name: the group backwards.
fn custom_name(resource: &Resource) -> String {
    let mut group: Vec<&str> = resource.group.split('.').collect();
    group.reverse();
    format!("{}.{}.{}", group.join("."), resource.version, resource.kind)
}

fn query_parameters(dialect: Dialect, verb: &str) -> Vec<Value> {
    let with_body = "what to do with unknown or duplicate fields: Ignore, Warn or Strict";
    let dry_run = (
        "dryRun",
        "string",
        "All: go through the motions without storing anything",
    );
    let manager = (
        "fieldManager",
        "string",
        "name of the actor that makes the change",
    );
    let validation = ("fieldValidation", "string", with_body);
    let force = (
        "force",
        "boolean",
        "take fields over from other managers (apply only)",
    );
    let version = ("resourceVersion", "string", "the version to answer from");
    let selection = [
        ("labelSelector", "string", "selects objects by their labels"),
        ("fieldSelector", "string", "selects objects by their fields"),
        ("limit", "integer", "how many objects to answer at once"),
        ("continue", "string", "where the next part of a list begins"),
        version,
        (
            "resourceVersionMatch",
            "string",
            "how resourceVersion is meant",
        ),
        ("timeoutSeconds", "integer", "how long the call may take"),
    ];
    let deletion = [
        dry_run,
        (
            "gracePeriodSeconds",
            "integer",
            "how long the object may take to end",
        ),
        (
            "orphanDependents",
            "boolean",
            "deprecated: use propagationPolicy",
        ),
        (
            "propagationPolicy",
            "string",
            "what becomes of dependents: Orphan, Background or Foreground",
        ),
    ];
    let mut parameters: Vec<(&str, &str, &str)> = Vec::new();
    match verb {
        "create" | "update" => parameters.extend([dry_run, manager, validation]),
        "patch" => parameters.extend([dry_run, manager, validation, force]),
        "delete" => parameters.extend(deletion),
        "deletecollection" => {
            parameters.extend(selection);
            parameters.extend(deletion);
        }
        "list" => {
            parameters.extend(selection);
            parameters.extend([
                ("watch", "boolean", "answer with a stream of changes"),
                (
                    "allowWatchBookmarks",
                    "boolean",
                    "send bookmarks in the stream",
                ),
                (
                    "sendInitialEvents",
                    "boolean",
                    "begin the stream with what is there",
                ),
            ]);
        }
        _ => {}
    }
    parameters
        .into_iter()
        .map(|(name, kind, text)| parameter(dialect, name, "query", kind, text))
        .collect()
}

fn parameter(dialect: Dialect, name: &str, place: &str, kind: &str, text: &str) -> Value {
    let mut parameter =
        json!({ "name": name, "in": place, "description": text, "uniqueItems": true });
    if let Value::Object(parameter) = &mut parameter {
        if place == "path" {
            parameter.insert("required".to_owned(), json!(true));
        }
        match dialect {
            Dialect::V2 => {
                parameter.insert("type".to_owned(), json!(kind));
            }
            Dialect::V3 => {
                parameter.remove("uniqueItems");
                let schema = json!({ "type": kind, "uniqueItems": true });
                parameter.insert("schema".to_owned(), schema);
            }
        }
    }
    parameter
}

fn content(types: &[&str], schema: &Value) -> Map<String, Value> {
    types
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "schema": schema })))
        .collect()
}

fn responses(dialect: Dialect, verb: &str, output: &Value) -> Value {
    let codes: &[(&str, &str)] = match verb {
        "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "update" | "patch" => &[("200", "OK"), ("201", "Created")],
        "delete" => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    };
    let mut responses = Map::new();
    for (code, text) in codes {
        let response = match dialect {
            Dialect::V2 => json!({ "description": text, "schema": output }),
            Dialect::V3 => json!({ "description": text, "content": content(OUTPUTS, output) }),
        };
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    Value::Object(responses)
}

fn describe(verb: &str, kind: &str, place: &Place<'_>) -> String {
    let what = match place.subresource {
        Some(subresource) => format!(
            "{} of the specified {}",
            subresource.name, place.resource.kind
        ),
        None => kind.to_owned(),
    };
    match verb {
        "get" => format!("read {what}"),
        "list" => format!("list or watch objects of kind {kind}"),
        "create" => format!("create {what}"),
        "update" => format!("replace {what}"),
        "patch" => format!("partially update {what}"),
        "deletecollection" => format!("delete collection of {kind}"),
        _ => format!("{verb} {what}"),
    }
}

fn operation_id(verb: &str, place: &Place<'_>) -> String {
    let resource = place.resource;
    let action = match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let capital = |text: &str| {
        let mut letters = text.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
            .unwrap_or_default()
    };
    let namespaced = if place.namespaced { "Namespaced" } else { "" };
    let everywhere = if resource.namespaced && !place.namespaced {
        "ForAllNamespaces"
    } else {
        ""
    };
    let subresource = place
        .subresource
        .map_or("", |subresource| &subresource.name);
    format!(
        "{action}{}{}{namespaced}{}{}{everywhere}",
        capital(group_name(resource)),
        capital(&resource.version),
        resource.kind,
        capital(subresource),
    )
}

fn tag(resource: &Resource) -> String {
    format!("{}_{}", group_name(resource), resource.version)
}

/// The group without what follows its first dot.
fn group_name(resource: &Resource) -> &str {
    match resource.group.split('.').next() {
        Some("") | None => "core",
        Some(name) => name,
    }
}
