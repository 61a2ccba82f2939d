//! The store below the watch cache: encrypts what is written, decrypts what is read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use keelson_storage::{
    Deleted, Event, EventStream, ListOptions, Listed, Revision, Store, StoreError, Stored,
    ValueState, WatchOptions,
};

use crate::providers::{Encryption, GroupResource, Providers};
use crate::transform::ENCRYPTED;

/// Says which resource a key belongs to.
pub type Classify = Arc<dyn Fn(&str) -> GroupResource + Send + Sync>;

/// A store whose values are encrypted in another one.
#[derive(Clone)]
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    encryption: Encryption,
    classify: Classify,
}

impl EncryptedStore {
    /// Keeps values in `inner`, as `encryption` says at each moment.
    pub fn new(inner: Arc<dyn Store>, encryption: Encryption, classify: Classify) -> Self {
        EncryptedStore {
            inner,
            encryption,
            classify,
        }
    }

    async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        if self.encryption.guard().is_empty() {
            return Ok(value);
        }
        let providers = self.encryption.current();
        providers
            .of(&(self.classify)(key))
            .seal(&value, key)
            .await
            .map(Bytes::from)
            .map_err(|e| StoreError::Internal(e.0))
    }

    /// Decrypts in place; a value that can't be is marked so.
    async fn open(&self, providers: &Providers, stored: &mut Stored) {
        if providers.is_empty() && !stored.value.starts_with(ENCRYPTED) {
            return;
        }
        let transformer = providers.of(&(self.classify)(&stored.key));
        match transformer.open(&stored.value, &stored.key).await {
            Ok(opened) => {
                stored.value = opened.data.into();
                if opened.stale {
                    stored.state = ValueState::Stale;
                }
            }
            Err(error) => {
                stored.value = Bytes::new();
                stored.state = ValueState::Unreadable(error.0.into());
            }
        }
    }

    async fn open_one(&self, mut stored: Stored) -> Result<Stored, StoreError> {
        self.open(&self.encryption.current(), &mut stored).await;
        match &stored.state {
            ValueState::Unreadable(why) => Err(StoreError::Internal(why.to_string())),
            _ => Ok(stored),
        }
    }

    async fn open_event(&self, providers: &Providers, event: &mut Event) {
        match event {
            Event::Put { stored, previous } => {
                self.open(providers, stored).await;
                if let Some(previous) = previous {
                    self.open(providers, previous).await;
                }
            }
            Event::Delete { previous, .. } => {
                if let Some(previous) = previous {
                    self.open(providers, previous).await;
                }
            }
        }
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        match self.inner.get(key).await? {
            Some(stored) => self.open_one(stored).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listed, StoreError> {
        let mut listed = self.inner.list(prefix, options).await?;
        let providers = self.encryption.current();
        for stored in &mut listed.items {
            self.open(&providers, stored).await;
        }
        Ok(listed)
    }

    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let value = self.seal(key, value).await?;
        self.inner.create(key, value, ttl).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let value = self.seal(key, value).await?;
        match self.inner.update(key, value, expected, ttl).await {
            Err(StoreError::Conflict {
                current: Some(current),
            }) => Err(StoreError::Conflict {
                current: Some(Box::new(self.open_one(*current).await?)),
            }),
            other => other,
        }
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Deleted, StoreError> {
        match self.inner.delete(key, expected).await {
            Ok(mut deleted) => {
                let providers = self.encryption.current();
                self.open(&providers, &mut deleted.previous).await;
                Ok(deleted)
            }
            Err(StoreError::Conflict {
                current: Some(current),
            }) => Err(StoreError::Conflict {
                current: Some(Box::new(self.open_one(*current).await?)),
            }),
            Err(other) => Err(other),
        }
    }

    async fn watch(&self, prefix: &str, options: WatchOptions) -> Result<EventStream, StoreError> {
        let events = self.inner.watch(prefix, options).await?;
        let store = self.clone();
        Ok(events
            .then(move |batch| {
                let store = store.clone();
                async move {
                    let mut batch = batch?;
                    let providers = store.encryption.current();
                    for event in &mut batch {
                        store.open_event(&providers, event).await;
                    }
                    Ok(batch)
                }
            })
            .boxed())
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
}
