//! How the errors of the store and the cache become the API's [`Status`].

use keelson_api::status::{Qualified, Status};
use keelson_storage::{CacheError, StoreError};

/// Seconds after which a client may try again what the server can't do yet.
const RETRY_AFTER: u16 = 1;

/// The Status of a store operation on one object.
pub fn from_store(error: StoreError, resource: Qualified<'_>, name: &str) -> Status {
    match error {
        StoreError::NotFound => Status::not_found(resource, name),
        StoreError::AlreadyExists => Status::already_exists(resource, name),
        StoreError::Conflict { .. } => Status::modified(resource, name),
        StoreError::TooLarge => Status::failure(500, "", "etcdserver: request is too large"),
        StoreError::Timeout(_) | StoreError::Interrupted(_) => {
            Status::failure(500, "", "etcdserver: request timed out")
        }
        StoreError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::FutureRevision => Status::failure(
            500,
            "",
            "etcdserver: mvcc: required revision is a future revision",
        ),
        StoreError::Unavailable(why) => {
            Status::failure(500, "", format!("storage is unavailable: {why}"))
        }
        StoreError::Cancelled(why) | StoreError::Internal(why) => Status::internal(why),
    }
}

/// The Status of a read from the cache.
pub fn from_cache(error: CacheError) -> Status {
    match error {
        CacheError::NotReady => {
            Status::too_many_requests("storage is (re)initializing", RETRY_AFTER)
        }
        CacheError::Gone { requested, oldest } => Status::too_old(requested, oldest),
        CacheError::TooSlow => {
            Status::expired("too old resource version: the watcher did not keep up")
        }
        CacheError::TooLarge { requested, current } => {
            Status::too_large_resource_version(requested, current, RETRY_AFTER)
        }
        CacheError::Unprepared(why) => Status::failure(500, "", why),
        CacheError::UnknownResource(id) => Status::internal(format!("no storage for {id}")),
        CacheError::Unreadable(why) => Status::internal(why),
        CacheError::Store(error) => from_store(error, Qualified::new("", ""), ""),
    }
}
