//! One value's way to the store and back: transformers, and lists of them that are told apart by prefixes.

use std::sync::Arc;

use async_trait::async_trait;

/// What every encrypted value begins with.
pub(crate) const ENCRYPTED: &[u8] = b"k8s:enc:";

/// Why a value can't be encrypted or decrypted, in upstream's words.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct TransformError(pub String);

impl TransformError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        TransformError(message.into())
    }
}

/// The result of a transformation.
pub(crate) type Result<T> = std::result::Result<T, TransformError>;

/// A decrypted value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) data: Vec<u8>,
    /// Whether a write would store it differently: under another key or with another provider.
    pub(crate) stale: bool,
}

/// Encrypts and decrypts values; `key` is the whole etcd key, which some bind the value to.
#[async_trait]
pub(crate) trait Transformer: Send + Sync {
    async fn open(&self, data: &[u8], key: &str) -> Result<Opened>;
    async fn seal(&self, data: &[u8], key: &str) -> Result<Vec<u8>>;
}

/// Leaves values as they are, and refuses those that somebody encrypted.
pub(crate) struct Identity;

#[async_trait]
impl Transformer for Identity {
    async fn open(&self, data: &[u8], _: &str) -> Result<Opened> {
        if data.starts_with(ENCRYPTED) {
            return Err(TransformError::new(
                "identity transformer tried to read encrypted data",
            ));
        }
        Ok(Opened {
            data: data.to_vec(),
            stale: false,
        })
    }

    async fn seal(&self, data: &[u8], _: &str) -> Result<Vec<u8>> {
        Ok(data.to_vec())
    }
}

/// Transformers with the prefixes of their values: the first one writes, all whose prefix fits are tried for reading.
#[derive(Default)]
pub(crate) struct Prefixes {
    list: Vec<(Vec<u8>, Arc<dyn Transformer>)>,
    /// What is said of a value that nobody's prefix fits.
    no_match: &'static str,
}

impl Prefixes {
    pub(crate) fn new(no_match: &'static str) -> Self {
        Prefixes {
            list: Vec::new(),
            no_match,
        }
    }

    pub(crate) fn push(&mut self, prefix: impl Into<Vec<u8>>, transformer: Arc<dyn Transformer>) {
        self.list.push((prefix.into(), transformer));
    }

    /// Takes over another list's transformers behind its own.
    pub(crate) fn extend(&mut self, other: &Prefixes) {
        self.list.extend(other.list.iter().cloned());
    }
}

#[async_trait]
impl Transformer for Prefixes {
    async fn open(&self, data: &[u8], key: &str) -> Result<Opened> {
        let mut errors: Vec<String> = Vec::new();
        for (at, (prefix, transformer)) in self.list.iter().enumerate() {
            let Some(rest) = data.strip_prefix(prefix.as_slice()) else {
                continue;
            };
            match transformer.open(rest, key).await {
                Ok(opened) => {
                    return Ok(Opened {
                        stale: opened.stale || at != 0,
                        ..opened
                    });
                }
                // Identity stands in front to take encryption away: what is still encrypted is for those behind it.
                Err(_) if prefix.is_empty() => {}
                // The same prefix may come again with another key: a failure is not the last word.
                Err(error) => {
                    if !errors.contains(&error.0) {
                        errors.push(error.0);
                    }
                }
            }
        }
        Err(match &errors[..] {
            [] => TransformError::new(self.no_match),
            [one] => TransformError::new(one.clone()),
            several => TransformError::new(format!("[{}]", several.join(", "))),
        })
    }

    async fn seal(&self, data: &[u8], key: &str) -> Result<Vec<u8>> {
        let (prefix, transformer) = self
            .list
            .first()
            .ok_or_else(|| TransformError::new(self.no_match))?;
        let sealed = transformer.seal(data, key).await?;
        Ok([prefix.as_slice(), &sealed].concat())
    }
}
