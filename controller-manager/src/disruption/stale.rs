//! Pods that were marked as disruption targets and then not deleted after all lose the mark: it would excuse a later failure of their own.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::{Event, Key, Outcome, Queue, write};
use kube::api::{Patch, PatchParams};
use kube::{Api, Error};
use serde_json::json;

use crate::context::{Context, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;
use futures::FutureExt;

const CONDITION: &str = "DisruptionTarget";
/// How long after the mark the deletion has to follow.
const TIMEOUT: i64 = 120;

/// Starts the work.
pub fn start(context: Context, pods: Pods) -> Task {
    let queue: Arc<Queue<Key>> = Queue::new("stale_pod_disruption");
    let wake = queue.clone();
    pods.handle(move |event| {
        if let Event::Added(pod) | Event::Updated { new: pod, .. } = event
            && let Some(left) = stale_in(pod, now())
        {
            wake.add_after(Key::of(&**pod), left);
        }
    });
    let client = context.client.clone();
    let reconcile = move |key: Key| {
        let (pods, client) = (pods.clone(), client.clone());
        async move {
            let Some(pod) = pods.get(&key) else {
                return Ok::<_, Error>(Outcome::Done);
            };
            match stale_in(&pod, now()) {
                None => Ok(Outcome::Done),
                Some(left) if !left.is_zero() => Ok(Outcome::After(left)),
                Some(_) => {
                    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
                    let condition = json!({"type": CONDITION, "status": "False", "reason": null, "message": null,
                        "observedGeneration": pod.metadata.generation, "lastTransitionTime": now().to_string()});
                    let patch = json!({"metadata": meta, "status": {"conditions": [condition]}});
                    let api = Api::<Pod>::namespaced(client, &key.namespace);
                    let written = api
                        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                        .await;
                    write::optional(written).map(|_| Outcome::Done)
                }
            }
        }
    };
    context.run(queue, 1, reconcile).boxed()
}

/// After how long the pod's mark is stale; `None` if it has none that could be. A kubelet may take as long as it likes.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if pod::is_deleting(pod) || pod::is_terminal(pod) {
        return None;
    }
    let mark = pod::condition(pod, CONDITION)?;
    if mark.status != "True" || mark.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = mark
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let left = since.as_second() + TIMEOUT - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use serde_json::Value;

    #[test]
    fn marks_without_a_deletion_go_stale() {
        let marked = |reason: &str, extra: Value| {
            let mut value = json!({"status": {"phase": "Running", "conditions": [{"type": CONDITION, "status": "True", "reason": reason,
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]}});
            crate::pod::tests::merge(&mut value, &extra);
            pod("p", value)
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let evicted = marked("EvictionByEvictionAPI", json!({}));
        assert_eq!(stale_in(&evicted, at(20)), Some(Duration::from_secs(100)));
        assert_eq!(stale_in(&evicted, at(500)), Some(Duration::ZERO));
        assert_eq!(
            stale_in(&marked("TerminationByKubelet", json!({})), at(500)),
            None
        );
        let ended = marked(
            "EvictionByEvictionAPI",
            json!({"status": {"phase": "Failed"}}),
        );
        assert_eq!(stale_in(&ended, at(500)), None);
    }
}
