//! HorizontalPodAutoscaler in `autoscaling/v2`, as it is stored: how many pods a workload has by what they use.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::metrics;
use crate::access::{Access, copy, set, set_default};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};
use crate::validation::{NEGATIVE, not_negative, one_of, quantity};

const MAX_PERIOD: i64 = 1800;
const MAX_WINDOW: i64 = 3600;
/// The annotations that carry what `autoscaling/v1` has no fields for. They have no place in `autoscaling/v2`.
pub(super) const ROUND_TRIP: [&str; 6] = [
    "autoscaling.alpha.kubernetes.io/metrics",
    "autoscaling.alpha.kubernetes.io/behavior",
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "autoscaling.alpha.kubernetes.io/conditions",
];

/// The rules of HorizontalPodAutoscaler.
pub struct Rules;

pub(super) static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, scaler: &mut Value) {
        set_default(scaler, "spec.minReplicas", 1);
        if scaler.is_blank("spec.metrics") {
            set(scaler, "spec.metrics", json!([metrics::cpu(80)]));
        }
        if scaler.has("spec.behavior") {
            for direction in ["spec.behavior.scaleUp", "spec.behavior.scaleDown"] {
                default_rules(scaler, direction);
            }
        }
        drop_round_trip(scaler);
    }

    fn prepare_for_create(&self, scaler: &mut Value, _context: &Context<'_>) {
        // The two counts have no way of being absent.
        set(
            scaler,
            "status",
            json!({"currentReplicas": 0, "desiredReplicas": 0}),
        );
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate(&self, scaler: &Value, _context: &Context<'_>) -> ErrorList {
        check(scaler, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        check(new, Some(old))
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Reference", "The workload that is scaled."),
            text("Targets", "What is measured, and what it should be."),
            text("MinPods", "The least number of pods."),
            text("MaxPods", "The greatest number of pods."),
            text("Replicas", "How many pods there are."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, scaler: &Value, now: Timestamp) -> Vec<Value> {
        let target = scaler.part("spec.scaleTargetRef");
        let min = scaler
            .int("spec.minReplicas")
            .map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
        vec![
            print::name(scaler),
            format!("{}/{}", target.text("kind"), target.text("name")).into(),
            metrics::shown(
                scaler.items("spec.metrics"),
                scaler.items("status.currentMetrics"),
            )
            .into(),
            min.into(),
            scaler.number("spec.maxReplicas").into(),
            scaler.number("status.currentReplicas").into(),
            print::age(scaler, now),
        ]
    }
}

pub(super) fn drop_round_trip(scaler: &mut Value) {
    if let Some(annotations) =
        crate::access::part_mut(scaler, "metadata.annotations").and_then(Value::as_object_mut)
    {
        for key in ROUND_TRIP {
            annotations.remove(key);
        }
        if annotations.is_empty() {
            crate::access::remove(scaler, "metadata.annotations");
        }
    }
}

/// If one direction is given, everything left out of either is filled in.
fn default_rules(scaler: &mut Value, direction: &str) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let rules = if direction.ends_with("Up") {
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]})
    } else {
        json!({"selectPolicy": "Max", "policies": [percent]})
    };
    for (field, value) in rules.as_object().into_iter().flatten() {
        set_default(scaler, &format!("{direction}.{field}"), value.clone());
    }
}

fn check(scaler: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (scaler.part("spec"), Path::new("spec"));
    let least = i64::from(old.is_none_or(|o| o.int("spec.minReplicas") != Some(0)));
    let (min, max) = (spec.int("minReplicas"), spec.number("maxReplicas"));
    if let Some(min) = min.filter(|m| *m < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.push(Error::invalid(&path.child("minReplicas"), min, detail));
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        errors.push(Error::required(&at, "must be set and greater than 0"));
    } else if max < 0 {
        let detail = "must be greater than or equal to 1";
        errors.push(Error::invalid(&at, max, detail));
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&at, max, detail));
    }
    let target = spec.part("scaleTargetRef");
    let kept = old.is_some_and(|old| {
        let old = old.part("spec.scaleTargetRef");
        ["apiVersion", "kind"].map(|f| old.text(f))
            == ["apiVersion", "kind"].map(|f| target.text(f))
    });
    let versions = match () {
        () if kept => Versions::Any,
        // The one scalable kind of the core group.
        () if target.text("kind") == "ReplicationController" => Versions::Core,
        () => Versions::Groups,
    };
    reference(&mut errors, target, versions, &path.child("scaleTargetRef"));
    let described = old.map_or(&[][..], |o| o.items("spec.metrics")).iter();
    let spoilt = described
        .filter(|m| m.text("type") == "Object" && m.has("object"))
        .any(|m| {
            version_fault(m.text("object.describedObject.apiVersion"), Versions::Core).is_some()
        });
    let versions = if spoilt {
        Versions::Any
    } else {
        Versions::Core
    };
    metrics::check(&mut errors, spec, versions, &path.child("metrics"));
    let behaviour = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.part("behavior").part(direction);
        if !rules.is_null() {
            scaling_rules(&mut errors, rules, &behaviour.child(direction));
        }
    }
    errors
}

/// Which versions a reference may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// Even malformed ones.
    Any,
    /// Those of the core group too.
    Core,
    /// Those of groups with a name.
    Groups,
}

pub(super) fn reference(
    errors: &mut ErrorList,
    reference: &Value,
    versions: Versions,
    path: &Path<'_>,
) {
    for field in ["kind", "name"] {
        let (value, at) = (reference.text(field), path.child(field));
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            faults(errors, &at, value, names::path_segment(value));
        }
    }
    let version = reference.text("apiVersion");
    if let Some(fault) = version_fault(version, versions) {
        errors.push(Error::invalid(&path.child("apiVersion"), version, fault));
    }
}

fn version_fault(version: &str, versions: Versions) -> Option<String> {
    match version.matches('/').count() {
        _ if versions == Versions::Any => None,
        0 | 1 if versions == Versions::Core => None,
        0 => Some("apiVersion must specify API group".into()),
        1 => version
            .starts_with('/')
            .then(|| "apiVersion must specify API group".into()),
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

fn scaling_rules(errors: &mut ErrorList, rules: &Value, path: &Path<'_>) {
    if let Some(window) = rules.int("stabilizationWindowSeconds") {
        let at = path.child("stabilizationWindowSeconds");
        if window < 0 {
            let detail = "must be greater than or equal to zero";
            errors.push(Error::invalid(&at, window, detail));
        }
        if window > MAX_WINDOW {
            let detail = format!("must be less than or equal to {MAX_WINDOW}");
            errors.push(Error::invalid(&at, window, detail));
        }
    }
    if rules.has("selectPolicy") {
        let policy = rules.text("selectPolicy");
        let allowed = &["Disabled", "Max", "Min"];
        one_of(errors, policy, allowed, &path.child("selectPolicy"));
    }
    let list = path.child("policies");
    if rules.is_blank("policies") {
        errors.push(Error::required(&list, "must specify at least one Policy"));
    }
    for (i, policy) in rules.items("policies").iter().enumerate() {
        let at = list.index(i);
        let kind = policy.text("type");
        one_of(errors, kind, &["Percent", "Pods"], &at.child("type"));
        for field in ["value", "periodSeconds"] {
            let number = policy.number(field);
            if number <= 0 {
                let detail = "must be greater than zero";
                errors.push(Error::invalid(&at.child(field), number, detail));
            }
        }
        let period = policy.number("periodSeconds");
        if period > MAX_PERIOD {
            let detail = format!("must be less than or equal to {MAX_PERIOD}");
            errors.push(Error::invalid(&at.child("periodSeconds"), period, detail));
        }
    }
    if rules.has("tolerance") {
        let tolerance = quantity(rules.part("tolerance"));
        if tolerance < keelson_api::quantity::Quantity::ZERO {
            errors.push(Error::invalid(
                &path.child("tolerance"),
                tolerance.to_string(),
                NEGATIVE,
            ));
        }
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(&mut errors, status, field, &path);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(change: impl FnOnce(&mut Value)) -> Value {
        let mut scaler = json!({"metadata": {"name": "a"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 5,
        }});
        change(&mut scaler["spec"]);
        Rules.default(&mut scaler);
        scaler
    }

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        check(&scaler(change), None)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let scaler =
            scaler(|spec| spec["behavior"] = json!({"scaleDown": {"selectPolicy": "Min"}}));
        assert_eq!(scaler["spec"]["minReplicas"], 1);
        assert_eq!(
            scaler["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
        );
        assert_eq!(
            scaler["spec"]["behavior"]["scaleDown"],
            json!({"selectPolicy": "Min", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]})
        );
        assert_eq!(
            scaler["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"],
            0
        );
    }

    #[test]
    fn autoscalers_are_checked() {
        assert_eq!(found(|_| ()), [""; 0]);
        assert_eq!(
            found(|spec| spec["maxReplicas"] = 0.into()),
            [
                "spec.maxReplicas: Required value: must be set and greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"
            ]
        );
        assert_eq!(
            found(|spec| spec["minReplicas"] = 0.into()),
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas"
            ]
        );
        assert_eq!(
            found(|spec| spec["scaleTargetRef"] = json!({"apiVersion": "v1", "kind": "Pod"})),
            [
                "spec.scaleTargetRef.name: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"
            ]
        );
        assert_eq!(
            found(
                |spec| spec["behavior"] = json!({"scaleUp": {"stabilizationWindowSeconds": 3601, "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}})
            ),
            [
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"
            ]
        );
        assert_eq!(
            found(
                |spec| spec["metrics"] = json!([{"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue"}}}])
            ),
            [
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue"
            ]
        );
    }

    #[test]
    fn rows_show_targets() {
        let mut scaler = scaler(|_| ());
        let cells = |scaler: &Value| Rules.row(scaler, Timestamp::UNIX_EPOCH);
        assert_eq!(
            cells(&scaler)[1..6],
            [
                json!("Deployment/web"),
                json!("cpu: <unknown>/80%"),
                json!("1"),
                json!(5),
                json!(0)
            ]
        );
        scaler["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 9, "averageValue": "9m"}}}]});
        assert_eq!(cells(&scaler)[2], "cpu: 9%/80%");
    }
}
