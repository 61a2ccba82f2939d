//! LIST from a snapshot.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::resource::{Decoded, Resource, Snapshot};
use super::{CacheError, Inner, Predicate, Prepare};
use crate::entry::Entry;
use crate::error::StoreError;
use crate::store::{ListOptions, Revision};

/// Which state is to be listed, as `resourceVersion` and `resourceVersionMatch` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionMatch {
    /// At least as new as every write acknowledged before the call (no resourceVersion).
    #[default]
    Consistent,
    /// Whatever is at hand (resourceVersion 0).
    Any,
    /// At least this new (NotOlderThan).
    AtLeast(Revision),
    /// Exactly this (Exact, and continue tokens).
    Exactly(Revision),
}

/// What to list.
#[derive(Clone, Default)]
pub struct ListRequest {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects that it lets through.
    pub predicate: Option<Predicate>,
    /// What objects need before the predicate can look at them.
    pub prepare: Option<Prepare>,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// Only objects whose keys sort after this one: the key of the last object of the page before.
    pub start_after: Option<String>,
    /// Which state.
    pub version: VersionMatch,
}

/// A list, in the order of keys.
#[derive(Clone, Debug, Default)]
pub struct ListResult {
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    /// The list's resourceVersion: its state is exactly that of this revision.
    pub revision: Revision,
    /// Where the next page starts, if there is one: ask for it with this and `Exactly(revision)`.
    pub continue_after: Option<String>,
    /// How many objects are behind the last one; unknown where a predicate chooses.
    pub remaining: Option<u64>,
    /// What is wrong with the first object of the page that is stored but can't be read, if there is one; it is not
    /// among the entries.
    pub unreadable: Option<Arc<str>>,
}

pub(super) async fn list(
    inner: &Arc<Inner>,
    id: &str,
    request: ListRequest,
) -> Result<ListResult, CacheError> {
    let resource = inner.resource(id)?;
    match request.version {
        VersionMatch::Consistent => {
            let revision = inner.fresh.revision().await?;
            inner.wait_until_fresh(revision).await?;
        }
        VersionMatch::AtLeast(revision) => inner.wait_until_fresh(revision).await?,
        VersionMatch::Any => {}
        VersionMatch::Exactly(revision) => {
            inner.wait_until_fresh(revision).await?;
            let oldest = inner.oldest.load(Ordering::Relaxed);
            if revision < oldest {
                return Err(CacheError::Gone {
                    requested: revision,
                    oldest,
                });
            }
            return match resource.at(revision) {
                Some(snapshot) => {
                    prepare(&resource, &snapshot, &request).await?;
                    Ok(walk(&resource, &snapshot, revision, &request))
                }
                None => from_store(inner, &resource, revision, &request).await,
            };
        }
    }
    // In this order: what was applied before is in the snapshot for certain.
    let progress = inner.progress();
    let (snapshot, own) = resource.read(|state| (state.snapshot.clone(), state.revision));
    prepare(&resource, &snapshot, &request).await?;
    Ok(walk(&resource, &snapshot, progress.max(own), &request))
}

/// Makes everything that the predicate will look at ready.
async fn prepare(
    resource: &Resource,
    snapshot: &Snapshot,
    request: &ListRequest,
) -> Result<(), CacheError> {
    let (Some(prepare), Some(_)) = (&request.prepare, &request.predicate) else {
        return Ok(());
    };
    let scope = resource.scope(request.namespace.as_deref());
    let entries = snapshot
        .range::<_, str>((Bound::Included(scope.as_str()), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&scope))
        .map(|(_, entry)| entry.clone())
        .collect();
    prepare(entries).await.map_err(CacheError::Unprepared)
}

fn walk(
    resource: &Resource,
    snapshot: &Snapshot,
    revision: Revision,
    request: &ListRequest,
) -> ListResult {
    let scope = resource.scope(request.namespace.as_deref());
    let start = match &request.start_after {
        Some(after) if after.as_str() >= scope.as_str() => Bound::Excluded(after.as_str()),
        _ => Bound::Included(scope.as_str()),
    };
    let mut result = ListResult {
        revision,
        ..ListResult::default()
    };
    let mut candidates = snapshot
        .range::<_, str>((start, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&scope))
        .map(|(_, entry)| entry);
    let wanted = |entry: &Arc<Entry>| request.predicate.as_ref().is_none_or(|wants| wants(entry));
    for entry in candidates.by_ref() {
        if !wanted(entry) {
            continue;
        }
        if request.limit > 0 && result.entries.len() == request.limit {
            result.continue_after = result.entries.last().map(|e| e.key().to_owned());
            if request.predicate.is_none() {
                result.remaining = Some(1 + candidates.count() as u64);
            }
            break;
        }
        result.entries.push(entry.clone());
    }
    result.unreadable = resource.read(|state| {
        if state.unreadable.is_empty() {
            return None;
        }
        let end = result.continue_after.as_deref();
        state
            .unreadable
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&scope))
            .find(|(key, _)| end.is_none_or(|end| key.as_str() <= end))
            .map(|(_, fault)| fault.in_list.clone())
    });
    result
}

/// A state that is older than the ring, read from the store's history.
async fn from_store(
    inner: &Arc<Inner>,
    resource: &Resource,
    revision: Revision,
    request: &ListRequest,
) -> Result<ListResult, CacheError> {
    let scope = resource.scope(request.namespace.as_deref());
    let mut result = ListResult {
        revision,
        ..ListResult::default()
    };
    let mut start_after = request.start_after.clone();
    loop {
        let options = ListOptions {
            start_after: start_after.clone(),
            // One more tells whether there is a next page of those that the predicate lets through.
            limit: match request.limit {
                0 => 0,
                limit => limit.saturating_add(1),
            },
            at_revision: Some(revision),
        };
        let listed = inner
            .store
            .list(&scope, options)
            .await
            .map_err(|error| match error {
                StoreError::Compacted { compact_revision } => CacheError::Gone {
                    requested: revision,
                    oldest: compact_revision,
                },
                other => CacheError::Store(other),
            })?;
        start_after = listed.items.last().map(|stored| stored.key.clone());
        let mut behind = listed.remaining + listed.items.len() as u64;
        for stored in &listed.items {
            behind -= 1;
            let entry = match resource.decode(stored) {
                Decoded::Entry(entry) => entry,
                Decoded::Fault(_, fault) => {
                    result.unreadable.get_or_insert(fault.in_list);
                    continue;
                }
            };
            if let (Some(prepare), Some(_)) = (&request.prepare, &request.predicate) {
                let prepared = prepare(vec![entry.clone()]).await;
                prepared.map_err(CacheError::Unprepared)?;
            }
            if request
                .predicate
                .as_ref()
                .is_some_and(|wants| !wants(&entry))
            {
                continue;
            }
            if request.limit > 0 && result.entries.len() == request.limit {
                result.continue_after = result.entries.last().map(|e| e.key().to_owned());
                result.remaining = request.predicate.is_none().then_some(behind + 1);
                return Ok(result);
            }
            result.entries.push(entry);
        }
        if !listed.more {
            return Ok(result);
        }
    }
}
