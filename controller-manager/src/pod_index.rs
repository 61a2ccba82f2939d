//! The indexes over pods that several controllers share, so that none of them walks through all pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::{Informer, Informers, owners};

use crate::pod;
use crate::volume::pod_claims;

const BY_OWNER: &str = "controller";
const BY_NODE: &str = "node";
const BY_CLAIM: &str = "claim";

/// The pod informer with its indexes.
#[derive(Clone)]
pub struct Pods {
    informer: Informer<Pod>,
}

impl std::ops::Deref for Pods {
    type Target = Informer<Pod>;

    fn deref(&self) -> &Informer<Pod> {
        &self.informer
    }
}

impl Pods {
    /// The one informer of pods. Annotations that only kubectl reads are not kept.
    pub fn of(informers: &Informers) -> Self {
        let informer = informers
            .get_with::<Pod>(|| keelson_runtime::informer::Options::default().project(strip));
        Self::index(informer)
    }

    fn index(informer: Informer<Pod>) -> Self {
        informer.index_by(BY_OWNER, |pod| {
            vec![match owners::controller_of(&pod.metadata) {
                Some(owner) => owner.uid.clone(),
                None => orphans_of(pod.metadata.namespace.as_deref().unwrap_or_default()),
            }]
        });
        informer.index_by(BY_CLAIM, pod_claims::claims);
        informer.index_by(BY_NODE, |pod| vec![pod::node(pod).to_owned()]);
        Self { informer }
    }

    /// The pods whose controller has this UID.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Pod>> {
        self.by_index(BY_OWNER, uid)
    }

    /// The pods of a namespace that have no controller.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<Pod>> {
        self.by_index(BY_OWNER, &orphans_of(namespace))
    }

    /// The pods bound to a node; those bound to none with an empty name.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Pod>> {
        self.by_index(BY_NODE, node)
    }

    /// The pods that name a claim, by a volume of theirs.
    pub fn of_claim(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        self.by_index(BY_CLAIM, &format!("{namespace}/{name}"))
    }

    /// How many pods are bound to a node.
    pub fn count_on_node(&self, node: &str) -> usize {
        self.count_by_index(BY_NODE, node)
    }

    /// The nodes that pods are bound to.
    pub fn nodes(&self) -> Vec<String> {
        self.index_values(BY_NODE)
    }
}

fn orphans_of(namespace: &str) -> String {
    // No UID holds a slash.
    format!("/{namespace}")
}

fn strip(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
