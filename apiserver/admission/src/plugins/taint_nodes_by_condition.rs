//! TaintNodesByCondition: a node starts with the taint of not being ready, so that nothing is scheduled there too early.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::json;

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "TaintNodesByCondition";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
#[derive(Debug, Default)]
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("", "nodes") && request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request, _environment: &Environment) -> Result<(), Status> {
        let Some(node) = request.object.as_mut() else {
            return Ok(());
        };
        let there =
            |t: &serde_json::Value| t.text("key") == NOT_READY && t.text("effect") == "NoSchedule";
        if !node.items("spec.taints").iter().any(there) {
            crate::edit::extend(
                &mut node["spec"]["taints"],
                vec![json!({"key": NOT_READY, "effect": "NoSchedule"})],
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
    async fn the_taint_is_added_once() {
        let mut request = create("", "nodes", json!({"metadata": {"name": "n"}}));
        admit(&TaintNodesByCondition, &mut request, &[])
            .await
            .unwrap();
        admit(&TaintNodesByCondition, &mut request, &[])
            .await
            .unwrap();
        assert_eq!(request.object.unwrap().items("spec.taints").len(), 1);
    }
}
