//! Where a container sees its volumes: `volumeMounts` as bind mounts, with subPath and propagation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{VolumeError, Volumes, subpath};
use crate::pods::env::expand;
use crate::runtime::{Mount, Propagation};

/// Whether the volume's source can only be read.
fn read_only_source(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.image.is_some()
        || volume
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|c| c.read_only == Some(true))
}

/// What the mounts of one container are made from.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its uid.
    pub uid: &'a str,
    /// The container.
    pub container: &'a Container,
    /// Volumes on the host, by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The container's environment, for subPathExpr.
    pub env: &'a [(String, String)],
}

impl Volumes {
    /// The mounts of a container; subPaths are bound below the pod's directory first.
    pub fn mounts(&self, request: &Request<'_>) -> Result<Vec<Mount>, VolumeError> {
        let spec = request.pod.spec.as_ref();
        let sources = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let gid = spec
            .and_then(|s| s.security_context.as_ref())
            .and_then(|s| s.fs_group)
            .and_then(|g| u32::try_from(g).ok());
        let mut mounts = Vec::new();
        for (index, mount) in request.container.volume_mounts.iter().flatten().enumerate() {
            let volume = sources.iter().find(|v| v.name == mount.name);
            let (Some(root), Some(volume)) = (request.volumes.get(&mount.name), volume) else {
                return Err(VolumeError::Path(format!(
                    "cannot find volume {:?} to mount into container {:?}",
                    mount.name, request.container.name
                )));
            };
            let sub = match (mount.sub_path_expr.as_deref(), mount.sub_path.as_deref()) {
                (Some(expression), _) if !expression.is_empty() => {
                    expand_path(expression, request.env)?
                }
                (_, Some(path)) => path.to_owned(),
                _ => String::new(),
            };
            let host_path = if sub.is_empty() {
                root.clone()
            } else {
                self.sub(request, root, &sub, &mount.name, index, gid)?
            };
            let read_only_tree = read_only_source(volume);
            mounts.push(Mount {
                host_path,
                container_path: absolute(&mount.mount_path),
                read_only: mount.read_only.unwrap_or(false) || read_only_tree,
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::None,
                },
            });
        }
        Ok(mounts)
    }

    fn sub(
        &self,
        request: &Request<'_>,
        root: &Path,
        sub: &str,
        volume: &str,
        index: usize,
        gid: Option<u32>,
    ) -> Result<PathBuf, VolumeError> {
        let target = self
            .pod_dir(request.uid)
            .join("volume-subpaths")
            .join(volume)
            .join(&request.container.name)
            .join(index.to_string());
        subpath::bind(root, sub, &target, gid)?;
        Ok(target)
    }
}

fn expand_path(expression: &str, env: &[(String, String)]) -> Result<String, VolumeError> {
    let missing = std::cell::Cell::new(false);
    let path = expand(expression, &|name| {
        let value = env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        missing.set(missing.get() || value.is_none());
        value
    });
    if missing.get() {
        return Err(VolumeError::Path(
            "missing value for expansion in subPathExpr".into(),
        ));
    }
    subpath::check(&path)?;
    Ok(path)
}

/// mountPath may be written without its slash.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}
