//! ControllerRevision: a former state of a workload, to go back to.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::owner;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::immutable;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::not_negative;

/// The rules of ControllerRevision.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, revision: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        not_negative_revision(&mut errors, revision);
        let path = Path::new("data");
        match revision.part("data") {
            Value::Null => errors.push(Error::required(&path, "data is mandatory")),
            Value::Object(_) => {}
            _ => errors.push(Error::required(&path, "data must be a valid JSON object")),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        not_negative_revision(&mut errors, new);
        immutable(
            &mut errors,
            new.part("data"),
            old.part("data"),
            &Path::new("data"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Controller", "The workload it is a state of."),
            text("Revision", "Its number."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, revision: &Value, now: Timestamp) -> Vec<Value> {
        let controller = owner::controller_of_value(revision).map_or_else(
            || "<none>".to_string(),
            |r| {
                let kind = r.text("kind").to_lowercase();
                let group = r
                    .text("apiVersion")
                    .split_once('/')
                    .map_or(String::new(), |(g, _)| format!(".{g}"));
                format!("{kind}{group}/{}", r.text("name"))
            },
        );
        vec![
            print::name(revision),
            controller.into(),
            revision.number("revision").into(),
            print::age(revision, now),
        ]
    }
}

fn not_negative_revision(errors: &mut ErrorList, revision: &Value) {
    if revision.number("revision") < 0 {
        not_negative(errors, revision, "revision", &Path::new(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_is_an_object_and_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert_eq!(
            Rules.validate(&json!({}), &context)[0].to_string(),
            "data: Required value: data is mandatory"
        );
        let errors = Rules.validate_update(
            &json!({"data": {"a": 1}}),
            &json!({"data": {"a": 2}}),
            &context,
        );
        assert_eq!(
            errors[0].to_string(),
            "data: Invalid value: {\"a\":1}: field is immutable"
        );
    }

    #[test]
    fn the_owner_is_shown() {
        let revision = json!({"metadata": {"name": "r", "ownerReferences": [{"controller": true, "kind": "StatefulSet", "apiVersion": "apps/v1", "name": "s"}]}, "revision": 2});
        assert_eq!(
            Rules.row(&revision, Timestamp::UNIX_EPOCH)[1],
            "statefulset.apps/s"
        );
    }
}
