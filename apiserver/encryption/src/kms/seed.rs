//! Key material that a plugin keeps: seeds, from which every value gets an AES key of its own, and the bare keys of old servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, rand};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::envelope::{AES_GCM_KEY, EncryptedObject};
use crate::ciphers::AesGcm;
use crate::transform::{Result, TransformError};

/// Bytes of a seed, of a value's info, and of the key made of both.
const SIZE: usize = 32;
/// How long what a plugin answered is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// A bound that no honest cluster reaches.
const MOST: usize = 10_000;

/// A pseudo-random key for HKDF-Expand.
pub(super) struct Seed(hkdf::Prk);

struct KeySize;

impl hkdf::KeyType for KeySize {
    fn len(&self) -> usize {
        SIZE
    }
}

impl Seed {
    fn new(bytes: &[u8]) -> Result<Self> {
        // The largest that the library takes; every plugin answers what it was given, 32 bytes.
        if bytes.len() < SIZE || bytes.len() > 64 {
            return Err(TransformError(format!(
                "invalid seed length {} used for key generation",
                bytes.len()
            )));
        }
        Ok(Seed(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes)))
    }

    /// A new seed, and its bytes for the plugin.
    pub(super) fn generate() -> Result<(Self, Vec<u8>)> {
        let mut bytes = vec![0; SIZE];
        rand::fill(&mut bytes).map_err(|_| TransformError::new("no randomness for a seed"))?;
        Ok((Seed::new(&bytes)?, bytes))
    }

    fn cipher(&self, info: &[u8]) -> Result<AesGcm> {
        let mut key = [0; SIZE];
        self.0
            .expand(&[info], KeySize)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| TransformError::new("failed to KDF expand seed with info"))?;
        AesGcm::new(&key)
    }

    pub(super) fn seal(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let mut info = [0; SIZE];
        rand::fill(&mut info)
            .map_err(|_| TransformError::new("failed to generate info for KDF: no randomness"))?;
        let sealed = self.cipher(&info)?.seal_now(data, key)?;
        Ok([info.as_slice(), &sealed].concat())
    }

    fn open(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let (info, rest) = data.split_first_chunk::<SIZE>().ok_or_else(|| {
            TransformError::new("the stored data was shorter than the required size")
        })?;
        self.cipher(info)?.open_now(rest, key)
    }
}

/// What decrypts values.
#[derive(Clone)]
pub(super) enum Source {
    Seed(Arc<Seed>),
    Key(Arc<AesGcm>),
}

impl Source {
    pub(super) fn new(kind: i32, bytes: &[u8]) -> Result<Self> {
        if kind == AES_GCM_KEY {
            return Ok(Source::Key(Arc::new(AesGcm::new(bytes)?)));
        }
        Ok(Source::Seed(Arc::new(Seed::new(bytes)?)))
    }

    pub(super) fn open(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        match self {
            Source::Seed(seed) => seed.open(data, key),
            Source::Key(cipher) => cipher.open_now(data, key),
        }
    }
}

impl From<Arc<Seed>> for Source {
    fn from(seed: Arc<Seed>) -> Self {
        Source::Seed(seed)
    }
}

/// What tells encrypted sources apart: a digest of all that the plugin gets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SourceKey([u8; 32]);

impl SourceKey {
    pub(super) fn of(object: &EncryptedObject) -> Self {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        part(&object.encrypted_dek_source_type.to_be_bytes());
        part(&object.encrypted_dek_source);
        part(object.key_id.as_bytes());
        for (key, value) in &object.annotations {
            part(key.as_bytes());
            part(value);
        }
        SourceKey(digest.finalize().into())
    }
}

/// Sources that the plugin decrypted already.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<SourceKey, (Source, Instant)>>);

impl Known {
    pub(super) fn get(&self, key: &SourceKey) -> Option<Source> {
        self.0.lock().get(key).map(|(source, _)| source.clone())
    }

    pub(super) fn put(&self, key: SourceKey, source: Source) {
        let mut known = self.0.lock();
        known.retain(|_, (_, since)| since.elapsed() < KEPT);
        if known.len() < MOST {
            known.insert(key, (source, Instant::now()));
        }
    }
}
