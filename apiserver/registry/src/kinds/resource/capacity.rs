//! The capacities of a device that several claims share: how much one of them may ask for.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::quantity::Quantity;
use serde_json::Value;

use super::bounded;
use crate::access::Access;
use crate::validation::quantity;

const OPTIONS_MAX: usize = 10;

/// What is wrong with a capacity of a device that can be allocated more than once, or only once.
pub(super) fn validate(errors: &mut ErrorList, capacity: &Value, shared: bool, path: &Path<'_>) {
    let (policy, at) = (capacity.part("requestPolicy"), path.child("requestPolicy"));
    if policy.is_null() {
        return;
    }
    if !shared {
        let detail = "allowMultipleAllocations must be true";
        errors.push(Error::forbidden(&at, detail));
        return;
    }
    let max = quantity(capacity.part("value"));
    let (values, range) = (
        !policy.items("validValues").is_empty(),
        policy.has("validRange"),
    );
    let default = policy
        .has("default")
        .then(|| quantity(policy.part("default")));
    match (values, range, default) {
        (true, true, _) => errors.push(Error::forbidden(
            &at,
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        )),
        (true, false, None) => errors.push(Error::required(
            &at.child("default"),
            "required when validValues is defined",
        )),
        (false, true, None) => errors.push(Error::required(
            &at.child("default"),
            "required when validRange is defined",
        )),
        (true, false, Some(default)) => options(errors, policy, default, max, &at),
        (false, true, Some(default)) => self::range(
            errors,
            policy.part("validRange"),
            default,
            max,
            &at.child("validRange"),
        ),
        (false, false, _) => {}
    }
}

fn options(
    errors: &mut ErrorList,
    policy: &Value,
    default: Quantity,
    max: Quantity,
    path: &Path<'_>,
) {
    let (list, at) = (policy.items("validValues"), path.child("validValues"));
    for (i, pair) in list.windows(2).enumerate() {
        let [before, after] = [0, 1].map(|i| quantity(&pair[i]));
        if before > after {
            errors.push(Error::invalid(
                &at.index(i + 1),
                after.to_string(),
                "values must be sorted in ascending order",
            ));
        }
    }
    bounded::set(
        errors,
        policy,
        "validValues",
        OPTIONS_MAX,
        path,
        |errors, option, path| {
            let option = quantity(option);
            if option > max {
                let detail = format!("option is larger than capacity value: {max}");
                errors.push(Error::invalid(path, option.to_string(), detail));
            }
        },
        |option| quantity(option).value().to_string().into(),
    );
    let known = list.len() <= OPTIONS_MAX && list.iter().any(|o| quantity(o) == default);
    if !known {
        errors.push(Error::invalid(
            &at,
            default.to_string(),
            "default value is not valid according to the requestPolicy",
        ));
    }
}

fn range(
    errors: &mut ErrorList,
    range: &Value,
    default: Quantity,
    capacity: Quantity,
    path: &Path<'_>,
) {
    let given = |key: &str| range.has(key).then(|| quantity(range.part(key)));
    let Some(min) = given("min") else {
        let detail = "required when validRange is defined";
        errors.push(Error::required(&path.child("min"), detail));
        return;
    };
    let mut wrong = |key: &str, value: Quantity, detail: String| {
        errors.push(Error::invalid(&path.child(key), value.to_string(), detail));
    };
    if min > capacity {
        wrong(
            "min",
            min,
            format!("min is larger than capacity value: {capacity}"),
        );
    }
    if default < min {
        wrong("min", default, format!("default is less than min: {min}"));
    }
    let max = given("max");
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > capacity {
            wrong(
                "max",
                max,
                format!("max is larger than capacity value: {capacity}"),
            );
        }
        if default > max {
            wrong("max", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = given("step") else {
        return;
    };
    let next = min + step;
    if next > capacity {
        wrong(
            "step",
            step,
            format!("one step {next} is larger than capacity value: {capacity}"),
        );
    }
    for value in [Some(default), max].into_iter().flatten() {
        // A step of nought leads nowhere; upstream's server fails on it.
        let fits = value
            .value()
            .saturating_sub(min.value())
            .checked_rem(step.value());
        if fits != Some(0) {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            wrong("step", value, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(policy: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        let capacity = json!({"value": "10Gi", "requestPolicy": policy});
        validate(&mut errors, &capacity, true, &Path::new("c"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies_are_checked() {
        for (policy, want) in [
            (
                json!({"validValues": ["1Gi"]}),
                vec![
                    "c.requestPolicy.default: Required value: required when validValues is defined",
                ],
            ),
            (
                json!({"default": "2Gi", "validValues": ["1Gi"]}),
                vec![
                    "c.requestPolicy.validValues: Invalid value: \"2Gi\": default value is not valid according to the requestPolicy",
                ],
            ),
            (
                json!({"default": "3Gi", "validRange": {"min": "1Gi", "max": "11Gi"}}),
                vec![
                    "c.requestPolicy.validRange.max: Invalid value: \"11Gi\": max is larger than capacity value: 10Gi",
                ],
            ),
            (
                json!({"default": "1Gi", "validRange": {"min": "1Gi", "step": "0"}}),
                vec![
                    "c.requestPolicy.validRange.step: Invalid value: \"1Gi\": value is not a multiple of a given step (0) from (1Gi)",
                ],
            ),
            (
                json!({"default": "3Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}),
                vec![],
            ),
        ] {
            assert_eq!(found(policy), want);
        }
    }
}
