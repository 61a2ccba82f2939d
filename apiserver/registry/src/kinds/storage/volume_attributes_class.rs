//! VolumeAttributesClass: attributes that a driver can give a volume.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{parameters, provisioner};
use crate::access::{Access, same};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Context, Strategy};

/// The rules of VolumeAttributesClass.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(
            &mut errors,
            class.text("driverName"),
            &Path::new("driverName"),
        );
        parameters(
            &mut errors,
            class.part("parameters"),
            false,
            &Path::new("parameters"),
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["driverName", "parameters"] {
            if !same(new.part(field), old.part(field)) {
                errors.push(Error::forbidden(
                    &Path::new(field),
                    format!("updates to {field} are forbidden."),
                ));
            }
        }
        errors.extend(self.validate(new, context));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("DriverName", "The driver."), AGE];
        COLUMNS
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(class),
            class.text("driverName").into(),
            print::age(class, now),
        ]
    }
}
