//! Attaching volumes of CSI drivers to the nodes whose pods need them, and detaching them afterwards, by VolumeAttachments that the
//! drivers' attachers act upon. What is attached is told to the kubelets in `status.volumesAttached`.
//!
//! Nodes that don't leave that to us (by their annotation) are left alone.

mod plan;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::pod_claims;
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::words;
use crate::pod_index::Pods;
use plan::{Detach, Disk};

const BY_NODE: &str = "node";
const BY_VOLUME: &str = "volume";
/// How long a node that doesn't answer may keep what it has mounted.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 60);

struct Controller {
    context: Context,
    pods: Pods,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    state: Mutex<State>,
    queue: Arc<Queue<Key>>,
}

#[derive(Default)]
struct State {
    /// Since when attachments are not needed.
    unneeded: HashMap<String, Instant>,
    /// Nodes that wait for others to let go of a volume.
    waiting: HashSet<String>,
    /// The attachments whose outcome was told, and what was told.
    told: HashMap<String, String>,
}

/// A disk that pods of a node need.
struct Need {
    disk: Disk,
    claim: String,
    pods: Vec<Arc<Pod>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        pods: Pods::of(&context.informers),
        nodes: context.informers.get(),
        claims: context.informers.get(),
        volumes: context.informers.get(),
        drivers: context.informers.get(),
        attachments: context.informers.get(),
        state: Mutex::default(),
        queue: Queue::new("attachdetach"),
        context,
    });
    controller.attachments.index_by(BY_NODE, |attachment| {
        vec![attachment.spec.node_name.clone()]
    });
    controller.attachments.index_by(BY_VOLUME, |attachment| {
        let volume = &attachment.spec.source.persistent_volume_name;
        volume.clone().into_iter().collect()
    });
    controller.listen();
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.node(&key.name).await }
    };
    Ok(context.run(queue, 4, reconcile).boxed())
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.pods.handle(move |event| {
            let Some(pod) = event.object() else {
                return;
            };
            if let Event::Updated { old, new } = event
                && pod::node(old) == pod::node(new)
                && pod::is_terminal(old) == pod::is_terminal(new)
            {
                return;
            }
            if !pod::node(pod).is_empty() && !pod_claims::claims(pod).is_empty() {
                this.queue.add(Key::cluster(pod::node(pod)));
            }
        });
        let this = self.clone();
        self.nodes.handle(move |event| {
            if let Some(node) = event.object() {
                let name = node.name_any();
                let known = !this.attachments.by_index(BY_NODE, &name).is_empty();
                if known || !plan::reported(node).is_empty() || matches!(event, Event::Added(_)) {
                    this.queue.add(Key::cluster(name));
                }
            }
        });
        let this = self.clone();
        self.claims.handle(move |event| {
            if let Event::Added(claim) | Event::Updated { new: claim, .. } = event {
                this.wake_users(&claim.namespace().unwrap_or_default(), &claim.name_any());
            }
        });
        let this = self.clone();
        self.volumes.handle(move |event| {
            if let Event::Added(volume) | Event::Updated { new: volume, .. } = event
                && let Some(spec) = &volume.spec
                && spec.csi.is_some()
                && let Some(claim) = &spec.claim_ref
            {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                this.wake_users(&text(&claim.namespace), &text(&claim.name));
            }
        });
        let this = self.clone();
        self.attachments.handle(move |event| {
            let Some(attachment) = event.object() else {
                return;
            };
            this.queue
                .add(Key::cluster(attachment.spec.node_name.as_str()));
            if matches!(event, Event::Deleted(_)) {
                let mut state = this.state.lock();
                state.unneeded.remove(&attachment.name_any());
                state.told.remove(&attachment.name_any());
                for node in state.waiting.drain() {
                    this.queue.add(Key::cluster(node));
                }
            }
        });
    }

    fn wake_users(&self, namespace: &str, claim: &str) {
        for pod in self.pods.of_claim(namespace, claim) {
            if !pod::node(&pod).is_empty() {
                self.queue.add(Key::cluster(pod::node(&pod)));
            }
        }
    }

    /// The disks that the node's pods need, by attachment.
    fn needs(&self, node: &str) -> BTreeMap<String, Need> {
        let mut needs: BTreeMap<String, Need> = BTreeMap::new();
        for pod in self.pods.on_node(node) {
            if pod::is_terminal(&pod) {
                continue;
            }
            let namespace = pod.namespace().unwrap_or_default();
            for volume in pod_claims::volumes(&pod) {
                let Some(name) = pod_claims::claim_name(&pod, volume) else {
                    continue;
                };
                let Some(disk) = self.disk_of(&pod, volume.ephemeral.is_some(), &namespace, &name)
                else {
                    continue;
                };
                needs
                    .entry(disk.attachment_name(node))
                    .or_insert_with(|| Need {
                        disk,
                        claim: name,
                        pods: Vec::new(),
                    })
                    .pods
                    .push(pod.clone());
            }
        }
        needs
    }

    /// The disk behind a claim, once both sides agree on the binding.
    fn disk_of(&self, pod: &Pod, own: bool, namespace: &str, name: &str) -> Option<Disk> {
        let claim = self.claims.find(namespace, name)?;
        if own && pod_claims::not_for_pod(pod, &claim).is_some() {
            return None;
        }
        let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
        let volume = claim.spec.as_ref()?.volume_name.as_deref()?;
        let volume = self.volumes.get(&Key::cluster(volume)).filter(|_| bound)?;
        let holder = volume.spec.as_ref()?.claim_ref.as_ref()?;
        if holder.uid != claim.metadata.uid {
            return None;
        }
        let disk = Disk::of(&volume)?;
        let driver = self.drivers.get(&Key::cluster(disk.driver.as_str()));
        plan::needs_attaching(driver.as_deref()).then_some(disk)
    }

    async fn node(&self, name: &str) -> Result<Outcome, Error> {
        let node = self.nodes.get(&Key::cluster(name));
        if node.as_ref().is_some_and(|node| !plan::is_managed(node)) {
            return Ok(Outcome::Done);
        }
        let needs = match &node {
            Some(_) => self.needs(name),
            None => BTreeMap::new(),
        };
        for (attachment, need) in &needs {
            self.attach(name, attachment, need).await?;
        }
        let mut attached = BTreeMap::new();
        let (mut leaving, mut waits) = (Vec::new(), false);
        for attachment in self.attachments.by_index(BY_NODE, name) {
            // Attachments that others made have other names.
            let Some(disk) = self
                .disk_attached(&attachment)
                .filter(|disk| disk.attachment_name(name) == attachment.name_any())
            else {
                continue;
            };
            let id = attachment.name_any();
            let mut stays = plan::is_attached(&attachment);
            if needs.contains_key(&id) {
                self.state.lock().unneeded.remove(&id);
            } else if attachment.metadata.deletion_timestamp.is_none() {
                let since = *self
                    .state
                    .lock()
                    .unneeded
                    .entry(id.clone())
                    .or_insert_with(Instant::now);
                let waited = !self.context.options.disable_force_detach_on_timeout
                    && since.elapsed() > LONGEST_WAIT;
                match plan::detach(node.as_deref(), &disk.unique_name(), waited) {
                    Detach::Now => {
                        stays = false;
                        leaving.push(attachment.clone());
                    }
                    Detach::Wait => waits = true,
                }
            }
            if stays {
                attached.insert(disk.unique_name(), String::new());
            }
        }
        // The kubelet must know before the driver acts that it can't count on the volume any more.
        if let Some(node) = &node {
            self.report(node, attached).await?;
        }
        let api = Api::<VolumeAttachment>::all(self.context.client.clone());
        for attachment in leaving {
            let params = write::delete_params(attachment.metadata.uid.as_deref(), None);
            let deleted = api.delete(&attachment.name_any(), &params).await;
            write::optional(deleted.map(drop))?;
        }
        Ok(if waits {
            Outcome::After(LONGEST_WAIT)
        } else {
            Outcome::Done
        })
    }

    fn disk_attached(&self, attachment: &VolumeAttachment) -> Option<Disk> {
        let volume = attachment.spec.source.persistent_volume_name.as_deref()?;
        Disk::of(&*self.volumes.get(&Key::cluster(volume))?)
    }

    async fn attach(&self, node: &str, id: &str, need: &Need) -> Result<(), Error> {
        if let Some(there) = self.attachments.get(&Key::cluster(id)) {
            self.tell(&there, need);
            return Ok(());
        }
        if !need.disk.shared && self.is_elsewhere(node, &need.disk) {
            self.state.lock().waiting.insert(node.to_owned());
            self.tell_of_rivals(node, need);
            return Ok(());
        }
        let api = Api::<VolumeAttachment>::all(self.context.client.clone());
        let made = api
            .create(&PostParams::default(), &need.disk.attachment(node))
            .await;
        match made {
            Err(error) if !write::is_already_exists(&error) => {
                let message = format!(
                    "AttachVolume.Attach failed for volume {:?} : attacher.Attach failed: {}",
                    need.disk.volume,
                    words(&error)
                );
                self.warn(need, "FailedAttachVolume", &message);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn is_elsewhere(&self, node: &str, disk: &Disk) -> bool {
        self.attachments
            .by_index(BY_VOLUME, &disk.volume)
            .iter()
            .any(|attachment| attachment.spec.node_name != node)
    }

    fn warn(&self, need: &Need, reason: &str, message: &str) {
        for pod in &need.pods {
            self.context
                .recorder
                .event(&reference(&**pod), Kind::Warning, reason, message);
        }
    }

    fn tell_of_rivals(&self, node: &str, need: &Need) {
        let namespace = need
            .pods
            .first()
            .and_then(|pod| pod.namespace())
            .unwrap_or_default();
        let rivals: Vec<String> = self
            .pods
            .of_claim(&namespace, &need.claim)
            .iter()
            .filter(|pod| pod::node(pod) != node && !pod::node(pod).is_empty())
            .map(|pod| pod.name_any())
            .collect();
        let why = if rivals.is_empty() {
            "Volume is already exclusively attached to one node and can't be attached to another"
                .to_owned()
        } else {
            format!("Volume is already used by pod(s) {}", rivals.join(", "))
        };
        let message = format!("Multi-Attach error for volume {:?} {why}", need.disk.volume);
        self.warn(need, "FailedAttachVolume", &message);
    }

    /// Tells the pods what became of an attachment, once.
    fn tell(&self, attachment: &VolumeAttachment, need: &Need) {
        let volume = &need.disk.volume;
        let (kind, reason, message) = if plan::is_attached(attachment) {
            let message = format!("AttachVolume.Attach succeeded for volume {volume:?} ");
            (Kind::Normal, "SuccessfulAttachVolume", message)
        } else if let Some(why) = plan::attach_error(attachment) {
            let message = format!("AttachVolume.Attach failed for volume {volume:?} : {why}");
            (Kind::Warning, "FailedAttachVolume", message)
        } else {
            return;
        };
        let before = self
            .state
            .lock()
            .told
            .insert(attachment.name_any(), message.clone());
        if before.as_ref() != Some(&message) {
            for pod in &need.pods {
                self.context
                    .recorder
                    .event(&reference(&**pod), kind, reason, message.clone());
            }
        }
    }

    async fn report(&self, node: &Node, attached: BTreeMap<String, String>) -> Result<(), Error> {
        if plan::reported(node) == attached {
            return Ok(());
        }
        let list: Vec<Value> = attached
            .iter()
            .map(|(name, path)| json!({"name": name, "devicePath": path}))
            .collect();
        let list = match list.is_empty() {
            true => Value::Null,
            false => Value::Array(list),
        };
        let patch =
            json!({"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": list}});
        let api = Api::<Node>::all(self.context.client.clone());
        let written = api
            .patch_status(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
        write::optional(written).map(drop)
    }
}
