//! Views of objects in answers: the object itself, a Table, or its metadata alone.

use jiff::Timestamp;
use keelson_api::status::Status;
use keelson_registry::kinds::Kind;
use serde_json::{Map, Value, json};

use crate::negotiate::{MetaVersion, Negotiated, View};
use crate::query::Query;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};

/// How much of an object a Table's row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub fn of(query: &Query) -> ApiResult<Self> {
        match query.non_empty("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The object's metadata as an object of its own.
pub fn partial(object: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A Table with a row for each object. Watches leave the columns out after their first event.
pub fn table(
    kind: &Kind,
    objects: &[Value],
    list_meta: Value,
    version: MetaVersion,
    include: Include,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| row(kind, o, version, include, now))
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": list_meta,
        "columnDefinitions": if with_columns { columns(kind) } else { Value::Null },
        "rows": rows,
    })
}

fn columns(kind: &Kind) -> Value {
    let custom = kind.strategy.custom_columns();
    if !custom.is_empty() {
        return custom.iter().cloned().collect();
    }
    kind.columns()
        .iter()
        .map(|c| json!({"name": c.name, "type": c.type_, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect()
}

fn row(
    kind: &Kind,
    object: &Value,
    version: MetaVersion,
    include: Include,
    now: Timestamp,
) -> Value {
    let mut row = Map::new();
    row.insert("cells".into(), Value::Array(kind.strategy.row(object, now)));
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(object, version),
        Include::Object => object.clone(),
    };
    row.insert("object".into(), shown);
    Value::Object(row)
}

/// Answers with one object in the agreed view.
pub fn answer(
    resource: &Resource,
    agreed: &Negotiated,
    query: &Query,
    code: u16,
    object: &Value,
) -> ApiResult<Response> {
    let shown = match agreed.view {
        View::Object => return Ok(response::object(agreed, code, object)),
        View::Partial(version) => partial(object, version),
        View::Table(version) => {
            let version_of = object
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let meta = json!({"resourceVersion": version_of});
            table(
                &resource.kind,
                std::slice::from_ref(object),
                meta,
                version,
                Include::of(query)?,
                true,
            )
        }
    };
    Ok(response::object(agreed, code, &shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_registry::kinds;

    #[test]
    fn a_table_has_a_cell_a_column_and_the_metadata() {
        let kind = kinds::find("", "v1", "secrets").unwrap();
        let object = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "dg=="}});
        let table = table(
            kind,
            &[object],
            json!({"resourceVersion": "5"}),
            MetaVersion::V1,
            Include::Metadata,
            true,
        );
        assert_eq!(
            table["rows"][0]["cells"].as_array().map(Vec::len),
            table["columnDefinitions"].as_array().map(Vec::len)
        );
        assert_eq!(
            table["rows"][0]["object"],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}})
        );
    }
}
