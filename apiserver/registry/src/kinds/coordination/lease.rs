//! Lease: who leads, and which node is alive.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, remove};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::not_negative;

/// The rules of Lease. Coordinated election is off, and its fields with it.
pub struct Rules;

impl Strategy for Rules {
    fn prepare_for_create(&self, lease: &mut Value, _context: &Context<'_>) {
        remove(lease, "spec.strategy");
        remove(lease, "spec.preferredHolder");
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        for path in ["spec.strategy", "spec.preferredHolder"] {
            if !old.has(path) {
                remove(new, path);
            }
        }
    }

    fn validate(&self, lease: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        if let Some(seconds) = lease.int("spec.leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.push(Error::invalid(
                &path.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        not_negative(&mut errors, lease.part("spec"), "leaseTransitions", &path);
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];
        COLUMNS
    }

    fn row(&self, lease: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(lease),
            lease.text("spec.holderIdentity").into(),
            print::age(lease, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_positive() {
        let lease = json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}});
        let found: Vec<String> = Rules
            .validate(&lease, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}
