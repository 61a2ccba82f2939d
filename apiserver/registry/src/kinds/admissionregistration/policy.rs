//! Admission policies and their bindings, which are shown and not written: nothing evaluates their expressions yet, and a
//! policy that is accepted and not enforced would be worse than none.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, integer, text};
use crate::print;
use crate::strategy::Strategy;

/// The rules of ValidatingAdmissionPolicy and MutatingAdmissionPolicy.
pub struct Rules {
    /// Whether it changes objects.
    pub mutating: bool,
}

/// The rules of the bindings of both.
pub struct BindingRules;

impl Strategy for Rules {
    fn writable(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const KIND: Column = text("ParamKind", "The kind of the policy's parameters.");
        const VALIDATING: &[Column] = &[
            NAME,
            integer("Validations", "How many validations the policy has."),
            KIND,
            AGE,
        ];
        const MUTATING: &[Column] = &[
            NAME,
            integer("Mutations", "How many mutations the policy has."),
            KIND,
            AGE,
        ];
        if self.mutating { MUTATING } else { VALIDATING }
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        let list = if self.mutating {
            "spec.mutations"
        } else {
            "spec.validations"
        };
        let kind = match policy.part("spec.paramKind") {
            Value::Null => "<unset>".to_owned(),
            kind => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")),
        };
        vec![
            print::name(policy),
            policy.items(list).len().into(),
            kind.into(),
            print::age(policy, now),
        ]
    }
}

impl Strategy for BindingRules {
    fn writable(&self) -> bool {
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
