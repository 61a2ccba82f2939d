//! `emptyDir`: a directory of the pod's own, on the node's disk or in memory.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Request, VolumeError, VolumeType, Volumes, make_dir, ownership, tmpfs};
use crate::quantity;

/// The type.
pub struct EmptyDir;

#[async_trait]
impl VolumeType for EmptyDir {
    fn name(&self) -> &'static str {
        "kubernetes.io/empty-dir"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request.volume.empty_dir.as_ref();
        let limit = source
            .and_then(|e| e.size_limit.as_ref())
            .and_then(|q| quantity::bytes(&q.0));
        let fresh = !request.dir.exists();
        match source.and_then(|e| e.medium.as_deref()).unwrap_or_default() {
            "" => make_dir(request.dir)?,
            "Memory" => {
                let fresh = !tmpfs::is_mounted(request.dir)?;
                tmpfs::mount(
                    request.dir,
                    memory_size(request, limit, host.capacity.memory),
                )?;
                if !fresh {
                    return Ok(request.dir.to_path_buf());
                }
                return finish(request);
            }
            medium => {
                return Err(VolumeError::Unsupported(format!(
                    "{} (emptyDir medium {medium})",
                    request.volume.name
                )));
            }
        }
        if fresh {
            finish(request)
        } else {
            Ok(request.dir.to_path_buf())
        }
    }
}

fn finish(request: &Request<'_>) -> Result<PathBuf, VolumeError> {
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(request.dir, open).map_err(VolumeError::io(format!(
        "opening {}",
        request.dir.display()
    )))?;
    if let Some(gid) = request.fs_group {
        ownership::give(request.dir, gid, false)?;
    }
    Ok(request.dir.to_path_buf())
}

/// The smallest of the volume's limit, the pod's memory limit and the node's memory.
fn memory_size(request: &Request<'_>, limit: Option<i64>, node: i64) -> Option<i64> {
    let spec = request.pod.spec.as_ref();
    let limits: Option<i64> = spec
        .into_iter()
        .flat_map(|s| &s.containers)
        .map(|c| {
            quantity::value(
                c.resources.as_ref().and_then(|r| r.limits.as_ref()),
                "memory",
            )
            .filter(|m| *m > 0)
        })
        .sum();
    [limit.filter(|l| *l > 0), limits, Some(node)]
        .into_iter()
        .flatten()
        .filter(|s| *s > 0)
        .min()
}
