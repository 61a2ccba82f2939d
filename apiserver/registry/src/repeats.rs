//! Rules of `metadata` that upstream checks a second time in an update.
//!
//! The message of an invalid object names each fault once, but `details.causes` has it as often as it was found; clients that count see that.

use keelson_api::field::ErrorList;
use serde_json::Value;

use crate::kinds::Kind;
use crate::meta;

/// Kinds (group, plural) whose own rules look at the metadata only as an update's.
const UPDATE: &[(&str, &str)] = &[
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("", "resourcequotas"),
    ("", "services"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("networking.k8s.io", "networkpolicies"),
    ("networking.k8s.io", "servicecidrs"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
];
/// Kinds whose own rules look at the metadata only as a new object's.
const CREATE: &[(&str, &str)] = &[
    ("", "limitranges"),
    ("discovery.k8s.io", "endpointslices"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
];
/// Kinds whose own rules leave the metadata alone.
const NEITHER: &[(&str, &str)] = &[("", "events"), ("policy", "poddisruptionbudgets")];

/// What a kind's own rules find again in the metadata of a changed object.
pub(crate) fn update(kind: &Kind, new: &Value, old: &Value) -> ErrorList {
    let of = |list: &[(&str, &str)]| list.contains(&(&*kind.group, &*kind.plural));
    let mut errors = ErrorList::new();
    if of(NEITHER) {
        return errors;
    }
    if !of(CREATE) {
        errors.extend(meta::validate_update(new, old));
    }
    if !of(UPDATE) {
        errors.extend(meta::validate(
            new,
            kind.strategy.name_rule(),
            kind.namespaced,
        ));
    }
    errors
}
