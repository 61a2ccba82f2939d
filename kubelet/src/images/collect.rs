//! Removing images that no pod uses: when the disk fills up, when they are too old, or to relieve pressure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use keelson_runtime::recorder::Kind;

use crate::clock;
use crate::host::Host;
use crate::node::machine;
use crate::pods::manager::Manager;
use crate::runtime::Image;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Timestamp,
    used: Timestamp,
}

/// When images were seen first and used last.
#[derive(Default)]
pub struct Collector(Mutex<BTreeMap<String, Seen>>);

/// An image that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unused {
    id: String,
    size: u64,
    used: Timestamp,
    first: Timestamp,
}

/// The ids of images that containers or volumes of pods use.
async fn in_use(
    host: &Host,
    manager: &Manager,
    images: &[Image],
) -> Result<BTreeSet<String>, String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let sandboxes = host
        .runtime
        .runtime
        .list()
        .await
        .map_err(|e| e.to_string())?;
    for container in sandboxes.iter().flat_map(|s| &s.containers) {
        names.insert(container.image_id.clone());
        names.insert(container.image.clone());
    }
    for pod in manager.pods() {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let references = volumes.filter_map(|v| v.image.as_ref()?.reference.clone());
        for reference in references {
            if let Ok(Some(image)) = host.runtime.images.status(&reference).await {
                names.insert(image.id);
            }
        }
    }
    Ok(images
        .iter()
        .filter(|image| {
            names.contains(&image.id)
                || image.tags.iter().chain(&image.digests).any(|name| {
                    names.contains(name) || names.iter().any(|n| format!("docker.io/{n}") == *name)
                })
        })
        .map(|image| image.id.clone())
        .collect())
}

impl Collector {
    async fn unused(&self, host: &Host, manager: &Manager) -> Result<Vec<Unused>, String> {
        let now = host.clock.now();
        let images = host
            .runtime
            .images
            .list()
            .await
            .map_err(|e| e.to_string())?;
        let used = in_use(host, manager, &images).await?;
        let mut seen = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let entry = seen.entry(image.id.clone()).or_insert(Seen {
                first: now,
                used: Timestamp::UNIX_EPOCH,
            });
            if used.contains(&image.id) {
                entry.used = now;
                continue;
            }
            unused.push(Unused {
                id: image.id,
                size: image.size,
                used: entry.used,
                first: entry.first,
            });
        }
        // Who was not used for longest goes first.
        unused.sort_by(|a, b| (a.used, a.first, &a.id).cmp(&(b.used, b.first, &b.id)));
        Ok(unused)
    }

    /// Frees at least `wanted` bytes, if that much is unused; answers how much was freed.
    pub async fn free(&self, host: &Host, manager: &Manager, wanted: u64) -> Result<u64, String> {
        let now = host.clock.now();
        let least = host.config.image_minimum_gc_age;
        let mut freed = 0;
        for image in self.unused(host, manager).await? {
            if freed >= wanted {
                break;
            }
            // Just pulled, perhaps for a container that is about to start.
            if clock::until(image.first, now) < least {
                continue;
            }
            match host.runtime.images.remove(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = %image.id, bytes = image.size, "removed an unused image");
                    freed += image.size;
                }
                Err(error) => tracing::warn!(%error, image = %image.id, "removing an unused image"),
            }
        }
        if freed > 0 {
            host.node_changed.notify_one();
        }
        Ok(freed)
    }

    async fn too_old(&self, host: &Host, manager: &Manager) -> Result<(), String> {
        let most = host.config.image_maximum_gc_age;
        if most.is_zero() {
            return Ok(());
        }
        let now = host.clock.now();
        for image in self.unused(host, manager).await? {
            if clock::until(image.used.max(image.first), now) > most {
                host.runtime
                    .images
                    .remove(&image.id)
                    .await
                    .map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    async fn look(&self, host: &Host, manager: &Manager) -> Result<(), String> {
        self.too_old(host, manager).await?;
        let config = &host.config;
        let high = u64::from(config.image_gc_high_threshold_percent);
        if high >= 100 {
            return Ok(());
        }
        let stats = machine::fs_stats(&host.root_dir).map_err(|e| e.to_string())?;
        let percent = 100
            - (stats.available * 100)
                .checked_div(stats.total)
                .unwrap_or(100);
        if percent < high {
            // Ages are kept up to date all the same.
            return self.unused(host, manager).await.map(drop);
        }
        let low = u64::from(config.image_gc_low_threshold_percent);
        let wanted = (stats.total * (100 - low) / 100).saturating_sub(stats.available);
        let freed = self.free(host, manager, wanted).await?;
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            );
            host.node_event(Kind::Warning, "FreeDiskSpaceFailed", message);
        }
        Ok(())
    }

    /// Looks every few minutes until dropped.
    pub async fn run(&self, host: &Host, manager: &Manager) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if let Err(error) = self.look(host, manager).await {
                tracing::warn!(%error, "collecting images");
                host.node_event(Kind::Warning, "ImageGCFailed", error);
            }
        }
    }
}
