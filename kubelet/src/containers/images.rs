//! The image half of the runtime: the store of `keelson-image` in the trait's words.

use std::path::Path;

use async_trait::async_trait;
use keelson_image::{Credentials, Error, Name, Store};
use nix::mount::{MsFlags, mount};

use super::runtime::KeelsonRuntime;
use crate::runtime::{Image, Images, RegistryAuth, Result, RuntimeError};

impl From<Error> for RuntimeError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidName { image, message } => Self::InvalidImageName { image, message },
            Error::NotFound(what) => Self::NotFound(format!("image {what:?}")),
            Error::Pull(message) => Self::Pull(message),
            Error::Content(_) | Error::TooLarge { .. } => Self::Pull(error.to_string()),
            Error::InUse { .. } | Error::Io { .. } => Self::Other(error.to_string()),
        }
    }
}

/// An image as the kubelet wants it.
fn describe(store: &Store, image: keelson_image::Image) -> Result<Image> {
    let config = store.config(&image.id)?;
    let user = config
        .config
        .user
        .split(':')
        .next()
        .unwrap_or("")
        .to_owned();
    let uid = if user.is_empty() {
        Some(0)
    } else {
        user.parse::<i64>().ok()
    };
    Ok(Image {
        id: image.id,
        tags: image.tags,
        digests: image.digests,
        size: image.size,
        user: uid.is_none().then_some(user),
        uid,
    })
}

#[async_trait]
impl Images for KeelsonRuntime {
    async fn status(&self, reference: &str) -> Result<Option<Image>> {
        let store = self.images();
        store
            .find(reference)?
            .map(|image| describe(store, image))
            .transpose()
    }

    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image> {
        let store = self.images();
        let credentials: Vec<Credentials> = auth
            .iter()
            .map(|auth| Credentials {
                registry: auth.registry.clone(),
                username: auth.username.clone(),
                password: auth.password.clone(),
            })
            .collect();
        describe(store, store.pull(reference, &credentials).await?)
    }

    async fn list(&self) -> Result<Vec<Image>> {
        let store = self.images();
        store
            .list()?
            .into_iter()
            .map(|image| describe(store, image))
            .collect()
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let store = self.images().clone();
        let id = id.to_owned();
        tokio::task::spawn_blocking(move || match store.remove(&id) {
            Err(Error::NotFound(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        })
        .await
        .map_err(|error| RuntimeError::Other(error.to_string()))?
    }

    async fn mount(&self, id: &str, target: &Path) -> Result<()> {
        let store = self.images();
        let image = store
            .find(id)?
            .ok_or_else(|| RuntimeError::NotFound(format!("image {id:?}")))?;
        let layers: Vec<String> = store
            .lower_directories(&image)
            .iter()
            .map(|layer| store.root().join(layer).to_string_lossy().into_owned())
            .collect();
        let failed = |error: std::io::Error| {
            RuntimeError::Other(format!("mount image {id} on {}: {error}", target.display()))
        };
        std::fs::create_dir_all(target).map_err(failed)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        let mounted = match layers.as_slice() {
            [] => return Ok(()),
            // overlayfs wants two layers where there is no writable one.
            [only] => mount(
                Some(only.as_str()),
                target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .and_then(|()| {
                mount(
                    None::<&str>,
                    target,
                    None::<&str>,
                    flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
                    None::<&str>,
                )
            }),
            many => {
                let options = format!("lowerdir={}", many.join(":"));
                mount(
                    Some("overlay"),
                    target,
                    Some("overlay"),
                    flags,
                    Some(options.as_str()),
                )
            }
        };
        mounted.map_err(|errno| failed(errno.into()))
    }
}

/// What a container's status shows as its image id: a name with digest where there is one.
pub fn image_ref(image: &keelson_image::Image, written: &str) -> String {
    let repository = Name::parse(written)
        .map(|name| name.familiar())
        .unwrap_or_default();
    let fits = |digest: &&String| digest.split('@').next() == Some(repository.as_str());
    image
        .digests
        .iter()
        .find(fits)
        .or(image.digests.first())
        .unwrap_or(&image.id)
        .clone()
}
