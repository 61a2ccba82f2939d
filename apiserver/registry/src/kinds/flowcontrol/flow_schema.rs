//! FlowSchema: which requests belong to a priority level and to which of its flows.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::{status_check, status_conditions};
use crate::access::{Access, copy, same, set, set_default_number};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::{one_of, required};

const MAX_PRECEDENCE: i64 = 10_000;
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// The rules of FlowSchema.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, schema: &mut Value) {
        set_default_number(schema, "spec.matchingPrecedence", 1000);
    }

    fn prepare_for_create(&self, schema: &mut Value, _context: &Context<'_>) {
        reset_new(schema, true);
        set(schema, "status", json!({}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, schema: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        spec(&mut errors, schema);
        mandatory(&mut errors, schema);
        status_conditions(&mut errors, schema);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("PriorityLevel", "The level that the requests belong to."),
            text("MatchingPrecedence", "Schemas of low precedence go first."),
            text("DistinguisherMethod", "What tells flows apart."),
            AGE,
            text("MissingPL", "Whether the level does not exist."),
        ];
        COLUMNS
    }

    fn row(&self, schema: &Value, now: Timestamp) -> Vec<Value> {
        let dangling = schema
            .items("status.conditions")
            .iter()
            .find(|c| c.text("type") == "Dangling")
            .map_or("?", |c| c.text("status"));
        vec![
            print::name(schema),
            schema.text("spec.priorityLevelConfiguration.name").into(),
            schema.number("spec.matchingPrecedence").into(),
            print::or(schema.text("spec.distinguisherMethod.type"), "<none>").into(),
            print::age(schema, now),
            dangling.into(),
        ]
    }
}

fn spec(errors: &mut ErrorList, schema: &Value) {
    let (spec, path) = (schema.part("spec"), Path::new("spec"));
    let (precedence, at) = (
        spec.number("matchingPrecedence"),
        path.child("matchingPrecedence"),
    );
    if precedence <= 0 {
        errors.push(Error::invalid(&at, precedence, "must be a positive value"));
    }
    if precedence > MAX_PRECEDENCE {
        let detail = format!("must not be greater than {MAX_PRECEDENCE}");
        errors.push(Error::invalid(&at, precedence, detail));
    }
    if precedence == 1 && schema.text("metadata.name") != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(Error::invalid(&at, precedence, detail));
    }
    if spec.has("distinguisherMethod") {
        one_of(
            errors,
            spec.text("distinguisherMethod.type"),
            &["ByNamespace", "ByUser"],
            &path.child("distinguisherMethod").child("type"),
        );
    }
    let level = spec.text("priorityLevelConfiguration.name");
    let at = path.child("priorityLevelConfiguration");
    let at = at.child("name");
    if level.is_empty() {
        errors.push(Error::required(&at, "must reference a priority level"));
    } else {
        faults(errors, &at, level, names::dns1123_subdomain(level));
    }
    let list = path.child("rules");
    for (i, rule) in spec.items("rules").iter().enumerate() {
        self::rule(errors, rule, &list.index(i));
    }
}

fn rule(errors: &mut ErrorList, rule: &Value, path: &Path<'_>) {
    let list = path.child("subjects");
    if rule.items("subjects").is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(Error::required(&list, detail));
    }
    for (i, subject) in rule.items("subjects").iter().enumerate() {
        self::subject(errors, subject, &list.index(i));
    }
    if rule.is_blank("resourceRules") && rule.is_blank("nonResourceRules") {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path, detail));
    }
    let list = path.child("resourceRules");
    for (i, rule) in rule.items("resourceRules").iter().enumerate() {
        resource_rule(errors, rule, &list.index(i));
    }
    let list = path.child("nonResourceRules");
    for (i, rule) in rule.items("nonResourceRules").iter().enumerate() {
        non_resource_rule(errors, rule, &list.index(i));
    }
}

fn subject(errors: &mut ErrorList, subject: &Value, path: &Path<'_>) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = subject.text("kind");
    let Some((_, field)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        let supported = &["Group", "ServiceAccount", "User"];
        return one_of(errors, kind, supported, &path.child("kind"));
    };
    let (part, at) = (subject.part(field), path.child(field));
    if part.is_null() {
        let detail = format!("{field} is required when subject kind is '{kind}'");
        errors.push(Error::required(&at, detail));
    } else {
        required(errors, part, "name", &at);
        if kind == "ServiceAccount" {
            account(errors, part, &at);
        }
    }
    for (other, field) in KINDS.iter().filter(|(k, f)| *k != kind && subject.has(f)) {
        let detail = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(Error::forbidden(&path.child(field), detail));
    }
}

fn account(errors: &mut ErrorList, account: &Value, path: &Path<'_>) {
    let (name, namespace) = (account.text("name"), account.text("namespace"));
    if !name.is_empty() && name != "*" {
        faults(
            errors,
            &path.child("name"),
            name,
            names::dns1123_subdomain(name),
        );
    }
    let at = path.child("namespace");
    if namespace.is_empty() {
        let detail = "must specify namespace for service account";
        errors.push(Error::required(&at, detail));
    } else {
        faults(errors, &at, namespace, names::dns1123_label(namespace));
    }
}

/// A list of which one member may stand for all; says whether it does.
fn wildcard(errors: &mut ErrorList, list: &Value, path: &Path<'_>, others: &str) -> bool {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    let all = items.iter().any(|i| i == "*");
    if all && items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(Error::invalid(path, list, detail));
    }
    all
}

fn verbs(errors: &mut ErrorList, rule: &Value, path: &Path<'_>) {
    let (list, at) = (rule.items("verbs"), path.child("verbs"));
    if list.is_empty() {
        let detail = "verbs must contain at least one value";
        errors.push(Error::required(&at, detail));
    } else if !wildcard(errors, rule.part("verbs"), &at, "verbs")
        && !list
            .iter()
            .all(|v| v.as_str().is_some_and(|v| VERBS.contains(&v)))
    {
        errors.push(Error::not_supported(&at, rule.part("verbs"), VERBS));
    }
}

fn resource_rule(errors: &mut ErrorList, rule: &Value, path: &Path<'_>) {
    verbs(errors, rule, path);
    for (field, one, others) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let at = path.child(field);
        if rule.is_blank(field) {
            let detail = format!("resource rules must supply at least one {one}");
            errors.push(Error::required(&at, detail));
        } else {
            wildcard(errors, rule.part(field), &at, others);
        }
    }
    let at = path.child("namespaces");
    if rule.is_blank("namespaces") && !rule.flag("clusterScope") {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(Error::required(&at, detail));
    } else if !wildcard(errors, rule.part("namespaces"), &at, "namespaces") {
        for (i, namespace) in rule.items("namespaces").iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or_default();
            for fault in names::dns1123_label(namespace) {
                let detail =
                    format!("each member of this list must be '*' or a DNS-1123 label; {fault}");
                errors.push(Error::invalid(&at.index(i), namespace, detail));
            }
        }
    }
}

fn non_resource_rule(errors: &mut ErrorList, rule: &Value, path: &Path<'_>) {
    verbs(errors, rule, path);
    let at = path.child("nonResourceURLs");
    if rule.is_blank("nonResourceURLs") {
        let detail = "nonResourceURLs must contain at least one value";
        errors.push(Error::required(&at, detail));
    } else if !wildcard(
        errors,
        rule.part("nonResourceURLs"),
        &at,
        "non-resource URLs",
    ) {
        for (i, url) in rule.items("nonResourceURLs").iter().enumerate() {
            let url = url.as_str().unwrap_or_default();
            if let Some(fault) = url_fault(url) {
                errors.push(Error::invalid(&at.index(i), url, fault));
            }
        }
    }
}

fn url_fault(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match () {
        () if url.is_empty() => Some("must not be empty"),
        () if url == "/" => None,
        () if !url.starts_with('/') => Some("must start with slash"),
        () if url.contains(' ') => Some("must not contain white-space"),
        () if url.contains("//") => Some("must not contain double slash"),
        () if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        () => None,
    }
}

/// The two schemas that every cluster has cannot be changed.
fn mandatory(errors: &mut ErrorList, schema: &Value) {
    let name = schema.text("metadata.name");
    let (precedence, groups): (i64, &[&str]) = match name {
        "exempt" => (1, &["system:masters"]),
        "catch-all" => (10_000, &["system:unauthenticated", "system:authenticated"]),
        _ => return,
    };
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "group": {"name": group}}))
        .collect();
    let mut fixed = json!({
        "priorityLevelConfiguration": {"name": name},
        "matchingPrecedence": precedence,
        "rules": [{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    });
    if name == "catch-all" {
        set(&mut fixed, "distinguisherMethod.type", "ByUser");
    }
    let spec = schema.part("spec");
    if !same(spec, &fixed) {
        errors.push(Error::invalid(
            &Path::new("spec"),
            spec,
            format!("spec of '{name}' must equal the fixed value"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, spec: Value) -> Vec<String> {
        let mut schema = json!({"metadata": {"name": name}, "spec": spec});
        Rules.default(&mut schema);
        Rules
            .validate(&schema, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn schemas_are_checked() {
        let rule = json!({
            "subjects": [{"kind": "User", "user": {"name": "a"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}],
        });
        let good =
            json!({"priorityLevelConfiguration": {"name": "global-default"}, "rules": [rule]});
        assert!(found("a", good).is_empty());
        for (spec, want) in [
            (
                json!({}),
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ),
            (
                json!({"priorityLevelConfiguration": {"name": "a"}, "matchingPrecedence": 1}),
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                json!({"priorityLevelConfiguration": {"name": "a"}, "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "a"}, "group": {"name": "b"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["*"], "clusterScope": true}],
                }]}),
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ),
            (
                json!({"priorityLevelConfiguration": {"name": "a"}, "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "a"}}],
                    "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a*"]}],
                }]}),
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ),
        ] {
            assert_eq!(found("a", spec), [want]);
        }
        assert_eq!(
            found(
                "exempt",
                json!({"priorityLevelConfiguration": {"name": "a"}})
            )
            .len(),
            1
        );
    }
}
