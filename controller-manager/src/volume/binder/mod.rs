//! Binding claims to volumes and volumes to claims, and saying what is to become of a volume whose claim is gone.
//!
//! What to do is decided in [`plan`], which volume does in [`matching`]. Volumes are made and deleted by provisioners outside; only directories
//! below `/tmp` of this host are deleted here, as upstream does.

mod matching;
mod plan;
#[cfg(test)]
mod plan_tests;

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::{annotation, class_of_claim};
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;
use plan::{ClaimStep, ClaimView, Holder, Reclaim, Say, VolumeStep};

const BY_CLASS: &str = "storageclass";
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// What is worked on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// Why work has to be tried again.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot delete {path}: {source}")]
    Directory {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    context: Context,
    queue: Arc<Queue<Work>>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Pods,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        queue: Queue::new("volumes"),
        claims: context.informers.get(),
        volumes: context.informers.get(),
        classes: context.informers.get(),
        pods: Pods::of(&context.informers),
        context,
    });
    controller.listen();
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |work: Work| {
        let controller = controller.clone();
        async move {
            match &work {
                Work::Claim(key) => controller.claim(key).await,
                Work::Volume(name) => controller.volume(name).await,
            }
            .map(|()| Outcome::Done)
        }
    };
    // One worker: two claims never reach for the same volume at once.
    Ok(context.run(queue, 1, reconcile).boxed())
}

fn is_settled(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, plan::COMPLETED).is_some()
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        self.claims.index_by(BY_CLASS, |claim| {
            if is_settled(claim) {
                return vec![];
            }
            vec![class_of_claim(claim).to_owned()]
        });
        let this = self.clone();
        self.claims.handle(move |event| match event {
            Event::Added(claim) | Event::Updated { new: claim, .. } => {
                this.queue.add(Work::Claim(Key::of(&**claim)));
                // Its volume's phase may wait for this.
                this.wake_volume(claim);
            }
            Event::Deleted(claim) => this.wake_volume(claim),
            Event::Resync => {}
        });
        let this = self.clone();
        self.volumes.handle(move |event| {
            let Some(volume) = event.object() else { return };
            if !matches!(event, Event::Deleted(_)) {
                this.queue.add(Work::Volume(volume.name_any()));
            }
            this.wake_claims(volume);
        });
        let this = self.clone();
        self.classes.handle(move |event| {
            let (Event::Added(class) | Event::Updated { new: class, .. }) = event else {
                return;
            };
            this.wake_class(&class.name_any());
            if is_default(class) {
                this.wake_class("");
            }
        });
    }

    fn wake_volume(&self, claim: &PersistentVolumeClaim) {
        if let Some(name) = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone())
            && !name.is_empty()
        {
            self.queue.add(Work::Volume(name));
        }
    }

    /// The claims that a volume may be for: the one it names, or those of its class that have none yet.
    fn wake_claims(&self, volume: &PersistentVolume) {
        let holder = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        match holder {
            Some(holder) => {
                let key = Key::new(
                    holder.namespace.clone().unwrap_or_default(),
                    holder.name.clone().unwrap_or_default(),
                );
                self.queue.add(Work::Claim(key));
            }
            None => self.wake_class(super::class_of_volume(volume)),
        }
    }

    fn wake_class(&self, class: &str) {
        for claim in self.claims.by_index(BY_CLASS, class) {
            self.queue.add(Work::Claim(Key::of(&*claim)));
        }
    }

    fn say(&self, about: &ObjectReference, say: Say) {
        let kind = if say.warning {
            Kind::Warning
        } else {
            Kind::Normal
        };
        self.context
            .recorder
            .event(about, kind, say.reason, say.message);
    }

    fn claim_api(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    fn volume_api(&self) -> Api<PersistentVolume> {
        Api::all(self.context.client.clone())
    }

    /// The newest default class: if several are marked, the youngest, then the first by name.
    fn default_class(&self) -> Option<String> {
        let mut marked: Vec<_> = self
            .classes
            .list()
            .into_iter()
            .filter(|class| is_default(class))
            .collect();
        marked.sort_by_key(|class| {
            let age = class
                .creation_timestamp()
                .map_or(i64::MIN, |time| time.0.as_second());
            (std::cmp::Reverse(age), class.name_any())
        });
        marked.first().map(|class| class.name_any())
    }

    async fn claim(&self, key: &Key) -> Result<(), BindError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(());
        };
        let class = self.classes.get(&Key::cluster(class_of_claim(&claim)));
        let default_class = self.default_class();
        let named = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref())
            .and_then(|name| self.volumes.get(&Key::cluster(name)));
        let volumes = if is_settled(&claim) {
            Vec::new()
        } else {
            self.volumes.list()
        };
        let waiting_pods: Vec<String> = self
            .pods
            .of_claim(&key.namespace, &key.name)
            .iter()
            .filter(|pod| !pod::is_terminal(pod) && pod::node(pod).is_empty())
            .map(|pod| pod.name_any())
            .collect();
        let step = plan::claim(&ClaimView {
            claim: &claim,
            class: class.as_deref(),
            default_class: default_class.as_deref(),
            named,
            volumes: &volumes,
            waiting_pods: &waiting_pods,
        });
        let about = reference(&*claim);
        match step {
            ClaimStep::Bind(volume) => self.bind(&claim, &volume).await,
            ClaimStep::Lose(say) => {
                if self.write_claim_status(&claim, "Lost", None).await? {
                    self.say(&about, say);
                }
                Ok(())
            }
            ClaimStep::Wait(say) => {
                if let Some(say) = say {
                    self.say(&about, say);
                }
                self.write_claim_status(&claim, "Pending", None)
                    .await
                    .map(drop)
            }
            ClaimStep::Classify(class) => {
                let mut next = (*claim).clone();
                next.spec.get_or_insert_default().storage_class_name = Some(class);
                self.replace_claim(&next).await.map(drop)
            }
            ClaimStep::Provision(by) => self.provision(&claim, &by).await,
            ClaimStep::Fail(say) => {
                let why = say.message.clone();
                self.say(&about, say);
                Err(BindError::Refused(why))
            }
        }
    }

    /// Asks a provisioner outside for a volume.
    async fn provision(&self, claim: &PersistentVolumeClaim, by: &str) -> Result<(), BindError> {
        let asked = [plan::PROVISIONER, plan::PROVISIONER_BETA]
            .iter()
            .all(|name| annotation(&claim.metadata, name) == Some(by));
        if !asked {
            let mut next = claim.clone();
            let annotations = next.metadata.annotations.get_or_insert_default();
            for name in [plan::PROVISIONER, plan::PROVISIONER_BETA] {
                annotations.insert(name.to_owned(), by.to_owned());
            }
            self.replace_claim(&next).await?;
        }
        self.context.recorder.event(
            &reference(claim),
            Kind::Normal,
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{by}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
            ),
        );
        Ok(())
    }

    /// Writes the binding on both sides, the volume first; what is written already is left alone.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), BindError> {
        let volume = match plan::volume_bound(volume, claim) {
            Some(next) => {
                self.volume_api()
                    .replace(&next.name_any(), &PostParams::default(), &next)
                    .await?
            }
            None => volume.clone(),
        };
        let volume = self.write_volume_phase(volume, "Bound", None).await?;
        let claim = match plan::claim_bound(claim, &volume.name_any()) {
            Some(next) => self.replace_claim(&next).await?,
            None => claim.clone(),
        };
        self.write_claim_status(&claim, "Bound", Some(&volume))
            .await
            .map(drop)
    }

    async fn replace_claim(
        &self,
        next: &PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, BindError> {
        let api = self.claim_api(&next.namespace().unwrap_or_default());
        Ok(api
            .replace(&next.name_any(), &PostParams::default(), next)
            .await?)
    }

    /// Whether the phase is another now.
    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<bool, BindError> {
        let Some(status) = plan::claim_status(claim, phase, volume) else {
            return Ok(false);
        };
        let before = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let changed = before != Some(phase);
        let next = PersistentVolumeClaim {
            status: Some(status),
            ..claim.clone()
        };
        let api = self.claim_api(&next.namespace().unwrap_or_default());
        api.replace_status(&next.name_any(), &PostParams::default(), &next)
            .await?;
        Ok(changed)
    }

    async fn write_volume_phase(
        &self,
        volume: PersistentVolume,
        phase: &str,
        say: Option<Say>,
    ) -> Result<PersistentVolume, BindError> {
        let before = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if before == Some(phase) {
            return Ok(volume);
        }
        let mut next = volume;
        let status = next.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = say
            .as_ref()
            .map(|say| say.message.clone())
            .filter(|message| !message.is_empty());
        let written = self
            .volume_api()
            .replace_status(&next.name_any(), &PostParams::default(), &next)
            .await?;
        if let Some(say) = say {
            self.say(&reference(&written), say);
        }
        Ok(written)
    }

    async fn volume(&self, name: &str) -> Result<(), BindError> {
        let Some(volume) = self.volumes.get(&Key::cluster(name)) else {
            return Ok(());
        };
        let claim = self.holder(&volume).await?;
        let holder = claim.as_deref().map_or(Holder::Gone, Holder::There);
        match plan::volume(&volume, Some(holder)) {
            VolumeStep::Phase(phase) => self
                .write_volume_phase((*volume).clone(), phase, None)
                .await
                .map(drop),
            VolumeStep::WakeClaim => {
                if let Some(claim) = &claim {
                    self.queue.add(Work::Claim(Key::of(&**claim)));
                }
                Ok(())
            }
            VolumeStep::Mismatch {
                volume: on_volume,
                claim: on_claim,
            } => {
                self.say(&reference(&*volume), on_volume);
                if let Some(claim) = &claim {
                    self.say(&reference(&**claim), on_claim);
                }
                Ok(())
            }
            VolumeStep::Unbind => {
                let next = plan::volume_unbound(&volume);
                let written = self
                    .volume_api()
                    .replace(name, &PostParams::default(), &next)
                    .await?;
                self.write_volume_phase(written, "Available", None)
                    .await
                    .map(drop)
            }
            VolumeStep::Reclaim(how) => self.reclaim(&volume, how).await,
        }
    }

    /// The claim that a volume names by UID, if it is still there. That it is gone is believed only if the API server says so too, since
    /// what follows may delete data.
    async fn holder(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, BindError> {
        let Some(holder) = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref())
            .filter(|holder| holder.uid.as_deref().is_some_and(|uid| !uid.is_empty()))
        else {
            return Ok(None);
        };
        let (namespace, name) = (
            holder.namespace.as_deref().unwrap_or_default(),
            holder.name.as_deref().unwrap_or_default(),
        );
        let same = |claim: &PersistentVolumeClaim| claim.metadata.uid == holder.uid;
        let cached = self.claims.find(namespace, name);
        if let Some(claim) = cached.filter(|claim| same(claim)) {
            return Ok(Some(claim));
        }
        let settled = volume
            .status
            .as_ref()
            .is_some_and(|status| matches!(status.phase.as_deref(), Some("Released" | "Failed")));
        if settled {
            return Ok(None);
        }
        let live = self.claim_api(namespace).get_opt(name).await?;
        Ok(live.filter(same).map(Arc::new))
    }

    async fn reclaim(&self, volume: &PersistentVolume, how: Reclaim) -> Result<(), BindError> {
        let phase = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let mut volume = volume.clone();
        if !matches!(phase, Some("Released" | "Failed")) {
            volume = self.write_volume_phase(volume, "Released", None).await?;
        }
        match how {
            Reclaim::Leave => Ok(()),
            Reclaim::Fail(say) => self
                .write_volume_phase(volume, "Failed", Some(say))
                .await
                .map(drop),
            Reclaim::DeleteDirectory(path) => {
                match tokio::fs::remove_dir_all(&path).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => {
                        let say = Say {
                            warning: true,
                            reason: "VolumeFailedDelete",
                            message: source.to_string(),
                        };
                        self.write_volume_phase(volume, "Failed", Some(say)).await?;
                        return Err(BindError::Directory { path, source });
                    }
                }
                let params = write::delete_params(volume.metadata.uid.as_deref(), None);
                let deleted = self.volume_api().delete(&volume.name_any(), &params).await;
                write::optional(deleted)?;
                Ok(())
            }
        }
    }
}

fn is_default(class: &StorageClass) -> bool {
    [DEFAULT, DEFAULT_BETA]
        .iter()
        .any(|name| annotation(&class.metadata, name) == Some("true"))
}
