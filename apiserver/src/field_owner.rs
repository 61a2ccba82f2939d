//! Field ownership of writes: what `keelson-schema` needs to be told for each of them.

use jiff::Timestamp;
use keelson_api::status::{Cause, Status};
use keelson_registry::Strategy;
use keelson_registry::kinds;
use keelson_schema::managed_fields::{self, ApplyError, Set, Write};
use keelson_schema::{
    DecodeError, FieldValidation, MediaType, Schema, Type, decode_untyped, decode_value,
};
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::verbs::options::WriteOptions;

/// Who writes what, and how.
pub struct Owner<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// The kind's strategy or the subresource's.
    pub strategy: &'a dyn Strategy,
    /// The field manager.
    pub manager: &'a str,
    /// The subresource, or "".
    pub subresource: &'a str,
}

impl Owner<'_> {
    fn with<T>(&self, act: impl FnOnce(&Write<'_>) -> T) -> T {
        let api_version = self.resource.kind.api_version();
        let paths: Vec<Vec<&str>> = self
            .strategy
            .reset_fields()
            .iter()
            .map(|p| p.split('.').collect())
            .collect();
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        let reset = Set::of_fields(&paths);
        let convert = |object: &Value, version: &str| convert(self.resource, object, version);
        act(&Write {
            manager: self.manager,
            api_version: &api_version,
            subresource: self.subresource,
            now: Timestamp::now(),
            ty: &self.resource.ty,
            reset: &reset,
            convert: &convert,
        })
    }

    /// Records the owner of the fields of a new object, or of those that an update changed.
    pub fn record(&self, old: Option<&Value>, new: &mut Value) {
        self.with(|write| managed_fields::update(write, old, new));
    }

    /// The object that comes of applying a configuration to the live one, or to nothing.
    pub fn apply(&self, live: Option<&Value>, config: &Value, force: bool) -> ApiResult<Value> {
        let applied = self
            .with(|write| managed_fields::apply(write, live, config, force))
            .map_err(refused)?;
        if let Some(custom) = &self.resource.custom {
            let mut object = applied;
            self.resource.add_type_meta(&mut object);
            custom.accept(&mut object).map_err(Status::bad_request)?;
            return Ok(object);
        }
        let decoded = decode_value(applied, &self.resource.ty, FieldValidation::Ignore)
            .map_err(|e| Status::internal(e.to_string()))?;
        let mut object = decoded.object;
        self.resource.add_type_meta(&mut object);
        Ok(object)
    }
}

/// Reads the configuration of an apply; its nulls and spellings are kept.
pub fn configuration(
    resource: &Resource,
    body: &[u8],
    validation: FieldValidation,
    request: &Request,
) -> ApiResult<Value> {
    let undecodable =
        |e: keelson_schema::DecodeError| Status::bad_request(format!("error decoding YAML: {e}"));
    let config = decode_untyped(body, MediaType::Yaml, FieldValidation::Ignore)
        .map_err(undecodable)?
        .object;
    if !config.is_object() {
        return Err(Status::bad_request(
            "error decoding YAML: the configuration is not an object",
        ));
    }
    let kind = config
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if kind != resource.kind.kind {
        let version = config
            .get("apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let version = if version.contains('/') {
            version.to_owned()
        } else {
            format!("/{version}")
        };
        return Err(Status::bad_request(format!(
            "invalid object type: {version}, Kind={kind}"
        )));
    }
    // fields that the type doesn't have are refused by the merge itself; here only what stands there twice counts
    let checked = decode_untyped(body, MediaType::Yaml, validation).map_err(|e| match &e {
        DecodeError::Strict(twice) => Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n{}",
            repeated_keys(body, twice)
        )),
        _ => Status::bad_request(format!("error strict decoding YAML: {e}")),
    })?;
    request.warnings.extend(checked.warnings);
    Ok(config)
}

/// Duplicate fields as upstream's YAML reader tells of them: by line.
fn repeated_keys(body: &[u8], faults: &[String]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut lines = Vec::new();
    for fault in faults {
        let path = fault
            .strip_prefix("duplicate field \"")
            .and_then(|f| f.strip_suffix('"'))
            .unwrap_or(fault);
        let key = path.rsplit('.').next().unwrap_or(path);
        let line = repeated_line(&text, key).unwrap_or(1);
        lines.push(format!("  line {line}: key {key:?} already set in map"));
    }
    lines.join("\n")
}

/// The line on which a key stands for the second time in one block of YAML.
fn repeated_line(text: &str, key: &str) -> Option<usize> {
    let mut seen: Option<usize> = None;
    for (at, line) in text.lines().enumerate() {
        let content = line.trim_start_matches([' ', '-']);
        let indent = line.len() - content.len();
        let name = content
            .split_once(':')
            .map(|(name, _)| name.trim().trim_matches(['"', '\'']));
        if seen.is_some_and(|level| indent < level && !content.is_empty()) {
            seen = None;
        }
        if name == Some(key) {
            if seen == Some(indent) {
                return Some(at + 1);
            }
            seen = seen.or(Some(indent));
        }
    }
    None
}

/// Options of an apply as ownership needs them.
pub fn force(options: &WriteOptions) -> bool {
    options.force == Some(true)
}

fn refused(error: ApplyError) -> Status {
    match &error {
        ApplyError::Conflict(conflicts) => {
            let causes = conflicts
                .iter()
                .map(|c| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: c.message(),
                    field: c.path.clone(),
                })
                .collect();
            Status::apply_conflict(error.to_string(), causes)
        }
        ApplyError::BadRequest(why) => Status::bad_request(why.clone()),
        ApplyError::Internal(why) => Status::failure(500, "", why.clone()),
    }
}

/// The object in another version of its kind, for managers that wrote through that.
fn convert(resource: &Resource, object: &Value, version: &str) -> Option<(Value, Type)> {
    let own = &resource.kind;
    if version == own.api_version() {
        return Some((object.clone(), resource.ty.clone()));
    }
    if let Some(custom) = &resource.custom {
        // A webhook isn't asked for this: what it would change is owned as it stands.
        let other = custom.definition.version(version)?;
        let mut converted = object.clone();
        keelson_extensions::conversion::relabel(&mut converted, version);
        return Some((converted, other.ty.clone()));
    }
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let other = kinds::ALL.iter().find(|k| {
        k.group == group && k.version == version && k.kind == own.kind && k.prefix == own.prefix
    })?;
    let mut converted = object.clone();
    own.strategy.to_storage(&mut converted);
    other.strategy.from_storage(&mut converted);
    let ty = Schema::builtin().kind(group, version, &other.kind)?;
    Some((converted, ty.clone()))
}
