//! What pods use of the node's disk, and whether that is more than they may: emptyDir limits, ephemeral storage.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::host::Host;
use crate::pods::{containers, logs};
use crate::quantity;
use crate::runtime::{ContainerStatus, PodRef};

/// Bytes that a tree takes on its own file system.
pub fn size(root: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(root) else {
        return 0;
    };
    let mut total = 0;
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        // What vanishes meanwhile takes no room.
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() && meta.dev() == top.dev() {
                left.push(entry.path());
            }
        }
    }
    total
}

async fn measure(root: PathBuf) -> u64 {
    tokio::task::spawn_blocking(move || size(&root))
        .await
        .unwrap_or(0)
}

/// Bytes that the emptyDirs on disk of a pod take, by volume.
pub async fn volumes(host: &Host, pod: &Pod) -> BTreeMap<String, u64> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = host
        .volumes
        .pod_dir(uid)
        .join("volumes/kubernetes.io~empty-dir");
    let mut used = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let on_disk = volume.empty_dir.as_ref().is_some_and(|e| {
            e.medium
                .as_deref()
                .is_none_or(|m| m.is_empty() || m == "Memory")
        });
        if on_disk {
            used.insert(volume.name.clone(), measure(dir.join(&volume.name)).await);
        }
    }
    used
}

/// Bytes of a container's writable layer and logs.
pub async fn container(host: &Host, pod: &PodRef, status: &ContainerStatus) -> u64 {
    let layer = host
        .runtime
        .runtime
        .disk_usage(&status.container)
        .await
        .unwrap_or(0);
    let log = logs::absolute(host, pod, status);
    let logs = match log.parent() {
        Some(dir) => measure(dir.to_owned()).await,
        None => 0,
    };
    layer + logs
}

/// Why the pod has to go, if it uses more than it may. Only pods with such limits are measured.
pub async fn over(host: &Host, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let limits: Vec<(&str, &str)> = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|v| {
            let limit = v.empty_dir.as_ref()?.size_limit.as_ref()?;
            (quantity::bytes(&limit.0)? > 0).then_some((v.name.as_str(), limit.0.as_str()))
        })
        .collect();
    let own = |c: &k8s_openapi::api::core::v1::Container| {
        let limits = c.resources.as_ref().and_then(|r| r.limits.clone());
        limits.and_then(|l| l.get("ephemeral-storage").cloned())
    };
    let limited: Vec<_> = spec
        .containers
        .iter()
        .filter_map(|c| Some((c.name.as_str(), own(c)?)))
        .collect();
    if limits.is_empty() && limited.is_empty() {
        return None;
    }
    let used = volumes(host, pod).await;
    for (volume, limit) in limits {
        let bytes = used.get(volume).copied().unwrap_or(0);
        if bytes > u64::try_from(quantity::bytes(limit)?).unwrap_or(u64::MAX) {
            return Some(format!(
                "Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. "
            ));
        }
    }
    if limited.is_empty() {
        return None;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sandbox = host.runtime.runtime.sandbox(uid).await.ok().flatten()?;
    let mut all: u64 = used.values().sum();
    let mut over = None;
    for status in sandbox.containers.iter().filter(|c| containers::running(c)) {
        let bytes = container(host, &sandbox.pod, status).await;
        all += bytes;
        let limit = limited
            .iter()
            .find(|(name, _)| *name == status.container.name)
            .map(|(_, limit)| limit);
        if let Some(limit) = limit
            && bytes > u64::try_from(quantity::bytes(&limit.0)?).unwrap_or(u64::MAX)
            && over.is_none()
        {
            over = Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                status.container.name, limit.0
            ));
        }
    }
    // The pod as a whole is limited if each of its containers is.
    if limited.len() == spec.containers.len() {
        let total: i64 = limited
            .iter()
            .filter_map(|(_, limit)| quantity::bytes(&limit.0))
            .sum();
        if all > u64::try_from(total).unwrap_or(u64::MAX) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
            ));
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_a_size() {
        let dir = std::env::temp_dir().join(format!("keelson-local-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(dir.join("a/b/file"), vec![1; 100_000]).unwrap();
        let used = size(&dir);
        assert!((100_000..200_000).contains(&used), "{used}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(size(&dir), 0);
    }
}
