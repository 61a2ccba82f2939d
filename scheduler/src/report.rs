//! What is written about a pod that could not be placed: its event, its condition, its nominated node.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::write;
use kube::Api;
use serde_json::{Value, json};

use crate::framework::Handle;
use crate::model::PodInfo;

/// A change of the nominated node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Nomination {
    /// It stays what it is.
    #[default]
    Keep,
    /// It is this one now, or none.
    Set(String),
}

/// The patch that brings a pod's status to this condition; `None` if it says so already.
fn patch(
    pod: &Pod,
    condition: &str,
    status: &str,
    reason: &str,
    message: &str,
    nomination: &Nomination,
) -> Option<Value> {
    let now = Time(jiff::Timestamp::now());
    let old: Option<&PodCondition> = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|c| c.type_ == condition));
    let same_status = old.is_some_and(|old| old.status == status);
    let same = same_status
        && old.is_some_and(|old| {
            old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(message)
        });
    let nominated = pod
        .status
        .as_ref()
        .and_then(|status| status.nominated_node_name.as_deref())
        .unwrap_or_default();
    let nominate = match nomination {
        Nomination::Set(node) if node != nominated => Some(node),
        _ => None,
    };
    if same && nominate.is_none() {
        return None;
    }
    let since = old
        .filter(|_| same_status)
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or(now);
    let mut changed = json!({
        "type": condition,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since,
    });
    if let Some(generation) = pod.metadata.generation {
        changed["observedGeneration"] = json!(generation);
    }
    let mut patch = json!({"status": {"conditions": [changed]}});
    if let Some(node) = nominate {
        patch["status"]["nominatedNodeName"] = match node.is_empty() {
            true => Value::Null,
            false => json!(node),
        };
    }
    // A pod of the same name that came later is another one.
    patch["metadata"] = json!({"uid": pod.metadata.uid});
    Some(patch)
}

/// Writes a condition into a pod's status, unless it stands there already.
pub(crate) async fn set_condition(
    handle: &Handle,
    pod: &PodInfo,
    condition: &str,
    status: &str,
    reason: &str,
    message: &str,
    nomination: &Nomination,
) -> Result<(), kube::Error> {
    let Some(patch) = patch(&pod.pod, condition, status, reason, message, nomination) else {
        return Ok(());
    };
    let pods = Api::<Pod>::namespaced(handle.client.clone(), pod.namespace());
    let params = kube::api::PatchParams::default();
    let answer = pods
        .patch_status(&pod.key.name, &params, &kube::api::Patch::Strategic(patch))
        .await;
    write::optional(answer).map(|_| ())
}

/// Says that a pod could not be placed.
pub(crate) fn failed(
    handle: &Handle,
    pod: &PodInfo,
    reason: &'static str,
    message: &str,
    nomination: Nomination,
) {
    handle.recorder.action(
        &reference(pod.pod.as_ref()),
        Kind::Warning,
        "FailedScheduling",
        "Scheduling",
        message,
    );
    // Off the critical path: the next pod needn't wait for this one's status.
    let (handle, pod) = (handle.clone(), pod.clone());
    let message = message.to_owned();
    keelson_daemon::task::spawn("write pod status", async move {
        let written = set_condition(
            &handle,
            &pod,
            "PodScheduled",
            "False",
            reason,
            &message,
            &nomination,
        );
        if let Err(error) = written.await {
            tracing::warn!(pod = %pod.key, %error, "cannot write the pod's status");
        }
    });
}

/// Says that a pod has a node.
pub(crate) fn scheduled(handle: &Handle, pod: &PodInfo, node: &str) {
    handle.recorder.action(
        &reference(pod.pod.as_ref()),
        Kind::Normal,
        "Scheduled",
        "Binding",
        format!("Successfully assigned {} to {node}", pod.key),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[test]
    fn the_condition_is_written_once_and_keeps_its_time() {
        let pod = build::pod("p").done();
        let keep = Nomination::Keep;
        let make = |pod: &Pod, message: &str, nomination: &Nomination| {
            patch(
                pod,
                "PodScheduled",
                "False",
                "Unschedulable",
                message,
                nomination,
            )
        };
        let first = make(&pod, "m", &keep).unwrap();
        assert!(first["status"].get("nominatedNodeName").is_none());
        let since = "2026-01-01T00:00:00Z";
        let pod = build::pod("p")
            .set(
                "/status/conditions",
                json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m", "lastTransitionTime": since}]),
            )
            .done();
        assert_eq!(make(&pod, "m", &keep), None);
        let other = make(&pod, "n", &keep).unwrap();
        assert_eq!(
            other["status"]["conditions"][0]["lastTransitionTime"],
            since
        );
        let nominated = make(&pod, "m", &Nomination::Set("node".to_owned())).unwrap();
        assert_eq!(nominated["status"]["nominatedNodeName"], "node");
    }
}
