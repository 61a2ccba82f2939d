//! The message that a value of KMS v2 is, and what it must hold.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::transform::{Result, TransformError};

/// The plugin holds the AES key itself (written by old servers).
pub(super) const AES_GCM_KEY: i32 = 0;
/// The plugin holds a seed, from which HKDF makes a key a value.
pub(super) const HKDF_SEED: i32 = 1;

const KEY_ID: usize = 1024;
const SOURCE: usize = 1024;
const ANNOTATIONS: usize = 32 * 1024;

/// `EncryptedObject`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) encrypted_dek_source_type: i32,
}

impl EncryptedObject {
    /// Holds it against upstream's bounds.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(TransformError(message));
        if ![AES_GCM_KEY, HKDF_SEED].contains(&self.encrypted_dek_source_type) {
            return wrong(format!(
                "unknown encryptedDEKSourceType: {}",
                self.encrypted_dek_source_type
            ));
        }
        if self.encrypted_data.is_empty() {
            return wrong("encrypted data is empty".to_owned());
        }
        let source = self.encrypted_dek_source.len();
        if source == 0 {
            return wrong(
                "failed to validate encrypted DEK source: encrypted DEK source is empty".to_owned(),
            );
        }
        if source > SOURCE {
            return wrong(format!(
                "failed to validate encrypted DEK source: encrypted DEK source is {source} bytes, which exceeds the max size of {SOURCE}"
            ));
        }
        if let Err(why) = check_key_id(&self.key_id) {
            return wrong(format!("failed to validate key id: {why}"));
        }
        self.check_annotations()
    }

    fn check_annotations(&self) -> Result<()> {
        let mut size = 0;
        for (key, value) in &self.annotations {
            size += key.len() + value.len();
            let is_domain = key.contains('.')
                && key.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                });
            if !is_domain {
                return Err(TransformError(format!(
                    "failed to validate annotations: annotations: Invalid value: {key:?}: should be a domain with at least two segments separated by dots"
                )));
            }
        }
        if size > ANNOTATIONS {
            return Err(TransformError(format!(
                "failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS}"
            )));
        }
        Ok(())
    }
}

/// A key's name must be there and not too long.
pub(super) fn check_key_id(key_id: &str) -> std::result::Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".to_owned()),
        length if length > KEY_ID => Err(format!(
            "keyID is {length} bytes, which exceeds the max size of {KEY_ID}"
        )),
        _ => Ok(()),
    }
}

/// How a key's name is shown in messages.
pub(super) fn hash_of(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let digest: String = Sha256::digest(key_id.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digest}")
}
