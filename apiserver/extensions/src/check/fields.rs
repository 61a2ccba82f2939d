//! The smaller parts of a definition: subresources, columns, selectable fields, conversion.

use std::collections::HashSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::dns1035_label;
use serde_json::Value;

use super::{Rules, list, text};
use crate::schema::Schema;

const MOST_SELECTABLE: usize = 8;

/// A text that must be one of a few.
pub(super) fn one_of(errors: &mut ErrorList, path: &Path<'_>, value: &str, accepted: &[&str]) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !accepted.contains(&value) {
        errors.push(Error::not_supported(path, value, accepted));
    }
}

/// What is wrong with a deprecation warning.
pub(super) fn warning(deprecated: bool, warning: &str) -> Vec<String> {
    if !deprecated {
        return vec!["can only be set for deprecated versions".to_owned()];
    }
    let mut faults = Vec::new();
    if warning.len() > 256 {
        faults.push("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        faults.push("must not be an empty string".to_owned());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        faults.push(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
    faults
}

pub(super) fn subresources(errors: &mut ErrorList, subresources: &Value, path: &Path<'_>) {
    let scale = &subresources["scale"];
    if scale.is_null() {
        return;
    }
    for (key, root) in [
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
    ] {
        let name = format!("scale.{key}");
        let (place, value) = (path.child(&name), text(scale, key));
        if value.is_empty() {
            errors.push(Error::required(&place, ""));
        } else if !simple_path(errors, value, &place) && !value.starts_with(root) {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(Error::invalid(&place, value, why));
        }
    }
    let selector = text(scale, "labelSelectorPath");
    let place = path.child("scale.labelSelectorPath");
    if !selector.is_empty()
        && !simple_path(errors, selector, &place)
        && !selector.starts_with(".spec.")
        && !selector.starts_with(".status.")
    {
        let why = "should be a json path under either .spec or .status";
        errors.push(Error::invalid(&place, selector, why));
    }
}

/// Complains of what isn't a simple path; says whether it did.
fn simple_path(errors: &mut ErrorList, value: &str, path: &Path<'_>) -> bool {
    if value.starts_with('.') {
        return false;
    }
    errors.push(Error::invalid(
        path,
        value,
        "must be a simple json path starting with .",
    ));
    true
}

pub(super) fn column(errors: &mut ErrorList, column: &Value, path: &Path<'_>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    let all_types = || format!("must be one of {}", TYPES.join(","));
    if text(column, "name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    match text(column, "type") {
        "" => errors.push(Error::required(&path.child("type"), all_types())),
        ty if !TYPES.contains(&ty) => {
            errors.push(Error::invalid(&path.child("type"), ty, all_types()))
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = format!("must be one of {}", FORMATS.join(","));
        errors.push(Error::invalid(&path.child("format"), format, why));
    }
    match text(column, "JSONPath") {
        "" => errors.push(Error::required(&path.child("JSONPath"), "")),
        given => {
            simple_path(errors, given, &path.child("JSONPath"));
        }
    }
}

pub(super) fn selectable(
    errors: &mut ErrorList,
    chosen: &[Value],
    schema: &Schema,
    path: &Path<'_>,
    many: bool,
) {
    let mut unique = HashSet::new();
    for (at, field) in chosen.iter().enumerate() {
        let item = path.index(at);
        let place = item.child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(Error::required(&place, ""));
            continue;
        }
        let (steps, found) = match field_path(given, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(
                    &place,
                    given,
                    format!("is an invalid path: {why}"),
                ));
                continue;
            }
        };
        if steps.first().is_some_and(|s| s == "metadata") {
            errors.push(Error::invalid(
                &place,
                given,
                "must not point to fields in metadata",
            ));
        }
        if !matches!(found.ty.as_str(), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(Error::invalid(&place, given, why));
        }
        if !unique.insert(steps) {
            errors.push(Error::duplicate(&place, given));
        }
    }
    if unique.len() > MOST_SELECTABLE && !many {
        errors.push(Error::too_many(path, unique.len(), MOST_SELECTABLE));
    }
}

/// Versions whose selectable fields were too many before already.
pub(super) fn too_many_before(new: &Value, old: &Value) -> HashSet<String> {
    let mut known = HashSet::new();
    let same = |a: &Value, b: &Value| {
        list(b, "selectableFields").len() > MOST_SELECTABLE
            && a["selectableFields"] == b["selectableFields"]
    };
    if same(new, old) {
        known.insert(String::new());
    }
    for version in list(new, "versions") {
        let before = list(old, "versions")
            .iter()
            .find(|v| v["name"] == version["name"]);
        if before.is_some_and(|before| same(version, before)) {
            known.insert(text(version, "name").to_owned());
        }
    }
    known
}

/// Follows a path of names such as `.spec['a'].b` through a schema.
pub(crate) fn field_path<'s>(
    path: &str,
    schema: &'s Schema,
    brackets: bool,
) -> Result<(Vec<String>, &'s Schema), String> {
    const NOWHERE: &str = "does not refer to a valid field";
    const END: &str = "unexpected end of JSON path";
    let mut steps = Vec::new();
    let mut at = schema;
    let mut rest = path;
    let next = |rest: &mut &str| -> Option<String> {
        let text = *rest;
        let first = text.chars().next()?;
        let end = match first {
            '.' | '[' | ']' => 1,
            '\'' => {
                let bytes = text.as_bytes();
                (1..bytes.len())
                    .find(|i| bytes[*i] == b'\'' && bytes[i - 1] != b'\\')
                    .map_or(text.len(), |i| i + 1)
            }
            _ => text.find(['.', '[', ']']).unwrap_or(text.len()),
        };
        *rest = &text[end..];
        Some(text[..end].to_owned())
    };
    while let Some(token) = next(&mut rest) {
        let name = match token.as_str() {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = next(&mut rest).ok_or(END)?;
                let inner = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\''));
                let inner = inner
                    .ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                match next(&mut rest).as_deref() {
                    Some("]") => inner.replace("\\'", "'"),
                    Some(other) => return Err(format!("expected ] but got {other}")),
                    None => return Err(END.to_owned()),
                }
            }
            "." => next(&mut rest).ok_or(END)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        at = if !at.properties.is_empty() {
            at.properties.get(&name).ok_or(NOWHERE)?
        } else {
            at.additional_schema().ok_or(NOWHERE)?
        };
        steps.push(name);
    }
    Ok((steps, at))
}

pub(super) fn conversion(
    errors: &mut ErrorList,
    conversion: &Value,
    rules: &Rules,
    path: &Path<'_>,
) {
    if conversion.is_null() {
        return;
    }
    let strategy = text(conversion, "strategy");
    one_of(
        errors,
        &path.child("strategy"),
        strategy,
        &["None", "Webhook"],
    );
    let (config, config_path) = (
        &conversion["webhookClientConfig"],
        path.child("webhookClientConfig"),
    );
    let reviews_path = path.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.push(Error::forbidden(&config_path, why));
        }
        if !list(conversion, "conversionReviewVersions").is_empty() {
            errors.push(Error::forbidden(&reviews_path, why));
        }
        return;
    }
    if config.is_null() {
        errors.push(Error::required(
            &config_path,
            "required when strategy is set to Webhook",
        ));
    } else {
        client_config(errors, config, rules, &config_path);
    }
    review_versions(
        errors,
        list(conversion, "conversionReviewVersions"),
        rules.review_versions,
        &reviews_path,
    );
}

fn client_config(errors: &mut ErrorList, config: &Value, rules: &Rules, path: &Path<'_>) {
    let (url, service) = (&config["url"], &config["service"]);
    if url.is_null() == service.is_null() {
        errors.push(Error::required(
            path,
            "exactly one of url or service is required",
        ));
    } else if let Some(url) = url.as_str() {
        webhook_url(errors, url, &path.child("url"));
    } else {
        let place = path.child("service");
        for key in ["name", "namespace"] {
            if text(service, key).is_empty() {
                errors.push(Error::required(
                    &place.child(key),
                    format!("service {key} is required"),
                ));
            }
        }
        let port = service["port"].as_i64().unwrap_or(443);
        if !(1..=65_535).contains(&port) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            errors.push(Error::invalid(&place.child("port"), port, why));
        }
        let given = text(service, "path");
        if !given.is_empty() && !given.starts_with('/') {
            errors.push(Error::invalid(
                &place.child("path"),
                given,
                "must start with a '/'",
            ));
        }
    }
    if rules.ca_bundle && !text(config, "caBundle").is_empty() && !ca_bundle_is_good(config) {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.push(Error::invalid(
            &path.child("caBundle"),
            text(config, "caBundle"),
            why,
        ));
    }
}

/// Whether a CA bundle is there that can be read.
pub(super) fn ca_bundle_is_good(config: &Value) -> bool {
    use base64::Engine as _;
    let given = text(config, "caBundle");
    given.is_empty()
        || base64::engine::general_purpose::STANDARD
            .decode(given)
            .is_ok_and(|pem| String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----"))
}

fn webhook_url(errors: &mut ErrorList, url: &str, path: &Path<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut invalid = |value: &str, why: String| errors.push(Error::invalid(path, value, why));
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        invalid(
            scheme,
            format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = rest.split('/').next().unwrap_or_default();
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    if host.is_empty() {
        invalid("", format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        invalid(
            user,
            "user information is not permitted in the URL".to_owned(),
        );
    }
    if !fragment.is_empty() {
        invalid(
            fragment,
            "fragments are not permitted in the URL".to_owned(),
        );
    }
    if !query.is_empty() {
        invalid(
            query,
            "query parameters are not permitted in the URL".to_owned(),
        );
    }
}

fn review_versions(errors: &mut ErrorList, versions: &[Value], recognised: bool, path: &Path<'_>) {
    if versions.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (at, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !seen.insert(name) {
            errors.push(Error::invalid(&path.index(at), name, "duplicate version"));
            continue;
        }
        for fault in dns1035_label(name) {
            errors.push(Error::invalid(&path.index(at), name, fault));
        }
    }
    if recognised && !seen.contains("v1") && !seen.contains("v1beta1") {
        errors.push(Error::invalid(
            path,
            versions,
            "must include at least one of v1, v1beta1",
        ));
    }
}

/// Whether a rule's `fieldPath` leads somewhere.
pub(super) fn path_is_valid(path: &str, schema: &Value) -> bool {
    Schema::compile(schema).map_or(true, |schema| field_path(path, &schema, true).is_ok())
}
