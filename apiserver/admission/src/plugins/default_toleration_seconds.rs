//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or not reachable, unless they say otherwise.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "DefaultTolerationSeconds";
const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

/// The plugin.
#[derive(Debug, Default)]
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("", "pods") && matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request, _environment: &Environment) -> Result<(), Status> {
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        let tolerations = pod.items("spec.tolerations");
        let missing: Vec<Value> = TAINTS
            .iter()
            .filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
            .map(|taint| json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}))
            .collect();
        if !missing.is_empty() {
            crate::edit::extend(&mut pod["spec"]["tolerations"], missing);
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    (toleration.text("key") == taint || toleration.is_blank("key"))
        && matches!(toleration.text("effect"), "NoExecute" | "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn what_a_pod_says_itself_wins() {
        let mut request = create(
            "",
            "pods",
            json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}}),
        );
        admit(&DefaultTolerationSeconds, &mut request, &[])
            .await
            .unwrap();
        let tolerations = request.object.as_ref().unwrap().items("spec.tolerations");
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["key"], TAINTS[1]);
        let mut request = create(
            "",
            "pods",
            json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
        );
        admit(&DefaultTolerationSeconds, &mut request, &[])
            .await
            .unwrap();
        assert_eq!(request.object.unwrap().items("spec.tolerations").len(), 1);
    }
}
