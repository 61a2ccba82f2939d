//! APIService: who serves a version of a group. There is no aggregation, so they are shown and not written.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::Strategy;

/// The rules of APIService.
pub struct Rules;

impl Strategy for Rules {
    fn writable(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Service", "The service that serves the version."),
            text("Available", "Whether the version is served."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = match object.part("spec.service") {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", service.text("namespace"), service.text("name")),
        };
        let available = object
            .items("status.conditions")
            .iter()
            .find(|c| c.text("type") == "Available")
            .map_or_else(
                || "Unknown".to_owned(),
                |c| match (c.text("status"), c.text("reason")) {
                    (status @ "True", _) | (status, "") => status.to_owned(),
                    (status, reason) => format!("{status} ({reason})"),
                },
            );
        vec![
            print::name(object),
            service.into(),
            available.into(),
            print::age(object, now),
        ]
    }
}
