//! The OCI image store of a node: import, pull, unpack, list, remove.
//!
//! A [`Store`] is a directory shared by the kubelet and by `keelson images`. Layers are unpacked once, by chain id, in
//! the form that overlayfs wants, and shared between images. Nothing here mounts anything: the kubelet does, from the
//! directories that [`Image::layers`] names. The network is only touched by [`Store::pull`].

mod error;
mod import;
mod index;
mod layer;
mod manifest;
mod pull;
mod reference;
mod store;

pub use error::{Error, Result};
pub use index::Image;
pub use layer::Limits;
pub use manifest::{ImageConfig, RuntimeConfig};
pub use pull::{Credentials, Registries};
pub use reference::Name;
pub use store::Store;
