//! Validation of definitions: names, versions, subresources, columns, conversion, and (in the modules below) schemas.
//!
//! It works on the form of [`crate::internal`], whose paths upstream's errors name.

pub mod approval;
mod defaults;
pub(crate) mod fields;
pub mod openapi;
pub mod structural;

use std::collections::{HashMap, HashSet};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{dns1035_label, dns1123_subdomain};
use serde_json::Value;

use crate::internal;
use crate::names;
use crate::schema::Schema;

/// What of a definition need not be checked, as it was stored before that was a rule.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) review_versions: bool,
    pub(crate) openapi_schema: bool,
    pub(crate) property_types: bool,
    pub(crate) structural: bool,
    pub(crate) atomic_sets: bool,
    pub(crate) map_keys: bool,
    pub(crate) ca_bundle: bool,
    pub(crate) many_selectable: HashSet<String>,
    pub(crate) unchanged: HashSet<String>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Everything wrong with a new definition, its metadata aside.
pub fn create(crd: &Value) -> ErrorList {
    let mut crd = crd.clone();
    internal::from_v1(&mut crd);
    let rules = Rules {
        review_versions: true,
        openapi_schema: true,
        property_types: true,
        structural: true,
        atomic_sets: true,
        map_keys: true,
        ca_bundle: false,
        many_selectable: HashSet::new(),
        unchanged: HashSet::new(),
    };
    let mut errors = ErrorList::new();
    let required = format!(
        "{}.{}",
        text(&crd["spec"]["names"], "plural"),
        text(&crd["spec"], "group")
    );
    let name = text(&crd["metadata"], "name");
    if name != required && !name.is_empty() {
        let path = Path::new("metadata");
        errors.push(Error::invalid(
            &path.child("name"),
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    spec(&mut errors, &crd["spec"], rules);
    rest(&mut errors, &crd, None);
    errors
}

/// Everything wrong with a changed definition, its metadata aside.
pub fn update(crd: &Value, old: &Value) -> ErrorList {
    let (mut crd, mut old) = (crd.clone(), old.clone());
    internal::from_v1(&mut crd);
    internal::from_v1(&mut old);
    let before = &old["spec"];
    let established = names::is_true(&old, "Established");
    let has = |test: &dyn Fn(&Value) -> bool| schemas(before).any(|(_, s)| openapi::any(s, test));
    let reviews = list(&before["conversion"], "conversionReviewVersions");
    let unchanged = || {
        let new: HashMap<String, &Value> = schemas(&crd["spec"]).collect();
        schemas(before)
            .filter(|(v, s)| new.get(v) == Some(s))
            .map(|(v, _)| v)
            .collect()
    };
    let rules = Rules {
        review_versions: reviews.is_empty() || reviews.iter().any(|v| v == "v1" || v == "v1beta1"),
        openapi_schema: !before["validation"]["openAPIV3Schema"].is_null()
            || list(before, "versions")
                .iter()
                .all(|v| !v["schema"]["openAPIV3Schema"].is_null()),
        property_types: !has(&openapi::has_invalid_type),
        structural: !schemas(before).any(|(_, s)| structural::is_not(s)),
        atomic_sets: !has(&openapi::has_loose_set),
        map_keys: !has(&openapi::has_loose_keys),
        ca_bundle: established
            && fields::ca_bundle_is_good(&before["conversion"]["webhookClientConfig"]),
        many_selectable: fields::too_many_before(&crd["spec"], before),
        unchanged: unchanged(),
    };
    let mut errors = ErrorList::new();
    spec(&mut errors, &crd["spec"], rules);
    let root = Path::new("spec");
    let names = root.child("names");
    let immutable = |errors: &mut ErrorList, path: &Path<'_>, new: &Value, old: &Value| {
        if new != old {
            errors.push(Error::invalid(path, new, "field is immutable"));
        }
    };
    let now = &crd["spec"];
    if established {
        immutable(
            &mut errors,
            &root.child("scope"),
            &now["scope"],
            &before["scope"],
        );
        immutable(
            &mut errors,
            &names.child("kind"),
            &now["names"]["kind"],
            &before["names"]["kind"],
        );
    }
    immutable(
        &mut errors,
        &root.child("group"),
        &now["group"],
        &before["group"],
    );
    immutable(
        &mut errors,
        &names.child("plural"),
        &now["names"]["plural"],
        &before["names"]["plural"],
    );
    rest(&mut errors, &crd, Some(&old));
    errors
}

/// Everything wrong with a changed status.
pub fn status(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    kind_names(
        &mut errors,
        &crd["status"]["acceptedNames"],
        &status.child("acceptedNames"),
    );
    errors
}

/// The schemas of a definition in internal form, with their versions ("" for the one above them all).
fn schemas(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    let above = &spec["validation"]["openAPIV3Schema"];
    let above = (!above.is_null()).then(|| (String::new(), above));
    let each = list(spec, "versions").iter().filter_map(|v| {
        let schema = &v["schema"]["openAPIV3Schema"];
        (!schema.is_null()).then(|| (text(v, "name").to_owned(), schema))
    });
    above.into_iter().chain(each)
}

fn rest(errors: &mut ErrorList, crd: &Value, old: Option<&Value>) {
    errors.extend(status(crd));
    let status = Path::new("status");
    stored_versions(
        errors,
        &crd["status"],
        list(&crd["spec"], "versions"),
        &status.child("storedVersions"),
    );
    errors.extend(approval::check(crd, old));
    let was_preserving = old.is_some_and(|old| flag(&old["spec"], "preserveUnknownFields"));
    if !was_preserving && flag(&crd["spec"], "preserveUnknownFields") {
        let spec = Path::new("spec");
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(
            &spec.child("preserveUnknownFields"),
            true,
            why,
        ));
    }
}

fn stored_versions(errors: &mut ErrorList, status: &Value, versions: &[Value], path: &Path<'_>) {
    let stored = list(status, "storedVersions");
    if stored.is_empty() {
        let shown = status.get("storedVersions").cloned().unwrap_or_default();
        errors.push(Error::invalid(
            path,
            shown,
            "must have at least one stored version",
        ));
        return;
    }
    for version in versions.iter().filter(|v| flag(v, "storage")) {
        if !stored.contains(&version["name"]) {
            let why = format!("must have the storage version {}", text(version, "name"));
            errors.push(Error::invalid(path, stored, why));
        }
    }
    for (at, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let v = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
            );
            errors.push(Error::invalid(&path.index(at), name, why));
        }
    }
}

fn spec(errors: &mut ErrorList, spec: &Value, mut rules: Rules) {
    let path = Path::new("spec");
    let group = text(spec, "group");
    if group.is_empty() {
        errors.push(Error::required(&path.child("group"), ""));
    } else {
        let faults = dns1123_subdomain(group);
        if !faults.is_empty() {
            errors.push(Error::invalid(
                &path.child("group"),
                group,
                faults.join(","),
            ));
        } else if !group.contains('.') {
            errors.push(Error::invalid(
                &path.child("group"),
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    fields::one_of(
        errors,
        &path.child("scope"),
        text(spec, "scope"),
        &["Cluster", "Namespaced"],
    );
    let preserves = flag(spec, "preserveUnknownFields");
    rules.structural |= !preserves;
    let versions_path = path.child("versions");
    let versions = list(spec, "versions");
    if spec["validation"]["openAPIV3Schema"].is_null() {
        for (at, version) in versions.iter().enumerate() {
            if !version["schema"]["openAPIV3Schema"].is_null() {
                continue;
            }
            let version_path = versions_path.index(at);
            let schema = version_path.child("schema");
            let place = schema.child("openAPIV3Schema");
            if rules.openapi_schema {
                errors.push(Error::required(&place, ""));
            } else if !preserves && flag(version, "served") {
                errors.push(Error::required(
                    &place,
                    "because otherwise all fields are pruned",
                ));
            }
        }
    }
    if schemas(spec).any(|(_, s)| openapi::any(s, &|s| !s["default"].is_null())) {
        rules.structural = true;
        if preserves {
            let why = "must be false in order to use defaults in the schema";
            errors.push(Error::invalid(
                &path.child("preserveUnknownFields"),
                true,
                why,
            ));
        }
    }
    rules.structural |= schemas(spec).any(|(_, s)| openapi::any(s, &openapi::has_extensions));
    each_version(errors, spec, versions, &versions_path, &rules);
    whole(errors, spec, versions, &path, &versions_path);
    let names = path.child("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], name).is_empty() {
            errors.push(Error::required(&names.child(name), ""));
        }
    }
    kind_names(errors, &spec["names"], &names);
    let any_status = is_status(spec) || versions.iter().any(is_status);
    openapi::validation(
        errors,
        &spec["validation"],
        any_status,
        &rules,
        text(spec, "version"),
        &path.child("validation"),
    );
    fields::subresources(errors, &spec["subresources"], &path.child("subresources"));
    let columns = path.child("additionalPrinterColumns");
    for (at, column) in list(spec, "additionalPrinterColumns").iter().enumerate() {
        fields::column(errors, column, &columns.index(at));
    }
    if !list(spec, "selectableFields").is_empty() {
        let place = path.child("selectableFields");
        selectable(
            errors,
            list(spec, "selectableFields"),
            &spec["validation"],
            "may only be set when validations.schema is included",
            &place,
            "",
            &rules,
        );
    }
    if preserves && !matches!(text(&spec["conversion"], "strategy"), "" | "None") {
        let conversion = path.child("conversion");
        let why = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(
            &conversion.child("strategy"),
            text(&spec["conversion"], "strategy"),
            why,
        ));
    }
    fields::conversion(
        errors,
        &spec["conversion"],
        &rules,
        &path.child("conversion"),
    );
}

fn is_status(holder: &Value) -> bool {
    !holder["subresources"]["status"].is_null()
}

fn each_version(
    errors: &mut ErrorList,
    spec: &Value,
    versions: &[Value],
    path: &Path<'_>,
    rules: &Rules,
) {
    let per_version = versions.iter().any(|v| !v["subresources"].is_null());
    for (at, version) in versions.iter().enumerate() {
        let place = path.index(at);
        let name = text(version, "name");
        let faults = dns1035_label(name);
        if !faults.is_empty() {
            errors.push(Error::invalid(&place.child("name"), name, faults.join(",")));
        }
        if let Some(warning) = version.get("deprecationWarning").filter(|w| !w.is_null()) {
            for why in fields::warning(
                flag(version, "deprecated"),
                warning.as_str().unwrap_or_default(),
            ) {
                errors.push(Error::invalid(
                    &place.child("deprecationWarning"),
                    warning,
                    why,
                ));
            }
        }
        let status = is_status(if per_version { version } else { spec });
        openapi::validation(
            errors,
            &version["schema"],
            status,
            rules,
            name,
            &place.child("schema"),
        );
        fields::subresources(
            errors,
            &version["subresources"],
            &place.child("subresources"),
        );
        let columns = place.child("additionalPrinterColumns");
        for (at, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            fields::column(errors, column, &columns.index(at));
        }
        let chosen = list(version, "selectableFields");
        if !chosen.is_empty() {
            let why = "may only be set when `version.schema.openAPIV3Schema` is not included";
            selectable(
                errors,
                chosen,
                &version["schema"],
                why,
                &place.child("selectableFields"),
                name,
                rules,
            );
        }
    }
}

fn selectable(
    errors: &mut ErrorList,
    chosen: &[Value],
    validation: &Value,
    missing: &str,
    path: &Path<'_>,
    version: &str,
    rules: &Rules,
) {
    let schema = &validation["openAPIV3Schema"];
    if schema.is_null() {
        errors.push(Error::invalid(path, "", missing));
        return;
    }
    // A schema that can't be compiled is complained of elsewhere.
    if let Ok(schema) = Schema::compile(schema) {
        fields::selectable(
            errors,
            chosen,
            &schema,
            path,
            rules.many_selectable.contains(version),
        );
    }
}

fn whole(
    errors: &mut ErrorList,
    spec: &Value,
    versions: &[Value],
    path: &Path<'_>,
    versions_path: &Path<'_>,
) {
    for (outer, inner, word) in [
        ("validation", "schema", "schemas"),
        ("subresources", "subresources", "subresources"),
        (
            "additionalPrinterColumns",
            "additionalPrinterColumns",
            "additionalPrinterColumns",
        ),
    ] {
        if !spec[outer].is_null() && versions.iter().any(|v| !v[inner].is_null()) {
            let why = format!("top-level and per-version {word} are mutually exclusive");
            errors.push(Error::forbidden(&path.child(outer), why));
        }
    }
    let mut seen = HashSet::new();
    if !versions.iter().all(|v| seen.insert(text(v, "name"))) {
        errors.push(Error::invalid(
            versions_path,
            versions,
            "must contain unique version names",
        ));
    }
    if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(versions_path, versions, why));
    }
    let version = text(spec, "version");
    if !version.is_empty() {
        let faults = dns1035_label(version);
        if !faults.is_empty() {
            errors.push(Error::invalid(
                &path.child("version"),
                version,
                faults.join(","),
            ));
        }
    }
}

fn kind_names(errors: &mut ErrorList, names: &Value, path: &Path<'_>) {
    for name in ["plural", "singular"] {
        let value = text(names, name);
        let faults = dns1035_label(value);
        if !value.is_empty() && !faults.is_empty() {
            errors.push(Error::invalid(&path.child(name), value, faults.join(",")));
        }
    }
    for name in ["kind", "listKind"] {
        let value = text(names, name);
        let faults = dns1035_label(&value.to_lowercase());
        if !value.is_empty() && !faults.is_empty() {
            let why = format!(
                "may have mixed case, but should otherwise match: {}",
                faults.join(",")
            );
            errors.push(Error::invalid(&path.child(name), value, why));
        }
    }
    let labels = |errors: &mut ErrorList, key: &str| {
        let place = path.child(key);
        for (at, value) in list(names, key).iter().enumerate() {
            let faults = dns1035_label(value.as_str().unwrap_or_default());
            if !faults.is_empty() {
                errors.push(Error::invalid(&place.index(at), value, faults.join(",")));
            }
        }
    };
    labels(errors, "shortNames");
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.push(Error::invalid(
            &path.child("listKind"),
            kind,
            "kind and listKind may not be the same",
        ));
    }
    labels(errors, "categories");
}

#[cfg(test)]
mod tests;
