//! Log files of containers: rotation by size, and removal with their container. Reading them is the server's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::Host;
use crate::runtime::{ContainerStatus, PodRef};

fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, file = %path.display(), "removing a log")
        }
        _ => {}
    }
}

/// Removes the log of one attempt, its rotated parts and its link.
pub fn remove(host: &Host, pod: &PodRef, status: &ContainerStatus) {
    let path = absolute(host, pod, status);
    for old in rotated(&path) {
        remove_file(&old);
    }
    remove_file(&path);
    let id = status.id.rsplit('/').next().unwrap_or_default();
    remove_file(&host.log_links.join(format!(
        "{}_{}_{}-{id}.log",
        pod.name, pod.namespace, status.container.name
    )));
}

/// Where a container's log is; runtimes may report it relative to the pod's log directory.
pub fn absolute(host: &Host, pod: &PodRef, status: &ContainerStatus) -> PathBuf {
    if status.log_path.is_absolute() {
        return status.log_path.clone();
    }
    super::start::log_directory(host, pod).join(&status.log_path)
}

/// Removes everything a pod logged.
pub fn remove_pod(host: &Host, pod: &PodRef) {
    let dir = super::start::log_directory(host, pod);
    if let Err(error) = std::fs::remove_dir_all(&dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %dir.display(), "removing a pod's logs");
    }
    remove_dead_links(&host.log_links);
}

/// Removes links whose log is gone.
pub fn remove_dead_links(links: &Path) {
    let Ok(entries) = std::fs::read_dir(links) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_symlink() && !path.exists() {
            remove_file(&path);
        }
    }
}

/// Rotated parts of a log, oldest first: `<log>.<time>`.
pub fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut parts: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    parts.sort();
    parts
}

/// Whether a log has to be rotated now.
fn too_large(path: &Path, most: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.len() >= most)
}

/// Moves the log aside and drops the oldest parts beyond `files` in all.
fn move_aside(path: &Path, files: u32) -> std::io::Result<()> {
    let stamp = jiff::fmt::strtime::format("%Y%m%d-%H%M%S", jiff::Timestamp::now())
        .map_err(std::io::Error::other)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{stamp}"));
    std::fs::rename(path, &aside)?;
    let parts = rotated(path);
    let keep = usize::try_from(files.saturating_sub(1)).unwrap_or(1);
    for old in parts.iter().take(parts.len().saturating_sub(keep)) {
        remove_file(old);
    }
    Ok(())
}

/// Rotates logs until dropped.
pub async fn rotate(host: Arc<Host>) {
    // Checked when the configuration was read.
    let most = host.config.log_max_size().unwrap_or(10 << 20);
    let mut ticks = tokio::time::interval(
        host.config
            .container_log_monitor_interval
            .max(std::time::Duration::from_secs(1)),
    );
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sandboxes = match host.runtime.runtime.list().await {
            Ok(sandboxes) => sandboxes,
            Err(error) => {
                tracing::warn!(%error, "listing containers to rotate logs");
                continue;
            }
        };
        for sandbox in &sandboxes {
            for status in sandbox
                .containers
                .iter()
                .filter(|c| super::containers::running(c))
            {
                let path = absolute(&host, &sandbox.pod, status);
                if !too_large(&path, most) {
                    continue;
                }
                if let Err(error) = move_aside(&path, host.config.container_log_max_files) {
                    tracing::warn!(%error, log = %path.display(), "rotating a log");
                } else if let Err(error) = host.runtime.runtime.reopen_log(&status.container).await
                {
                    tracing::warn!(%error, log = %path.display(), "reopening a log");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_as_many_files_as_asked() {
        let dir = std::env::temp_dir().join(format!("keelson-rotate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("0.log");
        for old in ["20250101-000000", "20250102-000000", "20250103-000000"] {
            std::fs::write(dir.join(format!("0.log.{old}")), "x").unwrap();
        }
        std::fs::write(&log, "xxxx").unwrap();
        assert!(too_large(&log, 4) && !too_large(&log, 5));
        move_aside(&log, 3).unwrap();
        let left = rotated(&log);
        assert_eq!(left.len(), 2);
        assert!(left[0].to_string_lossy().ends_with("20250103-000000") && !log.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
