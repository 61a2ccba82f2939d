//! CSIDriver: what a storage driver needs to know and can do.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use crate::access::{Access, part_mut, remove, set, set_default, set_default_text};
use crate::columns::{AGE, Column, NAME, boolean, text};
use crate::meta::immutable;
use crate::print;
use crate::strategy::{Context, Strategy, count_generation};
use crate::validation::one_of;

/// The rules of CSIDriver.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, driver: &mut Value) {
        let Some(spec) = part_mut(driver, "spec") else {
            return;
        };
        set_default(spec, "attachRequired", true);
        for field in [
            "podInfoOnMount",
            "storageCapacity",
            "requiresRepublish",
            "seLinuxMount",
        ] {
            set_default(spec, field, false);
        }
        set_default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.is_blank("volumeLifecycleModes") {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn prepare_for_create(&self, driver: &mut Value, _context: &Context<'_>) {
        remove(driver, "spec.preventPodSchedulingIfMissing");
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        if !old.has("spec.preventPodSchedulingIfMissing") {
            remove(new, "spec.preventPodSchedulingIfMissing");
        }
        count_generation(new, old);
    }

    fn validate(&self, driver: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (driver.part("spec"), Path::new("spec"));
        if spec.has("fsGroupPolicy") {
            let known = ["File", "None", "ReadWriteOnceWithFSType"];
            one_of(
                &mut errors,
                spec.text("fsGroupPolicy"),
                &known,
                &path.child("fsGroupPolicy"),
            );
        }
        tokens(
            &mut errors,
            spec.items("tokenRequests"),
            &path.child("tokenRequests"),
        );
        for mode in spec
            .items("volumeLifecycleModes")
            .iter()
            .filter_map(Value::as_str)
        {
            one_of(
                &mut errors,
                mode,
                &["Persistent", "Ephemeral"],
                &path.child("volumeLifecycleModes"),
            );
        }
        if let Some(period) = spec
            .int("nodeAllocatableUpdatePeriodSeconds")
            .filter(|p| *p < 10)
        {
            let at = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.push(Error::invalid(
                &at,
                period,
                "must be greater than or equal to 10 seconds",
            ));
        }
        if spec.has("serviceAccountTokenInSecrets") && spec.is_blank("tokenRequests") {
            let at = path.child("serviceAccountTokenInSecrets");
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.push(Error::invalid(
                &at,
                spec.part("serviceAccountTokenInSecrets"),
                detail,
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let spec = Path::new("spec");
        // Upstream spells the first of these paths so.
        for (field, shown) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            immutable(
                &mut errors,
                new.part("spec").part(field),
                old.part("spec").part(field),
                &spec.child(shown),
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
            boolean(
                "AttachRequired",
                "Whether volumes are attached before they are mounted.",
            ),
            boolean("PodInfoOnMount", "Whether the driver is told of the pod."),
            boolean("StorageCapacity", "Whether the driver tells its capacity."),
            text("TokenRequests", "The audiences of tokens it is given."),
            boolean(
                "RequiresRepublish",
                "Whether volumes are published again and again.",
            ),
            text("Modes", "The lives its volumes have."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, driver: &Value, now: Timestamp) -> Vec<Value> {
        let spec = driver.part("spec");
        let tokens = if spec.has("tokenRequests") {
            print::join_field(spec.items("tokenRequests"), "audience")
        } else {
            "<unset>".into()
        };
        let modes = print::join(spec.items("volumeLifecycleModes"), ",");
        vec![
            print::name(driver),
            spec.part("attachRequired").as_bool().unwrap_or(true).into(),
            spec.flag("podInfoOnMount").into(),
            spec.flag("storageCapacity").into(),
            tokens.into(),
            spec.flag("requiresRepublish").into(),
            print::or(&modes, "<none>").into(),
            print::age(driver, now),
        ]
    }
}

fn tokens(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, request) in list.iter().enumerate() {
        let (at, audience) = (path.index(i), request.text("audience"));
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&at.child("audience"), audience));
            continue;
        }
        let Some(seconds) = request.int("expirationSeconds") else {
            continue;
        };
        if seconds < 600 {
            errors.push(Error::invalid(
                &at.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        }
        if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(Error::invalid(
                &at.child("expirationSeconds"),
                seconds,
                detail,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_filled_in() {
        let mut driver = json!({"metadata": {"name": "d"}, "spec": {}});
        Rules.default(&mut driver);
        assert_eq!(
            driver["spec"],
            json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
                "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]})
        );
        assert!(
            Rules
                .validate(&driver, &Context::at(Timestamp::UNIX_EPOCH))
                .is_empty()
        );
    }
}
