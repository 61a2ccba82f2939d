//! `kms` v2: values are encrypted with keys derived from a seed of this process, and a plugin keeps the seed.
//!
//! The plugin is asked for its state every minute. As long as it names the same key, the seed is used again; when the
//! key changes, a new seed is made. If it falls ill, writes go on for three minutes, reads of seeds that are known for ever.

mod client;
mod envelope;
#[cfg(test)]
mod plugin;
mod seed;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::transform::{Opened, Result, TransformError, Transformer};
use client::{Client, StatusResponse};
use envelope::{AES_GCM_KEY, EncryptedObject, HKDF_SEED, hash_of};
use seed::{Known, Seed, SourceKey};

/// How often a healthy plugin is asked, and one that isn't.
const HEALTHY: Duration = Duration::from_secs(60);
const ILL: Duration = Duration::from_secs(10);
/// How long the last state counts for health checks.
const CHECKED_GOOD: Duration = Duration::from_secs(20);
const CHECKED_BAD: Duration = Duration::from_secs(3);
/// How long a seed may be written with after the plugin was last well.
const WRITABLE: Duration = Duration::from_secs(3 * 60);

/// What new values are written with.
#[derive(Clone)]
struct Writing {
    seed: Arc<Seed>,
    /// Everything of a value but its data.
    template: EncryptedObject,
    until: Instant,
}

struct Checked {
    at: Instant,
    result: std::result::Result<(), String>,
}

/// One plugin.
pub(crate) struct Kms {
    name: String,
    client: Client,
    timeout: Duration,
    writing: Mutex<Option<Writing>>,
    known: Known,
    checked: tokio::sync::Mutex<Option<Checked>>,
    version: Mutex<Option<String>>,
}

impl Kms {
    /// Asks the plugin once, and goes on asking in the background.
    pub(crate) async fn start(
        name: &str,
        socket: &Path,
        timeout: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let kms = Arc::new(Kms {
            name: name.to_owned(),
            client: Client::new(socket, timeout),
            timeout,
            writing: Mutex::default(),
            known: Known::default(),
            checked: tokio::sync::Mutex::default(),
            version: Mutex::default(),
        });
        let mut healthy = kms.check().await.is_ok();
        let asking = kms.clone();
        tokio::spawn(async move {
            loop {
                let pause = if healthy { HEALTHY } else { ILL };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                let checked = asking.check().await;
                healthy = checked.is_ok();
                if let Err(error) = checked {
                    tracing::warn!(
                        name = asking.name,
                        error,
                        "kms plugin failed health check probe"
                    );
                }
            }
        });
        kms
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the plugin is well; what it said a moment ago counts.
    pub(crate) async fn check(&self) -> std::result::Result<(), String> {
        let mut checked = self.checked.lock().await;
        if let Some(last) = checked.as_ref() {
            let counts = if last.result.is_ok() {
                CHECKED_GOOD
            } else {
                CHECKED_BAD
            };
            if last.at.elapsed() < counts {
                return last.result.clone();
            }
        }
        let result = self.ask().await;
        *checked = Some(Checked {
            at: Instant::now(),
            result: result.clone(),
        });
        result
    }

    async fn ask(&self) -> std::result::Result<(), String> {
        let status = self.client.status().await.map_err(|e| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {}, error: {e}",
                self.name
            )
        })?;
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        errors.extend(self.wrong_version(&status));
        match envelope::check_key_id(&status.key_id) {
            Err(why) => errors.push(format!(
                "got invalid KMSv2 KeyID hash {:?}: {why}",
                hash_of(&status.key_id)
            )),
            Ok(()) => errors.extend(self.follow_key(&status.key_id).await.err()),
        }
        match &errors[..] {
            [] => Ok(()),
            [one] => Err(format!(
                "kmsv2 Provider {} is not healthy, error: {one}",
                self.name
            )),
            several => Err(format!(
                "kmsv2 Provider {} is not healthy, error: [{}]",
                self.name,
                several.join(", ")
            )),
        }
    }

    fn wrong_version(&self, status: &StatusResponse) -> Option<String> {
        if !["v2", "v2beta1"].contains(&status.version.as_str()) {
            return Some(format!(
                "expected KMSv2 API version v2, got {}",
                status.version
            ));
        }
        let mut known = self.version.lock();
        let first = known.get_or_insert_with(|| status.version.clone());
        (*first != status.version).then(|| {
            format!(
                "KMSv2 API version should not change after the initial status response version {first}, got {}",
                status.version
            )
        })
    }

    /// Goes on with the seed if the plugin's key is the same, makes a new one if it isn't.
    async fn follow_key(&self, key_id: &str) -> std::result::Result<(), String> {
        // Before the call: the bound is one from above.
        let until = Instant::now() + WRITABLE;
        if let Some(writing) = self.writing.lock().as_mut()
            && writing.template.key_id == key_id
        {
            writing.until = until;
            return Ok(());
        }
        let (seed, bytes) = Seed::generate().map_err(|e| e.0)?;
        let sealed = self.client.encrypt(bytes).await;
        let sealed =
            sealed.map_err(|e| self.not_rotated(&format!("failed to encrypt DEK, error: {e}")))?;
        let template = EncryptedObject {
            // Anything, so that the rest can be checked.
            encrypted_data: vec![0],
            key_id: sealed.key_id,
            encrypted_dek_source: sealed.ciphertext,
            annotations: sealed.annotations.into_iter().collect(),
            encrypted_dek_source_type: HKDF_SEED,
        };
        template.check().map_err(|e| self.not_rotated(&e.0))?;
        if template.key_id != key_id {
            return Err(self.not_rotated(&format!(
                "the key of the status, hash {:?}, is not that of the encryption, hash {:?}",
                hash_of(key_id),
                hash_of(&template.key_id)
            )));
        }
        let seed = Arc::new(seed);
        self.known
            .put(SourceKey::of(&template), seed.clone().into());
        *self.writing.lock() = Some(Writing {
            seed,
            template,
            until,
        });
        Ok(())
    }

    fn not_rotated(&self, why: &str) -> String {
        format!("failed to rotate DEK, errGen={why}")
    }

    fn writing(&self) -> Result<Writing> {
        self.writing
            .lock()
            .clone()
            .ok_or_else(|| TransformError::new("got unexpected nil transformer"))
    }

    /// The key material behind a value, asked of the plugin where it isn't known.
    async fn source(&self, object: &EncryptedObject) -> Result<seed::Source> {
        let key = SourceKey::of(object);
        if let Some(source) = self.known.get(&key) {
            return Ok(source);
        }
        let plain = self
            .client
            .decrypt(
                object.encrypted_dek_source.clone(),
                object.key_id.clone(),
                object.annotations.clone().into_iter().collect(),
            )
            .await
            .map_err(|e| TransformError::new(format!("failed to decrypt DEK, error: {e}")))?;
        let source = seed::Source::new(object.encrypted_dek_source_type, &plain)?;
        self.known.put(key, source.clone());
        Ok(source)
    }
}

#[async_trait]
impl Transformer for Kms {
    async fn open(&self, data: &[u8], key: &str) -> Result<Opened> {
        let object =
            EncryptedObject::decode(data).map_err(|e| TransformError::new(e.to_string()))?;
        object.check()?;
        // Without a plugin that was well once there is no telling what is stale.
        let writing = self.writing()?;
        let source = self.source(&object).await?;
        Ok(Opened {
            data: source.open(&object.encrypted_data, key)?,
            stale: object.key_id != writing.template.key_id
                || object.encrypted_dek_source_type == AES_GCM_KEY,
        })
    }

    async fn seal(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let writing = self.writing()?;
        let now = Instant::now();
        if now > writing.until {
            return Err(TransformError::new(format!(
                "encryptedDEKSource with keyID hash {:?} expired {}s ago",
                hash_of(&writing.template.key_id),
                (now - writing.until).as_secs()
            )));
        }
        let object = EncryptedObject {
            encrypted_data: writing.seed.seal(data, key)?,
            ..writing.template
        };
        object.check()?;
        Ok(object.encode_to_vec())
    }
}
