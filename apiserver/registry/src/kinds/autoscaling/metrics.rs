//! The metrics of a HorizontalPodAutoscaler: their validation and how they are shown.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::{Value, json};

use super::horizontal_pod_autoscaler::{Versions, reference};
use crate::access::Access;
use crate::meta::faults;
use crate::validation::{one_of, quantity};

/// The sources of metrics, in the order that they are looked at, and the types that call for them.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const TYPES: &[&str] = &[
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];
/// How many metrics a row shows.
const SHOWN: usize = 2;

/// The metric that everyone means: a part of the CPU time that pods requested.
pub(super) fn cpu(percent: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    })
}

/// Everything wrong with the metrics of a spec.
pub(super) fn check(errors: &mut ErrorList, spec: &Value, versions: Versions, path: &Path<'_>) {
    let list = spec.items("metrics");
    for (i, metric) in list.iter().enumerate() {
        self::metric(errors, metric, versions, &path.index(i));
    }
    let from_outside = list
        .iter()
        .any(|m| matches!(m.text("type"), "Object" | "External"));
    if spec.int("minReplicas") == Some(0) && !from_outside {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(path, detail));
    }
}

fn metric(errors: &mut ErrorList, metric: &Value, versions: Versions, path: &Path<'_>) {
    let (kind, at) = (metric.text("type"), path.child("type"));
    if kind.is_empty() {
        errors.push(Error::required(&at, "must specify a metric source type"));
    }
    one_of(errors, kind, TYPES, &at);
    let mut present = SOURCES.iter().filter(|(field, _)| metric.has(field));
    if let Some((field, _)) = present.clone().next() {
        source(
            errors,
            field,
            metric.part(field),
            versions,
            &path.child(field),
        );
    }
    let expected = SOURCES.iter().find(|(_, k)| *k == kind).map(|(f, _)| *f);
    match expected {
        Some(field) if !metric.has(field) => {
            let detail = "must populate information for the given metric source";
            errors.push(Error::required(&path.child(field), detail));
        }
        Some(_) => {}
        None => one_of(errors, kind, TYPES, &at),
    }
    if present.clone().count() > 1 {
        for (field, _) in present.by_ref().filter(|(f, _)| Some(*f) != expected) {
            let detail = "must populate the given metric source only";
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    }
}

fn source(errors: &mut ErrorList, kind: &str, source: &Value, versions: Versions, path: &Path<'_>) {
    match kind {
        "object" => {
            let described = path.child("describedObject");
            reference(errors, source.part("describedObject"), versions, &described);
            identifier(errors, source, path);
        }
        "external" | "pods" => identifier(errors, source, path),
        _ => {
            let (name, at) = (source.text("name"), path.child("name"));
            if name.is_empty() {
                errors.push(Error::required(&at, "must specify a resource name"));
            }
            if kind == "containerResource" {
                container_resource(errors, source, path);
            }
        }
    }
    let (target, path) = (source.part("target"), path.child("target"));
    self::target(errors, target, &path);
    let has = |field: &str| target.has(field);
    let lacks = |field: &str, detail: &str| Error::required(&path.child(field), detail);
    let excess = |field: &str, detail: &str| Error::forbidden(&path.child(field), detail);
    match kind {
        "object" if !has("value") && !has("averageValue") => errors.push(lacks(
            "averageValue",
            "must set either a target value or averageValue",
        )),
        "external" if has("value") == has("averageValue") => errors.push(if has("value") {
            let detail = "may not set both a target value for metric and a per-pod target";
            excess("value", detail)
        } else {
            let detail = "must set either a target value for metric or a per-pod target";
            lacks("averageValue", detail)
        }),
        "pods" if !has("averageValue") => errors.push(lacks(
            "averageValue",
            "must specify a positive target averageValue",
        )),
        "resource" | "containerResource" if has("averageUtilization") == has("averageValue") => {
            errors.push(if has("averageValue") {
                let detail = "may not set both a target raw value and a target utilization";
                excess("averageValue", detail)
            } else {
                let detail = "must set either a target raw value or a target utilization";
                lacks("averageUtilization", detail)
            });
        }
        _ => {}
    }
}

fn identifier(errors: &mut ErrorList, source: &Value, path: &Path<'_>) {
    let metric = path.child("metric");
    let (name, at) = (source.text("metric.name"), metric.child("name"));
    if name.is_empty() {
        errors.push(Error::required(&at, "must specify a metric name"));
    } else {
        faults(errors, &at, name, names::path_segment(name));
    }
}

fn container_resource(errors: &mut ErrorList, source: &Value, path: &Path<'_>) {
    let (name, at) = (source.text("name"), path.child("name"));
    if !name.is_empty() {
        crate::pod::resources::container_resource_name(errors, name, &at);
    }
    let (container, at) = (source.text("container"), path.child("container"));
    if container.is_empty() {
        errors.push(Error::required(&at, "must specify a container"));
    } else {
        faults(errors, &at, container, names::dns1123_label(container));
    }
}

fn target(errors: &mut ErrorList, target: &Value, path: &Path<'_>) {
    let (kind, at) = (target.text("type"), path.child("type"));
    if kind.is_empty() {
        errors.push(Error::required(&at, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(Error::invalid(&at, kind, detail));
    }
    for field in ["value", "averageValue"]
        .into_iter()
        .filter(|f| target.has(f))
    {
        let amount = quantity(target.part(field));
        if amount <= Quantity::ZERO {
            let at = path.child(field);
            errors.push(Error::invalid(&at, amount.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|p| *p < 1) {
        let at = path.child("averageUtilization");
        errors.push(Error::invalid(&at, percent, "must be greater than 0"));
    }
}

/// What is measured and what it should be, as a table shows it.
pub(super) fn shown(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".into();
    }
    let cells: Vec<String> = specs
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(i, spec)| one(spec, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    let mut text = cells.join(", ");
    if specs.len() > SHOWN {
        text.push_str(&format!(" + {} more...", specs.len() - SHOWN));
    }
    text
}

fn one(spec: &Value, status: &Value) -> String {
    let source = SOURCES.iter().find(|(_, kind)| *kind == spec.text("type"));
    let Some((field, _)) = source else {
        return "<unknown type>".into();
    };
    let target = spec.part(field).part("target");
    let current = status.part(field).part("current");
    let amount = |part: &Value, otherwise: &str| match part {
        Value::Null => otherwise.to_owned(),
        amount => quantity(amount).to_string(),
    };
    let percent = |part: &Value, otherwise: &str| {
        part.as_i64()
            .map_or_else(|| otherwise.to_owned(), |p| format!("{p}%"))
    };
    let average = target.has("averageValue");
    let unknown = "<unknown>";
    match *field {
        "pods" => format!(
            "{}/{}",
            amount(current.part("averageValue"), unknown),
            amount(target.part("averageValue"), "0")
        ),
        "object" | "external" if average => format!(
            "{}/{} (avg)",
            amount(current.part("averageValue"), unknown),
            amount(target.part("averageValue"), "0")
        ),
        "object" | "external" => format!(
            "{}/{}",
            amount(current.part("value"), unknown),
            amount(target.part("value"), "0")
        ),
        _ if average => format!(
            "{}: {}/{}",
            spec.part(field).text("name"),
            amount(current.part("averageValue"), unknown),
            amount(target.part("averageValue"), "0")
        ),
        _ => format!(
            "{}: {}/{}",
            spec.part(field).text("name"),
            percent(current.part("averageUtilization"), unknown),
            percent(target.part("averageUtilization"), "<auto>")
        ),
    }
}
