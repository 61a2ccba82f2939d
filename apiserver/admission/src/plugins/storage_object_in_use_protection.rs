//! StorageObjectInUseProtection: volumes and claims carry a finalizer, so that they outlive their last user.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::json;

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "StorageObjectInUseProtection";
/// Group, resource, finalizer.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        "kubernetes.io/vac-protection",
    ),
];

/// The plugin.
#[derive(Debug, Default)]
pub struct StorageObjectInUseProtection;

fn finalizer(request: &Request) -> Option<&'static str> {
    PROTECTED
        .iter()
        .find(|(group, resource, _)| request.is(group, resource))
        .map(|(_, _, finalizer)| *finalizer)
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && finalizer(request).is_some()
    }

    async fn admit(&self, request: &mut Request, _environment: &Environment) -> Result<(), Status> {
        let Some(finalizer) = finalizer(request) else {
            return Ok(());
        };
        let Some(object) = request.object.as_mut() else {
            return Ok(());
        };
        if !object
            .items("metadata.finalizers")
            .iter()
            .any(|f| f == finalizer)
        {
            crate::edit::extend(
                &mut object["metadata"]["finalizers"],
                vec![json!(finalizer)],
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn the_finalizer_is_added_once() {
        let mut request = create(
            "",
            "persistentvolumeclaims",
            json!({"metadata": {"name": "c", "finalizers": ["own"]}}),
        );
        for _ in 0..2 {
            admit(&StorageObjectInUseProtection, &mut request, &[])
                .await
                .unwrap();
        }
        assert_eq!(
            request.object.unwrap()["metadata"]["finalizers"],
            json!(["own", "kubernetes.io/pvc-protection"])
        );
    }
}
