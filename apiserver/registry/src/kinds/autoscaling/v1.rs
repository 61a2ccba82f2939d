//! HorizontalPodAutoscaler in `autoscaling/v1`, which knows of CPU time only.
//!
//! Everything else is carried in annotations. All rules are those of `autoscaling/v2`, applied to the converted object.

use jiff::Timestamp;
use keelson_api::field::ErrorList;
use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler::{self as v2, ROUND_TRIP, drop_round_trip};
use super::metrics;
use crate::access::{Access, remove, set, set_default, slot};
use crate::columns::Column;
use crate::strategy::{Context, Strategy};
use crate::validation::quantity;

const METRICS: &str = ROUND_TRIP[0];
const BEHAVIOR: &str = ROUND_TRIP[1];
const CURRENT_METRICS: &str = ROUND_TRIP[4];
const CONDITIONS: &str = ROUND_TRIP[5];
const CPU_TARGET: &str = "spec.targetCPUUtilizationPercentage";
const CPU_CURRENT: &str = "status.currentCPUUtilizationPercentage";

/// Where the two versions keep the parts of one source of metrics.
struct Source {
    name: &'static str,
    /// In `autoscaling/v1` and in `autoscaling/v2`.
    fields: &'static [(&'static str, &'static str)],
    /// The amount that `autoscaling/v1` cannot leave out.
    required: &'static str,
}

const SPECS: [Source; 5] = [
    Source {
        name: "object",
        fields: &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetValue", "target.value"),
            ("averageValue", "target.averageValue"),
        ],
        required: "targetValue",
    },
    Source {
        name: "pods",
        fields: &[
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetAverageValue", "target.averageValue"),
        ],
        required: "targetAverageValue",
    },
    Source {
        name: "resource",
        fields: &[
            ("name", "name"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
        required: "",
    },
    Source {
        name: "containerResource",
        fields: &[
            ("name", "name"),
            ("container", "container"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
        required: "",
    },
    Source {
        name: "external",
        fields: &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("targetValue", "target.value"),
            ("targetAverageValue", "target.averageValue"),
        ],
        required: "",
    },
];

const STATUSES: [Source; 5] = [
    Source {
        name: "object",
        fields: &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("currentValue", "current.value"),
            ("averageValue", "current.averageValue"),
        ],
        required: "currentValue",
    },
    Source {
        name: "pods",
        fields: &[
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("currentAverageValue", "current.averageValue"),
        ],
        required: "currentAverageValue",
    },
    Source {
        name: "resource",
        fields: &[
            ("name", "name"),
            ("currentAverageUtilization", "current.averageUtilization"),
            ("currentAverageValue", "current.averageValue"),
        ],
        required: "currentAverageValue",
    },
    Source {
        name: "containerResource",
        fields: &[
            ("name", "name"),
            ("container", "container"),
            ("currentAverageUtilization", "current.averageUtilization"),
            ("currentAverageValue", "current.averageValue"),
        ],
        required: "currentAverageValue",
    },
    Source {
        name: "external",
        fields: &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("currentValue", "current.value"),
            ("currentAverageValue", "current.averageValue"),
        ],
        required: "currentValue",
    },
];

/// The rules of HorizontalPodAutoscaler in `autoscaling/v1`.
pub struct Rules;

/// The rules of its status.
struct Status;

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&Status)
    }

    fn default(&self, scaler: &mut Value) {
        set_default(scaler, "spec.minReplicas", 1);
        // What is not measured otherwise is measured by CPU time; the annotation may say otherwise.
        if !scaler.has(CPU_TARGET) && annotated(scaler, METRICS).is_none_or(|m| m.is_empty()) {
            set(scaler, CPU_TARGET, 80);
        }
    }

    fn prepare_for_create(&self, scaler: &mut Value, context: &Context<'_>) {
        self.to_storage(scaler);
        v2::Rules.prepare_for_create(scaler, context);
        self.from_storage(scaler);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.to_storage(new);
        v2::Rules.prepare_for_update(new, &converted(old), context);
        self.from_storage(new);
    }

    fn validate(&self, scaler: &Value, context: &Context<'_>) -> ErrorList {
        v2::Rules.validate(&converted(scaler), context)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        v2::Rules.validate_update(&converted(new), &converted(old), context)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        v2::Rules.reset_fields()
    }

    fn columns(&self) -> &'static [Column] {
        v2::Rules.columns()
    }

    fn row(&self, scaler: &Value, now: Timestamp) -> Vec<Value> {
        v2::Rules.row(&converted(scaler), now)
    }

    fn to_storage(&self, scaler: &mut Value) {
        let cpu = remove(scaler, CPU_TARGET).and_then(|p| p.as_i64());
        let mut list: Vec<Value> = annotated(scaler, METRICS)
            .unwrap_or_default()
            .iter()
            .map(|metric| modern(metric, &SPECS))
            .collect();
        list.extend(cpu.map(metrics::cpu));
        if list.is_empty() {
            list.push(metrics::cpu(80));
        }
        set(scaler, "spec.metrics", list);
        if let Some(behaviour) = annotation(scaler, BEHAVIOR).map(|b| renamed(&b, lower))
            && behaviour.as_object().is_some_and(|b| !b.is_empty())
        {
            set(scaler, "spec.behavior", behaviour);
        }
        if let Some(percent) = remove(scaler, CPU_CURRENT) {
            let current = json!({"averageUtilization": percent});
            let metric =
                json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
            set(scaler, "status.currentMetrics", json!([metric]));
        }
        if let Some(list) = annotated(scaler, CURRENT_METRICS) {
            let list: Vec<Value> = list.iter().map(|m| modern(m, &STATUSES)).collect();
            set(scaler, "status.currentMetrics", list);
        }
        if let Some(list) = annotated(scaler, CONDITIONS) {
            set(scaler, "status.conditions", list);
        }
        drop_round_trip(scaler);
    }

    fn from_storage(&self, scaler: &mut Value) {
        drop_round_trip(scaler);
        let metrics = take_list(scaler, "spec.metrics");
        let (cpu, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_cpu_utilization);
        if let Some(cpu) = cpu.first() {
            let percent = cpu.part("resource.target.averageUtilization").clone();
            set(scaler, CPU_TARGET, percent);
        }
        let current = take_list(scaler, "status.currentMetrics");
        let measured = current
            .iter()
            .filter(|m| m.text("type") == "Resource" && m.text("resource.name") == "cpu")
            .filter_map(|m| m.int("resource.current.averageUtilization"))
            .next_back();
        if let Some(percent) = measured {
            set(scaler, CPU_CURRENT, percent);
        }
        annotate(scaler, METRICS, classic_list(&others, &SPECS));
        annotate(scaler, CURRENT_METRICS, classic_list(&current, &STATUSES));
        let behaviour = remove(scaler, "spec.behavior").map(|b| renamed(&b, upper));
        annotate(scaler, BEHAVIOR, behaviour.unwrap_or_default());
        let conditions = take_list(scaler, "status.conditions");
        annotate(scaler, CONDITIONS, Value::Array(conditions));
    }
}

impl Strategy for Status {
    fn default(&self, scaler: &mut Value) {
        Rules.default(scaler);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        Rules.to_storage(new);
        v2::STATUS.prepare_for_update(new, &converted(old), context);
        Rules.from_storage(new);
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        v2::STATUS.validate_update(&converted(new), &converted(old), context)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        v2::STATUS.reset_fields()
    }

    fn columns(&self) -> &'static [Column] {
        Rules.columns()
    }

    fn row(&self, scaler: &Value, now: Timestamp) -> Vec<Value> {
        Rules.row(scaler, now)
    }

    fn to_storage(&self, scaler: &mut Value) {
        Rules.to_storage(scaler);
    }

    fn from_storage(&self, scaler: &mut Value) {
        Rules.from_storage(scaler);
    }
}

fn converted(scaler: &Value) -> Value {
    let mut scaler = scaler.clone();
    Rules.to_storage(&mut scaler);
    scaler
}

/// What an annotation says, if it is JSON; upstream ignores what is not.
fn annotation(scaler: &Value, key: &str) -> Option<Value> {
    let text = scaler.part("metadata.annotations").get(key)?.as_str()?;
    serde_json::from_str(text).ok()
}

fn annotated(scaler: &Value, key: &str) -> Option<Vec<Value>> {
    match annotation(scaler, key)? {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

fn annotate(scaler: &mut Value, key: &str, value: Value) {
    if !crate::access::blank(&value) {
        let annotations = slot(scaler, "metadata.annotations");
        annotations[key] = value.to_string().into();
    }
}

fn take_list(scaler: &mut Value, path: &str) -> Vec<Value> {
    match remove(scaler, path) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric.text("type") == "Resource"
        && metric.text("resource.name") == "cpu"
        && metric.has("resource.target.averageUtilization")
}

/// A metric of `autoscaling/v1` in the form of `autoscaling/v2`.
fn modern(metric: &Value, sources: &[Source]) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for source in sources.iter().filter(|s| metric.has(s.name)) {
        let (from, mut to) = (metric.part(source.name), json!({}));
        for (old, new) in source.fields {
            if from.has(old) {
                set(&mut to, new, from.part(old).clone());
            }
        }
        if to.has("target") {
            target_type(source.name, &mut to);
        }
        out[source.name] = to;
    }
    out
}

/// Says what kind of target it is, which `autoscaling/v1` leaves to the fields that are there.
fn target_type(source: &str, metric: &mut Value) {
    let has = |field: &str| metric.part("target").has(field);
    let kind = match source {
        "object" if !has("averageValue") => "Value",
        "external" if has("value") => "Value",
        "resource" | "containerResource" if has("averageUtilization") => "Utilization",
        _ => "AverageValue",
    };
    let zero = quantity(metric.part("target.value")).milli_value() == 0;
    if source == "object" && kind == "AverageValue" && zero {
        remove(metric, "target.value");
    }
    set(metric, "target.type", kind);
}

fn classic_list(list: &[Value], sources: &[Source]) -> Value {
    list.iter().map(|metric| classic(metric, sources)).collect()
}

/// A metric of `autoscaling/v2` in the form of `autoscaling/v1`.
fn classic(metric: &Value, sources: &[Source]) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for source in sources.iter().filter(|s| metric.has(s.name)) {
        let (from, mut to) = (metric.part(source.name), json!({}));
        for (old, new) in source.fields {
            if from.has(new) {
                set(&mut to, old, from.part(new).clone());
            }
        }
        if !source.required.is_empty() {
            set_default(&mut to, source.required, "0");
        }
        out[source.name] = to;
    }
    out
}

/// The behaviour is annotated with the names that its fields have in Go.
fn renamed(value: &Value, rename: fn(char) -> char) -> Value {
    match value {
        Value::Array(list) => list.iter().map(|item| renamed(item, rename)).collect(),
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                let mut letters = key.chars();
                let first = letters.next().map(rename);
                let key: String = first.into_iter().chain(letters).collect();
                out.insert(key, renamed(value, rename));
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

fn lower(letter: char) -> char {
    letter.to_ascii_lowercase()
}

fn upper(letter: char) -> char {
    letter.to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic_scaler() -> Value {
        json!({"metadata": {"name": "a"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
        }})
    }

    #[test]
    fn cpu_time_is_a_field_of_its_own() {
        let mut scaler = classic_scaler();
        Rules.default(&mut scaler);
        assert_eq!(scaler["spec"]["targetCPUUtilizationPercentage"], 80);
        let mut stored = scaler.clone();
        Rules.to_storage(&mut stored);
        assert_eq!(stored["spec"]["metrics"], json!([metrics::cpu(80)]));
        Rules.from_storage(&mut stored);
        assert_eq!(stored, scaler);
    }

    #[test]
    fn the_rest_goes_through_annotations_and_back() {
        let stored = json!({
            "metadata": {"name": "a"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Object", "object": {"metric": {"name": "qps"}, "describedObject": {"kind": "Service", "name": "s"}, "target": {"type": "AverageValue", "averageValue": "7"}}},
                    metrics::cpu(50),
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
            },
            "status": {
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 9, "averageValue": "9m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        let mut scaler = stored.clone();
        Rules.from_storage(&mut scaler);
        assert_eq!(scaler["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(scaler["status"]["currentCPUUtilizationPercentage"], 9);
        let annotations = &scaler["metadata"]["annotations"];
        assert!(
            annotations[BEHAVIOR]
                .as_str()
                .unwrap()
                .contains("\"ScaleUp\"")
        );
        assert!(
            annotations[METRICS]
                .as_str()
                .unwrap()
                .contains("targetAverageValue")
        );
        Rules.to_storage(&mut scaler);
        assert_eq!(scaler, stored);
    }

    #[test]
    fn an_update_keeps_a_status_that_it_cannot_see() {
        let mut old = classic_scaler();
        old["spec"]["metrics"] = json!([metrics::cpu(50)]);
        old["status"] = json!({"currentReplicas": 1, "desiredReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]});
        Rules.from_storage(&mut old);
        let mut new = classic_scaler();
        Rules.default(&mut new);
        let context = Context::at(Timestamp::UNIX_EPOCH);
        Rules.prepare_for_update(&mut new, &old, &context);
        assert!(new["metadata"]["annotations"][CONDITIONS].is_string());
        assert_eq!(new["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(Rules.validate_update(&new, &old, &context).is_empty());
    }
}
