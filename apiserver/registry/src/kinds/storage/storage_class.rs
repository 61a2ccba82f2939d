//! StorageClass: a kind of storage that can be had.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::{parameters, provisioner};
use crate::access::{Access, set_default_text};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{one_of, required_one_of, unique};

/// The rules of StorageClass.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, class: &mut Value) {
        set_default_text(class, "reclaimPolicy", "Delete");
        set_default_text(class, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(
            &mut errors,
            class.text("provisioner"),
            &Path::new("provisioner"),
        );
        parameters(
            &mut errors,
            class.part("parameters"),
            true,
            &Path::new("parameters"),
        );
        let policy = class.text("reclaimPolicy");
        if !policy.is_empty() {
            one_of(
                &mut errors,
                policy,
                &["Delete", "Retain"],
                &Path::new("reclaimPolicy"),
            );
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        required_one_of(
            &mut errors,
            class.text("volumeBindingMode"),
            &modes,
            &Path::new("volumeBindingMode"),
        );
        topologies(
            &mut errors,
            class.items("allowedTopologies"),
            &Path::new("allowedTopologies"),
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            immutable(
                &mut errors,
                new.part(field),
                old.part(field),
                &Path::new(field),
            );
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Provisioner", "Who makes the volumes."),
            text("ReclaimPolicy", "What becomes of volumes whose claim goes."),
            text("VolumeBindingMode", "When volumes are made."),
            text("AllowVolumeExpansion", "Whether volumes can grow."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        let annotations = class.part("metadata.annotations");
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|a| annotations.get(a) == Some(&Value::from("true")));
        let mark = if default { " (default)" } else { "" };
        vec![
            format!("{}{mark}", class.text("metadata.name")).into(),
            class.text("provisioner").into(),
            print::or(class.text("reclaimPolicy"), "Delete").into(),
            print::or(class.text("volumeBindingMode"), "Immediate").into(),
            class.flag("allowVolumeExpansion").into(),
            print::age(class, now),
        ]
    }
}

fn topologies(errors: &mut ErrorList, terms: &[Value], path: &Path<'_>) {
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i);
        let list = at.child("matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for (j, requirement) in term.items("matchLabelExpressions").iter().enumerate() {
            let (here, key) = (list.index(j), requirement.text("key"));
            if requirement.is_blank("values") {
                errors.push(Error::required(&here.child("values"), ""));
            }
            unique(
                errors,
                requirement.items("values").iter().filter_map(Value::as_str),
                &here.child("values"),
            );
            faults(errors, &here.child("key"), key, names::qualified_name(key));
            if !keys.insert(key) {
                errors.push(Error::duplicate(&here.child("key"), key));
            }
        }
        if terms[..i].contains(term) {
            errors.push(Error::duplicate(&list, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_are_filled_in_and_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut class = json!({"metadata": {"name": "c"}, "provisioner": "a.io/b"});
        Rules.default(&mut class);
        assert_eq!(
            (class.text("reclaimPolicy"), class.text("volumeBindingMode")),
            ("Delete", "Immediate")
        );
        assert!(Rules.validate(&class, &context).is_empty());
        let mut other = class.clone();
        other["provisioner"] = "a.io/c".into();
        assert!(
            Rules.validate_update(&other, &class, &context)[0]
                .to_string()
                .ends_with("field is immutable")
        );
    }
}
