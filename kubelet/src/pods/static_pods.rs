//! Static pods: manifests in a directory. Names get the node's name as suffix, uids come from the content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::source::Change;

/// Most bytes of a manifest.
const MAX_MANIFEST: u64 = 1 << 20;

/// Annotations that mark where a pod comes from.
pub mod annotation {
    /// `file` or `api`.
    pub const SOURCE: &str = "kubernetes.io/config.source";
    /// Hash of the manifest: the uid.
    pub const HASH: &str = "kubernetes.io/config.hash";
    /// When it was first seen.
    pub const SEEN: &str = "kubernetes.io/config.seen";
    /// On a mirror: the hash of the static pod it shows.
    pub const MIRROR: &str = "kubernetes.io/config.mirror";
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not readable.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a pod.
    #[error("{0}")]
    Decode(String),
}

/// A manifest as the pod it stands for.
pub fn decode(
    bytes: &[u8],
    path: &Path,
    node: &str,
    seen: Timestamp,
) -> Result<Pod, ManifestError> {
    let text = std::str::from_utf8(bytes).map_err(|e| ManifestError::Decode(e.to_string()))?;
    let value: serde_json::Value =
        serde_norway::from_str(text).map_err(|e| ManifestError::Decode(e.to_string()))?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err(ManifestError::Decode(format!(
            "want apiVersion v1, kind Pod, found {} {}",
            value["apiVersion"], value["kind"]
        )));
    }
    let mut pod: Pod =
        serde_json::from_value(value).map_err(|e| ManifestError::Decode(e.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(node);
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(bytes);
    let uid: String = hash
        .finalize()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect();
    let meta = &mut pod.metadata;
    let name = meta
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| ManifestError::Decode("metadata.name is missing".into()))?;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(uid.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(annotation::SOURCE.into(), "file".into());
    annotations.insert(annotation::HASH.into(), uid);
    annotations.insert(annotation::SEEN.into(), seen.to_string());
    let spec = pod
        .spec
        .as_mut()
        .ok_or_else(|| ManifestError::Decode("spec is missing".into()))?;
    spec.node_name = Some(node.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    spec.scheduler_name
        .get_or_insert_with(|| "default-scheduler".into());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        container
            .termination_message_path
            .get_or_insert_with(|| "/dev/termination-log".into());
        container
            .termination_message_policy
            .get_or_insert_with(|| "File".into());
    }
    Ok(pod)
}

fn read_all(
    dir: &Path,
    node: &str,
    seen: &mut BTreeMap<PathBuf, (Vec<u8>, Arc<Pod>)>,
) -> Result<bool, std::io::Error> {
    let mut paths = Vec::new();
    if dir.is_dir() {
        for entry in std::fs::read_dir(dir)?.flatten() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.path().is_file() {
                paths.push(entry.path());
            }
        }
    } else if dir.is_file() {
        paths.push(dir.to_path_buf());
    }
    let before = seen.len();
    seen.retain(|path, _| paths.contains(path));
    let mut changed = seen.len() != before;
    for path in paths {
        let bytes = match std::fs::metadata(&path).and_then(|m| {
            if m.len() > MAX_MANIFEST {
                Ok(None)
            } else {
                std::fs::read(&path).map(Some)
            }
        }) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                tracing::warn!(file = %path.display(), "manifest is larger than 1 MiB, skipped");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "reading a manifest");
                continue;
            }
        };
        if seen.get(&path).is_some_and(|(old, _)| *old == bytes) {
            continue;
        }
        match decode(&bytes, &path, node, Timestamp::now()) {
            Ok(pod) => {
                seen.insert(path, (bytes, Arc::new(pod)));
                changed = true;
            }
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "could not process manifest file")
            }
        }
    }
    Ok(changed)
}

/// A watch of a directory by inotify, where the kernel gives one.
fn notices(dir: &Path) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::CREATE;
    inotify::add_watch(&fd, dir, flags).ok()?;
    // SAFETY: an OwnedFd answers with the same open descriptor for as long as it lives.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.ok()
}

/// Follows the directory until the receiver is dropped: at once by inotify, and every `period` in any case.
pub async fn watch(dir: PathBuf, node: String, period: Duration, changes: mpsc::Sender<Change>) {
    let mut seen = BTreeMap::new();
    let mut first = true;
    let notices = notices(&dir);
    loop {
        match read_all(&dir, &node, &mut seen) {
            Ok(changed) if changed || first => {
                first = false;
                let pods = seen.values().map(|(_, pod)| pod.clone()).collect();
                if changes.send(Change::All(pods)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, dir = %dir.display(), "reading static pods"),
        }
        let noticed = async {
            match &notices {
                Some(fd) => {
                    if let Ok(mut guard) = fd.readable().await {
                        let mut events = [0; 4096];
                        while nix::unistd::read(fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
                        guard.clear_ready();
                    }
                    // Let a burst of writes settle.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = noticed => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text = b"apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\nspec: {containers: [{name: c, image: i}]}\n";
        let path = Path::new("/m/web.yaml");
        let pod = decode(text, path, "Node1", Timestamp::now()).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node1"));
        let again = decode(text, path, "Node1", Timestamp::now()).unwrap();
        assert_eq!(pod.metadata.uid, again.metadata.uid);
        let other = decode(
            &[text.as_slice(), b" "].concat(),
            path,
            "Node1",
            Timestamp::now(),
        )
        .unwrap();
        assert_ne!(pod.metadata.uid, other.metadata.uid);
        assert!(
            decode(
                b"kind: Service\napiVersion: v1",
                path,
                "n",
                Timestamp::now()
            )
            .is_err()
        );
        assert!(decode(b"\xff", path, "n", Timestamp::now()).is_err());
    }
}
