//! What classes and claims have in common: which devices they select, how devices are configured, which taints are borne.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, naming};
use crate::access::Access;
use crate::validation::one_of;

/// Selectors in one list.
const SELECTORS_MAX: usize = 32;
/// Bytes of one expression.
const EXPRESSION_MAX: usize = 10 * 1024;
/// Bytes of a driver's own parameters.
const PARAMETERS_MAX: usize = 10 * 1024;
/// Conditions that a device waits for, or fails by.
const CONDITIONS_MAX: usize = 4;
/// The effects of device taints, sorted.
pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// The list `selectors`.
pub(super) fn selectors(errors: &mut ErrorList, object: &Value, path: &Path<'_>) {
    bounded::list(
        errors,
        object,
        "selectors",
        SELECTORS_MAX,
        path,
        |errors, selector, path| {
            let at = path.child("cel");
            if !selector.has("cel") {
                errors.push(Error::required(&at, ""));
            } else if selector.text("cel.expression").len() > EXPRESSION_MAX {
                errors.push(Error::too_long(&at.child("expression"), EXPRESSION_MAX));
            }
        },
    );
}

/// The driver's own configuration; `stored` if it was accepted before.
pub(super) fn configuration(errors: &mut ErrorList, config: &Value, stored: bool, path: &Path<'_>) {
    let at = path.child("opaque");
    let opaque = config.part("opaque");
    if opaque.is_null() {
        errors.push(Error::required(&at, ""));
        return;
    }
    naming::driver_name(errors, opaque.text("driver"), &at.child("driver"));
    let max = if stored { usize::MAX } else { PARAMETERS_MAX };
    raw(errors, opaque, "parameters", max, &at);
}

/// A driver's own data: a JSON object of at most `max` bytes.
pub(super) fn raw(errors: &mut ErrorList, object: &Value, key: &str, max: usize, path: &Path<'_>) {
    let (data, at) = (object.part(key), path.child(key));
    if data.is_null() {
        errors.push(Error::required(&at, ""));
    } else if data.to_string().len() > max {
        errors.push(Error::too_long(&at, max));
    } else if !data.is_object() {
        let detail = "must be a valid JSON object";
        errors.push(Error::invalid(&at, "<value omitted>", detail));
    }
}

/// The list `tolerations`.
pub(super) fn tolerations(errors: &mut ErrorList, object: &Value, path: &Path<'_>) {
    let list = path.child("tolerations");
    for (i, toleration) in object.items("tolerations").iter().enumerate() {
        self::toleration(errors, toleration, &list.index(i));
    }
}

fn toleration(errors: &mut ErrorList, toleration: &Value, path: &Path<'_>) {
    let [key, operator, value, effect] =
        ["key", "operator", "value", "effect"].map(|k| toleration.text(k));
    if !key.is_empty() {
        naming::key(errors, key, &path.child("key"));
    }
    match operator {
        "Exists" if !value.is_empty() => errors.push(Error::invalid(
            &path.child("value"),
            value,
            "must be empty for operator `Exists`",
        )),
        "Exists" => {}
        "Equal" => naming::value(errors, value, &path.child("value")),
        "" => errors.push(Error::required(&path.child("operator"), "")),
        _ => one_of(
            errors,
            operator,
            &["Equal", "Exists"],
            &path.child("operator"),
        ),
    }
    if !effect.is_empty() {
        one_of(errors, effect, EFFECTS, &path.child("effect"));
    }
}

/// The conditions by which a device is ready for its pod or fails: both given or none, each once.
pub(super) fn binding_conditions(errors: &mut ErrorList, object: &Value, path: &Path<'_>) {
    const READY: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    for key in [READY, FAILED] {
        bounded::list(
            errors,
            object,
            key,
            CONDITIONS_MAX,
            path,
            |errors, condition, path| {
                naming::key(errors, condition.as_str().unwrap_or_default(), path);
            },
        );
    }
    let (ready, failed) = (object.items(READY), object.items(FAILED));
    let list = path.child(READY);
    for (i, condition) in ready.iter().enumerate() {
        if ready[..i].contains(condition) {
            errors.push(Error::duplicate(&list.index(i), condition));
        }
    }
    let list = path.child(FAILED);
    for (i, condition) in failed.iter().enumerate() {
        if failed[..i].contains(condition) {
            errors.push(Error::duplicate(&list.index(i), condition));
        }
        if ready.contains(condition) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(Error::invalid(&list.index(i), condition, detail));
        }
    }
    if ready.is_empty() && !failed.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.push(Error::invalid(&path.child(READY), ready, detail));
    }
    if failed.is_empty() && !ready.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.push(Error::invalid(&path.child(FAILED), failed, detail));
    }
}
