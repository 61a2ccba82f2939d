//! The garbage collector: dependents go with their last owner, before it (foreground), after it (background) or not at all (orphan).
//!
//! [`graph`] knows who depends on whom; [`crate::monitors`] feed it; this looks at what the graph points out, always asking the API server
//! itself before anything is deleted.

mod graph;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keelson_runtime::{Outcome, Queue, reconciler, write};
use kube::api::{DeleteParams, DynamicObject, Preconditions, PropagationPolicy};
use kube::core::ApiResource;
use kube::core::metadata::PartialObjectMeta;
use kube::{Api, Client, Error};
use parking_lot::Mutex;
use serde_json::json;
use tracing::info;

use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::monitors::{Monitors, Seen};
use graph::{FOREGROUND, Graph, Identity, Kind, ORPHAN, Work};

type Meta = PartialObjectMeta<DynamicObject>;

/// Why an object could not be dealt with.
#[derive(Debug, thiserror::Error)]
enum GarbageError {
    #[error("no resource is known for kind {kind} in {api_version}")]
    UnknownKind { api_version: String, kind: String },
    #[error("an orphan's owner still has the finalizer: {0}")]
    Finalizer(&'static str),
    #[error(transparent)]
    Api(#[from] Error),
}

struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<Work>>,
    monitors: Arc<Monitors>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    if !context.options.enable_garbage_collector {
        return Err(StartError::Options(
            "--enable-garbage-collector=false".into(),
        ));
    }
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue: Arc<Queue<Work>> = Queue::new("garbage_collector_attempt_to_delete");
    let sink = {
        let (graph, queue) = (graph.clone(), queue.clone());
        Box::new(move |api: &Arc<ApiResource>, seen: Seen<'_>| {
            let work = match seen {
                Seen::There(meta) => graph.lock().upsert(api, meta),
                Seen::Gone(meta) => graph.lock().remove(meta.uid.as_deref().unwrap_or_default()),
            };
            for item in work {
                queue.add(item);
            }
        })
    };
    context.monitors.listen(sink);
    let collector = Arc::new(Collector {
        monitors: context.monitors.clone(),
        client: context.client.clone(),
        graph,
        queue,
    });
    Ok(run(context, collector).boxed())
}

async fn run(context: Context, collector: Arc<Collector>) {
    let stop = context.stop.clone();
    if stop
        .run_until_cancelled(collector.monitors.ready())
        .await
        .is_none()
    {
        return;
    }
    let workers = context.options.workers.garbage_collector;
    let queue = collector.queue.clone();
    let reconcile = move |work: Work| {
        let collector = collector.clone();
        async move { collector.attend(&work).await.map(|()| Outcome::Done) }
    };
    reconciler::run(queue, context.name, workers, stop, reconcile).await;
}

impl Collector {
    async fn attend(&self, work: &Work) -> Result<(), GarbageError> {
        match work {
            Work::Verify(uid) => self.verify(uid).await,
            Work::Delete(uid) => self.consider(uid).await,
            Work::Orphan(uid) => self.orphan(uid).await,
        }
    }

    fn identity(&self, uid: &str, of: impl Fn(&graph::Node) -> bool) -> Option<Identity> {
        self.graph
            .lock()
            .get(uid)
            .filter(|node| of(node))
            .map(|node| node.identity.clone())
    }

    fn gone(&self, uid: &str) {
        let work = self.graph.lock().remove(uid);
        for item in work {
            self.queue.add(item);
        }
    }

    /// An owner that no watch has shown: does it exist?
    async fn verify(&self, uid: &str) -> Result<(), GarbageError> {
        let Some(identity) = self.identity(uid, |node| !node.seen) else {
            return Ok(());
        };
        let found = self.look_up(&identity).await?;
        if found.is_none_or(|meta| meta.metadata.uid.as_deref() != Some(uid)) {
            self.gone(uid);
        }
        Ok(())
    }

    /// Should the object be deleted, or can its own deletion go on?
    async fn consider(&self, uid: &str) -> Result<(), GarbageError> {
        let Some((identity, deleting, foreground)) = self
            .graph
            .lock()
            .get(uid)
            .map(|node| (node.identity.clone(), node.deleting, node.foreground))
        else {
            return Ok(());
        };
        if deleting && !foreground {
            return Ok(());
        }
        let Some(latest) = self
            .look_up(&identity)
            .await?
            .filter(|meta| meta.metadata.uid.as_deref() == Some(uid))
        else {
            self.gone(uid);
            return Ok(());
        };
        if foreground {
            return self.go_on(uid, &identity).await;
        }
        let owners = latest.metadata.owner_references.clone().unwrap_or_default();
        if owners.is_empty() {
            return Ok(());
        }
        let (mut solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &owners {
            match self.owner(&identity, owner).await? {
                Owner::Solid => solid += 1,
                Owner::Absent => dangling.push(owner.uid.clone()),
                Owner::Waiting => waiting.push(owner.uid.clone()),
            }
        }
        if solid > 0 {
            dangling.append(&mut waiting);
            if !dangling.is_empty() {
                self.disown(&identity, &latest, &dangling).await?;
            }
            return Ok(());
        }
        let policy = if !waiting.is_empty()
            && self
                .graph
                .lock()
                .get(uid)
                .is_some_and(|node| !node.dependents.is_empty())
        {
            // Its own dependents go first too; in a circle nobody may wait for the other.
            let circle = self
                .graph
                .lock()
                .dependents(uid)
                .iter()
                .any(|dependent| dependent.foreground);
            if circle {
                self.unblock(&identity, &latest).await?;
            }
            PropagationPolicy::Foreground
        } else {
            let has = |finalizer: &str| {
                latest
                    .metadata
                    .finalizers
                    .iter()
                    .flatten()
                    .any(|own| own == finalizer)
            };
            match (has(ORPHAN), has(FOREGROUND)) {
                (true, _) => PropagationPolicy::Orphan,
                (_, true) => PropagationPolicy::Foreground,
                _ => PropagationPolicy::Background,
            }
        };
        self.delete(&identity, &latest, policy).await
    }

    /// An object that is being deleted in the foreground goes once nothing holds it up.
    async fn go_on(&self, uid: &str, identity: &Identity) -> Result<(), GarbageError> {
        let blocking: Vec<(String, bool)> = self
            .graph
            .lock()
            .blocking(uid)
            .iter()
            .map(|node| (node.identity.uid.clone(), node.foreground))
            .collect();
        if blocking.is_empty() {
            return self.unfinalize(identity, FOREGROUND).await;
        }
        for (dependent, foreground) in blocking {
            if !foreground {
                self.queue.add(Work::Delete(dependent));
            }
        }
        Ok(())
    }

    /// Lets the dependents of an owner go, then the owner.
    async fn orphan(&self, uid: &str) -> Result<(), GarbageError> {
        let Some(identity) = self.identity(uid, |node| node.orphaning) else {
            return Ok(());
        };
        let dependents: Vec<Identity> = self
            .graph
            .lock()
            .dependents(uid)
            .iter()
            .map(|node| node.identity.clone())
            .collect();
        for dependent in dependents {
            let latest = self.look_up(&dependent).await?;
            if let Some(latest) =
                latest.filter(|meta| meta.metadata.uid.as_deref() == Some(&dependent.uid))
            {
                self.disown(&dependent, &latest, &[uid.to_owned()]).await?;
            }
        }
        self.unfinalize(&identity, ORPHAN).await
    }

    async fn owner(
        &self,
        dependent: &Identity,
        owner: &OwnerReference,
    ) -> Result<Owner, GarbageError> {
        let identity = Identity {
            kind: Kind::Named(owner.api_version.clone(), owner.kind.clone()),
            namespace: dependent.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        };
        let Some(found) = self
            .look_up(&identity)
            .await?
            .filter(|meta| meta.metadata.uid.as_deref() == Some(&owner.uid))
        else {
            return Ok(Owner::Absent);
        };
        let foreground = found.metadata.deletion_timestamp.is_some()
            && found
                .metadata
                .finalizers
                .iter()
                .flatten()
                .any(|finalizer| finalizer == FOREGROUND);
        Ok(if foreground {
            Owner::Waiting
        } else {
            Owner::Solid
        })
    }

    fn api_resource(&self, kind: &Kind) -> Result<ApiResource, GarbageError> {
        match kind {
            Kind::Known(api) => Ok((**api).clone()),
            Kind::Named(api_version, kind) => {
                let group = api_version.split_once('/').map_or("", |(group, _)| group);
                self.monitors
                    .resource(group, kind)
                    .map(|resource| resource.api)
                    .ok_or_else(|| {
                        self.monitors.doubt();
                        GarbageError::UnknownKind {
                            api_version: api_version.clone(),
                            kind: kind.clone(),
                        }
                    })
            }
        }
    }

    fn api<K>(&self, identity: &Identity) -> Result<Api<K>, GarbageError>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        let resource = self.api_resource(&identity.kind)?;
        let client = self.client.clone();
        Ok(
            if self.monitors.is_namespaced(&resource) && !identity.namespace.is_empty() {
                Api::namespaced_with(client, &identity.namespace, &resource)
            } else {
                Api::all_with(client, &resource)
            },
        )
    }

    /// The object's metadata as the API server has it; another of the same name has another UID.
    async fn look_up(&self, identity: &Identity) -> Result<Option<Meta>, GarbageError> {
        let resource = self.api_resource(&identity.kind)?;
        if self.monitors.is_namespaced(&resource) && identity.namespace.is_empty() {
            // A cluster-scoped object can't be owned by one in a namespace: there is no telling in which.
            return Ok(None);
        }
        Ok(self.api::<Meta>(identity)?.get_opt(&identity.name).await?)
    }

    async fn patch(
        &self,
        identity: &Identity,
        patch: serde_json::Value,
    ) -> Result<(), GarbageError> {
        let api = self.api::<Meta>(identity)?;
        write::optional(write::patch_merge(&api, &identity.name, &patch).await)?;
        Ok(())
    }

    /// Takes owners off.
    async fn disown(
        &self,
        identity: &Identity,
        latest: &Meta,
        owners: &[String],
    ) -> Result<(), GarbageError> {
        let before = latest.metadata.owner_references.clone().unwrap_or_default();
        let after: Vec<_> = before
            .iter()
            .filter(|owner| !owners.contains(&owner.uid))
            .collect();
        if after.len() == before.len() {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": identity.uid, "resourceVersion": latest.metadata.resource_version, "ownerReferences": after}});
        self.patch(identity, patch).await
    }

    /// Lets owners go before this dependent.
    async fn unblock(&self, identity: &Identity, latest: &Meta) -> Result<(), GarbageError> {
        let mut owners = latest.metadata.owner_references.clone().unwrap_or_default();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        let patch = json!({"metadata": {"uid": identity.uid, "ownerReferences": owners}});
        self.patch(identity, patch).await
    }

    async fn unfinalize(
        &self,
        identity: &Identity,
        finalizer: &'static str,
    ) -> Result<(), GarbageError> {
        for _ in 0..5 {
            let Some(latest) = self
                .look_up(identity)
                .await?
                .filter(|meta| meta.metadata.uid.as_deref() == Some(&identity.uid))
            else {
                return Ok(());
            };
            let before = latest.metadata.finalizers.clone().unwrap_or_default();
            if !before.iter().any(|own| own == finalizer) {
                return Ok(());
            }
            let after: Vec<_> = before.iter().filter(|own| *own != finalizer).collect();
            let patch = json!({"metadata": {"resourceVersion": latest.metadata.resource_version, "finalizers": after}});
            match self.patch(identity, patch).await {
                Err(GarbageError::Api(error)) if write::is_conflict(&error) => {}
                other => return other,
            }
        }
        Err(GarbageError::Finalizer(finalizer))
    }

    async fn delete(
        &self,
        identity: &Identity,
        latest: &Meta,
        policy: PropagationPolicy,
    ) -> Result<(), GarbageError> {
        info!(kind = ?self.api_resource(&identity.kind).map(|api| api.kind).ok(), namespace = %identity.namespace, name = %identity.name, "deleting a dependent without owners");
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(identity.uid.clone()),
                // Owners that came meanwhile count.
                resource_version: latest.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = self.api::<DynamicObject>(identity)?;
        write::optional(api.delete(&identity.name, &params).await)?;
        Ok(())
    }
}

enum Owner {
    Solid,
    Absent,
    Waiting,
}
