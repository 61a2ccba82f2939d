//! NamespaceLifecycle: nothing is created in a namespace that is missing or going, and the namespaces that the cluster needs
//! cannot be deleted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keelson_auth::{Lookup, Qualified, Status};
use serde_json::Value;

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "NamespaceLifecycle";
/// The namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// For so long after a deletion the store is asked: the cache may not have heard of it yet. As upstream.
const FRESHLY_DELETED: Duration = Duration::from_secs(30);

/// The plugin.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle {
    /// Namespaces whose deletion was let through here, and when.
    deleted: Mutex<HashMap<String, Instant>>,
}

impl NamespaceLifecycle {
    fn note_deletion(&self, name: &str) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.retain(|_, at| at.elapsed() < FRESHLY_DELETED);
        deleted.insert(name.to_owned(), Instant::now());
    }

    fn was_just_deleted(&self, name: &str) -> bool {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted
            .get(name)
            .is_some_and(|at| at.elapsed() < FRESHLY_DELETED)
    }

    /// The namespace; the store is asked where the cache has none, as it may have been created a moment ago, and where it may
    /// have been deleted a moment ago.
    async fn find(
        &self,
        lookup: &dyn Lookup,
        name: &str,
        operation: Operation,
    ) -> Result<Option<std::sync::Arc<Value>>, Status> {
        if operation == Operation::Create && self.was_just_deleted(name) {
            return Ok(lookup.live("namespaces", "", name).await?);
        }
        match lookup.get("namespaces", "", name) {
            // A cached Terminating namespace may have gone and come back since.
            Some(found) if operation != Operation::Create || !terminating(&found) => {
                Ok(Some(found))
            }
            _ => Ok(lookup.live("namespaces", "", name).await?),
        }
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let is_namespace = request.concerns("", "namespaces");
        if request.operation == Operation::Delete
            && is_namespace
            && IMMORTAL.contains(&request.name.as_str())
        {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        if request.operation == Operation::Delete && is_namespace {
            self.note_deletion(&request.name);
        }
        if is_namespace || request.namespace.is_empty() {
            return Ok(());
        }
        // Deletes go on in namespaces in any state: that is how they become empty.
        if request.operation == Operation::Delete {
            return Ok(());
        }
        // Reviews store nothing, so that the namespace need not be there.
        if matches!(
            request.resource.resource.as_str(),
            "localsubjectaccessreviews"
        ) {
            return Ok(());
        }
        let lookup = environment.lookup.as_ref();
        let namespace = self
            .find(lookup, &request.namespace, request.operation)
            .await?;
        let Some(namespace) = namespace else {
            return Err(Status::not_found(
                Qualified::new("", "namespaces"),
                &request.namespace,
            ));
        };
        if request.operation == Operation::Create && terminating(&namespace) {
            let name = &request.namespace;
            let sentence = format!(
                "unable to create new content in namespace {name} because it is being terminated"
            );
            let cause = format!("namespace {name} is being terminated");
            return Err(request.forbidden(sentence).with_cause(
                "NamespaceTerminating",
                &cause,
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}

fn terminating(namespace: &Value) -> bool {
    namespace.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating")
        || namespace
            .pointer("/metadata/deletionTimestamp")
            .is_some_and(|t| !t.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create, delete};

    async fn verdict(mut request: Request, namespace: Option<Value>) -> Result<(), Status> {
        let objects: Vec<_> = namespace.into_iter().map(|n| ("namespaces", n)).collect();
        admit(&NamespaceLifecycle::default(), &mut request, &objects).await
    }

    #[tokio::test]
    async fn nothing_is_created_where_no_namespace_is() {
        let pod = || create("", "pods", json!({"metadata": {"name": "p"}}));
        let active = json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}});
        assert!(verdict(pod(), Some(active)).await.is_ok());
        let missing = verdict(pod(), None).await.unwrap_err();
        assert_eq!(
            (missing.code, missing.message.as_str()),
            (404, "namespaces \"ns\" not found")
        );
        let going = json!({"metadata": {"name": "ns"}, "status": {"phase": "Terminating"}});
        let refused = verdict(pod(), Some(going.clone())).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: unable to create new content in namespace ns because it is being terminated"
        );
        assert_eq!(
            refused.details.as_ref().unwrap().causes[0].reason,
            "NamespaceTerminating"
        );
        assert!(
            verdict(
                delete("", "pods", json!({"metadata": {"name": "p"}})),
                Some(going)
            )
            .await
            .is_ok()
        );
    }

    #[tokio::test]
    async fn the_first_namespaces_stay() {
        for (name, stays) in [
            ("default", true),
            ("kube-system", true),
            ("kube-public", true),
            ("kube-node-lease", false),
        ] {
            let request = delete("", "namespaces", json!({"metadata": {"name": name}}));
            assert_eq!(verdict(request, None).await.is_err(), stays, "{name}");
        }
    }
}
