//! ResourceClaimTemplate: what the claims are made of that a pod gets for itself.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::claim_spec;
use crate::access::{Access, blank};
use crate::columns::{AGE, Column, NAME};
use crate::meta::{annotations, immutable, labels};
use crate::print;
use crate::strategy::{Context, Strategy};

/// The rules of ResourceClaimTemplate.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, template: &mut Value) {
        claim_spec::default(template, "spec.spec");
    }

    fn validate(&self, template: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (template.part("spec"), Path::new("spec"));
        metadata(&mut errors, spec.part("metadata"), &path.child("metadata"));
        claim_spec::validate(&mut errors, spec.part("spec"), &path.child("spec"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        immutable(
            &mut errors,
            new.part("spec"),
            old.part("spec"),
            &Path::new("spec"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &[NAME, AGE]
    }

    fn row(&self, template: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(template), print::age(template, now)]
    }
}

/// Of a claim's metadata a template can give labels and annotations only.
fn metadata(errors: &mut ErrorList, metadata: &Value, path: &Path<'_>) {
    annotations(
        errors,
        metadata.part("annotations"),
        &path.child("annotations"),
    );
    labels(errors, metadata.part("labels"), &path.child("labels"));
    for (key, value) in metadata.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "labels" | "annotations") && !blank(value) {
            errors.push(Error::forbidden(&path.child(key), "cannot be set"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_name_no_claims() {
        let template =
            json!({"spec": {"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {}}});
        let errors = Rules.validate(&template, &Context::at(Timestamp::UNIX_EPOCH));
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["spec.metadata.name: Forbidden: cannot be set"]);
    }

    #[test]
    fn templates_are_defaulted_as_claims_are() {
        let mut template =
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "a", "exactly": {}}]}}}});
        Rules.default(&mut template);
        assert_eq!(
            template.part("spec.spec.devices.requests"),
            &json!([{"name": "a", "exactly": {"allocationMode": "ExactCount", "count": 1}}])
        );
    }
}
