//! RuntimeClass: a pod that names a class takes over its overhead and its scheduling constraints.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::{Lookup, Status};
use keelson_registry::access::{Access, same};
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "RuntimeClass";
const CLASSES: &str = "runtimeclasses.node.k8s.io";
const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// The plugin.
#[derive(Debug, Default)]
pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("", "pods") && request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let Some(class) = class_of(request, environment.lookup.as_ref()).await? else {
            return Ok(());
        };
        let overhead = class.part("overhead.podFixed");
        let given = request.at("/spec/overhead").cloned().unwrap_or_default();
        if !overhead.is_null() {
            if !given.is_null() && !same(&given, overhead) {
                return Err(request.forbidden(MISMATCH));
            }
            if let Some(pod) = request.object.as_mut() {
                pod["spec"]["overhead"] = overhead.clone();
            }
        }
        let selector: Vec<(&str, &Value)> = class.entries("scheduling.nodeSelector").collect();
        for (key, wanted) in &selector {
            let there = request.at("/spec/nodeSelector").and_then(|s| s.get(*key));
            if let Some(there) = there.filter(|there| there != wanted) {
                let (wanted, there) = (
                    wanted.as_str().unwrap_or_default(),
                    there.as_str().unwrap_or_default(),
                );
                return Err(request.forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {there}"
                )));
            }
        }
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        for (key, wanted) in selector {
            pod["spec"]["nodeSelector"][key] = wanted.clone();
        }
        let tolerations = class.items("scheduling.tolerations");
        if !tolerations.is_empty() {
            pod["spec"]["tolerations"] = json!(merge(pod.items("spec.tolerations"), tolerations));
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let class = class_of(request, environment.lookup.as_ref()).await?;
        let overhead = class
            .as_ref()
            .map(|c| c.part("overhead.podFixed"))
            .unwrap_or(&Value::Null);
        let given = request.at("/spec/overhead").unwrap_or(&Value::Null);
        if overhead.is_null() {
            if !same(given, &Value::Null) {
                return Err(request.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
            }
        } else if !same(given, overhead) {
            return Err(request.forbidden(MISMATCH));
        }
        Ok(())
    }
}

async fn class_of(request: &Request, lookup: &dyn Lookup) -> Result<Option<Arc<Value>>, Status> {
    let name = request.text("/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    let found = match lookup.get(CLASSES, "", name) {
        Some(class) => Some(class),
        None => lookup.live(CLASSES, "", name).await?,
    };
    found
        .map(Some)
        .ok_or_else(|| request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")))
}

/// Both lists of tolerations, without those that another one makes superfluous; of equal ones the first stays.
fn merge(pod: &[Value], class: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = pod.iter().chain(class).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let earlier = merged.iter().any(|m| covers(m, toleration));
        let later = all[i + 1..]
            .iter()
            .any(|l| l != toleration && covers(l, toleration));
        if !earlier && !later {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether everything that `small` tolerates is tolerated by `big` too.
fn covers(big: &Value, small: &Value) -> bool {
    if big == small {
        return true;
    }
    let exists = big.text("operator") == "Exists";
    if big.text("key") != small.text("key") && !(big.is_blank("key") && exists) {
        return false;
    }
    if big.text("effect") != small.text("effect") && !big.is_blank("effect") {
        return false;
    }
    if big.text("effect") == "NoExecute"
        && let Some(seconds) = big.int("tolerationSeconds")
        && small.int("tolerationSeconds").is_none_or(|s| s > seconds)
    {
        return false;
    }
    exists
        || (matches!(big.text("operator"), "Equal" | "")
            && matches!(small.text("operator"), "Equal" | "")
            && big.text("value") == small.text("value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create};

    fn class() -> (&'static str, Value) {
        (
            CLASSES,
            json!({"metadata": {"name": "gvisor"}, "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}}),
        )
    }

    #[tokio::test]
    async fn overhead_and_scheduling_come_from_the_class() {
        let mut request = create(
            "",
            "pods",
            json!({"spec": {"runtimeClassName": "gvisor", "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}}),
        );
        admit(&RuntimeClass, &mut request, &[class()])
            .await
            .unwrap();
        let spec = &request.object.unwrap()["spec"];
        assert_eq!(spec["overhead"], json!({"cpu": "100m"}));
        assert_eq!(spec["nodeSelector"], json!({"a": "b"}));
        assert_eq!(
            spec["tolerations"],
            json!([{"key": "k", "operator": "Exists"}])
        );
    }

    #[tokio::test]
    async fn contradictions_are_refused() {
        for (spec, sentence) in [
            (
                json!({"runtimeClassName": "none"}),
                "pod rejected: RuntimeClass \"none\" not found",
            ),
            (
                json!({"runtimeClassName": "gvisor", "overhead": {"cpu": "1"}}),
                MISMATCH,
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({"runtimeClassName": "gvisor", "nodeSelector": {"a": "c"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c",
            ),
        ] {
            let mut request = create("", "pods", json!({"metadata": {"name": "p"}, "spec": spec}));
            let refused = admit(&RuntimeClass, &mut request, &[class()])
                .await
                .unwrap_err();
            assert_eq!(
                refused.message,
                format!("pods \"p\" is forbidden: {sentence}")
            );
        }
    }
}
