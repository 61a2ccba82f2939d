//! What can go wrong with images, in the words the kubelet shows to users.

use std::path::PathBuf;

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference is not an image name.
    #[error("couldn't parse image name {image:?}: {message}")]
    InvalidName {
        /// As written.
        image: String,
        /// Why.
        message: String,
    },
    /// No such image in the store.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// A container uses the image.
    #[error("image {image} is used by container {container}")]
    InUse {
        /// Image id.
        image: String,
        /// One of its users.
        container: String,
    },
    /// The registry refused, answered nonsense or could not be reached.
    #[error("{0}")]
    Pull(String),
    /// Content is not what its digest or format says.
    #[error("{0}")]
    Content(String),
    /// A bound was passed.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// A file of the store could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Result of an image operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Attaches the path to an I/O error.
pub(crate) trait At<T> {
    /// Names the file that failed.
    fn at(self, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io {
            path: path.into(),
            source,
        })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|errno| Error::Io {
            path: path.into(),
            source: errno.into(),
        })
    }
}
