//! DeviceClass: devices of one sort, and how they are configured.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, claim_spec, selectors};
use crate::access::{Access, same, set};
use crate::columns::{AGE, Column, NAME};
use crate::print;
use crate::strategy::{Context, Strategy, count_generation};
use crate::validation::is_extended_resource;

/// The rules of DeviceClass.
pub struct Rules;

impl Strategy for Rules {
    fn prepare_for_create(&self, class: &mut Value, _context: &Context<'_>) {
        set(class, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        count_generation(new, old);
    }

    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        spec(class.part("spec"), false)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        // What was accepted before stays, whatever the limits are now.
        let stored = same(new.part("spec.config"), old.part("spec.config"));
        spec(new.part("spec"), stored)
    }

    fn columns(&self) -> &'static [Column] {
        &[NAME, AGE]
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(class), print::age(class, now)]
    }
}

fn spec(spec: &Value, stored: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    selectors::selectors(&mut errors, spec, &path);
    bounded::list(
        &mut errors,
        spec,
        "config",
        claim_spec::CONFIG_MAX,
        &path,
        |errors, config, path| selectors::configuration(errors, config, stored, path),
    );
    if spec.has("extendedResourceName") {
        let name = spec.text("extendedResourceName");
        if !is_extended_resource(name) {
            errors.push(Error::invalid(
                &path.child("extendedResourceName"),
                name,
                "must be a valid extended resource name",
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_are_checked() {
        for (given, want) in [
            (
                json!({"extendedResourceName": "cpu"}),
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ),
            (
                json!({"config": [{}]}),
                "spec.config[0].opaque: Required value",
            ),
            (
                json!({"selectors": [{"cel": {"expression": "x".repeat(10241)}}]}),
                "spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes",
            ),
        ] {
            let found: Vec<String> = spec(&given, false)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, [want]);
        }
        assert!(spec(&json!({"extendedResourceName": "example.com/gpu"}), false).is_empty());
    }
}
