//! PersistentVolumeClaimResize: a claim may grow only where its class says that volumes can.

use async_trait::async_trait;
use keelson_api::quantity::Quantity;
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::Value;

use crate::chain::{Environment, Plugin};
use crate::pod;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "PersistentVolumeClaimResize";

/// The plugin.
#[derive(Debug, Default)]
pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("", "persistentvolumeclaims") && request.operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let (Some(new), Some(old)) = (request.object.as_ref(), request.old_object.as_deref())
        else {
            return Ok(());
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.text("status.phase") != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = class_of(new);
        let grows = !class.is_empty()
            && class == class_of(old)
            && environment
                .lookup
                .get("storageclasses.storage.k8s.io", "", class)
                .is_some_and(|c| c.flag("allowVolumeExpansion"));
        if grows {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn size(claim: &Value) -> Quantity {
    Quantity::parse(claim.text("spec.resources.requests.storage")).unwrap_or(Quantity::ZERO)
}

fn class_of(claim: &Value) -> &str {
    pod::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| claim.text("spec.storageClassName"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, update};

    #[tokio::test]
    async fn growth_needs_a_class_that_allows_it() {
        let claim = |size: &str, phase: &str, class: &str| {
            json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase}})
        };
        let classes = [
            (
                "storageclasses.storage.k8s.io",
                json!({"metadata": {"name": "yes"}, "allowVolumeExpansion": true}),
            ),
            (
                "storageclasses.storage.k8s.io",
                json!({"metadata": {"name": "no"}}),
            ),
        ];
        for (to, phase, class, allowed) in [
            ("2Gi", "Bound", "yes", true),
            ("2Gi", "Bound", "no", false),
            ("2Gi", "Pending", "yes", false),
            ("1Gi", "Pending", "no", true),
        ] {
            let mut request = update(
                "",
                "persistentvolumeclaims",
                claim("1Gi", phase, class),
                claim(to, phase, class),
            );
            assert_eq!(
                admit(&PersistentVolumeClaimResize, &mut request, &classes)
                    .await
                    .is_ok(),
                allowed,
                "{to} {phase} {class}"
            );
        }
    }
}
