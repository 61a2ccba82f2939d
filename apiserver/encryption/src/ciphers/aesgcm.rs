//! `aesgcm`: 12 bytes nonce, then AES-GCM with its tag. The whole etcd key is authenticated with the value.

use async_trait::async_trait;
use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use aws_lc_rs::rand;

use super::{bad_key, too_short};
use crate::transform::{Opened, Result, TransformError, Transformer};

pub(crate) struct AesGcm {
    key: LessSafeKey,
}

impl AesGcm {
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let algorithm: &'static Algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            other => return Err(bad_key(other)),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| bad_key(key.len()))?;
        Ok(AesGcm {
            key: LessSafeKey::new(key),
        })
    }

    pub(crate) fn open_now(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let (nonce, rest) = data
            .split_first_chunk::<NONCE_LEN>()
            .ok_or_else(too_short)?;
        let mut plain = rest.to_vec();
        let length = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(key.as_bytes()),
                &mut plain,
            )
            .map_err(|_| TransformError::new("cipher: message authentication failed"))?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    pub(crate) fn seal_now(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)
            .map_err(|_| TransformError::new("failed to write nonce for AES-GCM: no randomness"))?;
        let mut sealed = data.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| TransformError::new("AES-GCM refused to encrypt"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }
}

#[async_trait]
impl Transformer for AesGcm {
    async fn open(&self, data: &[u8], key: &str) -> Result<Opened> {
        Ok(Opened {
            data: self.open_now(data, key)?,
            stale: false,
        })
    }

    async fn seal(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        self.seal_now(data, key)
    }
}
