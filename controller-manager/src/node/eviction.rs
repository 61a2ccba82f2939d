//! Deleting the pods that don't tolerate their node's `NoExecute` taints, when their time is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{Patch, PatchParams};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::taints::{self, Stay};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
    /// Since when the time of a pod runs, by its UID.
    running: Mutex<HashMap<Key, (String, Instant)>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        pods: Pods::of(&context.informers),
        queue: Queue::new("taint_eviction"),
        running: Mutex::new(HashMap::new()),
        context,
    });
    controller.listen();
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 8, reconcile).boxed())
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

fn executes(node: &Node) -> bool {
    taints::taints(node)
        .iter()
        .any(|taint| taint.effect == "NoExecute")
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.nodes.handle(move |event| {
            let node = match event {
                Event::Added(node) if executes(node) => node,
                Event::Updated { old, new } if taints::taints(old) != taints::taints(new) => new,
                _ => return,
            };
            for pod in this.pods.on_node(&node.name_any()) {
                this.queue.add(Key::of(&*pod));
            }
        });
        let this = self.clone();
        self.pods.handle(move |event| match event {
            Event::Added(pod) if !pod::node(pod).is_empty() => this.queue.add(Key::of(&**pod)),
            Event::Updated { old, new }
                if pod::node(old) != pod::node(new) || tolerations(old) != tolerations(new) =>
            {
                this.queue.add(Key::of(&**new));
            }
            Event::Deleted(pod) => {
                this.running.lock().remove(&Key::of(&**pod));
            }
            _ => {}
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(pod) = self
            .pods
            .get(key)
            .filter(|pod| !pod::is_deleting(pod) && !pod::is_terminal(pod))
        else {
            self.running.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let node = self.nodes.find("", pod::node(&pod));
        let stay = node.map_or(Stay::Forever, |node| {
            taints::stay(taints::taints(&node), tolerations(&pod))
        });
        let Stay::Seconds(seconds) = stay else {
            if self.running.lock().remove(key).is_some() {
                let message = format!("Cancelling deletion of Pod {key}");
                self.context.recorder.event(
                    &reference(&*pod),
                    Kind::Normal,
                    "TaintManagerEviction",
                    message,
                );
            }
            return Ok(Outcome::Done);
        };
        let since = {
            let mut running = self.running.lock();
            let entry = running
                .entry(key.clone())
                .or_insert_with(|| (pod::uid(&pod).to_owned(), Instant::now()));
            if entry.0 != pod::uid(&pod) {
                *entry = (pod::uid(&pod).to_owned(), Instant::now());
            }
            entry.1
        };
        let left = Duration::from_secs(seconds).saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Outcome::After(left));
        }
        self.evict(key, &pod).await?;
        Ok(Outcome::Done)
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.context.recorder.event(
            &reference(pod),
            Kind::Normal,
            "TaintManagerEviction",
            message,
        );
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "observedGeneration": pod.metadata.generation,
            "lastTransitionTime": Time(now())}]}}),
        );
        write::optional(
            api.patch_status(&key.name, &PatchParams::default(), &patch)
                .await,
        )?;
        let params = write::delete_params(pod.metadata.uid.as_deref(), None);
        write::optional(api.delete(&key.name, &params).await)?;
        self.running.lock().remove(key);
        Ok(())
    }
}
