//! What webhooks and admission policies share: which requests they are about.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, items_mut, part_mut, set_default, set_default_text};
use crate::meta::faults;
use crate::validation::{label_selector, one_of, required_one_of};

/// Fills in what was left out of the `matchConstraints` or `matchResources` at `path`.
pub(super) fn default_resources(object: &mut Value, path: &str) {
    let Some(resources) = part_mut(object, path) else {
        return;
    };
    set_default_text(resources, "matchPolicy", "Equivalent");
    set_default(resources, "namespaceSelector", json!({}));
    set_default(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, list) {
            set_default_text(rule, "scope", "*");
        }
    }
}

/// The requests that a policy or binding is about.
pub(super) fn resources(errors: &mut ErrorList, resources: &Value, path: &Path<'_>) {
    let policies = ["Equivalent", "Exact"];
    let policy = resources.text("matchPolicy");
    required_one_of(errors, policy, &policies, &path.child("matchPolicy"));
    for selector in ["namespaceSelector", "objectSelector"] {
        if resources.has(selector) {
            label_selector(errors, resources.part(selector), &path.child(selector));
        } else {
            errors.push(Error::required(&path.child(selector), ""));
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        let at = path.child(list);
        for (i, rule) in resources.items(list).iter().enumerate() {
            named_rule(errors, rule, &at.index(i));
        }
    }
}

/// Policies that change objects are about writes that have one.
pub(super) fn mutable_operations(errors: &mut ErrorList, resources: &Value, path: &Path<'_>) {
    let (rules, known) = (
        path.child("resourceRules"),
        ["*", "CONNECT", "CREATE", "UPDATE"],
    );
    let at = rules.child("operations");
    for rule in resources.items("resourceRules") {
        for operation in rule.items("operations").iter().filter_map(Value::as_str) {
            one_of(errors, operation, &known, &at);
        }
    }
}

fn named_rule(errors: &mut ErrorList, named: &Value, path: &Path<'_>) {
    let (list, at) = (named.items("resourceNames"), path.child("resourceNames"));
    let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    for (i, name) in words.iter().enumerate() {
        faults(errors, &at.index(i), name, names::path_segment(name));
        if words[..i].contains(name) {
            errors.push(Error::duplicate(&at.index(i), *name));
        }
    }
    rule(errors, named, path);
}

/// The expressions that say whether a webhook or policy is asked; `compile` says what is wrong with one.
pub(super) fn conditions(
    errors: &mut ErrorList,
    conditions: &[Value],
    path: &Path<'_>,
    compile: &dyn Fn(&str) -> Result<(), String>,
) {
    const MAX: usize = 64;
    if conditions.len() > MAX {
        errors.push(Error::too_many(path, conditions.len(), MAX));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let expression = condition.text("expression").trim();
        if expression.is_empty() {
            errors.push(Error::required(&at.child("expression"), ""));
        } else if let Err(why) = compile(expression) {
            errors.push(Error::invalid(&at.child("expression"), expression, why));
        }
        let name = condition.text("name");
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
            continue;
        }
        faults(errors, &at.child("name"), name, names::qualified_name(name));
        if conditions[..i].iter().any(|c| c.text("name") == name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
    }
}

/// Which operations on which resources a webhook or policy is about.
pub(super) fn rule(errors: &mut ErrorList, rule: &Value, path: &Path<'_>) {
    let (operations, at) = (rule.items("operations"), path.child("operations"));
    alone(errors, operations, "operations", &at);
    let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (i, operation) in operations.iter().filter_map(Value::as_str).enumerate() {
        if !known.contains(&operation) {
            errors.push(Error::not_supported(&at.index(i), operation, &known));
        }
    }
    alone(
        errors,
        rule.items("apiGroups"),
        "API groups",
        &path.child("apiGroups"),
    );
    let (versions, at) = (rule.items("apiVersions"), path.child("apiVersions"));
    alone(errors, versions, "API versions", &at);
    for (i, _) in versions
        .iter()
        .enumerate()
        .filter(|(_, v)| v.as_str() == Some(""))
    {
        errors.push(Error::required(&at.index(i), ""));
    }
    resource_words(errors, rule.items("resources"), &path.child("resources"));
    let scopes = ["*", "Cluster", "Namespaced"];
    one_of(errors, rule.text("scope"), &scopes, &path.child("scope"));
}

/// A list that must hold something, and nothing beside `*`.
fn alone(errors: &mut ErrorList, list: &[Value], what: &str, path: &Path<'_>) {
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    } else if list.len() > 1 && list.iter().any(|v| v == "*") {
        let sentence = format!("if '*' is present, must not specify other {what}");
        errors.push(Error::invalid(path, list, sentence));
    }
}

fn resource_words(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    for (i, word) in words.iter().enumerate() {
        if word.is_empty() {
            errors.push(Error::required(&path.index(i), ""));
            continue;
        }
        let Some((resource, subresource)) = word.split_once('/') else {
            continue;
        };
        let before = &words[..i];
        let mut clash = |wide: String| {
            if before.contains(&wide.as_str()) {
                let sentence = format!("if '{wide}' is present, must not specify {word}");
                errors.push(Error::invalid(&path.index(i), *word, sentence));
            }
        };
        clash(format!("{resource}/*"));
        clash(format!("*/{subresource}"));
    }
    if words.len() > 1 && words.contains(&"*/*") {
        let sentence = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(path, list, sentence));
    }
    if words.contains(&"*") && words.iter().any(|w| *w != "*" && !w.contains('/')) {
        let sentence = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path, list, sentence));
    }
}
