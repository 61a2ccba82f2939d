//! Volumes: what a pod's `spec.volumes` are on this node, one file a type, one table: [`ALL`].
//!
//! Setting up is idempotent: the same call brings a volume up to date when an object behind it changed. Where a
//! container sees a volume (mounts, subPath) is in [`mounts`] and [`subpath`].

pub mod atomic;
pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod image;
pub mod mounts;
pub mod ownership;
pub mod persistent;
pub mod projected;
pub mod secret;
pub mod subpath;
pub mod tmpfs;
pub mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::Client;

use crate::objects::{ObjectError, Objects};
use crate::pods::downward::{Capacity, DownwardError};
use crate::runtime::Images;

/// Why a volume can't be set up: the end of a FailedMount message.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret is missing.
    #[error("{0}")]
    Object(#[from] ObjectError),
    /// It lacks a key that was asked for.
    #[error("references non-existent {kind} key: {key}")]
    Key {
        /// `config` or `secret`.
        kind: &'static str,
        /// Key.
        key: String,
    },
    /// A field that doesn't exist.
    #[error("{0}")]
    Downward(#[from] DownwardError),
    /// A path that leaves its volume, or the like.
    #[error("{0}")]
    Path(String),
    /// The file system said no.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        error: std::io::Error,
    },
    /// The API server said no.
    #[error("{0}")]
    Api(String),
    /// A type this kubelet doesn't have.
    #[error("no volume plugin matched: volume {0:?} is of a type that this node does not support")]
    Unsupported(String),
    /// hostPath's type check.
    #[error("hostPath type check failed: {0}")]
    HostPathType(String),
    /// An image volume's image.
    #[error("{0}")]
    Image(String),
}

impl VolumeError {
    /// An I/O error with its circumstance.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// What a type is given to set a volume up.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its uid.
    pub uid: &'a str,
    /// The volume.
    pub volume: &'a Volume,
    /// Directory of the volume on the host, not made yet.
    pub dir: &'a Path,
    /// `securityContext.fsGroup`.
    pub fs_group: Option<u32>,
}

impl Request<'_> {
    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}

/// A type of volume.
#[async_trait]
pub trait VolumeType: Send + Sync {
    /// Upstream's plugin name, of which the directory is made.
    fn name(&self) -> &'static str;
    /// Whether a volume is of this type.
    fn claims(&self, volume: &Volume) -> bool;
    /// Whether content follows objects of the API, so that it is set up again when they change.
    fn live(&self) -> bool {
        false
    }
    /// Makes it, or brings it up to date; returns where it is on the host.
    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError>;
}

/// Every type, in the order in which a volume is claimed.
pub const ALL: &[&dyn VolumeType] = &[
    &empty_dir::EmptyDir,
    &config_map::ConfigMaps,
    &secret::Secrets,
    &downward_api::DownwardApi,
    &projected::Projected,
    &host_path::HostPath,
    &image::ImageVolume,
    &persistent::Claim,
];

/// What the types need of the kubelet.
pub struct Volumes {
    /// The kubelet's root.
    pub root_dir: PathBuf,
    /// ConfigMaps and Secrets.
    pub objects: Arc<Objects>,
    /// Tokens of service accounts.
    pub tokens: token::Tokens,
    /// Image store.
    pub images: Arc<dyn Images>,
    /// The API server, if there is one.
    pub client: Option<Client>,
    /// What limits default to.
    pub capacity: Capacity,
}

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {error}")]
pub struct Failed {
    /// Its name.
    pub volume: String,
    /// Why.
    #[source]
    pub error: VolumeError,
}

impl Volumes {
    /// `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Sets up the volumes of a pod, or with `live_only` brings those up to date that follow objects.
    pub async fn set_up(
        &self,
        pod: &Pod,
        uid: &str,
        live_only: bool,
    ) -> Result<BTreeMap<String, PathBuf>, Failed> {
        let mut paths = BTreeMap::new();
        let spec = pod.spec.as_ref();
        let fs_group = spec
            .and_then(|s| s.security_context.as_ref())
            .and_then(|s| s.fs_group)
            .and_then(|g| u32::try_from(g).ok());
        for volume in spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let failed = |error| Failed {
                volume: volume.name.clone(),
                error,
            };
            let type_ = ALL
                .iter()
                .find(|t| t.claims(volume))
                .ok_or_else(|| failed(VolumeError::Unsupported(volume.name.clone())))?;
            if live_only && !type_.live() {
                continue;
            }
            let dir = self
                .pod_dir(uid)
                .join("volumes")
                .join(type_.name().replace('/', "~"))
                .join(&volume.name);
            let request = Request {
                pod,
                uid,
                volume,
                dir: &dir,
                fs_group,
            };
            let path = type_.set_up(self, &request).await.map_err(failed)?;
            paths.insert(volume.name.clone(), path);
        }
        Ok(paths)
    }

    /// Unmounts everything below the pod's directory and removes what is left.
    pub fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        let dir = self.pod_dir(uid);
        tmpfs::unmount_below(&dir)?;
        for part in ["volumes", "volume-subpaths"] {
            remove_tree(&dir.join(part))?;
        }
        Ok(())
    }

    /// Removes the pod's directory.
    pub fn forget(&self, uid: &str) -> Result<(), VolumeError> {
        self.tear_down(uid)?;
        self.tokens.forget(uid);
        self.objects.release(uid);
        remove_tree(&self.pod_dir(uid))
    }
}

fn remove_tree(dir: &Path) -> Result<(), VolumeError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::Io {
            what: format!("removing {}", dir.display()),
            error,
        }),
        _ => Ok(()),
    }
}

/// What the API server said, without the wrapping of the client.
pub(crate) fn api_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(dir: &Path) -> Result<(), VolumeError> {
    std::fs::create_dir_all(dir).map_err(VolumeError::io(format!("making {}", dir.display())))
}
