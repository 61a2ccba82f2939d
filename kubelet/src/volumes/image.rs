//! `image`: the content of an OCI image, read-only.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Request, VolumeError, VolumeType, Volumes, make_dir, tmpfs};

/// The type.
pub struct ImageVolume;

#[async_trait]
impl VolumeType for ImageVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io/image"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .image
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        let reference = source.reference.as_deref().unwrap_or_default();
        if tmpfs::is_mounted(request.dir)? {
            return Ok(request.dir.to_path_buf());
        }
        let bad = |e: crate::runtime::RuntimeError| VolumeError::Image(e.to_string());
        let present = host.images.status(reference).await.map_err(bad)?;
        let latest = !reference.contains('@')
            && !reference
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .contains(':')
            || reference.ends_with(":latest");
        let policy =
            source
                .pull_policy
                .as_deref()
                .unwrap_or(if latest { "Always" } else { "IfNotPresent" });
        let image = match (policy, present) {
            ("Never", None) => {
                return Err(VolumeError::Image(format!(
                    "Container image {reference:?} is not present with pull policy of Never"
                )));
            }
            ("Never" | "IfNotPresent", Some(image)) => image,
            _ => {
                let auth =
                    crate::images::auth::of_pod(&host.objects, request.pod, request.uid).await;
                host.images.pull(reference, &auth).await.map_err(bad)?
            }
        };
        make_dir(request.dir)?;
        host.images
            .mount(&image.id, request.dir)
            .await
            .map_err(bad)?;
        Ok(request.dir.to_path_buf())
    }
}
