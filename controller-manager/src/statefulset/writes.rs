//! Making, mending and deleting the pods and claims of a StatefulSet, and telling about it.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use keelson_runtime::recorder::{Kind, Recorder, reference};
use keelson_runtime::{Informer, write};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::retention::{Holder, deletes_when_scaled, is_stale};
use super::{identity, plan};
use crate::pod_control::words;

/// Why a pod or its claims are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The claim goes; the pod has to wait for its successor.
    #[error("pvc {0} is being deleted")]
    Deleting(String),
    /// The claim can't be made.
    #[error("failed to create PVC {claim}: {why}")]
    NoClaim {
        /// The claim.
        claim: String,
        /// What the API server says.
        why: String,
    },
    /// The claim's owners can't be set.
    #[error("could not update claim {claim} for delete policy ownerRefs: {why}")]
    NoOwners {
        /// The claim.
        claim: String,
        /// What the API server says.
        why: String,
    },
}

impl WriteError {
    fn words(&self) -> String {
        match self {
            Self::Api(error) => words(error),
            other => other.to_string(),
        }
    }
}

/// Writes what belongs to one set.
pub struct Writer<'a> {
    set: &'a StatefulSet,
    about: ObjectReference,
    recorder: &'a Recorder,
    claims: &'a Informer<PersistentVolumeClaim>,
    claim_api: Api<PersistentVolumeClaim>,
    pod_api: Api<Pod>,
}

impl<'a> Writer<'a> {
    /// Of this set.
    pub fn new(
        client: &Client,
        recorder: &'a Recorder,
        claims: &'a Informer<PersistentVolumeClaim>,
        set: &'a StatefulSet,
    ) -> Self {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            set,
            about: reference(set),
            recorder,
            claims,
            claim_api: Api::namespaced(client.clone(), namespace),
            pod_api: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Tells what became of a pod.
    fn told(
        &self,
        verb: &str,
        pod: &str,
        result: Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let set = self.set.name_any();
        match &result {
            Ok(()) => self.recorder.event(
                &self.about,
                Kind::Normal,
                &format!("Successful{verb}"),
                format!("{verb} Pod {pod} in StatefulSet {set} successful"),
            ),
            Err(error) => self.recorder.event(
                &self.about,
                Kind::Warning,
                &format!("Failed{verb}"),
                format!(
                    "{verb} Pod {pod} in StatefulSet {set} failed error: {}",
                    error.words()
                ),
            ),
        }
        result
    }

    fn known_claim(&self, name: &str) -> Option<std::sync::Arc<PersistentVolumeClaim>> {
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        self.claims.find(namespace, name)
    }

    /// Makes the claims that a pod lacks.
    async fn provide_claims(&self, ordinal: i32) -> Result<(), WriteError> {
        let mut result = Ok(());
        for claim in identity::claims(self.set, ordinal) {
            let name = claim.name_any();
            if let Some(there) = self.known_claim(&name) {
                if there.metadata.deletion_timestamp.is_some() {
                    result = Err(WriteError::Deleting(name));
                }
                continue;
            }
            let set = self.set.name_any();
            match self.claim_api.create(&PostParams::default(), &claim).await {
                Ok(_) => self.recorder.event(
                    &self.about,
                    Kind::Normal,
                    "SuccessfulCreate",
                    format!("Create Claim {name} Pod {set}-{ordinal} in StatefulSet {set} success"),
                ),
                Err(error) if write::is_already_exists(&error) => {}
                Err(error) => {
                    let why = words(&error);
                    self.recorder.event(
                        &self.about,
                        Kind::Warning,
                        "FailedCreate",
                        format!(
                            "Create Claim {name} for Pod {set}-{ordinal} in StatefulSet {set} failed error: {why}"
                        ),
                    );
                    result = Err(WriteError::NoClaim { claim: name, why });
                }
            }
        }
        result
    }

    /// Whether a claim of the pod to be made goes with an earlier pod of that name.
    pub fn waits_for_claims(&self, ordinal: i32) -> bool {
        let pod = identity::unmade(self.set, ordinal);
        deletes_when_scaled(self.set)
            && identity::claims(self.set, ordinal)
                .iter()
                .filter_map(|claim| self.known_claim(&claim.name_any()))
                .any(|claim| is_stale(&claim, &pod))
    }

    /// Makes the pod, after its claims.
    pub async fn create(
        &self,
        ordinal: i32,
        revision: &ControllerRevision,
    ) -> Result<(), WriteError> {
        let template = identity::template(revision)
            .unwrap_or_else(|| self.set.spec.clone().unwrap_or_default().template);
        let pod = identity::pod(self.set, &template, ordinal, &revision.name_any());
        let name = pod.name_any();
        if let Err(error) = self.provide_claims(ordinal).await {
            return self.told("Create", &name, Err(error));
        }
        let created = match self.pod_api.create(&PostParams::default(), &pod).await {
            // The cache lags, or somebody else has the name: either way its events bring us back.
            Err(error)
                if write::is_already_exists(&error) || write::is_namespace_terminating(&error) =>
            {
                return Ok(());
            }
            other => other,
        };
        let own = created.as_ref().unwrap_or(&pod);
        if let Err(error) = self.own_claims(own).await {
            return self.told("Update", &name, Err(error));
        }
        self.told("Create", &name, created.map(drop).map_err(WriteError::from))
    }

    /// Gives the pod's claims the owners that the retention policy asks for.
    async fn own_claims(&self, pod: &Pod) -> Result<(), WriteError> {
        let Some(ordinal) = plan::ordinal(self.set, pod) else {
            return Ok(());
        };
        let holder = Holder { set: self.set, pod };
        for claim in identity::claims(self.set, ordinal) {
            let name = claim.name_any();
            let Some(claim) = self.known_claim(&name) else {
                continue;
            };
            let Some(owners) = holder.owners(&claim) else {
                continue;
            };
            if holder.is_contested(&claim) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                );
                self.recorder
                    .event(&self.about, Kind::Warning, "ConflictingController", message);
            }
            let mut next = (*claim).clone();
            next.metadata.owner_references = Some(owners);
            let written = self
                .claim_api
                .replace(&name, &PostParams::default(), &next)
                .await;
            if let Err(error) = written
                && !write::is_not_found(&error)
            {
                let why = words(&error);
                return Err(WriteError::NoOwners { claim: name, why });
            }
        }
        Ok(())
    }

    /// Makes a pod that is there what a pod of the set has to be: by its labels, its claims, and their owners.
    pub async fn mend(&self, pod: &Pod) -> Result<(), WriteError> {
        let Some(ordinal) = plan::ordinal(self.set, pod) else {
            return Ok(());
        };
        let name = pod.name_any();
        if crate::pod::phase(pod) == "Pending" && pod.metadata.deletion_timestamp.is_none() {
            self.provide_claims(ordinal).await?;
        }
        if let Err(error) = self.own_claims(pod).await {
            return self.told("Update", &name, Err(error));
        }
        let Some(next) = identity::mended(self.set, pod, ordinal) else {
            return Ok(());
        };
        let written = self
            .pod_api
            .replace(&name, &PostParams::default(), &next)
            .await;
        match written {
            Err(error) if write::is_not_found(&error) => Ok(()),
            other => self.told("Update", &name, other.map(drop).map_err(WriteError::from)),
        }
    }

    /// Deletes the pod.
    pub async fn delete(&self, pod: &Pod) -> Result<(), WriteError> {
        let params = write::delete_params(pod.metadata.uid.as_deref(), None);
        let deleted = self.pod_api.delete(&pod.name_any(), &params).await;
        let result = write::optional(deleted).map(drop).map_err(WriteError::from);
        self.told("Delete", &pod.name_any(), result)
    }
}
