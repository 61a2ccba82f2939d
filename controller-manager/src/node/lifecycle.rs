//! Noticing nodes that went silent, and tainting nodes by their conditions.
//!
//! A node is looked at when it changes, and when its grace period would end. Renewing its lease only moves that end, so that a healthy node
//! costs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_runtime::informer::Options;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use super::taints;
use super::zones::{Limits, Zones, zone_of};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;

const LEASES: &str = "kube-node-lease";
/// The conditions that a silent kubelet can't vouch for any more.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last heard of a node.
struct Health {
    heard: Instant,
    heartbeat: Option<Time>,
    ready: Option<String>,
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
    health: Mutex<HashMap<String, Health>>,
    zones: Mutex<Zones>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let options = &context.options;
    let limits = Limits {
        rate: options.node_eviction_rate,
        secondary_rate: options.secondary_node_eviction_rate,
        threshold: options.unhealthy_zone_threshold,
        large: options.large_cluster_size_threshold,
    };
    let leases = Api::<Lease>::namespaced(context.informers.client().clone(), LEASES);
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        leases: Informer::start(leases, Options::default()),
        pods: Pods::of(&context.informers),
        queue: Queue::new("node_lifecycle_controller"),
        health: Mutex::new(HashMap::new()),
        zones: Mutex::new(Zones::new(limits)),
        context,
    });
    controller.listen();
    let (context, queue, leases) = (
        controller.context.clone(),
        controller.queue.clone(),
        controller.leases.clone(),
    );
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(async move {
        if context
            .stop
            .clone()
            .run_until_cancelled(leases.synced())
            .await
            .is_some()
        {
            context.run(queue, 8, reconcile).await;
        }
    }
    .boxed())
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.nodes.handle(move |event| match event {
            Event::Added(node) => {
                this.heard(&node.name_any(), heartbeat(node));
                let message = format!(
                    "Node {0} event: Registered Node {0} in Controller",
                    node.name_any()
                );
                this.context.recorder.event(
                    &reference(&**node),
                    Kind::Normal,
                    "RegisteredNode",
                    message,
                );
                this.note(node);
            }
            Event::Updated { new, .. } => {
                this.heard(&new.name_any(), heartbeat(new));
                this.note(new);
            }
            Event::Deleted(node) => {
                this.health.lock().remove(&node.name_any());
                this.zones.lock().forget(&node.name_any());
                let message = format!(
                    "Node {0} event: Removing Node {0} from Controller",
                    node.name_any()
                );
                this.context.recorder.event(
                    &reference(&**node),
                    Kind::Normal,
                    "RemovingNode",
                    message,
                );
            }
            Event::Resync => {}
        });
        let this = self.clone();
        self.leases.handle(move |event| {
            if let Event::Added(lease) | Event::Updated { new: lease, .. } = event
                && let Some(health) = this.health.lock().get_mut(&lease.name_any())
            {
                health.heard = Instant::now();
            }
        });
    }

    /// Notes that the kubelet wrote the node's status, if it did.
    fn heard(&self, node: &str, heartbeat: Option<Time>) {
        let mut health = self.health.lock();
        let entry = health.entry(node.to_owned()).or_insert_with(|| Health {
            heard: Instant::now(),
            heartbeat: None,
            ready: None,
        });
        if entry.heartbeat != heartbeat {
            entry.heartbeat = heartbeat;
            entry.heard = Instant::now();
        }
    }

    fn note(&self, node: &Node) {
        let (before, after) = {
            let mut zones = self.zones.lock();
            let before = zones.all_down();
            zones.note(node);
            (before, zones.all_down())
        };
        if before != after {
            info!(all_down = after, "all nodes are down, or no longer");
            if !after {
                // Whatever silenced all nodes may have silenced those that are still to be heard of.
                self.health
                    .lock()
                    .values_mut()
                    .for_each(|health| health.heard = Instant::now());
            }
            for key in self.nodes.keys() {
                self.queue.add(key);
            }
        }
        self.queue.add(Key::of(node));
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        let (node, left) = self.check(node).await?;
        let Some(node) = node else {
            return Ok(Outcome::Done);
        };
        let before = {
            let ready = taints::condition(&node, "Ready").map(str::to_owned);
            let mut health = self.health.lock();
            health
                .get_mut(&key.name)
                .and_then(|health| std::mem::replace(&mut health.ready, ready.clone()))
        };
        if before.as_deref() == Some("True") && taints::condition(&node, "Ready") != Some("True") {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.context
                .recorder
                .event(&reference(&*node), Kind::Normal, "NodeNotReady", message);
            self.doubt_pods(&node).await?;
        }
        let wait = self.taint(&node).await?;
        Ok(Outcome::After(wait.map_or(left, |wait| wait.min(left))))
    }

    /// Declares a node unknown if nothing was heard of it for too long; says how long it has left.
    async fn check(&self, node: Arc<Node>) -> Result<(Option<Arc<Node>>, Duration), Error> {
        let options = &self.context.options;
        let known = taints::condition(&node, "Ready").is_some();
        let grace = if known {
            options.node_monitor_grace_period
        } else {
            options.node_startup_grace_period
        };
        let silent = self
            .health
            .lock()
            .get(&node.name_any())
            .map(|health| health.heard.elapsed())
            .unwrap_or_default();
        if silent < grace {
            // A bit later than exactly then, lest a rounded clock wake it too early.
            return Ok((Some(node), grace - silent + Duration::from_millis(10)));
        }
        let at = Time(now());
        let api = Api::<Node>::all(self.context.client.clone());
        let written = write::update_status(&api, &*node, |node| declare_unknown(node, &at)).await?;
        Ok((
            written.map(Arc::new),
            options.node_monitor_period.max(grace),
        ))
    }

    /// Brings the taints in line; says when to try again if an eviction has to wait.
    async fn taint(&self, node: &Node) -> Result<Option<Duration>, Error> {
        let mut wait = None;
        let execute = match taints::no_execute(node) {
            // Nothing is evicted while no node works at all; what was tainted before is let be again.
            Some(_) if self.zones.lock().all_down() => Some(None),
            Some(key) if taints::has(node, key, "NoExecute") => Some(Some(key)),
            Some(key) => match self.zones.lock().grant(&zone_of(node), Instant::now()) {
                Ok(()) => Some(Some(key)),
                Err(pause) => {
                    wait = Some(pause.unwrap_or(self.context.options.node_monitor_period));
                    None
                }
            },
            None => Some(None),
        };
        if let Some(wanted) = taints::wanted(node, execute, &Time(now())) {
            let api = Api::<Node>::all(self.context.client.clone());
            let patch = json!({"metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": wanted}});
            write::optional(write::patch_merge(&api, &node.name_any(), &patch).await)?;
        }
        Ok(wait)
    }

    /// The pods of a node that isn't ready aren't either, whatever they say.
    async fn doubt_pods(&self, node: &Node) -> Result<(), Error> {
        for pod in self.pods.on_node(&node.name_any()) {
            if !pod::is_ready(&pod) {
                continue;
            }
            let api = Api::<Pod>::namespaced(
                self.context.client.clone(),
                &pod.namespace().unwrap_or_default(),
            );
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions":
                [{"type": "Ready", "status": "False", "lastTransitionTime": Time(now())}]}});
            let patch = kube::api::Patch::Strategic(patch);
            let result = api
                .patch_status(&pod.name_any(), &kube::api::PatchParams::default(), &patch)
                .await;
            if let Err(error) = write::optional(result) {
                warn!(pod = %pod.name_any(), %error, "cannot mark the pod of a silent node as not ready");
                continue;
            }
            let about: ObjectReference = reference(&*pod);
            self.context
                .recorder
                .event(&about, Kind::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

fn heartbeat(node: &Node) -> Option<Time> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?
        .last_heartbeat_time
        .clone()
}

/// Says that nobody knows how the node is; says whether that is news.
fn declare_unknown(node: &mut Node, now: &Time) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let mut changed = false;
    for kind in VOUCHED {
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind)
        {
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(now.clone()),
                });
                changed = true;
            }
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(now.clone());
                changed = true;
            }
            Some(_) => {}
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::super::taints::tests::node;
    use super::*;

    #[test]
    fn a_silent_node_is_unknown_once() {
        let mut node = node("n", "True", json!({}));
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        assert!(declare_unknown(&mut node, &now));
        assert_eq!(taints::condition(&node, "Ready"), Some("Unknown"));
        assert_eq!(taints::condition(&node, "PIDPressure"), Some("Unknown"));
        assert!(!declare_unknown(&mut node, &now));
    }
}
