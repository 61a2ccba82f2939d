//! What ValidatingAdmissionPolicy and MutatingAdmissionPolicy share: their parameters, variables and expressions.

use std::sync::LazyLock;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_cel::policies::{Compiler, Purpose};
use regex::Regex;
use serde_json::Value;

use keelson_cel::RESERVED;

use super::matching;
use crate::access::{Access, same};
use crate::validation::required_one_of;

/// What names must not end with: they are policies of a manifest.
const STATIC: &str = ".static.k8s.io";

/// A warning if a name looks like that of a policy in a manifest.
pub(super) fn name_warnings(object: &Value) -> Vec<String> {
    let reserved = object.text("metadata.name").ends_with(STATIC);
    let warning = || {
        format!(
            "metadata.name: names ending with \"{STATIC}\" are reserved for static manifest-based configurations and cannot be managed via the API"
        )
    };
    reserved.then(warning).into_iter().collect()
}

/// How a policy's parameters' kind is shown in its row.
pub(super) fn param_kind_cell(policy: &Value) -> String {
    match policy.part("spec.paramKind") {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")),
    }
}

/// What both kinds say before their own expressions: failure policy, parameters, what they are about. `old` is there on
/// updates, where match conditions that did not change are not looked at.
pub(super) fn before_variables(
    errors: &mut ErrorList,
    spec: &Value,
    old: Option<&Value>,
    mutating: bool,
    path: &Path<'_>,
) {
    let policies = ["Fail", "Ignore"];
    let policy = spec.text("failurePolicy");
    required_one_of(errors, policy, &policies, &path.child("failurePolicy"));
    if spec.has("paramKind") {
        param_kind(errors, spec.part("paramKind"), &path.child("paramKind"));
    }
    let (constraints, at) = (
        spec.part("matchConstraints"),
        path.child("matchConstraints"),
    );
    if constraints.is_null() {
        errors.push(Error::required(&at, ""));
    } else {
        matching::resources(errors, constraints, &at);
        if constraints.is_blank("resourceRules") {
            errors.push(Error::required(&at.child("resourceRules"), ""));
        }
        if mutating {
            matching::mutable_operations(errors, constraints, &at);
        }
    }
    let unchanged = |key: &str| old.is_some_and(|old| same(spec.part(key), old.part(key)));
    if !(unchanged("paramKind") && unchanged("matchConditions")) {
        let compiler = Compiler::new(spec.has("paramKind"));
        matching::conditions(
            errors,
            spec.items("matchConditions"),
            &path.child("matchConditions"),
            &|expression| {
                compiler
                    .compile(Purpose::MatchCondition, expression)
                    .map(drop)
            },
        );
    }
}

/// The variables of a policy, and what its other expressions are compiled with.
pub(super) fn variables(
    errors: &mut ErrorList,
    spec: &Value,
    mutating: bool,
    path: &Path<'_>,
) -> Compiler {
    static IDENTIFIER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("^[_a-zA-Z][_a-zA-Z0-9]*$").ok());
    let mut compiler = Compiler::new(spec.has("paramKind"));
    let (list, path) = (spec.items("variables"), path.child("variables"));
    if mutating || !list.is_empty() {
        compiler = compiler.composing();
    }
    for (i, variable) in list.iter().enumerate() {
        let at = path.index(i);
        let (name, expression) = (variable.text("name"), variable.text("expression"));
        if name.trim().is_empty() {
            errors.push(Error::required(&at.child("name"), "name is not specified"));
        } else if RESERVED.contains(&name)
            || !IDENTIFIER.as_ref().is_some_and(|form| form.is_match(name))
        {
            errors.push(Error::invalid(
                &at.child("name"),
                name,
                "must be a valid CEL identifier",
            ));
        }
        let at = at.child("expression");
        if expression.trim().is_empty() {
            errors.push(Error::required(&at, "expression is not specified"));
        } else if let Err(why) = compiler.variable(name, expression) {
            errors.push(Error::invalid(&at, expression, why));
        }
    }
    compiler
}

/// The kind of a policy's parameters.
fn param_kind(errors: &mut ErrorList, kind: &Value, path: &Path<'_>) {
    let (api_version, at) = (kind.text("apiVersion"), path.child("apiVersion"));
    let mut invalid = |value: &str, why: String| errors.push(Error::invalid(&at, value, why));
    let parts: Vec<&str> = match api_version {
        "/" => vec!["", ""],
        other => other.split('/').collect(),
    };
    match parts.as_slice() {
        _ if api_version.is_empty() => errors.push(Error::required(&at, "")),
        [version] => self::version(&mut invalid, api_version, version),
        [group, version] => {
            let found = names::dns1123_subdomain(group);
            if !group.is_empty() && !found.is_empty() {
                invalid(group, found.join(","));
            }
            self::version(&mut invalid, api_version, version);
        }
        _ => invalid(
            api_version,
            format!("unexpected GroupVersion string: {api_version}"),
        ),
    }
    let (word, at) = (kind.text("kind"), path.child("kind"));
    if word.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    let found = names::dns1035_label(&word.to_lowercase());
    if !found.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            found.join(",")
        );
        errors.push(Error::invalid(&at, word, why));
    }
}

fn version(invalid: &mut dyn FnMut(&str, String), api_version: &str, version: &str) {
    if version.is_empty() {
        invalid(api_version, "version must be specified".into());
        return;
    }
    let found = names::dns1035_label(version);
    if !found.is_empty() {
        invalid(version, found.join(","));
    }
}
