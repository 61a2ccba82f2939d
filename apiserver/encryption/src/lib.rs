//! Encryption at rest: what upstream's EncryptionConfiguration says, done to every value between the API server and etcd.
//!
//! [`Encryption`] holds the providers of the configuration in force and follows its file; [`EncryptedStore`] is a
//! [`keelson_storage::Store`] that encrypts what passes down and decrypts what comes up, so that the watch cache above
//! sees plain objects. Values have upstream's forms (`k8s:enc:<provider>:…`), byte for byte: either server reads what
//! the other wrote. Which resource a key belongs to is the caller's to say.

mod ciphers;
pub mod config;
mod kms;
mod providers;
mod reload;
mod store;
mod transform;

pub use config::{ConfigError, EncryptionConfiguration};
pub use providers::{Encryption, GroupResource, Providers};
pub use store::{Classify, EncryptedStore};
pub use transform::TransformError;
