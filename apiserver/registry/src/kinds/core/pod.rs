//! Pod: containers that run together on one node.

mod ephemeral;
mod resize;
mod row;
mod status;
mod update;
mod warnings;

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use keelson_api::field::{Error, ErrorList, Path};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::access::{Access, copy, items_mut, part_mut, remove, set};
use crate::columns::Column;
use crate::pod::{Scope, defaults, spec};
use crate::rest::timestamp;
use crate::strategy::{Context, Strategy, count_generation, path_field};

pub(crate) use update::differences;
pub(crate) use warnings::of_spec as spec_warnings;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The rules of Pod.
pub struct Rules;

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        match name {
            "status" => Some(&status::Rules),
            "ephemeralcontainers" => Some(&ephemeral::Rules),
            "resize" => Some(&resize::Rules),
            _ => None,
        }
    }

    fn default(&self, pod: &mut Value) {
        if let Some(spec) = part_mut(pod, "spec") {
            defaults::spec(spec);
            if spec.number("terminationGracePeriodSeconds") < 0 {
                set(spec, "terminationGracePeriodSeconds", 1);
            }
        }
        defaults::pod(pod);
        // The first address and the list of addresses are kept alike.
        for (one, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
            let Some(status) = part_mut(pod, "status") else {
                continue;
            };
            let (single, first) = (
                status.text(one).to_string(),
                status.items(list).first().map(|i| i.text("ip").to_string()),
            );
            match first {
                None if !single.is_empty() && list == "podIPs" => {
                    set(status, list, json!([{"ip": single}]))
                }
                Some(first) if single.is_empty() && list == "podIPs" => set(status, one, first),
                Some(first) if list == "podIPs" && first != single => {
                    let mut all = status.items(list).to_vec();
                    if let Some(first) = all.first_mut() {
                        first["ip"] = single.into();
                    }
                    set(status, list, all);
                }
                _ => {}
            }
        }
    }

    fn prepare_for_create(&self, pod: &mut Value, context: &Context<'_>) {
        set(pod, "metadata.generation", 1);
        // What is no pod specification is refused by validation; its class does not matter then.
        let class = PodSpec::deserialize(pod.part("spec"))
            .map_or("BestEffort", |s| keelson_api::pod::qos_class(&s).as_str());
        set(
            pod,
            "status",
            json!({"phase": "Pending", "qosClass": class}),
        );
        if !pod.is_blank("spec.schedulingGates") {
            let now = timestamp(context.now);
            let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
                "lastTransitionTime": now, "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
            set(pod, "status.conditions", gated);
        }
        merge_label_keys(pod);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, pod: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = metadata_and_spec(pod);
        if !pod.is_blank("spec.ephemeralContainers") {
            let path = Path::new("spec");
            errors.push(Error::forbidden(
                &path.child("ephemeralContainers"),
                "cannot be set on create",
            ));
        }
        if !pod.is_blank("spec.schedulingGates") && !pod.text("spec.nodeName").is_empty() {
            let path = Path::new("spec");
            errors.push(Error::forbidden(
                &path.child("nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        update::validate(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        // Updates are not warned of.
        if old.is_some() {
            Vec::new()
        } else {
            warnings::of(new)
        }
    }

    fn grace_period(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let finished = matches!(pod.text("status.phase"), "Failed" | "Succeeded");
        if pod.text("spec.nodeName").is_empty() || finished {
            return Some(0);
        }
        let period = requested.unwrap_or_else(|| pod.number("spec.terminationGracePeriodSeconds"));
        Some(if period < 0 { 1 } else { period })
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        row::COLUMNS
    }

    fn row(&self, pod: &Value, now: Timestamp) -> Vec<Value> {
        row::cells(pod, now)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn field<'o>(&self, pod: &'o Value, label: &str) -> Cow<'o, str> {
        match label {
            "spec.hostNetwork" if !pod.has(label) => Cow::Borrowed("false"),
            "status.podIP" | "status.podIPs" => Cow::Borrowed(
                pod.items("status.podIPs")
                    .first()
                    .map_or(pod.text("status.podIP"), |i| i.text("ip")),
            ),
            _ => path_field(pod, label),
        }
    }
}

/// Everything wrong with a pod's annotations and specification.
fn metadata_and_spec(pod: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = Path::new("metadata");
    annotations(&mut errors, pod, &meta.child("annotations"));
    let path = Path::new("spec");
    spec(
        &mut errors,
        pod.part("spec"),
        Scope::Pod(pod.text("metadata.name")),
        &path,
    );
    if pod.text("spec.serviceAccountName").is_empty() {
        let list = path.child("volumes");
        for (i, volume) in pod.items("spec.volumes").iter().enumerate() {
            let at = list.index(i);
            let sources = at.child("projected.sources");
            for (j, _) in volume
                .items("projected.sources")
                .iter()
                .enumerate()
                .filter(|(_, s)| s.has("serviceAccountToken"))
            {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(Error::forbidden(
                    &sources.index(j).child("serviceAccountToken"),
                    detail,
                ));
            }
        }
    }
    for kind in ["containers", "initContainers"] {
        let list = path.child(kind);
        for (i, container) in pod.part("spec").items(kind).iter().enumerate() {
            let image = container.text("image");
            if image.trim() != image {
                let at = list.index(i);
                errors.push(Error::invalid(
                    &at.child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    errors
}

fn annotations(errors: &mut ErrorList, pod: &Value, path: &Path<'_>) {
    let map = pod.part("metadata.annotations");
    if let Some(value) = map.get(MIRROR)
        && pod.text("spec.nodeName").is_empty()
    {
        errors.push(Error::invalid(
            &path.key(MIRROR),
            value,
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    if let Some(cost) = map.get(DELETION_COST).and_then(Value::as_str) {
        let canonical = cost.parse::<i32>().is_ok()
            && !cost.starts_with('+')
            && (cost == "0" || !cost.trim_start_matches('-').starts_with('0'));
        if !canonical {
            errors.push(Error::invalid(
                &path.key(DELETION_COST),
                cost,
                "must be a 32bit integer",
            ));
        }
    }
}

/// Adds the pod's own values of `matchLabelKeys` and `mismatchLabelKeys` to the selectors they stand beside.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.part("metadata.labels").clone();
    let Some(spec) = part_mut(pod, "spec") else {
        return;
    };
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
    for kind in ["affinity.podAffinity", "affinity.podAntiAffinity"] {
        let Some(affinity) = part_mut(spec, kind) else {
            continue;
        };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels);
        }
        for term in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = part_mut(term, "podAffinityTerm") {
                merge_keys(term, &labels);
            }
        }
    }
}

fn merge_keys(term: &mut Value, labels: &Value) {
    if !term.has("labelSelector") {
        return;
    }
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys: Vec<String> = term
            .items(field)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_string)
            .collect();
        for key in keys {
            let Some(value) = labels.get(&key) else {
                continue;
            };
            let requirements = crate::access::slot(term, "labelSelector.matchExpressions");
            if !requirements.is_array() {
                *requirements = json!([]);
            }
            if let Some(list) = requirements.as_array_mut() {
                list.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
}

/// Makes everything but `kept` below `spec` what it was, and of the metadata what subresources may not touch.
fn keep_all_but(new: &mut Value, old: &Value, kept: &[&str]) {
    let wanted: Vec<Value> = kept
        .iter()
        .map(|k| new.part("spec").part(k).clone())
        .collect();
    copy(new, old, "spec");
    copy(new, old, "status");
    for (key, value) in kept.iter().zip(wanted) {
        let path = format!("spec.{key}");
        if value.is_null() {
            remove(new, &path);
        } else {
            set(new, &path, value);
        }
    }
    for field in [
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        copy(new, old, &format!("metadata.{field}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find;
    use crate::rest::{DeleteOptions, Deletion, before_create, before_delete, deletion_complete};

    fn pod() -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "1"}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        Rules.default(&mut pod);
        pod
    }

    fn context() -> Context<'static> {
        Context::at(Timestamp::from_second(1_700_000_000).unwrap())
    }

    #[test]
    fn a_new_pod_is_pending() {
        let kind = find("", "v1", "pods").unwrap();
        let mut pod = pod();
        pod["status"] = json!({"phase": "Running"});
        assert_eq!(
            before_create(kind, &mut pod, &context()).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
        assert_eq!(pod["metadata"]["generation"], 1);
    }

    #[test]
    fn gates_keep_a_pod_from_the_scheduler() {
        let kind = find("", "v1", "pods").unwrap();
        let mut pod = pod();
        pod["spec"]["schedulingGates"] = json!([{"name": "a/b"}]);
        before_create(kind, &mut pod, &context()).unwrap();
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn a_bound_pod_ends_gracefully() {
        let kind = find("", "v1", "pods").unwrap();
        let mut unbound = pod();
        assert_eq!(
            before_delete(kind, &mut unbound, &DeleteOptions::default(), &context()).unwrap(),
            Deletion::Remove
        );
        let mut bound = pod();
        bound["spec"]["nodeName"] = "n1".into();
        assert_eq!(
            before_delete(kind, &mut bound, &DeleteOptions::default(), &context()).unwrap(),
            Deletion::Mark
        );
        assert_eq!(bound["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(
            bound["metadata"]["deletionTimestamp"],
            "2023-11-14T22:13:50Z"
        );
        assert_eq!(
            before_delete(kind, &mut bound, &DeleteOptions::default(), &context()).unwrap(),
            Deletion::Pending
        );
        let shorter = DeleteOptions {
            grace_period: Some(5),
            ..Default::default()
        };
        assert_eq!(
            before_delete(kind, &mut bound, &shorter, &context()).unwrap(),
            Deletion::Mark
        );
        assert_eq!(
            bound["metadata"]["deletionTimestamp"],
            "2023-11-14T22:13:25Z"
        );
        assert!(!deletion_complete(kind, &bound, &bound));
        let now = DeleteOptions {
            grace_period: Some(0),
            ..Default::default()
        };
        assert_eq!(
            before_delete(kind, &mut bound, &now, &context()).unwrap(),
            Deletion::Remove
        );
    }

    #[test]
    fn label_keys_are_merged_into_selectors() {
        let mut pod = pod();
        pod["metadata"]["labels"] = json!({"hash": "x"});
        pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}, "matchLabelKeys": ["hash"]}]);
        Rules.prepare_for_create(&mut pod, &context());
        let selector = &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"];
        assert_eq!(
            selector,
            &json!({"matchExpressions": [{"key": "hash", "operator": "In", "values": ["x"]}]})
        );
        assert!(Rules.validate(&pod, &context()).is_empty());
    }

    #[test]
    fn fields_can_be_selected() {
        let mut pod = pod();
        assert_eq!(Rules.field(&pod, "spec.hostNetwork"), "false");
        pod["status"] = json!({"podIP": "10.0.0.1"});
        assert_eq!(Rules.field(&pod, "status.podIPs"), "10.0.0.1");
        assert_eq!(
            find("", "v1", "pods")
                .unwrap()
                .field_label("spec.host")
                .unwrap(),
            "spec.nodeName"
        );
    }
}
