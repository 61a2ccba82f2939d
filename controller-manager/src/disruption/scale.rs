//! How many pods the owners of some pods ask for: by what is known of the built-in kinds, and by the scale subresource of any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_runtime::{Informer, owners, write};
use kube::Api;
use kube::ResourceExt;
use kube::api::DynamicObject;

use crate::context::Context;
use crate::pod_control::words;

/// What is known of owners.
pub struct Scales {
    context: Context,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

/// How many pods there should be.
#[derive(Debug, Default)]
pub struct Sum {
    /// By all owners together.
    pub pods: i32,
    /// Whether there are pods without an owner.
    pub unmanaged: bool,
}

impl Scales {
    /// Asks for its informers.
    pub fn new(context: &Context) -> Self {
        // What kinds there are is known by the monitors.
        context.monitors.listen(Box::new(|_, _| {}));
        Self {
            deployments: context.informers.get(),
            replica_sets: context.informers.get(),
            stateful_sets: context.informers.get(),
            replication_controllers: context.informers.get(),
            context: context.clone(),
        }
    }

    /// The sum of what the pods' owners ask for, each counted once.
    pub async fn sum(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Sum, String> {
        let mut sum = Sum::default();
        let mut by_owner: BTreeMap<String, i32> = BTreeMap::new();
        let mut known: Vec<&str> = Vec::new();
        for pod in pods {
            let Some(owner) = owners::controller_of(&pod.metadata) else {
                sum.unmanaged = true;
                continue;
            };
            if known.contains(&owner.uid.as_str()) {
                continue;
            }
            known.push(&owner.uid);
            let found = match self.built_in(namespace, owner) {
                Some(found) => Some(found),
                None => self.by_subresource(namespace, owner).await?,
            };
            let (uid, replicas) = found
                .ok_or_else(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
            by_owner.insert(uid, replicas);
        }
        sum.pods = by_owner.values().sum();
        Ok(sum)
    }

    /// The UID of the owner that counts (a Deployment for its ReplicaSets), and what it asks for.
    fn built_in(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let same = |meta: &ObjectMeta| meta.uid.as_deref() == Some(&owner.uid);
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let replicas = match (group, owner.kind.as_str()) {
            ("apps" | "extensions", "ReplicaSet") => {
                let set = self.replica_sets.find(namespace, &owner.name)?;
                if !same(&set.metadata) {
                    return None;
                }
                let above =
                    owners::controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
                if let Some(above) = above {
                    let deployment = self.deployments.find(namespace, &above.name)?;
                    let spec = deployment.spec.as_ref()?;
                    return (deployment.metadata.uid.as_deref() == Some(&above.uid))
                        .then(|| (above.uid.clone(), spec.replicas.unwrap_or(1)));
                }
                set.spec.as_ref()?.replicas
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.find(namespace, &owner.name)?;
                same(&set.metadata).then_some(())?;
                set.spec.as_ref()?.replicas
            }
            ("", "ReplicationController") => {
                let controller = self.replication_controllers.find(namespace, &owner.name)?;
                same(&controller.metadata).then_some(())?;
                controller.spec.as_ref()?.replicas
            }
            _ => return None,
        };
        Some((owner.uid.clone(), replicas.unwrap_or(1)))
    }

    async fn by_subresource(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<(String, i32)>, String> {
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let Some(resource) = self.context.monitors.resource(group, &owner.kind) else {
            self.context.monitors.doubt();
            return Err(format!(
                "no matches for kind {:?} in group {group:?}",
                owner.kind
            ));
        };
        let api = Api::<DynamicObject>::namespaced_with(
            self.context.client.clone(),
            namespace,
            &resource.api,
        );
        match api.get_subresource("scale", &owner.name).await {
            Ok(scale) if scale.metadata.uid.as_deref() == Some(&owner.uid) => {
                let replicas = scale.data["spec"]["replicas"].as_i64().unwrap_or(0);
                let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
                Ok(Some((owner.uid.clone(), replicas)))
            }
            Ok(_) => Ok(None),
            // An object that is missing is named in the answer; a path that there isn't has no object.
            Err(error) if write::is_not_found(&error) => match words(&error) {
                message if message.contains(&format!("{:?}", owner.name)) => Ok(None),
                _ => Err(format!(
                    "{} does not implement the scale subresource",
                    resource.group_resource()
                )),
            },
            Err(error) => Err(words(&error)),
        }
    }
}
