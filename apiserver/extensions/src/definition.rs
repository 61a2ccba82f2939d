//! A CustomResourceDefinition, read once: names, versions with their compiled schemas, and how versions are converted.

use std::borrow::Cow;
use std::sync::Arc;

use keelson_schema::Type;
use serde_json::Value;

use crate::columns::Columns;
use crate::defaults;
use crate::jsonpath::JsonPath;
use crate::metadata::{self, Malformed};
use crate::prune;
use crate::rules::Rules;
use crate::schema::Schema;
use crate::types;

/// A definition.
pub struct Definition {
    /// Its name, `<plural>.<group>`.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The API group.
    pub group: String,
    /// The accepted names.
    pub names: Names,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether nothing is pruned (as old definitions had it).
    pub preserve_unknown: bool,
    /// The versions, as listed.
    pub versions: Vec<Arc<Version>>,
    /// Which of them objects are stored in.
    pub storage: usize,
    /// How objects get from one version to another.
    pub conversion: Conversion,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// The names of a custom resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The resource.
    pub plural: String,
    /// Its singular.
    pub singular: String,
    /// The kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources.
    pub categories: Vec<String>,
}

/// How versions are converted.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook is asked.
    Webhook {
        /// Its `clientConfig`.
        config: Value,
        /// The versions of ConversionReview it takes.
        reviews: Vec<String>,
    },
}

/// One version.
pub struct Version {
    /// Its name.
    pub name: String,
    /// `apiVersion` of its objects.
    pub api_version: String,
    /// Whether it is served.
    pub served: bool,
    /// What clients are warned of.
    pub warning: Option<String>,
    /// Its schema, if it has one.
    pub schema: Option<Schema>,
    /// Its schema as it was written.
    pub written: Value,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// The `scale` subresource.
    pub scale: Option<Scale>,
    /// The columns of its tables.
    pub columns: Columns,
    /// Labels of fields it can be selected by, and where they are.
    pub selectable: Vec<(String, JsonPath)>,
    /// Its rules.
    pub rules: Rules,
    /// Its type.
    pub ty: Type,
    preserve_unknown: bool,
    group: String,
    kind: String,
}

/// Where the parts of a Scale are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The wanted replicas.
    pub spec_replicas: String,
    /// The replicas there are.
    pub status_replicas: String,
    /// The selector, as text.
    pub selector: Option<String>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn words(value: &Value, key: &str) -> Vec<String> {
    let items = value.get(key).and_then(Value::as_array);
    let texts = items.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

impl Names {
    /// Reads names.
    pub fn of(value: &Value) -> Names {
        Names {
            plural: text(value, "plural").to_owned(),
            singular: text(value, "singular").to_owned(),
            kind: text(value, "kind").to_owned(),
            list_kind: text(value, "listKind").to_owned(),
            short_names: words(value, "shortNames"),
            categories: words(value, "categories"),
        }
    }
}

impl Definition {
    /// Reads a definition in version v1 that was stored.
    pub fn read(crd: &Value) -> Result<Definition, String> {
        let spec = &crd["spec"];
        let group = text(spec, "group").to_owned();
        let names = Names::of(&crd["status"]["acceptedNames"]);
        if names.plural.is_empty() || names.kind.is_empty() {
            return Err("its names are not accepted".to_owned());
        }
        let preserve_unknown = flag(spec, "preserveUnknownFields");
        let mut versions = Vec::new();
        let mut storage = 0;
        for (at, version) in spec["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            if flag(version, "storage") {
                storage = at;
            }
            let read = Version::read(version, &group, &names.kind, preserve_unknown)?;
            versions.push(Arc::new(read));
        }
        if versions.is_empty() {
            return Err("it has no versions".to_owned());
        }
        let conversion = &spec["conversion"];
        let conversion = match text(conversion, "strategy") {
            "Webhook" => Conversion::Webhook {
                config: conversion["webhook"]["clientConfig"].clone(),
                reviews: words(&conversion["webhook"], "conversionReviewVersions"),
            },
            _ => Conversion::None,
        };
        let metadata = &crd["metadata"];
        Ok(Definition {
            name: text(metadata, "name").to_owned(),
            uid: text(metadata, "uid").to_owned(),
            group,
            names,
            namespaced: text(spec, "scope") == "Namespaced",
            preserve_unknown,
            versions,
            storage,
            conversion,
            terminating: !text(metadata, "deletionTimestamp").is_empty(),
        })
    }

    /// The version of this `apiVersion`.
    pub fn version(&self, api_version: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|v| v.api_version == api_version)
    }

    /// The version that objects are stored in.
    pub fn stored(&self) -> &Arc<Version> {
        &self.versions[self.storage]
    }

    /// Whether versions are converted by asking a webhook.
    pub fn asks_webhook(&self) -> bool {
        self.conversion != Conversion::None
    }
}

impl Version {
    fn read(
        version: &Value,
        group: &str,
        kind: &str,
        preserve_unknown: bool,
    ) -> Result<Version, String> {
        let name = text(version, "name").to_owned();
        let written = version["schema"]["openAPIV3Schema"].clone();
        let mut schema = match &written {
            Value::Object(_) => {
                Some(Schema::compile(&written).map_err(|e| format!("version {name}: {e}"))?)
            }
            _ => None,
        };
        if let Some(schema) = schema.as_mut().filter(|_| !preserve_unknown) {
            prune_defaults(schema);
        }
        let api_version = format!("{group}/{name}");
        let warning = flag(version, "deprecated").then(|| {
            match version.get("deprecationWarning").and_then(Value::as_str) {
                Some(warning) => warning.to_owned(),
                None => format!("{api_version} {kind} is deprecated"),
            }
        });
        let subresources = &version["subresources"];
        let scale = &subresources["scale"];
        let mut selectable = Vec::new();
        for field in version["selectableFields"].as_array().into_iter().flatten() {
            let path = text(field, "jsonPath");
            selectable.push((
                path.trim_start_matches('.').to_owned(),
                JsonPath::parse(path)?,
            ));
        }
        let columns = version["additionalPrinterColumns"].as_array();
        Ok(Version {
            served: flag(version, "served"),
            warning,
            status: subresources["status"].is_object(),
            scale: scale.is_object().then(|| Scale {
                spec_replicas: text(scale, "specReplicasPath").to_owned(),
                status_replicas: text(scale, "statusReplicasPath").to_owned(),
                selector: scale
                    .get("labelSelectorPath")
                    .and_then(Value::as_str)
                    .filter(|s| !s.is_empty())
                    .map(str::to_owned),
            }),
            columns: Columns::compile(columns.map(Vec::as_slice).unwrap_or_default()),
            selectable,
            ty: types::of_object(schema.as_ref(), preserve_unknown),
            rules: Rules::compile(&written),
            schema,
            written,
            name,
            api_version,
            preserve_unknown,
            group: group.to_owned(),
            kind: kind.to_owned(),
        })
    }

    /// Brings an object of this version into form: metadata as it must be, unknown fields and meaningless nulls removed.
    /// Answers the paths of unknown fields.
    pub fn accept(&self, object: &mut Value, malformed: Malformed) -> Result<Vec<String>, String> {
        let mut unknown = metadata::coerce_own(object, malformed, "")?;
        let api_version = text(object, "apiVersion");
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if group != self.group || text(object, "kind") != self.kind {
            return Ok(unknown);
        }
        if !self.preserve_unknown {
            unknown.extend(prune::prune(object, self.schema.as_ref()));
            defaults::prune_nulls(object, self.schema.as_ref());
        }
        if let Some(schema) = &self.schema {
            let embedded = metadata::coerce_embedded(object, schema, malformed);
            unknown.extend(embedded.map_err(|e| e.to_string())?);
        }
        Ok(unknown)
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        if let Some(schema) = &self.schema {
            defaults::default(object, schema);
        }
    }

    /// Makes a stored object of this version one that can be served.
    pub fn restore(&self, object: &mut Value) -> Result<(), String> {
        self.accept(object, Malformed::Drop)?;
        if object["metadata"].get("generation").is_none_or(|g| g == 0) {
            object["metadata"]["generation"] = 1.into();
        }
        self.default(object);
        Ok(())
    }

    /// The value of a selectable field; absent ones are empty.
    pub fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        let Some((_, path)) = self.selectable.iter().find(|(l, _)| l == label) else {
            return Cow::Borrowed("");
        };
        match path.find(object).first() {
            Some(Value::String(text)) => Cow::Borrowed(text),
            None | Some(Value::Null) => Cow::Borrowed(""),
            Some(other) => Cow::Owned(other.to_string()),
        }
    }
}

/// Defaults hold nothing that would be pruned from an object.
fn prune_defaults(schema: &mut Schema) {
    if let Some(mut default) = schema.default.take() {
        prune::prune_part(&mut default, schema);
        schema.default = Some(default);
    }
    if let Some(items) = &mut schema.items {
        prune_defaults(items);
    }
    for property in schema.properties.values_mut() {
        prune_defaults(property);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn definition() -> Definition {
        Definition::read(&json!({"metadata": {"name": "tests.example.com", "uid": "u"}, "spec": {"group": "example.com", "scope": "Namespaced", "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "selectableFields": [{"jsonPath": ".spec.color"}],
             "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string", "default": "red"}}}}}}},
            {"name": "v2", "served": true, "storage": false, "deprecated": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
            "status": {"acceptedNames": {"plural": "tests", "kind": "Test", "listKind": "TestList", "singular": "test"}}})).unwrap()
    }

    #[test]
    fn objects_are_brought_into_form() {
        let definition = definition();
        let v1 = definition.version("example.com/v1").unwrap();
        let mut object = json!({"apiVersion": "example.com/v1", "kind": "Test", "metadata": {"name": "a", "odd": 1, "labels": {"a": "b"}}, "spec": {"size": 1}, "x": {}});
        assert_eq!(
            v1.accept(&mut object, Malformed::Refuse).unwrap(),
            ["metadata.odd", "spec.size", "x"]
        );
        v1.default(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "example.com/v1", "kind": "Test", "metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"color": "red"}})
        );
        assert_eq!(v1.field(&object, "spec.color"), "red");
        let mut wrong = json!({"apiVersion": "example.com/v1", "kind": "Test", "metadata": {"labels": 5, "name": "a"}});
        assert!(
            v1.accept(&mut wrong.clone(), Malformed::Refuse)
                .unwrap_err()
                .contains("ObjectMeta.labels")
        );
        v1.restore(&mut wrong).unwrap();
        assert_eq!(wrong["metadata"], json!({"name": "a", "generation": 1}));
        assert_eq!(
            definition
                .version("example.com/v2")
                .unwrap()
                .warning
                .as_deref(),
            Some("example.com/v2 Test is deprecated")
        );
    }
}
