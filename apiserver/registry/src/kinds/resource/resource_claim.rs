//! ResourceClaim: a claim on devices, allocated by the scheduler. Who may bind it and report on its devices is left to
//! the API server's guard, which knows the caller's rights.

use jiff::Timestamp;
use keelson_api::field::{ErrorList, Path};
use serde_json::Value;

use super::{allocation, claim_spec};
use crate::access::{Access, copy};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::immutable;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, reset_new};

/// The rules of ResourceClaim.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: allocation::validate_update,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, claim: &mut Value) {
        claim_spec::default(claim, "spec");
        allocation::default(claim);
    }

    fn prepare_for_create(&self, claim: &mut Value, _context: &Context<'_>) {
        reset_new(claim, false);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        allocation::drop_deallocated(new, old);
    }

    fn validate(&self, claim: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        claim_spec::validate(&mut errors, claim.part("spec"), &Path::new("spec"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(
            &mut errors,
            new.part("spec"),
            old.part("spec"),
            &Path::new("spec"),
        );
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("State", "Whether devices are allocated and reserved."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, claim: &Value, now: Timestamp) -> Vec<Value> {
        let deleted = claim.has("metadata.deletionTimestamp");
        let allocated = claim.has("status.allocation");
        let states = [
            ("deleted", deleted),
            ("pending", !deleted && !allocated),
            ("allocated", allocated),
            (
                "reserved",
                allocated && !claim.items("status.reservedFor").is_empty(),
            ),
        ];
        let states: Vec<&str> = states.iter().filter(|s| s.1).map(|s| s.0).collect();
        vec![
            print::name(claim),
            states.join(",").into(),
            print::age(claim, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn found(mut claim: Value) -> Vec<String> {
        Rules.default(&mut claim);
        words(&Rules.validate(&claim, &Context::at(Timestamp::UNIX_EPOCH)))
    }

    fn devices(devices: Value) -> Value {
        json!({"spec": {"devices": devices}})
    }

    #[test]
    fn claims_show_their_state() {
        for (claim, want) in [
            (json!({}), "pending"),
            (json!({"metadata": {"deletionTimestamp": "x"}}), "deleted"),
            (
                json!({"status": {"allocation": {"devices": {}}, "reservedFor": [{"name": "p"}]}}),
                "allocated,reserved",
            ),
        ] {
            assert_eq!(Rules.row(&claim, Timestamp::UNIX_EPOCH)[1], want);
        }
    }

    #[test]
    fn requests_are_for_one_device_unless_they_say_otherwise() {
        let mut claim = devices(json!({"requests": [
            {"name": "a", "exactly": {"deviceClassName": "c", "tolerations": [{"key": "k"}]}},
            {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c", "allocationMode": "All"}]},
        ]}));
        Rules.default(&mut claim);
        assert_eq!(
            claim.part("spec.devices.requests"),
            &json!([
                {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1,
                    "tolerations": [{"key": "k", "operator": "Equal"}]}},
                {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c", "allocationMode": "All"}]},
            ])
        );
        assert!(found(claim).is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        for (spec, want) in [
            (
                json!({"requests": [{"name": "a"}]}),
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ),
            (
                json!({"requests": [{"name": "a", "exactly": {}}]}),
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (
                json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}}]}),
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
            ),
            (
                json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "selectors": [{}]}}]}),
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
            ),
            (
                json!({"constraints": [{"requests": ["b"], "matchAttribute": "a.b/c"}]}),
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ),
            (
                json!({"config": [{"opaque": {"driver": "a.b", "parameters": [1]}}]}),
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
            ),
        ] {
            assert_eq!(found(devices(spec)), [want]);
        }
    }

    #[test]
    fn the_spec_stays_as_it_is() {
        let old = devices(json!({}));
        let new = devices(json!({"requests": [{"name": "a"}]}));
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert_eq!(
            words(&Rules.validate_update(&new, &old, &context)),
            [
                "spec: Invalid value: {\"devices\":{\"requests\":[{\"name\":\"a\"}]}}: field is immutable"
            ]
        );
    }

    #[test]
    fn a_status_is_held_against_the_claim() {
        let result = json!({"request": "a", "driver": "d.io", "pool": "p", "device": "x"});
        let claim = |status: Value| {
            let mut claim =
                devices(json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}));
            claim["status"] = status;
            claim
        };
        let found = |new: Value, old: Value| {
            words(&STATUS.validate_update(&new, &old, &Context::at(Timestamp::UNIX_EPOCH)))
        };
        let free = claim(json!({}));
        assert!(found(claim(json!({"allocation": {}})), free.clone()).is_empty());
        let allocated = claim(json!({"allocation": {"devices": {"results": [result]}},
            "devices": [{"driver": "d.io", "pool": "p", "device": "x"}]}));
        assert!(found(allocated.clone(), free.clone()).is_empty());
        assert_eq!(
            found(
                claim(json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]})),
                free.clone()
            ),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        assert!(
            found(claim(json!({"allocation": {}})), allocated.clone())[0]
                .ends_with("field is immutable")
        );
        let mut freed = claim(json!({"devices": [{"driver": "d.io", "pool": "p", "device": "x"}]}));
        STATUS.prepare_for_update(&mut freed, &allocated, &Context::at(Timestamp::UNIX_EPOCH));
        assert!(!freed.has("status.devices"));
    }
}
