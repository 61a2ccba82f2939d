//! Getting the image of a container by its pull policy, with upstream's events and words for what goes wrong.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::recorder::Kind;

use super::auth;
use crate::config::duration;
use crate::host::Host;
use crate::pods::containers::Item;
use crate::runtime::{Image, RuntimeError};

/// Why there is no image: reason and message of `state.waiting`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// `ErrImagePull`, `InvalidImageName`, …
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// `imagePullPolicy`, or what it defaults to.
pub fn policy(item: &Item) -> &str {
    if let Some(policy) = item
        .container
        .image_pull_policy
        .as_deref()
        .filter(|p| !p.is_empty())
    {
        return policy;
    }
    let image = item.container.image.as_deref().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }
}

/// Looks for the image and pulls it if the policy says so.
pub async fn fetch(host: &Host, pod: &Pod, uid: &str, item: &Item) -> Result<Image, Failure> {
    let image = item.container.image.as_deref().unwrap_or_default();
    let path = Some(item.field_path.as_str());
    let warn =
        |reason: &str, message: String| host.event(pod, path, Kind::Warning, reason, message);
    let fail = |reason: &'static str, message: String| {
        warn("Failed", format!("Error: {reason}"));
        Err(Failure { reason, message })
    };
    let present = match host.runtime.images.status(image).await {
        Ok(present) => present,
        Err(error @ RuntimeError::InvalidImageName { .. }) => {
            let message = format!("Failed to apply default image tag {image:?}: {error}");
            warn("InspectFailed", message.clone());
            return fail("InvalidImageName", message);
        }
        Err(error) => {
            let message = format!("Failed to inspect image {image:?}: {error}");
            warn("Failed", message.clone());
            return fail("ImageInspectError", message);
        }
    };
    match (policy(item), present) {
        ("Never", None) => {
            let message =
                format!("Container image {image:?} is not present with pull policy of Never");
            warn("ErrImageNeverPull", message.clone());
            return fail("ErrImageNeverPull", message);
        }
        ("Never" | "IfNotPresent", Some(found)) => {
            let message = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            host.event(pod, path, Kind::Normal, "Pulled", message);
            return Ok(found);
        }
        _ => {}
    }
    host.event(
        pod,
        path,
        Kind::Normal,
        "Pulling",
        format!("Pulling image {image:?}"),
    );
    let waited = Instant::now();
    let auth = auth::of_pod(&host.objects, pod, uid).await;
    let pulled = {
        // The semaphore is never closed.
        let _slot = host.pulls.acquire().await;
        let started = Instant::now();
        (
            host.runtime.images.pull(image, &auth).await,
            started.elapsed(),
        )
    };
    match pulled {
        (Ok(found), took) => {
            let round = |d: std::time::Duration| {
                duration::format(std::time::Duration::from_millis(d.as_millis() as u64))
            };
            let message = format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                round(took),
                round(waited.elapsed()),
                found.size
            );
            host.event(pod, path, Kind::Normal, "Pulled", message);
            host.node_changed.notify_one();
            Ok(found)
        }
        (Err(error), _) => {
            warn("Failed", format!("Failed to pull image {image:?}: {error}"));
            let reason = match error {
                RuntimeError::InvalidImageName { .. } => "InvalidImageName",
                RuntimeError::RegistryUnavailable(_) => "RegistryUnavailable",
                _ => "ErrImagePull",
            };
            fail(reason, error.to_string())
        }
    }
}
