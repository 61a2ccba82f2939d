//! The strategy of a custom resource: its schema, in the place where built-in kinds have code.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, ErrorType, Path};
use keelson_api::names::{NameRule, qualified_name};
use keelson_extensions::{Definition, Schema, Version, lists, metadata, validate};
use keelson_registry::access::{Access, copy, remove, same, set};
use keelson_registry::{Context, Strategy, meta};
use serde_json::{Value, json};

/// The rules of one version.
pub struct Rules {
    version: Arc<Version>,
    kind: String,
    labels: Vec<String>,
    status: Option<Box<Status>>,
}

/// The rules of its `status`.
struct Status {
    version: Arc<Version>,
    kind: String,
}

impl Rules {
    /// The rules of a version of a definition.
    pub fn new(definition: &Definition, version: &Arc<Version>) -> Self {
        let kind = definition.names.kind.clone();
        Rules {
            labels: version.selectable.iter().map(|(l, _)| l.clone()).collect(),
            status: version.status.then(|| {
                Box::new(Status {
                    version: version.clone(),
                    kind: kind.clone(),
                })
            }),
            version: version.clone(),
            kind,
        }
    }

    fn schema(&self) -> Option<&Schema> {
        self.version.schema.as_ref()
    }
}

/// Kind and version must be those of the resource.
fn type_meta(object: &Value, kind: &str, version: &Version) -> ErrorList {
    let mut errors = ErrorList::new();
    for (field, wanted) in [("kind", kind), ("apiVersion", &version.api_version)] {
        let given = object.text(field);
        if given != wanted {
            let why = format!("must be {wanted}");
            errors.push(Error::invalid(&Path::new(field), given, why));
        }
    }
    errors
}

/// The parts of a Scale must be whole numbers that a Scale can hold.
fn scale(object: &Value, version: &Version, spec: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(scale) = &version.scale else {
        return errors;
    };
    let mut count = |path: &str| {
        let place = Path::new(path);
        let value = object.part(path.trim_start_matches('.'));
        match value.as_i64() {
            _ if value.is_null() => {}
            Some(n) if n < 0 => {
                errors.push(Error::invalid(
                    &place,
                    n,
                    "should be a non-negative integer",
                ));
            }
            Some(n) if n > i64::from(i32::MAX) => {
                let why = format!("should be less than or equal to {}", i32::MAX);
                errors.push(Error::invalid(&place, n, why));
            }
            Some(_) => {}
            None => {
                let why =
                    format!("{path} accessor error: {value} is of the wrong type, expected int64");
                errors.push(Error::invalid(&place, 0, why));
            }
        }
    };
    if spec {
        count(&scale.spec_replicas);
    }
    count(&scale.status_replicas);
    if let Some(selector) = &scale.selector {
        let value = object.part(selector.trim_start_matches('.'));
        if !value.is_null() && !value.is_string() {
            let why =
                format!("{selector} accessor error: {value} is of the wrong type, expected string");
            errors.push(Error::invalid(&Path::new(selector), "", why));
        }
    }
    errors
}

/// Metadata of an embedded object, checked as an object's own.
fn embedded_metadata(metadata: &Value, path: &Path<'_>) -> ErrorList {
    let mut object = json!({"metadata": metadata});
    if object.text("metadata.name").is_empty() {
        set(&mut object, "metadata.name", "fakename");
    }
    let namespaced = !object.text("metadata.namespace").is_empty();
    let mut errors = meta::validate(&object, NameRule::PathSegment, namespaced);
    for error in &mut errors {
        let rest = error
            .field
            .strip_prefix("metadata")
            .unwrap_or_default()
            .to_owned();
        error.field = format!("{path}{rest}");
    }
    errors
}

fn embedded(object: &Value, schema: &Schema) -> ErrorList {
    metadata::check_embedded(object, schema, &Path::new(""), &embedded_metadata)
}

/// Rules are evaluated only where the schema holds.
fn rules(errors: &mut ErrorList, new: &Value, old: Option<&Value>, version: &Version) {
    if !version.rules.any() {
        return;
    }
    let blocks = |e: &Error| {
        matches!(
            e.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    };
    if errors.iter().any(blocks) {
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        errors.push(Error::invalid(&Path::new("<nil>"), "null", why));
        return;
    }
    errors.extend(version.rules.check(new, old));
}

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&dyn Strategy> {
        match (name, &self.status) {
            ("status", Some(status)) => Some(status.as_ref()),
            _ => None,
        }
    }

    fn default(&self, object: &mut Value) {
        self.version.default(object);
    }

    fn prepare_for_create(&self, object: &mut Value, _context: &Context<'_>) {
        if self.version.status {
            remove(object, "status");
        }
        set(object, "metadata.generation", 1);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = type_meta(object, &self.kind, &self.version);
        if !errors.is_empty() {
            return errors;
        }
        if let Some(schema) = self.schema() {
            errors.extend(validate::validate(object, schema, ""));
        }
        errors.extend(scale(object, &self.version, true));
        if let Some(schema) = self.schema() {
            errors.extend(embedded(object, schema));
            errors.extend(lists::check(object, schema, &Path::new("")));
        }
        rules(&mut errors, object, None, &self.version);
        errors
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        if self.version.status {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => {
                    remove(new, "status");
                }
            }
        }
        let changed = {
            let keys = |o: &Value| {
                o.as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, _)| k.clone())
                    .collect::<Vec<_>>()
            };
            keys(new)
                .iter()
                .chain(&keys(old))
                .any(|k| k != "metadata" && !same(&new[k.as_str()], &old[k.as_str()]))
        };
        if changed {
            set(
                new,
                "metadata.generation",
                old.number("metadata.generation") + 1,
            );
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = type_meta(new, &self.kind, &self.version);
        if !errors.is_empty() {
            return errors;
        }
        if let Some(schema) = self.schema() {
            errors.extend(validate::validate_update(new, old, schema, ""));
        }
        errors.extend(scale(new, &self.version, true));
        if let Some(schema) = self.schema() {
            errors.extend(embedded(new, schema));
            if lists::check(old, schema, &Path::new("")).is_empty() {
                errors.extend(lists::check(new, schema, &Path::new("")));
            }
        }
        rules(&mut errors, new, Some(old), &self.version);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
        let before = old
            .map(|o| o.items("metadata.finalizers"))
            .unwrap_or_default();
        let mut added: Vec<&str> = new
            .items("metadata.finalizers")
            .iter()
            .filter(|f| !before.contains(f))
            .filter_map(Value::as_str)
            .collect();
        added.sort_unstable();
        let mut warnings = Vec::new();
        for name in added {
            let quoted = keelson_api::field::quote(name);
            for fault in qualified_name(name) {
                warnings.push(format!("metadata.finalizers: {quoted}: {fault}"));
            }
            if !name.contains('/') && !STANDARD.contains(&name) {
                let path = if name.contains('.') {
                    " including a path (/)"
                } else {
                    ""
                };
                warnings.push(format!("metadata.finalizers: {quoted}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"));
            }
        }
        warnings
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        if self.version.status {
            &["status"]
        } else {
            &[]
        }
    }

    fn custom_columns(&self) -> &[Value] {
        &self.version.columns.definitions
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.version.columns.row(object, now)
    }

    fn custom_field_labels(&self) -> &[String] {
        &self.labels
    }

    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        self.version.field(object, label)
    }
}

impl Strategy for Status {
    fn default(&self, object: &mut Value) {
        self.version.default(object);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let status = new.get("status").cloned();
        let managed = new.part("metadata.managedFields").clone();
        *new = old.clone();
        match status {
            Some(status) => new["status"] = status,
            None => {
                remove(new, "status");
            }
        }
        if managed.is_null() {
            remove(new, "metadata.managedFields");
        } else {
            set(new, "metadata.managedFields", managed);
        }
        copy(new, old, "metadata.generation");
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = type_meta(new, &self.kind, &self.version);
        if !errors.is_empty() {
            return errors;
        }
        let schema = self.version.schema.as_ref();
        if let (Some(schema), Some(status)) = (
            schema.and_then(|s| s.properties.get("status")),
            new.get("status"),
        ) {
            errors.extend(match old.get("status") {
                Some(before) => validate::validate_update(status, before, schema, "status"),
                None => validate::validate(status, schema, "status"),
            });
        }
        errors.extend(scale(new, &self.version, false));
        if let Some(schema) = schema
            && lists::check(old, schema, &Path::new("")).is_empty()
        {
            errors.extend(lists::check(new, schema, &Path::new("")));
        }
        rules(&mut errors, new, Some(old), &self.version);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["metadata", "spec"]
    }
}
