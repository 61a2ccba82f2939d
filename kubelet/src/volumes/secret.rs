//! `secret`: the keys of a Secret as files, in memory only.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::atomic::{self, Payload};
use super::config_map::{Chosen, choose, mode};
use super::{Request, VolumeError, VolumeType, Volumes, tmpfs};
use crate::objects::ObjectError;

/// The type.
pub struct Secrets;

#[async_trait]
impl VolumeType for Secrets {
    fn name(&self) -> &'static str {
        "kubernetes.io/secret"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn live(&self) -> bool {
        true
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .secret
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        let chosen = Chosen {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode, request.fs_group),
            kind: "secret",
        };
        let payload = payload(
            host,
            request,
            source.secret_name.as_deref().unwrap_or_default(),
            &chosen,
        )
        .await?;
        tmpfs::mount(request.dir, None)?;
        atomic::write(request.dir, &payload, request.fs_group)?;
        Ok(request.dir.to_path_buf())
    }
}

/// Files of a Secret.
pub async fn payload(
    host: &Volumes,
    request: &Request<'_>,
    name: &str,
    chosen: &Chosen<'_>,
) -> Result<Payload, VolumeError> {
    let secret = match host
        .objects
        .secrets
        .get(request.uid, request.namespace(), name)
        .await
    {
        Ok(secret) => secret,
        Err(ObjectError::NotFound { .. }) if chosen.optional => return Ok(Payload::new()),
        Err(error) => return Err(error.into()),
    };
    let data: Vec<(String, Vec<u8>)> = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()))
        .collect();
    choose(&data, chosen, request.fs_group)
}
