//! PriorityClass: how much a pod matters when room is short.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, set, set_default};
use crate::columns::{AGE, Column, NAME, boolean, integer, wide};
use crate::meta::immutable;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::one_of;

/// The classes that every cluster has, with their values and descriptions.
pub const SYSTEM: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The highest value that users may give.
pub const USER_MAX: i64 = 1_000_000_000;

/// The rules of PriorityClass.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, class: &mut Value) {
        set_default(class, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_for_create(&self, class: &mut Value, _context: &Context<'_>) {
        set(class, "metadata.generation", 1);
    }

    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (name, value) = (class.text("metadata.name"), class.number("value"));
        if name.starts_with("system-") {
            if let Some(problem) = system_problem(name, value, class.flag("globalDefault")) {
                let meta = Path::new("metadata");
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                );
                errors.push(Error::forbidden(&meta.child("name"), detail));
            }
        } else if value > USER_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            errors.push(Error::forbidden(&Path::new("value"), detail));
        }
        if class.has("preemptionPolicy") {
            let policy = class.text("preemptionPolicy");
            one_of(
                &mut errors,
                policy,
                &["PreemptLowerPriority", "Never"],
                &Path::new("preemptionPolicy"),
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if new.number("value") != old.number("value") {
            errors.push(Error::forbidden(
                &Path::new("value"),
                "may not be changed in an update.",
            ));
        }
        immutable(
            &mut errors,
            new.part("preemptionPolicy"),
            old.part("preemptionPolicy"),
            &Path::new("preemptionPolicy"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Value", "The priority."),
            boolean(
                "Global-Default",
                "Whether pods without a class get this one.",
            ),
            AGE,
            wide(
                "PreemptionPolicy",
                "Whether pods of the class make room by ending others.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(class),
            class.number("value").into(),
            class.flag("globalDefault").into(),
            print::age(class, now),
            class.text("preemptionPolicy").into(),
        ]
    }
}

fn system_problem(name: &str, value: i64, global_default: bool) -> Option<String> {
    let Some((_, known, _)) = SYSTEM.iter().find(|(n, _, _)| *n == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *known {
        return Some(format!("value of {name} PriorityClass must be {known}"));
    }
    global_default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_and_names_are_reserved() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let of = |class: Value| -> Vec<String> {
            Rules
                .validate(&class, &context)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            of(json!({"metadata": {"name": "a"}, "value": USER_MAX + 1})),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert!(
            of(json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000_i64}))
                .is_empty()
        );
        assert_eq!(
            of(json!({"metadata": {"name": "system-x"}, "value": 1})),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
            ]
        );
        assert_eq!(
            of(json!({"metadata": {"name": "a"}, "preemptionPolicy": "X"})),
            [
                "preemptionPolicy: Unsupported value: \"X\": supported values: \"PreemptLowerPriority\", \"Never\""
            ]
        );
    }
}
