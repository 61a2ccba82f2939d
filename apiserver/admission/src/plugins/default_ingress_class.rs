//! DefaultIngressClass: an Ingress that names no class gets the default one.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::{Access, set};

use crate::chain::{Environment, Plugin};
use crate::defaults;
use crate::pod;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "DefaultIngressClass";
const GROUP: &str = "networking.k8s.io";
const IS_DEFAULT: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The plugin.
#[derive(Debug, Default)]
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is(GROUP, "ingresses") && request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let Some(ingress) = request.object.as_mut() else {
            return Ok(());
        };
        if ingress.has("spec.ingressClassName") || pod::annotation(ingress, OLD_CLASS).is_some() {
            return Ok(());
        }
        let classes = environment
            .lookup
            .list("ingressclasses.networking.k8s.io", "");
        if let Some(class) = defaults::newest(classes, &IS_DEFAULT) {
            set(
                ingress,
                "spec.ingressClassName",
                class.text("metadata.name"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn the_old_annotation_counts_as_a_class() {
        let classes = [(
            "ingressclasses.networking.k8s.io",
            json!({"metadata": {"name": "keelson", "annotations": {IS_DEFAULT[0]: "true"}}}),
        )];
        let mut request = create(
            GROUP,
            "ingresses",
            json!({"metadata": {"name": "i"}, "spec": {}}),
        );
        admit(&DefaultIngressClass, &mut request, &classes)
            .await
            .unwrap();
        assert_eq!(
            request.object.unwrap()["spec"]["ingressClassName"],
            "keelson"
        );
        let mut request = create(
            GROUP,
            "ingresses",
            json!({"metadata": {"name": "i", "annotations": {OLD_CLASS: "x"}}}),
        );
        admit(&DefaultIngressClass, &mut request, &classes)
            .await
            .unwrap();
        assert!(!request.object.unwrap().has("spec.ingressClassName"));
    }
}
