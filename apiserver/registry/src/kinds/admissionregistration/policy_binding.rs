//! ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding: where a policy holds, and with which parameters.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::{expressions, matching};
use crate::access::{Access, same, set};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{label_selector, one_of, required_one_of};

/// The rules of both kinds.
pub struct Rules {
    mutating: bool,
}

/// The rules of MutatingAdmissionPolicyBinding.
pub const MUTATING: Rules = Rules { mutating: true };
/// The rules of ValidatingAdmissionPolicyBinding.
pub const VALIDATING: Rules = Rules { mutating: false };

impl Strategy for Rules {
    fn default(&self, binding: &mut Value) {
        matching::default_resources(binding, "spec.matchResources");
    }

    fn prepare_for_create(&self, binding: &mut Value, _context: &Context<'_>) {
        set(binding, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let generation = old.number("metadata.generation");
        let changed = !same(new.part("spec"), old.part("spec"));
        set(new, "metadata.generation", generation + i64::from(changed));
    }

    fn validate(&self, binding: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (binding.part("spec"), Path::new("spec"));
        let (policy, at) = (spec.text("policyName"), path.child("policyName"));
        if policy.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            faults(&mut errors, &at, policy, names::dns1123_subdomain(policy));
        }
        if spec.has("paramRef") {
            param_ref(&mut errors, spec.part("paramRef"), &path.child("paramRef"));
        }
        let (resources, at) = (spec.part("matchResources"), path.child("matchResources"));
        if !resources.is_null() {
            matching::resources(&mut errors, resources, &at);
            if self.mutating {
                matching::mutable_operations(&mut errors, resources, &at);
            }
        }
        if !self.mutating {
            let list = spec.items("validationActions");
            actions(&mut errors, list, &path.child("validationActions"));
        }
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        expressions::name_warnings(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("PolicyName", "The policy that is bound."),
            text("ParamRef", "The parameters it is bound with."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, binding: &Value, now: Timestamp) -> Vec<Value> {
        let reference = binding.part("spec.paramRef");
        let params = match reference.text("name") {
            "" if reference.has("selector") => print::selector(reference, "selector"),
            "" => "<unset>".to_owned(),
            name => format!("{}/{name}", print::or(reference.text("namespace"), "*")),
        };
        vec![
            print::name(binding),
            binding.text("spec.policyName").into(),
            params.into(),
            print::age(binding, now),
        ]
    }
}

fn param_ref(errors: &mut ErrorList, reference: &Value, path: &Path<'_>) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (reference.text("name"), reference.part("selector"));
    let both = !name.is_empty() && !selector.is_null();
    if !name.is_empty() {
        faults(errors, &path.child("name"), name, names::path_segment(name));
    }
    if both {
        errors.push(Error::forbidden(&path.child("name"), EXCLUSIVE));
    }
    if !selector.is_null() {
        label_selector(errors, selector, &path.child("selector"));
    }
    if both {
        errors.push(Error::forbidden(&path.child("selector"), EXCLUSIVE));
    }
    if name.is_empty() && selector.is_null() {
        let why = "one of name or selector must be specified";
        errors.push(Error::required(path, why));
    }
    required_one_of(
        errors,
        reference.text("parameterNotFoundAction"),
        &["Deny", "Allow"],
        &path.child("parameterNotFoundAction"),
    );
}

fn actions(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    for (i, action) in words.iter().enumerate() {
        let at = path.index(i);
        one_of(errors, action, &["Audit", "Deny", "Warn"], &at);
        if words[..i].contains(action) {
            errors.push(Error::duplicate(&at, *action));
        }
    }
    if words.contains(&"Deny") && words.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, &words, why));
    }
    if words.is_empty() {
        let why = "at least one validation action is required";
        errors.push(Error::required(path, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(rules: &Rules, spec: Value) -> Vec<String> {
        let mut binding = json!({"metadata": {"name": "b"}, "spec": spec});
        rules.default(&mut binding);
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let errors = rules.validate(&binding, &context);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_are_named() {
        let good = json!({"policyName": "p", "validationActions": ["Deny"], "matchResources": {},
            "paramRef": {"name": "x", "parameterNotFoundAction": "Deny"}});
        assert_eq!(errors(&VALIDATING, good), [""; 0]);
        assert_eq!(
            errors(
                &VALIDATING,
                json!({"validationActions": ["Deny", "Warn", "Warn"]})
            ),
            [
                "spec.policyName: Required value",
                "spec.validationActions[2]: Duplicate value: \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ]
        );
        assert_eq!(
            errors(&VALIDATING, json!({"policyName": "p"})),
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
        assert_eq!(
            errors(
                &MUTATING,
                json!({"policyName": "p", "paramRef": {"name": "x", "selector": {}}})
            ),
            [
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ]
        );
        let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        assert_eq!(
            errors(
                &MUTATING,
                json!({"policyName": "p", "matchResources": {"resourceRules": [rule]}})
            ),
            [
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }
}
