//! Pulls from registries.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::index::Image;
use crate::reference::Name;
use crate::store::Store;

/// Credentials for a registry (or a path below one).
#[derive(Clone)]
pub struct Credentials {
    /// Registry host, with an optional path prefix.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Where registries are really asked.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Host → endpoints (`https://mirror.example`, `http://127.0.0.1:5000`), tried in order before the host itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
}

pub(crate) async fn pull(
    _store: &Store,
    name: &Name,
    _credentials: &[Credentials],
) -> Result<Image> {
    Err(Error::Unavailable(format!("failed to pull image {name}")))
}
