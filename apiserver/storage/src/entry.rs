//! One cached object: its encoded bytes and what selectors look at, extracted once when it arrived.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use crate::pairs::Pairs;
use crate::splice;
use crate::store::Revision;

/// What the cache keeps of one stored value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extracted {
    /// The namespace; empty for objects without one.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The object as it is to be served (defaults applied, in the version that the cache serves), as a JSON object
    /// with `metadata`. Whatever resourceVersion it has is replaced by the revision.
    pub json: Bytes,
    /// `metadata.labels`.
    pub labels: Pairs,
    /// The values of the fields that field selectors can ask for, `metadata.name` and `metadata.namespace` too.
    pub fields: Pairs,
}

/// Why a stored value can't be served.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExtractError(pub String);

/// Makes a cached object of a stored value: decrypts, decodes, converts, applies defaults. Given by the API server,
/// one per resource.
pub trait Extract: Send + Sync + 'static {
    /// The object behind the key. Must not panic, whatever the bytes are.
    fn extract(
        &self,
        key: &str,
        value: &Bytes,
        revision: Revision,
    ) -> Result<Extracted, ExtractError>;
}

impl<F> Extract for F
where
    F: Fn(&str, &Bytes, Revision) -> Result<Extracted, ExtractError> + Send + Sync + 'static,
{
    fn extract(
        &self,
        key: &str,
        value: &Bytes,
        revision: Revision,
    ) -> Result<Extracted, ExtractError> {
        self(key, value, revision)
    }
}

/// An object of the cache. Immutable, shared by everybody who reads it.
pub struct Entry {
    key: Arc<str>,
    namespace: Box<str>,
    name: Box<str>,
    revision: Revision,
    json: Bytes,
    /// Where the digits of the resourceVersion stand in `json`.
    version_at: Range<usize>,
    labels: Pairs,
    fields: Pairs,
    /// The decoded object, while somebody holds it: a decoded object costs several times its bytes.
    decoded: Mutex<Weak<Value>>,
    encoded: Memo,
}

impl Entry {
    /// Extracts a stored value and gives it its resourceVersion.
    pub fn new(
        extract: &dyn Extract,
        key: &str,
        value: &Bytes,
        revision: Revision,
    ) -> Result<Arc<Entry>, ExtractError> {
        let Extracted {
            namespace,
            name,
            json,
            labels,
            fields,
        } = extract.extract(key, value, revision)?;
        let (json, version_at) = splice::with_resource_version(&json, revision)
            .ok_or_else(|| ExtractError("not a JSON object with an object metadata".to_owned()))?;
        Ok(Arc::new(Entry {
            key: key.into(),
            namespace: namespace.into(),
            name: name.into(),
            revision,
            json,
            version_at,
            labels,
            fields,
            decoded: Mutex::default(),
            encoded: Memo::default(),
        }))
    }

    /// The whole key in the store.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn shared_key(&self) -> Arc<str> {
        self.key.clone()
    }

    /// The namespace; empty for objects without one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The resourceVersion: the revision of the last write, or of the event that took the object away.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object as JSON, with its resourceVersion.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &Pairs {
        &self.labels
    }

    /// The selectable fields.
    pub fn fields(&self) -> &Pairs {
        &self.fields
    }

    /// The decoded object. Shared with whoever else holds it at the moment.
    pub fn value(&self) -> Result<Arc<Value>, serde_json::Error> {
        let mut slot = self.decoded.lock();
        if let Some(value) = slot.upgrade() {
            return Ok(value);
        }
        let value = Arc::new(serde_json::from_slice(&self.json)?);
        *slot = Arc::downgrade(&value);
        Ok(value)
    }

    /// Another encoding of the object (protobuf, a table row), made once and kept as long as the entry. The number
    /// tells encodings apart and is the caller's choice.
    pub fn encoded(&self, encoding: u32, encode: impl FnOnce(&Entry) -> Bytes) -> Bytes {
        self.encoded.get_or(encoding, || encode(self))
    }

    /// An encoding that was made before, if it was.
    pub fn made(&self, encoding: u32) -> Option<Bytes> {
        self.encoded.made(encoding)
    }

    /// The same object with another resourceVersion, as a deletion announces it.
    pub fn at_revision(&self, revision: Revision) -> Arc<Entry> {
        let (json, version_at) =
            splice::replace_resource_version(&self.json, self.version_at.clone(), revision);
        Arc::new(Entry {
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            json,
            version_at,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            decoded: Mutex::default(),
            encoded: Memo::default(),
        })
    }
}

impl std::fmt::Debug for Entry {
    /// Without the object: it may be a Secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} @{})", self.key, self.revision)
    }
}

/// Bytes that are computed once per number. The lock is held while computing, so that a hundred watchers that wake
/// together wait for one encoding and don't make a hundred.
#[derive(Default)]
pub(crate) struct Memo(Mutex<Vec<(u32, Bytes)>>);

impl Memo {
    fn made(&self, number: u32) -> Option<Bytes> {
        let made = self.0.lock();
        let found = made.iter().find(|(n, _)| *n == number);
        found.map(|(_, bytes)| bytes.clone())
    }

    pub(crate) fn get_or(&self, number: u32, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut made = self.0.lock();
        if let Some((_, bytes)) = made.iter().find(|(n, _)| *n == number) {
            return bytes.clone();
        }
        let bytes = make();
        made.push((number, bytes.clone()));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(_: &str, value: &Bytes, _: Revision) -> Result<Extracted, ExtractError> {
        Ok(Extracted {
            name: "a".into(),
            json: value.clone(),
            ..Extracted::default()
        })
    }

    #[test]
    fn carries_its_revision_and_shares_what_was_made() {
        let value = Bytes::from_static(br#"{"metadata":{"name":"a"}}"#);
        let entry = Entry::new(&extract, "/registry/x/a", &value, 7).unwrap();
        assert_eq!(entry.value().unwrap()["metadata"]["resourceVersion"], "7");
        let held = entry.value().unwrap();
        assert!(Arc::ptr_eq(&held, &entry.value().unwrap()));
        let gone = entry.at_revision(1_000);
        assert_eq!(gone.value().unwrap()["metadata"]["resourceVersion"], "1000");
        assert_eq!(gone.revision(), 1_000);
        let first = entry.encoded(1, |_| Bytes::from_static(b"one"));
        let second = entry.encoded(1, |_| panic!("made twice"));
        assert_eq!(first, second);
    }

    #[test]
    fn a_value_without_metadata_is_an_error() {
        let value = Bytes::from_static(b"[1]");
        assert!(Entry::new(&extract, "k", &value, 7).is_err());
    }
}
