//! CSINode: the storage drivers on a node.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, remove, same};
use crate::columns::{AGE, Column, NAME, integer};
use crate::meta::faults;
use crate::pod::volumes::driver_name;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{IMMUTABLE, not_negative};

const ID_MAX: usize = 192;

/// The rules of CSINode.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, node: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        let list = spec.child("drivers");
        let mut seen = BTreeSet::new();
        for (i, driver) in node.items("spec.drivers").iter().enumerate() {
            let (at, name, id) = (list.index(i), driver.text("name"), driver.text("nodeID"));
            driver_name(&mut errors, name, &at.child("name"));
            if id.is_empty() {
                errors.push(Error::required(&at.child("nodeID"), ""));
            } else if id.len() > ID_MAX {
                errors.push(Error::invalid(
                    &at.child("nodeID"),
                    id,
                    format!("must be {ID_MAX} characters or less"),
                ));
            }
            not_negative(
                &mut errors,
                driver.part("allocatable"),
                "count",
                &at.child("allocatable"),
            );
            if !seen.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            let mut keys = BTreeSet::new();
            for key in driver
                .items("topologyKeys")
                .iter()
                .filter_map(Value::as_str)
            {
                if key.is_empty() {
                    errors.push(Error::required(&at, ""));
                }
                if !keys.insert(key) {
                    errors.push(Error::duplicate(&at, key));
                }
                faults(&mut errors, &at, key, names::qualified_name(key));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let spec = Path::new("spec");
        // Of a driver that stays, only what it can hold may change.
        for had in old.items("spec.drivers") {
            let Some(now) = new
                .items("spec.drivers")
                .iter()
                .find(|d| d.text("name") == had.text("name"))
            else {
                continue;
            };
            let (mut now, mut had) = (now.clone(), had.clone());
            remove(&mut now, "allocatable");
            remove(&mut had, "allocatable");
            if !same(&now, &had) {
                errors.push(Error::invalid(&spec.child("drivers"), now, IMMUTABLE));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, integer("Drivers", "How many drivers there are."), AGE];
        COLUMNS
    }

    fn row(&self, node: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(node),
            node.items("spec.drivers").len().into(),
            print::age(node, now),
        ]
    }
}
