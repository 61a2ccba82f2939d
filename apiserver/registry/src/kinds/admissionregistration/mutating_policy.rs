//! MutatingAdmissionPolicy: expressions that say how requests' objects are changed. The admission plugins evaluate them.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::policies::{Compiler, Purpose};
use serde_json::Value;

use super::{expressions, matching};
use crate::access::{Access, part_mut, set, set_default_text};
use crate::columns::{AGE, Column, NAME, integer, text};
use crate::print;
use crate::strategy::{Context, Strategy, count_generation};
use crate::validation::required_one_of;

/// The rules of MutatingAdmissionPolicy.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, policy: &mut Value) {
        if let Some(spec) = part_mut(policy, "spec") {
            set_default_text(spec, "failurePolicy", "Fail");
        }
        matching::default_resources(policy, "spec.matchConstraints");
    }

    fn prepare_for_create(&self, policy: &mut Value, _context: &Context<'_>) {
        set(policy, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
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

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Mutations", "How many mutations the policy has."),
            text("ParamKind", "The kind of the policy's parameters."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(policy),
            policy.items("spec.mutations").len().into(),
            expressions::param_kind_cell(policy).into(),
            print::age(policy, now),
        ]
    }
}

fn check(policy: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (policy.part("spec"), Path::new("spec"));
    expressions::before_variables(&mut errors, spec, old, true, &path);
    let compiler = expressions::variables(&mut errors, spec, true, &path);
    let (mutations, at) = (spec.items("mutations"), path.child("mutations"));
    if mutations.is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(Error::required(&at, why));
    }
    for (i, item) in mutations.iter().enumerate() {
        mutation(&mut errors, item, &compiler, &at.index(i));
    }
    let policies = ["IfNeeded", "Never"];
    required_one_of(
        &mut errors,
        spec.text("reinvocationPolicy"),
        &policies,
        &path.child("reinvocationPolicy"),
    );
    errors
}

fn mutation(errors: &mut ErrorList, item: &Value, compiler: &Compiler, path: &Path<'_>) {
    let (own, other, purpose) = match item.text("patchType") {
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Purpose::JsonPatch),
        "ApplyConfiguration" => (
            "applyConfiguration",
            "jsonPatch",
            Purpose::ApplyConfiguration,
        ),
        wrong => {
            let known = ["ApplyConfiguration", "JSONPatch"];
            required_one_of(errors, wrong, &known, &path.child("patchType"));
            return;
        }
    };
    let (kind, at) = (item.text("patchType"), path.child(own));
    let (expression, here) = (
        item.part(own).text("expression").trim(),
        at.child("expression"),
    );
    if !item.has(own) {
        let why = format!("must be specified when patchType is {kind}");
        errors.push(Error::required(&at, why));
    } else if expression.is_empty() {
        errors.push(Error::required(&here, ""));
    } else if let Err(why) = compiler.compile(purpose, expression) {
        errors.push(Error::invalid(&here, expression, why));
    }
    if item.has(other) {
        let why = format!("must not be specified when patchType is {kind}");
        errors.push(Error::invalid(
            &path.child(other),
            format!("{{{other}}}"),
            why,
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        let mut policy = json!({"metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
            "variables": [{"name": "value", "expression": "'x'"}],
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': variables.value}}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: variables.value}]"}}],
            "reinvocationPolicy": "Never"}});
        Rules.default(&mut policy);
        policy
    }

    fn errors(policy: &Value) -> Vec<String> {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let errors = Rules.validate(policy, &context);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(errors(&sample()), [""; 0]);
        for (pointer, value, sentences) in [
            (
                "/spec/mutations/0",
                json!({"patchType": "Merge"}),
                &[
                    "spec.mutations[0].patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                ][..],
            ),
            (
                "/spec/mutations/0",
                json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}),
                &[
                    "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                    "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                ],
            ),
            (
                "/spec/mutations/1/jsonPatch/expression",
                json!("Object{}"),
                &[
                    "spec.mutations[1].jsonPatch.expression: Invalid value: \"Object{}\": must evaluate to list(JSONPatch) but got Object",
                ],
            ),
            (
                "/spec/reinvocationPolicy",
                json!(""),
                &["spec.reinvocationPolicy: Required value"],
            ),
            (
                "/spec/matchConstraints/resourceRules/0/operations/0",
                json!("DELETE"),
                &[
                    "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                ],
            ),
        ] {
            let mut policy = sample();
            *policy.pointer_mut(pointer).unwrap() = value;
            assert_eq!(errors(&policy), sentences);
        }
    }
}
