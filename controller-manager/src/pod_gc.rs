//! Deleting pods that nobody else will: ended ones beyond a number, those of nodes that are gone, and those that never got a node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_runtime::{Informer, write};
use kube::api::DeleteParams;
use kube::{Api, Error, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;

/// How often pods are looked at.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be gone before its pods are deleted.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Controller {
    context: Context,
    pods: Pods,
    nodes: Informer<Node>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Controller {
        pods: Pods::of(&context.informers),
        nodes: context.informers.get(),
        context,
    };
    Ok(async move {
        let stop = controller.context.stop.clone();
        stop.run_until_cancelled(controller.run()).await;
    }
    .boxed())
}

impl Controller {
    async fn run(self) {
        self.context.informers.synced().await;
        let mut missing: HashMap<String, Instant> = HashMap::new();
        loop {
            if let Err(error) = self.sweep(&mut missing).await {
                warn!(controller = self.context.name, %error, "sweep failed; trying again");
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn sweep(&self, missing: &mut HashMap<String, Instant>) -> Result<(), Error> {
        for pod in surplus(
            &self.pods.list(),
            self.context.options.terminated_pod_gc_threshold,
        ) {
            self.remove(&pod, None).await?;
        }
        let gone = self.nodes_gone(missing).await?;
        for node in gone {
            for pod in self.pods.on_node(&node) {
                info!(pod = %pod.name_any(), node, "deleting a pod of a node that is gone");
                self.remove(&pod, Some("PodGC: node no longer exists"))
                    .await?;
            }
        }
        for pod in self.pods.on_node("") {
            if pod::is_deleting(&pod) {
                self.remove(&pod, None).await?;
            }
        }
        for node in self.nodes.list() {
            let spec = node.spec.as_ref();
            let taints = spec
                .and_then(|spec| spec.taints.as_deref())
                .unwrap_or_default();
            if taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) && !is_ready(&node) {
                for pod in self
                    .pods
                    .on_node(&node.name_any())
                    .iter()
                    .filter(|pod| pod::is_deleting(pod))
                {
                    self.remove(pod, None).await?;
                }
            }
        }
        Ok(())
    }

    /// Nodes that pods name, that have been missing for a while, and that the API server doesn't know either.
    async fn nodes_gone(
        &self,
        missing: &mut HashMap<String, Instant>,
    ) -> Result<Vec<String>, Error> {
        let now = Instant::now();
        let named: Vec<String> = self
            .pods
            .nodes()
            .into_iter()
            .filter(|node| !node.is_empty())
            .collect();
        missing.retain(|node, _| named.contains(node) && self.nodes.find("", node).is_none());
        let api = Api::<Node>::all(self.context.client.clone());
        let mut gone = Vec::new();
        for node in named {
            if self.nodes.find("", &node).is_some() {
                continue;
            }
            let since = *missing.entry(node.clone()).or_insert(now);
            if now.duration_since(since) >= QUARANTINE && api.get_opt(&node).await?.is_none() {
                gone.push(node);
            }
        }
        Ok(gone)
    }

    /// Marks a pod that hasn't ended as failed, says why, and deletes it without grace.
    async fn remove(&self, pod: &Pod, disrupted: Option<&str>) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(
            self.context.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        if !pod::is_terminal(pod) && (disrupted.is_some() || pod::is_deleting(pod)) {
            let mut status = json!({"phase": "Failed"});
            if let Some(message) = disrupted {
                status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": message, "observedGeneration": pod.metadata.generation, "lastTransitionTime": crate::context::now().to_string()}]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let patch = kube::api::Patch::Strategic(patch);
            write::optional(
                api.patch_status(&pod.name_any(), &kube::api::PatchParams::default(), &patch)
                    .await,
            )?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            ..write::delete_params(pod.metadata.uid.as_deref(), None)
        };
        write::optional(api.delete(&pod.name_any(), &params).await).map(drop)
    }
}

fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The oldest ended pods beyond the threshold, evicted ones first.
fn surplus(pods: &[Arc<Pod>], threshold: i32) -> Vec<Arc<Pod>> {
    let Some(threshold) = usize::try_from(threshold)
        .ok()
        .filter(|threshold| *threshold > 0)
    else {
        return Vec::new();
    };
    let mut ended: Vec<_> = pods
        .iter()
        .filter(|pod| pod::is_terminal(pod))
        .cloned()
        .collect();
    if ended.len() <= threshold {
        return Vec::new();
    }
    let evicted = |pod: &Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| status.reason.as_deref() == Some("Evicted"))
    };
    ended.sort_by_key(|pod| {
        (
            !evicted(pod),
            pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        )
    });
    ended.truncate(ended.len() - threshold);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn evicted_and_oldest_go_first() {
        let ended = |name: &str, created: &str, reason: &str| {
            Arc::new(pod(
                name,
                json!({"metadata": {"creationTimestamp": created}, "status": {"phase": "Failed", "reason": reason}}),
            ))
        };
        let pods = [
            ended("old", "2026-01-01T00:00:00Z", ""),
            ended("new", "2026-01-03T00:00:00Z", ""),
            ended("evicted", "2026-01-04T00:00:00Z", "Evicted"),
            Arc::new(pod("running", json!({"status": {"phase": "Running"}}))),
        ];
        let names = |threshold| {
            surplus(&pods, threshold)
                .iter()
                .map(|p| p.name_any())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["evicted", "old"]);
        assert!(names(3).is_empty());
        assert!(names(0).is_empty());
    }
}
