//! PodTopologyLabels: a pod that is bound to a node carries the node's zone and region.

use async_trait::async_trait;
use keelson_auth::Status;

use crate::chain::{Environment, Plugin};
use crate::pod::label;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "PodTopologyLabels";
const LABELS: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// The plugin.
#[derive(Debug, Default)]
pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create
            && (request.is("", "pods")
                || request.is("", "bindings")
                || request.concerns("", "pods") && request.subresource == "binding")
    }

    /// Labels on a Binding are copied to the pod by the binding itself.
    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let node = if request.is("", "pods") {
            request.text("/spec/nodeName")
        } else if request.text("/target/kind") == "Node" {
            request.text("/target/name")
        } else {
            ""
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = environment.lookup.get("nodes", "", node) else {
            return Ok(());
        };
        let Some(object) = request.object.as_mut() else {
            return Ok(());
        };
        for key in LABELS {
            if let Some(value) = label(&node, key) {
                object["metadata"]["labels"][key] = value.into();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keelson_registry::access::Access;
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn bindings_take_the_zone_along() {
        let nodes = [(
            "nodes",
            json!({"metadata": {"name": "n", "labels": {LABELS[0]: "z", "other": "x"}}}),
        )];
        let mut request = create(
            "",
            "pods",
            json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}),
        );
        request.subresource = "binding".into();
        admit(&PodTopologyLabels, &mut request, &nodes)
            .await
            .unwrap();
        assert_eq!(
            request.object.unwrap().part("metadata.labels"),
            &json!({LABELS[0]: "z"})
        );
    }
}
