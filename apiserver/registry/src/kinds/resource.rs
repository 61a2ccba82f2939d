//! The kinds of resource.k8s.io (dynamic resource allocation), which are shown and not written: nothing allocates devices
//! yet, and a claim that is accepted would wait for ever.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Strategy, path_field};

/// The rules of DeviceClass and ResourceClaimTemplate.
pub struct Named;

/// The rules of ResourceClaim.
pub struct Claim;

/// The rules of ResourceSlice.
pub struct Slice;

impl Strategy for Named {
    fn writable(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &[NAME, AGE]
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::age(object, now)]
    }
}

impl Strategy for Claim {
    fn writable(&self) -> bool {
        false
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

impl Strategy for Slice {
    fn writable(&self) -> bool {
        false
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        path_field(object, label)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Node", "The node that has the devices."),
            text("Driver", "The driver of the devices."),
            text("Pool", "The pool that the devices belong to."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, slice: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(slice),
            slice.text("spec.nodeName").into(),
            slice.text("spec.driver").into(),
            slice.text("spec.pool.name").into(),
            print::age(slice, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            assert_eq!(Claim.row(&claim, Timestamp::UNIX_EPOCH)[1], want);
        }
    }
}
