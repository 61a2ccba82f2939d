//! ValidatingAdmissionPolicy: expressions that requests must fulfil. The admission plugins evaluate them.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_cel::policies::{Compiler, Purpose};
use keelson_extensions::jsonpath::JsonPath;
use serde_json::Value;

use super::{expressions, matching};
use crate::access::{Access, copy, part_mut, set_default_text};
use crate::columns::{AGE, Column, NAME, integer, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::{conditions, one_of};

const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;

/// The rules of ValidatingAdmissionPolicy.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: check_status,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, policy: &mut Value) {
        if let Some(spec) = part_mut(policy, "spec") {
            set_default_text(spec, "failurePolicy", "Fail");
        }
        matching::default_resources(policy, "spec.matchConstraints");
    }

    fn prepare_for_create(&self, policy: &mut Value, _context: &Context<'_>) {
        reset_new(policy, true);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, policy: &Value, _context: &Context<'_>) -> ErrorList {
        check(policy, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        check(new, Some(old.part("spec")))
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        expressions::name_warnings(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Validations", "How many validations the policy has."),
            text("ParamKind", "The kind of the policy's parameters."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(policy),
            policy.items("spec.validations").len().into(),
            expressions::param_kind_cell(policy).into(),
            print::age(policy, now),
        ]
    }
}

fn check(policy: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (policy.part("spec"), Path::new("spec"));
    expressions::before_variables(&mut errors, spec, old, false, &path);
    let compiler = expressions::variables(&mut errors, spec, false, &path);
    let (validations, annotations) = (spec.items("validations"), spec.items("auditAnnotations"));
    let (at, notes) = (path.child("validations"), path.child("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(&at, why));
        errors.push(Error::required(&notes, why));
    }
    for (i, item) in validations.iter().enumerate() {
        // Upstream lets messages name the parameters where match conditions may: where there are any.
        validation(&mut errors, item, &compiler, &at.index(i));
    }
    if annotations.len() > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.push(Error::invalid(&notes, annotations, why));
    }
    for (i, item) in annotations.iter().enumerate() {
        let (at, key) = (notes.index(i), item.text("key"));
        annotation(
            &mut errors,
            item,
            policy.text("metadata.name"),
            &compiler,
            &at,
        );
        if annotations[..i].iter().any(|a| a.text("key") == key) {
            errors.push(Error::duplicate(&at.child("key"), key));
        }
    }
    errors
}

fn validation(errors: &mut ErrorList, item: &Value, compiler: &Compiler, path: &Path<'_>) {
    let (expression, at) = (item.text("expression"), path.child("expression"));
    if expression.trim().is_empty() {
        errors.push(Error::required(&at, "expression is not specified"));
    } else if let Err(why) = compiler.compile(Purpose::Validation, expression) {
        errors.push(Error::invalid(&at, expression, why));
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let (expression, at) = (
        item.text("messageExpression"),
        path.child("messageExpression"),
    );
    if blank(expression) {
        errors.push(Error::invalid(
            &at,
            expression,
            "must be non-empty if specified",
        ));
    } else if !expression.is_empty()
        && let Err(why) = compiler.compile(Purpose::Message, expression)
    {
        errors.push(Error::invalid(&at, expression, why));
    }
    let (message, at) = (item.text("message"), path.child("message"));
    if blank(message) {
        errors.push(Error::invalid(
            &at,
            message,
            "must be non-empty if specified",
        ));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(Error::invalid(&at, message, "must not contain line breaks"));
    }
    if item.has("reason") {
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
        one_of(errors, item.text("reason"), &reasons, &path.child("reason"));
    }
}

fn annotation(
    errors: &mut ErrorList,
    item: &Value,
    policy: &str,
    compiler: &Compiler,
    path: &Path<'_>,
) {
    let (key, at) = (item.text("key"), path.child("key"));
    if policy.is_empty() {
        errors.push(Error::invalid(
            &at,
            key,
            "requires metadata.name be non-empty",
        ));
    } else {
        let name = format!("{policy}/{key}");
        faults(errors, &at, &name, names::qualified_name(&name));
    }
    let (expression, at) = (item.text("valueExpression"), path.child("valueExpression"));
    let trimmed = expression.trim();
    if trimmed.is_empty() {
        errors.push(Error::required(&at, "valueExpression is not specified"));
    } else if trimmed.len() > MAX_ANNOTATION_EXPRESSION {
        let why = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
        errors.push(Error::required(&at, why));
    } else if let Err(why) = compiler.compile(Purpose::AuditAnnotation, trimmed) {
        errors.push(Error::invalid(&at, expression, why));
    }
}

fn check_status(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    let (checking, list) = (
        status.child("typeChecking"),
        new.items("status.typeChecking.expressionWarnings"),
    );
    let warnings = checking.child("expressionWarnings");
    for (i, warning) in list.iter().enumerate() {
        let at = warnings.index(i);
        if warning.is_blank("warning") {
            errors.push(Error::required(&at.child("warning"), ""));
        }
        let (reference, at) = (warning.text("fieldRef").trim(), at.child("fieldRef"));
        if reference.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        // A path that begins with a name is one that begins with a dot.
        let dotted = match reference.chars().next() {
            Some(c) if c.is_alphanumeric() => format!(".{reference}"),
            _ => reference.to_owned(),
        };
        if let Err(why) = JsonPath::parse(&dotted) {
            let why = format!("invalid JSONPath: {why}");
            errors.push(Error::invalid(&at, reference, why));
        }
    }
    let list = new.items("status.conditions");
    conditions(&mut errors, list, &status.child("conditions"));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        let mut policy = json!({"metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.replicas > 1", "messageExpression": "'too few: ' + string(variables.replicas)"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'x'"}]}});
        Rules.default(&mut policy);
        policy
    }

    fn errors(policy: &Value) -> Vec<String> {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let errors = Rules.validate(policy, &context);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_make_a_valid_policy() {
        let policy = sample();
        assert_eq!(errors(&policy), [""; 0]);
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        assert_eq!(
            policy["spec"]["matchConstraints"],
            json!({"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
                "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "scope": "*"}]})
        );
    }

    #[test]
    fn faults_are_named() {
        for (pointer, value, sentences) in [
            (
                "/spec/validations/0/expression",
                json!("object.x ="),
                &[
                    "spec.validations[0].expression: Invalid value: \"object.x =\": compilation failed: ERROR: <input>:1:10: Syntax error: token recognition error at: '='\n | object.x =\n | .........^",
                ][..],
            ),
            (
                "/spec/validations/0/expression",
                json!("variables.nope == 1"),
                &[
                    "spec.validations[0].expression: Invalid value: \"variables.nope == 1\": compilation failed: ERROR: <input>:1:10: undefined field 'nope'\n | variables.nope == 1\n | .........^",
                ],
            ),
            (
                "/spec/validations/0/messageExpression",
                json!("1"),
                &[
                    "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
                ],
            ),
            (
                "/spec/validations/0",
                json!({"expression": " ", "message": "a\nb", "reason": "Unknown"}),
                &[
                    "spec.validations[0].expression: Required value: expression is not specified",
                    "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    "spec.validations[0].reason: Unsupported value: \"Unknown\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
                ],
            ),
            (
                "/spec/auditAnnotations/0/valueExpression",
                json!("true"),
                &[
                    "spec.auditAnnotations[0].valueExpression: Invalid value: \"true\": must evaluate to one of [string null_type] but got bool",
                ],
            ),
            (
                "/spec/variables/0/name",
                json!("in"),
                &[
                    "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier",
                    "spec.validations[0].expression: Invalid value: \"variables.replicas > 1\": compilation failed: ERROR: <input>:1:10: undefined field 'replicas'\n | variables.replicas > 1\n | .........^",
                    "spec.validations[0].messageExpression: Invalid value: \"'too few: ' + string(variables.replicas)\": compilation failed: ERROR: <input>:1:31: undefined field 'replicas'\n | 'too few: ' + string(variables.replicas)\n | ..............................^",
                ],
            ),
            (
                "/spec/matchConstraints/resourceRules",
                json!([]),
                &["spec.matchConstraints.resourceRules: Required value"],
            ),
        ] {
            let mut policy = sample();
            *policy.pointer_mut(pointer).unwrap() = value;
            assert_eq!(errors(&policy), sentences);
        }
        let mut policy = sample();
        policy["spec"]["paramKind"] = json!({"apiVersion": "a/b/c", "kind": "X_"});
        assert_eq!(
            errors(&policy)[0],
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"
        );
        assert_eq!(
            errors(&json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail"}})),
            [
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
    }

    #[test]
    fn match_conditions_that_stay_are_not_looked_at() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = sample();
        old["spec"]["matchConditions"] = json!([{"name": "n", "expression": "params.x == 1"}]);
        assert_eq!(errors(&old).len(), 1);
        assert!(Rules.validate_update(&old, &old, &context).is_empty());
        let mut new = old.clone();
        new["spec"]["matchConditions"][0]["name"] = json!("m");
        assert_eq!(Rules.validate_update(&new, &old, &context).len(), 1);
    }

    #[test]
    fn status_is_written_by_itself() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut policy = sample();
        policy["status"] = json!({"observedGeneration": 7});
        Rules.prepare_for_create(&mut policy, &context);
        assert!(!policy.has("status"));
        assert_eq!(policy["metadata"]["generation"], 1);
        policy["status"] = json!({"typeChecking": {"expressionWarnings": [
            {"fieldRef": "spec.validations[0].expression", "warning": "w"}, {"fieldRef": " "}]}});
        let found: Vec<String> = check_status(&policy, &policy)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "status.typeChecking.expressionWarnings[1].warning: Required value",
                "status.typeChecking.expressionWarnings[1].fieldRef: Required value",
            ]
        );
    }
}
