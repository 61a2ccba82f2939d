//! `persistentVolumeClaim`: claims bound to volumes of type hostPath or local, which are paths of this node.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use kube::api::Api;

use super::{Request, VolumeError, VolumeType, Volumes, host_path, ownership};

/// The type.
pub struct Claim;

#[async_trait]
impl VolumeType for Claim {
    fn name(&self) -> &'static str {
        "kubernetes.io/local-volume"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let name = match &request.volume.persistent_volume_claim {
            Some(source) => source.claim_name.clone(),
            None => format!(
                "{}-{}",
                request.pod.metadata.name.as_deref().unwrap_or_default(),
                request.volume.name
            ),
        };
        let client = host
            .client
            .clone()
            .ok_or_else(|| VolumeError::Api("this kubelet has no API server".into()))?;
        let api = |e: kube::Error| VolumeError::Api(super::api_words(&e));
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(client.clone(), request.namespace());
        let claim = claims.get(&name).await.map_err(api)?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let Some(volume) = claim
            .spec
            .and_then(|s| s.volume_name)
            .filter(|v| bound && !v.is_empty())
        else {
            return Err(VolumeError::Api(format!(
                "PVC {}/{name} is not bound",
                request.namespace()
            )));
        };
        let volume = Api::<PersistentVolume>::all(client)
            .get(&volume)
            .await
            .map_err(api)?;
        let spec = volume.spec.unwrap_or_default();
        let uid = claim.metadata.uid.as_deref();
        if spec.claim_ref.as_ref().and_then(|r| r.uid.as_deref()) != uid {
            return Err(VolumeError::Api(format!(
                "PVC {}/{name} is bound to a volume of another claim",
                request.namespace()
            )));
        }
        let path = if let Some(source) = &spec.host_path {
            host_path::check(source)?
        } else if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            if !path.exists() {
                return Err(VolumeError::Path(format!(
                    "path {:?} does not exist",
                    source.path
                )));
            }
            path
        } else {
            return Err(VolumeError::Unsupported(request.volume.name.clone()));
        };
        if let (Some(gid), Some(_)) = (request.fs_group, &spec.local) {
            let policy = request
                .pod
                .spec
                .as_ref()
                .and_then(|s| s.security_context.as_ref())
                .and_then(|s| s.fs_group_change_policy.as_deref());
            ownership::give(&path, gid, policy == Some("OnRootMismatch"))?;
        }
        Ok(path)
    }
}
