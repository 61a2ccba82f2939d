//! PodDisruptionBudget: how many pods must stay when nodes are emptied.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use crate::access::{Access, copy, set};
use crate::columns::{AGE, Column, NAME, integer, text};
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation};
use crate::validation::{
    at_most_whole, conditions, int_or_percent, label_selector, not_negative, one_of,
};

/// The rules of PodDisruptionBudget.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn prepare_for_create(&self, budget: &mut Value, _context: &Context<'_>) {
        set(
            budget,
            "status",
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
        set(budget, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, budget: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (budget.part("spec"), Path::new("spec"));
        if spec.has("minAvailable") && spec.has("maxUnavailable") {
            errors.push(Error::invalid(
                &path,
                spec,
                "minAvailable and maxUnavailable cannot be both set",
            ));
        }
        for field in ["minAvailable", "maxUnavailable"]
            .into_iter()
            .filter(|f| spec.has(f))
        {
            int_or_percent(&mut errors, spec.part(field), &path.child(field));
            at_most_whole(&mut errors, spec.part(field), &path.child(field));
        }
        label_selector(&mut errors, spec.part("selector"), &path.child("selector"));
        if spec.has("unhealthyPodEvictionPolicy") {
            let policy = spec.text("unhealthyPodEvictionPolicy");
            one_of(
                &mut errors,
                policy,
                &["AlwaysAllow", "IfHealthyBudget"],
                &path.child("unhealthyPodEvictionPolicy"),
            );
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Min Available", "How many pods must stay."),
            text("Max Unavailable", "How many pods may go."),
            integer("Allowed Disruptions", "How many pods may go now."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, budget: &Value, now: Timestamp) -> Vec<Value> {
        let shown = |field: &str| match budget.part("spec").part(field) {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => "N/A".into(),
        };
        vec![
            print::name(budget),
            shown("minAvailable").into(),
            shown("maxUnavailable").into(),
            budget.number("status.disruptionsAllowed").into(),
            print::age(budget, now),
        ]
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    conditions(
        &mut errors,
        status.items("conditions"),
        &path.child("conditions"),
    );
    for count in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        not_negative(&mut errors, status, count, &path);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_checked() {
        let budget = json!({"spec": {"minAvailable": "101%", "maxUnavailable": -1}});
        let found: Vec<String> = Rules
            .validate(&budget, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec: Invalid value: {\"maxUnavailable\":-1,\"minAvailable\":\"101%\"}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}
