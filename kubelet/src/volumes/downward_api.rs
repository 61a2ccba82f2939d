//! `downwardAPI`: fields of the pod itself as files.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Volume};

use super::atomic::{self, File, Payload};
use super::config_map::mode;
use super::{Request, VolumeError, VolumeType, Volumes};
use crate::pods::downward;

/// The type.
pub struct DownwardApi;

#[async_trait]
impl VolumeType for DownwardApi {
    fn name(&self) -> &'static str {
        "kubernetes.io/downward-api"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn live(&self) -> bool {
        true
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .downward_api
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        let mode = mode(source.default_mode, request.fs_group);
        let payload = payload(
            host,
            request,
            source.items.as_deref().unwrap_or_default(),
            mode,
        )?;
        atomic::write(request.dir, &payload, request.fs_group)?;
        Ok(request.dir.to_path_buf())
    }
}

/// Files of fields.
pub fn payload(
    host: &Volumes,
    request: &Request<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(request.pod, &field.field_path)?,
            // In a volume the container is always named, so that there is no own one.
            (None, Some(resource)) => {
                downward::resource(request.pod, &Container::default(), resource, &host.capacity)?
            }
            (None, None) => continue,
        };
        let mode = item
            .mode
            .map_or(default_mode, |m| mode(Some(m), request.fs_group));
        payload.insert(
            item.path.clone(),
            File {
                data: text.into_bytes(),
                mode,
                uid: None,
            },
        );
    }
    Ok(payload)
}
