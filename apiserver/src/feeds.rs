//! Keeps the RBAC index and the node graph up to date with what is stored.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keelson_auth::node::NodeAuthorizer;
use keelson_auth::rbac::Index;
use keelson_storage::{CacheError, Entry, WatchEvent, WatchKind, WatchRequest, WatchStart};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::server::Server;

/// A pause before a watch of the own cache is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// Something that follows objects.
pub trait Follower: Send + Sync + 'static {
    /// Whether it is to be told of an object of this namespace at all; asked before the object is decoded.
    fn wants(&self, _resource: &str, _namespace: &str) -> bool {
        true
    }

    /// A new or changed object; the resource is its plural.
    fn upsert(&self, resource: &str, object: &Value);
    /// An object that is gone.
    fn remove(&self, resource: &str, namespace: &str, name: &str);
}

impl Follower for Index {
    fn upsert(&self, resource: &str, object: &Value) {
        Index::upsert(self, resource, object);
    }

    fn remove(&self, resource: &str, namespace: &str, name: &str) {
        Index::remove(self, resource, namespace, name);
    }
}

/// The graph of the Node authorizer.
pub struct NodeGraph(pub Arc<NodeAuthorizer>);

impl Follower for NodeGraph {
    fn upsert(&self, resource: &str, object: &Value) {
        self.0.graph().upsert(resource, object);
    }

    fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.0.graph().remove(resource, namespace, name);
    }
}

/// Resources and who follows them.
pub struct Feed {
    resources: &'static [&'static str],
    follower: Arc<dyn Follower>,
}

impl Feed {
    /// Feeds the follower with these resources of the cache.
    pub fn new(resources: &'static [&'static str], follower: Arc<dyn Follower>) -> Self {
        Feed {
            resources,
            follower,
        }
    }
}

/// Starts the feeds and waits until each has told everything that was stored.
pub async fn start(server: &Arc<Server>, feeds: Vec<Feed>) {
    let mut synced = Vec::new();
    for feed in feeds {
        for id in feed.resources {
            let (done, is_done) = oneshot::channel();
            synced.push(is_done);
            tokio::spawn(follow(server.clone(), id, feed.follower.clone(), done));
        }
    }
    for done in synced {
        // An error means that the server is stopping.
        let _ = done.await;
    }
}

/// Follows one resource for as long as the server runs.
async fn follow(
    server: Arc<Server>,
    id: &'static str,
    follower: Arc<dyn Follower>,
    done: oneshot::Sender<()>,
) {
    let plural = id.split('.').next().unwrap_or(id);
    let mut done = Some(done);
    let mut known: HashSet<(String, String)> = HashSet::new();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            ended = watch(&server, id, plural, follower.as_ref(), &mut known, &mut done) => {
                if let Err(e) = ended {
                    tracing::warn!(resource = id, error = %e, "the feed of the own cache ended, opening it again");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(
    server: &Server,
    id: &str,
    plural: &str,
    follower: &dyn Follower,
    known: &mut HashSet<(String, String)>,
    done: &mut Option<oneshot::Sender<()>>,
) -> Result<(), CacheError> {
    let request = WatchRequest {
        start: WatchStart::Any,
        initial_events_end: true,
        ..WatchRequest::default()
    };
    let mut watcher = server.cache.watch(id, request).await?;
    // Until the initial state is told, what isn't seen again is a candidate for removal.
    let mut unseen = Some(std::mem::take(known));
    while let Some(events) = watcher.next().await {
        for event in events? {
            match event {
                WatchEvent::Object { kind, entry, .. } => {
                    let key = (entry.namespace().to_owned(), entry.name().to_owned());
                    if let Some(unseen) = &mut unseen {
                        unseen.remove(&key);
                    }
                    tell(follower, plural, kind, &entry);
                    if kind == WatchKind::Deleted {
                        known.remove(&key);
                    } else {
                        known.insert(key);
                    }
                }
                WatchEvent::Bookmark {
                    initial_events_end: true,
                    ..
                } => {
                    for (namespace, name) in unseen.take().unwrap_or_default() {
                        follower.remove(plural, &namespace, &name);
                    }
                    if let Some(done) = done.take() {
                        // Nobody waits any more when the server is stopping.
                        let _ = done.send(());
                    }
                }
                WatchEvent::Bookmark { .. } => {}
            }
        }
    }
    Ok(())
}

fn tell(follower: &dyn Follower, plural: &str, kind: WatchKind, entry: &Entry) {
    if !follower.wants(plural, entry.namespace()) {
        return;
    }
    if kind == WatchKind::Deleted {
        follower.remove(plural, entry.namespace(), entry.name());
        return;
    }
    match entry.value() {
        Ok(object) => follower.upsert(plural, &object),
        Err(e) => {
            tracing::error!(key = entry.key(), error = %e, "a cached object can't be decoded")
        }
    }
}
