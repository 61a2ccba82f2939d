//! The kinds of API priority and fairness, and what they share: the conditions of their statuses.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::Access;

pub mod flow_schema;
pub mod priority_level;

/// Conditions must have types, each once.
fn status_conditions(errors: &mut ErrorList, object: &Value) {
    let (status, mut seen) = (Path::new("status"), BTreeSet::new());
    let list = status.child("conditions");
    for (i, condition) in object.items("status.conditions").iter().enumerate() {
        let (at, kind) = (list.index(i), condition.text("type"));
        if !seen.insert(kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&at.child("type"), ""));
        }
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    status_conditions(&mut errors, new);
    errors
}
