//! CSIStorageCapacity: how much storage of a class there is somewhere.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{Column, NAME, text};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{NEGATIVE, label_selector, quantity};

/// The rules of CSIStorageCapacity.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, capacity: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        label_selector(
            &mut errors,
            capacity.part("nodeTopology"),
            &Path::new("nodeTopology"),
        );
        let class = capacity.text("storageClassName");
        faults(
            &mut errors,
            &Path::new("storageClassName"),
            class,
            names::dns1123_subdomain(class),
        );
        if capacity.has("capacity") && quantity(capacity.part("capacity")) < Quantity::ZERO {
            let amount = quantity(capacity.part("capacity")).to_string();
            errors.push(Error::invalid(&Path::new("capacity"), amount, NEGATIVE));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        for field in ["nodeTopology", "storageClassName"] {
            immutable(
                &mut errors,
                new.part(field),
                old.part(field),
                &Path::new(field),
            );
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("StorageClassName", "The class."),
            text("Capacity", "How much there is."),
        ];
        COLUMNS
    }

    fn row(&self, capacity: &Value, _now: Timestamp) -> Vec<Value> {
        let amount = if capacity.has("capacity") {
            quantity(capacity.part("capacity")).to_string()
        } else {
            "<unset>".into()
        };
        vec![
            print::name(capacity),
            capacity.text("storageClassName").into(),
            amount.into(),
        ]
    }
}
