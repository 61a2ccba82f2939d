//! Priority: turns a pod's priority class into its priority and preemption policy, and keeps the default class unique.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::{Lookup, Status};
use keelson_registry::access::Access;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "Priority";
const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

/// The plugin.
#[derive(Debug, Default)]
pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        (request.is("", "pods") || request.is(GROUP, "priorityclasses"))
            && matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        match request.operation {
            Operation::Create => decide(request, environment.lookup.as_ref()).await,
            _ => {
                keep(request);
                Ok(())
            }
        }
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        if request.is("", "pods") || request.at("/globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let Some(current) = default_class(environment.lookup.as_ref()) else {
            return Ok(());
        };
        let name = current.text("metadata.name");
        if request.operation == Operation::Create || name != request.text("/metadata/name") {
            return Err(request.forbidden(format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            )));
        }
        Ok(())
    }
}

/// Old clients drop fields that they do not know: what the pod had stays.
fn keep(request: &mut Request) {
    let Some(old) = request.old_object.clone() else {
        return;
    };
    let Some(pod) = request.object.as_mut() else {
        return;
    };
    for key in ["priority", "preemptionPolicy"] {
        let before = &old["spec"][key];
        if pod["spec"][key].is_null() && !before.is_null() {
            pod["spec"][key] = before.clone();
        }
    }
}

async fn decide(request: &mut Request, lookup: &dyn Lookup) -> Result<(), Status> {
    let named = request.text("/spec/priorityClassName").to_owned();
    let class = if named.is_empty() {
        default_class(lookup)
    } else {
        let found = match lookup.get(CLASSES, "", &named) {
            Some(class) => Some(class),
            None => lookup.live(CLASSES, "", &named).await?,
        };
        Some(found.ok_or_else(|| {
            request.forbidden(format!("no PriorityClass with name {named} was found"))
        })?)
    };
    let value = class.as_ref().map_or(0, |c| c.number("value"));
    let policy = class
        .as_ref()
        .map(|c| c.text("preemptionPolicy"))
        .filter(|p| !p.is_empty())
        .unwrap_or(DEFAULT_POLICY);
    if let Some(given) = request
        .at("/spec/priority")
        .and_then(Value::as_i64)
        .filter(|given| *given != value)
    {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} \
             from the given PriorityClass name"
        )));
    }
    let given = request.text("/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed \
             {policy} from the given PriorityClass name"
        )));
    }
    if let Some(pod) = request.object.as_mut() {
        let spec = &mut pod["spec"];
        if let Some(class) = class.as_ref().filter(|_| named.is_empty()) {
            spec["priorityClassName"] = json!(class.text("metadata.name"));
        }
        spec["priority"] = json!(value);
        spec["preemptionPolicy"] = json!(policy);
    }
    Ok(())
}

/// The class of pods that name none: of several, the one with the lowest value.
fn default_class(lookup: &dyn Lookup) -> Option<Arc<Value>> {
    lookup
        .list(CLASSES, "")
        .into_iter()
        .filter(|c| c.flag("globalDefault"))
        .min_by_key(|c| c.number("value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create, update};

    fn class(name: &str, value: i64, default: bool) -> (&'static str, Value) {
        (
            CLASSES,
            json!({"metadata": {"name": name}, "value": value, "globalDefault": default}),
        )
    }

    #[tokio::test]
    async fn a_class_becomes_a_number() {
        let classes = [class("high", 1000, false)];
        let mut request = create(
            "",
            "pods",
            json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "high"}}),
        );
        admit(&Priority, &mut request, &classes).await.unwrap();
        assert_eq!(request.object.unwrap()["spec"]["priority"], 1000);
        let mut request = create(
            "",
            "pods",
            json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "none"}}),
        );
        let refused = admit(&Priority, &mut request, &classes).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: no PriorityClass with name none was found"
        );
        let mut request = create("", "pods", json!({"spec": {"priority": 7}}));
        assert_eq!(
            admit(&Priority, &mut request, &classes)
                .await
                .unwrap_err()
                .code,
            403
        );
    }

    #[tokio::test]
    async fn the_default_class_is_unique_and_used() {
        let classes = [class("usual", 5, true)];
        let mut request = create("", "pods", json!({"spec": {}}));
        admit(&Priority, &mut request, &classes).await.unwrap();
        let pod = request.object.unwrap();
        assert_eq!(
            (&pod["spec"]["priority"], &pod["spec"]["priorityClassName"]),
            (&json!(5), &json!("usual"))
        );
        let mut request = create(
            GROUP,
            "priorityclasses",
            json!({"metadata": {"name": "x"}, "globalDefault": true}),
        );
        assert_eq!(
            admit(&Priority, &mut request, &classes)
                .await
                .unwrap_err()
                .code,
            403
        );
        let same = json!({"metadata": {"name": "usual"}, "globalDefault": true});
        let mut request = update(GROUP, "priorityclasses", same.clone(), same);
        assert!(admit(&Priority, &mut request, &classes).await.is_ok());
    }
}
