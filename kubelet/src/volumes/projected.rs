//! `projected`: several sources in one directory: tokens, ConfigMaps, Secrets, fields.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume, VolumeProjection};

use super::atomic::{self, File, Payload};
use super::config_map::{self, Chosen, mode};
use super::{Request, VolumeError, VolumeType, Volumes, downward_api, secret, tmpfs};

/// The type.
pub struct Projected;

#[async_trait]
impl VolumeType for Projected {
    fn name(&self) -> &'static str {
        "kubernetes.io/projected"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn live(&self) -> bool {
        true
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .projected
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        let mode = mode(source.default_mode, request.fs_group);
        let mut all = Payload::new();
        for projection in source.sources.iter().flatten() {
            all.extend(one(host, request, projection, mode).await?);
        }
        tmpfs::mount(request.dir, None)?;
        atomic::write(request.dir, &all, request.fs_group)?;
        Ok(request.dir.to_path_buf())
    }
}

async fn one(
    host: &Volumes,
    request: &Request<'_>,
    projection: &VolumeProjection,
    mode: u32,
) -> Result<Payload, VolumeError> {
    if let Some(source) = &projection.config_map {
        let chosen = Chosen {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode,
            kind: "config",
        };
        return config_map::payload(host, request, &source.name, &chosen).await;
    }
    if let Some(source) = &projection.secret {
        let chosen = Chosen {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode,
            kind: "secret",
        };
        return secret::payload(host, request, &source.name, &chosen).await;
    }
    if let Some(source) = &projection.downward_api {
        return downward_api::payload(
            host,
            request,
            source.items.as_deref().unwrap_or_default(),
            mode,
        );
    }
    if let Some(source) = &projection.service_account_token {
        let token = host
            .tokens
            .get(
                request.pod,
                request.uid,
                source.audience.as_deref(),
                source.expiration_seconds.unwrap_or(3600),
            )
            .await?;
        let (mode, uid) = token_owner(request.pod, mode, request.fs_group);
        return Ok(Payload::from([(
            source.path.clone(),
            File {
                data: token.into_bytes(),
                mode,
                uid,
            },
        )]));
    }
    Err(VolumeError::Unsupported(format!(
        "{} (a projection of this type)",
        request.volume.name
    )))
}

/// A token is readable by the one user of all containers, by the fsGroup, or else by everybody in the pod.
fn token_owner(pod: &Pod, mode: u32, fs_group: Option<u32>) -> (u32, Option<u32>) {
    if fs_group.is_some() {
        return (0o640, None);
    }
    match only_user(pod) {
        Some(uid) => (0o600, Some(uid)),
        None => (mode, None),
    }
}

/// The uid that every container of the pod runs as, if it is the same and known.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let pod_user = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut users = containers.map(|c| {
        c.security_context
            .as_ref()
            .and_then(|s| s.run_as_user)
            .or(pod_user)
    });
    let first = users.next()??;
    users
        .all(|u| u == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_may_read_a_token() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": spec})).unwrap()
        };
        let one = pod(
            json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        assert_eq!(token_owner(&one, 0o644, None), (0o600, Some(7)));
        let two = pod(
            json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 8}}]}),
        );
        assert_eq!(token_owner(&two, 0o644, None), (0o644, None));
        assert_eq!(token_owner(&two, 0o644, Some(9)).0, 0o640);
    }
}
