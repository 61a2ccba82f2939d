//! The cluster's public-key infrastructure: certificate authorities, certificates, service-account keys, kubeconfigs.
//!
//! Every function that writes is idempotent: what is there and still good is kept. Who gets which certificate is decided
//! by the caller (`cluster/`); verifying certificates is rustls's business.

pub mod authority;
pub mod file;
pub mod kubeconfig;
pub mod service_account;

pub use authority::{Authority, Identity, Issued, Usage};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key is malformed or cannot be made.
    #[error("{path}: {message}")]
    Malformed {
        /// Which file, or what was to be made.
        path: std::path::PathBuf,
        /// Why.
        message: String,
    },
}
