//! Validation of the OpenAPI schemas in a definition, node by node.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};

use super::{Rules, defaults, fields, flag, list, structural, text};
use crate::schema::{Schema, known_format};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];
const ROOT_FIELDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "XPreserveUnknownFields",
    ),
    ("x-kubernetes-validations", "XValidations"),
];

fn object<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    value.get(key).and_then(Value::as_object)
}

/// Whether a schema or one below it passes a test.
pub(crate) fn any(schema: &Value, test: &dyn Fn(&Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    test(schema)
        || ["allOf", "anyOf", "oneOf"]
            .iter()
            .any(|k| list(schema, k).iter().any(|s| any(s, test)))
        || ["not", "items", "additionalProperties", "additionalItems"]
            .iter()
            .any(|k| any(&schema[*k], test))
        || list(schema, "items").iter().any(|s| any(s, test))
        || [
            "properties",
            "patternProperties",
            "definitions",
            "dependencies",
        ]
        .iter()
        .any(|k| object(schema, k).is_some_and(|m| m.values().any(|s| any(s, test))))
}

pub(super) fn has_extensions(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-embedded-resource")
        || !schema["x-kubernetes-preserve-unknown-fields"].is_null()
        || flag(schema, "x-kubernetes-int-or-string")
        || !list(schema, "x-kubernetes-list-map-keys").is_empty()
        || !schema["x-kubernetes-list-type"].is_null()
        || !list(schema, "x-kubernetes-validations").is_empty()
}

pub(super) fn has_invalid_type(schema: &Value) -> bool {
    let ty = text(schema, "type");
    !ty.is_empty() && !TYPES.contains(&ty)
}

pub(super) fn has_loose_set(schema: &Value) -> bool {
    let items = &schema["items"];
    text(schema, "x-kubernetes-list-type") == "set"
        && match text(items, "type") {
            "array" => !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
            "object" => text(items, "x-kubernetes-map-type") != "atomic",
            _ => false,
        }
}

pub(super) fn has_loose_keys(schema: &Value) -> bool {
    let mut errors = ErrorList::new();
    map_keys(&mut errors, schema, &Path::new(""));
    !errors.is_empty()
}

/// Formats in a definition's schemas that mean nothing, for warnings.
#[must_use]
pub fn unknown_formats(crd: &Value) -> Vec<String> {
    let found = std::cell::RefCell::new(Vec::new());
    for version in list(&crd["spec"], "versions") {
        any(&version["schema"]["openAPIV3Schema"], &|schema| {
            let format = text(schema, "format");
            if !format.is_empty() && !known_format(text(schema, "type"), format) {
                found.borrow_mut().push(format.to_owned());
            }
            false
        });
    }
    found.into_inner()
}

/// Checks `validation` or a version's `schema`.
pub(super) fn validation(
    errors: &mut ErrorList,
    validation: &Value,
    status: bool,
    rules: &Rules,
    version: &str,
    path: &Path<'_>,
) {
    let schema = &validation["openAPIV3Schema"];
    if schema.is_null() {
        return;
    }
    let mut found = ErrorList::new();
    let place = path.child("openAPIV3Schema");
    if status {
        root_fields(&mut found, schema, &place);
    }
    if flag(schema, "nullable") {
        found.push(Error::forbidden(
            &path.child("openAPIV3Schema.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let mut unsupported = None;
    let mut rules_can_be_compiled = false;
    if rules.structural {
        match structural::unsupported(schema) {
            Some(why) => unsupported = Some(Error::invalid(&place, "", why)),
            None => {
                let violations = structural::check(schema, &place);
                if violations.is_empty() {
                    let wrong = defaults::check(schema, &place);
                    rules_can_be_compiled = wrong.is_empty();
                    found.extend(wrong);
                } else {
                    found.extend(violations);
                }
            }
        }
    }
    let mut walk = Walk {
        rules,
        schema_errors: ErrorList::new(),
    };
    walk.node(schema, &place, &Place::default(), true);
    let clean = walk.schema_errors.is_empty();
    found.append(&mut walk.schema_errors);
    if clean && rules_can_be_compiled {
        crate::rules::check(
            &mut found,
            schema,
            &place,
            rules.unchanged.contains(version),
        );
    }
    if found.is_empty() {
        found.extend(unsupported);
    }
    if found.is_empty()
        && let Err(why) = Schema::compile(schema)
    {
        found.push(Error::invalid(
            path,
            "",
            format!("error building validator: {why}"),
        ));
    }
    errors.extend(found);
}

fn root_fields(errors: &mut ErrorList, schema: &Value, path: &Path<'_>) {
    for (key, value) in schema.as_object().into_iter().flatten() {
        let zero = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(s) => s.is_empty(),
            _ => false,
        };
        if zero {
            continue;
        }
        if key == "type" {
            if value != "object" {
                let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
                errors.push(Error::invalid(&path.child("type"), value, why));
                return;
            }
        } else if !ROOT_FIELDS.iter().any(|(name, _)| name == key) {
            let names: Vec<&str> = ROOT_FIELDS.iter().map(|(_, go)| *go).collect();
            let why = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            errors.push(Error::invalid(path, schema, why));
            return;
        }
    }
}

/// Where in a schema the walk is.
#[derive(Clone, Default)]
struct Place {
    no_default: Option<String>,
    inside_meta: bool,
}

struct Walk<'r> {
    rules: &'r Rules,
    schema_errors: ErrorList,
}

impl Walk<'_> {
    fn node(&mut self, schema: &Value, path: &Path<'_>, place: &Place, root: bool) {
        if !schema.is_object() {
            return;
        }
        self.standard(schema, path, place);
        if flag(schema, "uniqueItems") {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.schema_errors
                .push(Error::forbidden(&path.child("uniqueItems"), why));
        }
        self.children(schema, path, place, root);
        self.extensions(schema, path);
        self.list_map(schema, path);
        if self.rules.map_keys {
            map_keys(&mut self.schema_errors, schema, path);
        }
        validations(&mut self.schema_errors, schema, path);
    }

    fn standard(&mut self, schema: &Value, path: &Path<'_>, place: &Place) {
        let errors = &mut self.schema_errors;
        let ty = text(schema, "type");
        if self.rules.property_types && !ty.is_empty() && !TYPES.contains(&ty) {
            errors.push(Error::not_supported(&path.child("type"), ty, &TYPES));
        }
        if !schema["default"].is_null()
            && let Some(reason) = &place.no_default
        {
            let why = if reason.is_empty() {
                "must not be set".to_owned()
            } else {
                format!("must not be set {reason}")
            };
            errors.push(Error::forbidden(&path.child("default"), why));
        }
        let set = |key: &str| match &schema[key] {
            Value::Null => false,
            Value::String(s) => !s.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        for key in [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ] {
            let there = if matches!(key, "additionalItems" | "dependencies" | "$ref") {
                !schema[key].is_null()
            } else {
                set(key)
            };
            if there {
                errors.push(Error::forbidden(
                    &path.child(key),
                    format!("{key} is not supported"),
                ));
            }
        }
        if ty == "null" {
            errors.push(Error::forbidden(
                &path.child("type"),
                "type cannot be set to null, use nullable as an alternative",
            ));
        }
        if !list(schema, "items").is_empty() {
            errors.push(Error::forbidden(
                &path.child("items"),
                "items must be a schema object and not an array",
            ));
        }
        if place.inside_meta && flag(schema, "x-kubernetes-embedded-resource") {
            errors.push(Error::forbidden(
                &path.child("x-kubernetes-embedded-resource"),
                "must not be used inside of resource meta",
            ));
        }
    }

    fn children(&mut self, schema: &Value, path: &Path<'_>, place: &Place, root: bool) {
        let properties = object(schema, "properties");
        let additional = &schema["additionalProperties"];
        if !additional.is_null() {
            if properties.is_some_and(|p| !p.is_empty()) && additional != &Value::Bool(true) {
                let why = "additionalProperties and properties are mutual exclusive";
                self.schema_errors
                    .push(Error::forbidden(&path.child("additionalProperties"), why));
            }
            let mut inner = place.clone();
            if place.inside_meta {
                inner.no_default =
                    Some("inside additionalProperties applying to object metadata".to_owned());
            }
            self.node(
                additional,
                &path.child("additionalProperties"),
                &inner,
                false,
            );
        }
        let place_of_properties = path.child("properties");
        for (name, property) in properties.into_iter().flatten() {
            let mut inner = place.clone();
            if (root || flag(schema, "x-kubernetes-embedded-resource"))
                && META.contains(&name.as_str())
            {
                inner.inside_meta = true;
                if root {
                    inner.no_default = Some(format!("in top-level {name}"));
                }
            }
            self.node(property, &place_of_properties.key(name), &inner, false);
        }
        self.node(&schema["not"], &path.child("not"), place, false);
        for key in ["allOf", "oneOf", "anyOf"] {
            let at = path.child(key);
            for (index, inner) in list(schema, key).iter().enumerate() {
                self.node(inner, &at.index(index), place, false);
            }
        }
        let at = path.child("definitions");
        for (name, inner) in object(schema, "definitions").into_iter().flatten() {
            self.node(inner, &at.key(name), place, false);
        }
        let at = path.child("items");
        self.node(&schema["items"], &at, place, false);
        for (index, inner) in list(schema, "items").iter().enumerate() {
            self.node(inner, &at.index(index), place, false);
        }
        let at = path.child("dependencies");
        for (name, inner) in object(schema, "dependencies").into_iter().flatten() {
            self.node(inner, &at.key(name), place, false);
        }
    }

    fn extensions(&mut self, schema: &Value, path: &Path<'_>) {
        let errors = &mut self.schema_errors;
        let ty = text(schema, "type");
        if schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(false) {
            errors.push(Error::invalid(
                &path.child("x-kubernetes-preserve-unknown-fields"),
                false,
                "must be true or undefined",
            ));
        }
        let needs = |errors: &mut ErrorList, wanted: &str, key: &str| {
            let why = format!("must be {wanted} if {key} is specified");
            errors.push(if ty.is_empty() {
                Error::required(&path.child("type"), why)
            } else {
                Error::invalid(&path.child("type"), ty, why)
            });
        };
        if !schema["x-kubernetes-map-type"].is_null() {
            let map_type = text(schema, "x-kubernetes-map-type");
            if ty != "object" {
                needs(errors, "object", "x-kubernetes-map-type");
            }
            if !matches!(map_type, "atomic" | "granular") {
                errors.push(Error::not_supported(
                    &path.child("x-kubernetes-map-type"),
                    map_type,
                    &["atomic", "granular"],
                ));
            }
        }
        if schema["x-kubernetes-list-type"].is_null() {
            return;
        }
        let list_type = text(schema, "x-kubernetes-list-type");
        if ty != "array" {
            needs(errors, "array", "x-kubernetes-list-type");
        } else if self.rules.atomic_sets && has_loose_set(schema) {
            let items = path.child("items");
            let key = if text(&schema["items"], "type") == "array" {
                "x-kubernetes-list-type"
            } else {
                "x-kubernetes-map-type"
            };
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            errors.push(Error::invalid(
                &items.child(key),
                &schema["items"]["x-kubernetes-list-type"],
                why,
            ));
        }
        if !matches!(list_type, "atomic" | "set" | "map") {
            errors.push(Error::not_supported(
                &path.child("x-kubernetes-list-type"),
                list_type,
                &["atomic", "set", "map"],
            ));
        }
    }

    fn list_map(&mut self, schema: &Value, path: &Path<'_>) {
        let errors = &mut self.schema_errors;
        let keys = list(schema, "x-kubernetes-list-map-keys");
        let list_type = &schema["x-kubernetes-list-type"];
        if !keys.is_empty() && list_type != "map" {
            let (at, why) = (
                path.child("x-kubernetes-list-type"),
                "must be map if x-kubernetes-list-map-keys is non-empty",
            );
            errors.push(match list_type {
                Value::Null => Error::required(&at, why),
                other => Error::invalid(&at, other, why),
            });
        }
        if list_type != "map" {
            return;
        }
        let keys_path = path.child("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            errors.push(Error::required(
                &keys_path,
                "must not be empty if x-kubernetes-list-type is map",
            ));
        }
        let (items, items_path) = (&schema["items"], path.child("items"));
        if items.is_null() {
            errors.push(Error::required(
                &items_path,
                "must have a schema if x-kubernetes-list-type is map",
            ));
            return;
        }
        if items.is_array() {
            errors.push(Error::invalid(
                &items_path,
                items,
                "must only have a single schema if x-kubernetes-list-type is map",
            ));
            return;
        }
        if text(items, "type") != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(Error::invalid(
                &items_path.child("type"),
                text(items, "type"),
                why,
            ));
            return;
        }
        let properties = items_path.child("properties");
        for (at, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            match &items["properties"][name] {
                Value::Null => errors.push(Error::invalid(
                    &keys_path,
                    keys,
                    "entries must all be names of item properties",
                )),
                property if matches!(text(property, "type"), "array" | "object") => {
                    let why =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.push(Error::invalid(
                        &properties.key(name).child("type"),
                        text(items, "type"),
                        why,
                    ));
                }
                _ => {}
            }
            if keys[..at].contains(key) {
                errors.push(Error::invalid(
                    &keys_path,
                    keys,
                    "must not contain duplicate entries",
                ));
            }
        }
    }
}

/// Keys of lists that are maps must be there; items of sets and maps must not be null.
fn map_keys(errors: &mut ErrorList, schema: &Value, path: &Path<'_>) {
    let items = &schema["items"];
    let list_type = text(schema, "x-kubernetes-list-type");
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return;
    }
    let items_path = path.child("items");
    if flag(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(Error::forbidden(&items_path.child("nullable"), why));
    }
    if list_type != "map" {
        return;
    }
    let properties = items_path.child("properties");
    for name in list(schema, "x-kubernetes-list-map-keys")
        .iter()
        .filter_map(Value::as_str)
    {
        let property = &items["properties"][name];
        if !property.is_object() {
            continue;
        }
        let at = properties.key(name);
        if !list(items, "required").iter().any(|r| r == name) && property["default"].is_null() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&at.child("default"), why));
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), why));
        }
    }
}

/// What can be said of a node's rules without compiling them.
fn validations(errors: &mut ErrorList, schema: &Value, path: &Path<'_>) {
    const REASONS: [&str; 4] = [
        "FieldValueDuplicate",
        "FieldValueForbidden",
        "FieldValueInvalid",
        "FieldValueRequired",
    ];
    let lines = |s: &str| s.contains(['\n', '\r']);
    let rules_path = path.child("x-kubernetes-validations");
    for (at, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let place = rules_path.index(at);
        let (written, message) = (text(rule, "rule").trim(), text(rule, "message"));
        let trimmed = message.trim();
        if written.is_empty() {
            errors.push(Error::required(
                &place.child("rule"),
                "rule is not specified",
            ));
        } else if !message.is_empty() && trimmed.is_empty() {
            errors.push(Error::invalid(
                &place.child("message"),
                message,
                "must be non-empty if specified",
            ));
        } else if lines(trimmed) {
            errors.push(Error::invalid(
                &place.child("message"),
                message,
                "must not contain line breaks",
            ));
        } else if lines(written) && trimmed.is_empty() {
            errors.push(Error::required(
                &place.child("message"),
                "message must be specified if rule contains line breaks",
            ));
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.push(Error::required(
                &place.child("messageExpression"),
                "messageExpression must be non-empty if specified",
            ));
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            errors.push(Error::not_supported(
                &place.child("reason"),
                reason,
                &REASONS,
            ));
        }
        let field = text(rule, "fieldPath");
        let at = place.child("fieldPath");
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            errors.push(Error::invalid(&at, field, "must be non-empty if specified"));
        }
        if lines(field) {
            errors.push(Error::invalid(&at, field, "must not contain line breaks"));
        }
        if !fields::path_is_valid(field, schema) {
            errors.push(Error::invalid(&at, field, "must be a valid path"));
        }
    }
}
