//! DefaultStorageClass: a claim that names no class gets the default one.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::{Access, set};

use crate::chain::{Environment, Plugin};
use crate::defaults;
use crate::pod;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "DefaultStorageClass";
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The plugin.
#[derive(Debug, Default)]
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("", "persistentvolumeclaims") && request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let Some(claim) = request.object.as_mut() else {
            return Ok(());
        };
        // An empty name is an answer too: no class, no provisioning.
        if claim.has("spec.storageClassName") || pod::annotation(claim, OLD_CLASS).is_some() {
            return Ok(());
        }
        let classes = environment.lookup.list("storageclasses.storage.k8s.io", "");
        if let Some(class) = defaults::newest(classes, &IS_DEFAULT) {
            set(claim, "spec.storageClassName", class.text("metadata.name"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let class = |name: &str, created: &str, default: &str| {
            (
                "storageclasses.storage.k8s.io",
                json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {IS_DEFAULT[0]: default}}}),
            )
        };
        let classes = [
            class("old", "2020-01-01T00:00:00Z", "true"),
            class("new", "2021-01-01T00:00:00Z", "true"),
            class("no", "2022-01-01T00:00:00Z", "false"),
        ];
        let claim = |spec: Value| {
            create(
                "",
                "persistentvolumeclaims",
                json!({"metadata": {"name": "c"}, "spec": spec}),
            )
        };
        let mut request = claim(json!({}));
        admit(&DefaultStorageClass, &mut request, &classes)
            .await
            .unwrap();
        assert_eq!(request.object.unwrap()["spec"]["storageClassName"], "new");
        let mut request = claim(json!({"storageClassName": ""}));
        admit(&DefaultStorageClass, &mut request, &classes)
            .await
            .unwrap();
        assert_eq!(request.object.unwrap()["spec"]["storageClassName"], "");
    }
}
