//! PriorityLevelConfiguration: how many requests of a priority may run at once, and what becomes of the others.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use super::{status_check, status_conditions};
use crate::access::{Access, copy, part_mut, same, set, set_default, set_default_number};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::one_of;

const MAX_QUEUES: i64 = 10_000_000;
/// The bits of a request's hash that dealing it to queues may use up.
const MAX_HASH_BITS: f64 = 60.0;

/// The rules of PriorityLevelConfiguration.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, level: &mut Value) {
        for (kind, shares) in [("spec.exempt", 0), ("spec.limited", 30)] {
            if let Some(part) = part_mut(level, kind) {
                set_default(part, "nominalConcurrencyShares", shares);
                set_default(part, "lendablePercent", 0);
            }
        }
        if let Some(queuing) = part_mut(level, "spec.limited.limitResponse.queuing") {
            set_default_number(queuing, "handSize", 8);
            set_default_number(queuing, "queues", 64);
            set_default_number(queuing, "queueLengthLimit", 50);
        }
    }

    fn prepare_for_create(&self, level: &mut Value, _context: &Context<'_>) {
        reset_new(level, true);
        set(level, "status", json!({}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, level: &Value, _context: &Context<'_>) -> ErrorList {
        const ROUND_TRIP: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
        let mut errors = ErrorList::new();
        if level.part("metadata.annotations").get(ROUND_TRIP).is_some() {
            errors.push(Error::forbidden(
                &Path::new("metadata").child("annotations"),
                format!("annotation '{ROUND_TRIP}' is forbidden"),
            ));
        }
        spec(&mut errors, level);
        mandatory(&mut errors, level);
        status_conditions(&mut errors, level);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Type", "Whether the level is limited or exempt."),
            text(
                "NominalConcurrencyShares",
                "The level's share of the requests that may run at once.",
            ),
            text("Queues", "How many queues the level has."),
            text("HandSize", "How many queues a flow is dealt."),
            text("QueueLengthLimit", "How many requests wait in a queue."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, level: &Value, now: Timestamp) -> Vec<Value> {
        let shown = |path: &str| match level.part(path) {
            Value::Null => Value::from("<none>"),
            number => number.clone(),
        };
        vec![
            print::name(level),
            level.text("spec.type").into(),
            shown("spec.limited.nominalConcurrencyShares"),
            shown("spec.limited.limitResponse.queuing.queues"),
            shown("spec.limited.limitResponse.queuing.handSize"),
            shown("spec.limited.limitResponse.queuing.queueLengthLimit"),
            print::age(level, now),
        ]
    }
}

fn spec(errors: &mut ErrorList, level: &Value) {
    let (spec, path) = (level.part("spec"), Path::new("spec"));
    let kind = spec.text("type");
    if (level.text("metadata.name") == "exempt") != (kind == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(Error::invalid(&path.child("type"), kind, detail));
    }
    let (exempt, limited) = (path.child("exempt"), path.child("limited"));
    match kind {
        "Exempt" => {
            if spec.has("limited") {
                errors.push(Error::forbidden(
                    &limited,
                    "must be nil if the type is not Limited",
                ));
            }
            shares(errors, spec.part("exempt"), &exempt);
        }
        "Limited" => {
            if spec.has("exempt") {
                errors.push(Error::forbidden(
                    &exempt,
                    "must be nil if the type is Limited",
                ));
            }
            if spec.has("limited") {
                self::limited(errors, spec.part("limited"), &limited);
            } else {
                errors.push(Error::required(
                    &limited,
                    "must not be empty when type is Limited",
                ));
            }
        }
        _ => one_of(errors, kind, &["Exempt", "Limited"], &path.child("type")),
    }
}

fn shares(errors: &mut ErrorList, part: &Value, path: &Path<'_>) {
    let shares = part.number("nominalConcurrencyShares");
    if shares < 0 {
        let at = path.child("nominalConcurrencyShares");
        errors.push(Error::invalid(
            &at,
            shares,
            "must be a non-negative integer",
        ));
    }
    lendable(errors, part, path);
}

fn lendable(errors: &mut ErrorList, part: &Value, path: &Path<'_>) {
    let percent = part.number("lendablePercent");
    if !(0..=100).contains(&percent) {
        let detail = "must be between 0 and 100, inclusive";
        errors.push(Error::invalid(
            &path.child("lendablePercent"),
            percent,
            detail,
        ));
    }
}

fn limited(errors: &mut ErrorList, part: &Value, path: &Path<'_>) {
    let shares = part.number("nominalConcurrencyShares");
    if shares < 0 {
        let at = path.child("nominalConcurrencyShares");
        errors.push(Error::invalid(
            &at,
            shares,
            "must be a non-negative integer",
        ));
    }
    let (response, at) = (part.part("limitResponse"), path.child("limitResponse"));
    let queues = at.child("queuing");
    match response.text("type") {
        "Reject" if response.has("queuing") => errors.push(Error::forbidden(
            &queues,
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        "Reject" => {}
        "Queue" if response.has("queuing") => queuing(errors, response.part("queuing"), &queues),
        "Queue" => errors.push(Error::required(
            &queues,
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        other => one_of(errors, other, &["Queue", "Reject"], &at.child("type")),
    }
    lendable(errors, part, path);
    let borrowing = part.number("borrowingLimitPercent");
    if borrowing < 0 {
        let detail = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(
            &path.child("borrowingLimitPercent"),
            borrowing,
            detail,
        ));
    }
}

fn queuing(errors: &mut ErrorList, queuing: &Value, path: &Path<'_>) {
    let [length, queues, hand] =
        ["queueLengthLimit", "queues", "handSize"].map(|field| queuing.number(field));
    let mut wrong = |field: &str, value: i64, detail: String| {
        errors.push(Error::invalid(&path.child(field), value, detail));
    };
    if length <= 0 {
        wrong("queueLengthLimit", length, "must be positive".into());
    }
    if queues <= 0 {
        wrong("queues", queues, "must be positive".into());
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        wrong("queues", queues, detail);
    }
    if hand <= 0 {
        wrong("handSize", hand, "must be positive".into());
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        wrong("handSize", hand, detail);
    } else if entropy(queues, hand) > MAX_HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        wrong("handSize", hand, detail);
    }
}

/// The bits of a hash that it takes to deal a hand of queues. Both numbers fit an `i32`.
fn entropy(queues: i64, hand: i64) -> f64 {
    let [queues, hand] = [queues, hand].map(|n| i32::try_from(n).map_or(f64::MAX, f64::from));
    (queues.log2() * hand).ceil()
}

/// The two levels that every cluster has cannot be changed, but for the shares of the exempt one.
fn mandatory(errors: &mut ErrorList, level: &Value) {
    let (spec, path) = (level.part("spec"), Path::new("spec"));
    match level.text("metadata.name") {
        "exempt" => {
            let mut fixed = spec.clone();
            crate::access::remove(&mut fixed, "exempt");
            if !same(&fixed, &json!({"type": "Exempt"})) {
                errors.push(Error::invalid(
                    &path,
                    spec,
                    "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value",
                ));
            }
        }
        "catch-all" => {
            let fixed = json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5,
                "lendablePercent": 0,
                "limitResponse": {"type": "Reject"},
            }});
            if !same(spec, &fixed) {
                errors.push(Error::invalid(
                    &path,
                    spec,
                    "spec of 'catch-all' must equal the fixed value",
                ));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mut level: Value) -> Vec<String> {
        Rules.default(&mut level);
        Rules
            .validate(&level, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn levels_are_defaulted_and_checked() {
        let mut level = json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        Rules.default(&mut level);
        assert_eq!(
            level,
            json!({"spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}},
            }}})
        );
        assert!(found(level).is_empty());
        for (spec, want) in [
            (
                json!({"type": "Limited"}),
                "spec.limited: Required value: must not be empty when type is Limited",
            ),
            (
                json!({"type": "Exempt"}),
                "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
            ),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject", "queuing": {}}}}),
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
            ),
            (
                json!({"type": "Limited", "limited": {"lendablePercent": 101, "limitResponse": {"type": "Reject"}}}),
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ),
            (
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 1024, "handSize": 7}}}}),
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60",
            ),
        ] {
            assert_eq!(
                found(json!({"metadata": {"name": "a"}, "spec": spec})),
                [want]
            );
        }
    }

    #[test]
    fn mandatory_levels_are_fixed() {
        let exempt = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 9}}});
        assert!(found(exempt).is_empty());
        let all = json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
        assert!(found(all)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    }
}
