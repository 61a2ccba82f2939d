//! ComponentStatus: health of the control plane's parts, made on demand.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{Column, NAME, text};
use crate::print;
use crate::strategy::Strategy;

/// The rules of ComponentStatus, which is not stored.
pub struct Rules;

impl Strategy for Rules {
    fn writable(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Status", "Whether the component is healthy."),
            text("Message", "What the check answered."),
            text("Error", "What went wrong with the check."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let healthy = object
            .items("conditions")
            .iter()
            .find(|c| c.text("type") == "Healthy");
        let status = match healthy.map(|c| c.text("status")) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        let of = |key| healthy.map_or("", |c| c.text(key));
        vec![
            print::name(object),
            status.into(),
            of("message").into(),
            of("error").into(),
        ]
    }
}
