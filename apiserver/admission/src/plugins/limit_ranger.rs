//! LimitRanger: a namespace's LimitRanges give containers their defaults and keep containers, pods and claims within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PodSpec;
use keelson_api::pod::{ResourceList, limits, requests};
use keelson_api::quantity::Quantity;
use keelson_auth::Status;
use keelson_registry::access::{Access, items_mut};
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::live::LiveLists;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "LimitRanger";
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
#[derive(Default)]
pub struct LimitRanger {
    ranges: LiveLists,
}

impl LimitRanger {
    async fn ranges(
        &self,
        request: &Request,
        environment: &Environment,
    ) -> Result<Vec<Arc<Value>>, Status> {
        Ok(self
            .ranges
            .list(
                environment.lookup.as_ref(),
                "limitranges",
                &request.namespace,
            )
            .await?)
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        let pods = request.concerns("", "pods")
            && match request.operation {
                Operation::Create => request.subresource.is_empty(),
                Operation::Update => request.subresource == "resize",
                _ => false,
            };
        let claims = request.is("", "persistentvolumeclaims")
            && matches!(request.operation, Operation::Create | Operation::Update);
        (pods || claims)
            && request
                .old_at("/metadata/deletionTimestamp")
                .is_none_or(Value::is_null)
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        if !request.concerns("", "pods") {
            return Ok(());
        }
        for range in self.ranges(request, environment).await? {
            if let Some(pod) = request.object.as_mut() {
                set_defaults(pod, &range);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        for range in self.ranges(request, environment).await? {
            let Some(object) = request.object.as_ref() else {
                return Ok(());
            };
            let mut faults = Vec::new();
            for limit in range.items("spec.limits") {
                match (limit.text("type"), request.concerns("", "pods")) {
                    ("Container", true) => containers(object, limit, &mut faults),
                    ("Pod", true) => pod(object, limit, &mut faults),
                    ("PersistentVolumeClaim", false) => claim(object, limit, &mut faults),
                    _ => {}
                }
            }
            faults.dedup();
            match faults.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                many => return Err(request.forbidden(format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn set_defaults(pod: &mut Value, range: &Value) {
    let mut defaults: [BTreeMap<&str, &Value>; 2] = [BTreeMap::new(), BTreeMap::new()];
    for limit in range
        .items("spec.limits")
        .iter()
        .filter(|l| l.text("type") == "Container")
    {
        defaults[0].extend(limit.entries("defaultRequest"));
        defaults[1].extend(limit.entries("default"));
    }
    let mut notes = Vec::new();
    for (list, word) in [
        ("spec.containers", "container"),
        ("spec.initContainers", "init container"),
    ] {
        for container in items_mut(pod, list) {
            for (side, what, defaults) in [
                ("requests", "request", &defaults[0]),
                ("limits", "limit", &defaults[1]),
            ] {
                let missing: Vec<(&str, &Value)> = defaults
                    .iter()
                    .map(|(k, v)| (*k, *v))
                    .filter(|(k, _)| container.part("resources").part(side).get(*k).is_none())
                    .collect();
                if missing.is_empty() {
                    continue;
                }
                let names: Vec<&str> = missing.iter().map(|(k, _)| *k).collect();
                notes.push(format!(
                    "{} {what} for {word} {}",
                    names.join(", "),
                    container.text("name")
                ));
                for (key, value) in missing {
                    container["resources"][side][key] = value.clone();
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] =
            json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// What is asked of a container, a pod or a claim.
struct Asked {
    kind: &'static str,
    requests: ResourceList,
    limits: ResourceList,
}

fn containers(pod: &Value, limit: &Value, faults: &mut Vec<String>) {
    for container in pod
        .items("spec.containers")
        .iter()
        .chain(pod.items("spec.initContainers"))
    {
        let asked = Asked {
            kind: "Container",
            requests: amounts(container.part("resources.requests")),
            limits: amounts(container.part("resources.limits")),
        };
        bounds(&asked, limit, faults);
    }
}

fn pod(pod: &Value, limit: &Value, faults: &mut Vec<String>) {
    // What does not decode here was refused, or will be, by validation.
    let Ok(mut spec) = serde_json::from_value::<PodSpec>(pod.part("spec").clone()) else {
        return;
    };
    // The overhead is the runtime's, not the user's.
    spec.overhead = None;
    bounds(
        &Asked {
            kind: "Pod",
            requests: requests(&spec),
            limits: limits(&spec),
        },
        limit,
        faults,
    );
}

fn claim(claim: &Value, limit: &Value, faults: &mut Vec<String>) {
    let asked = Asked {
        kind: "PersistentVolumeClaim",
        requests: amounts(claim.part("spec.resources.requests")),
        limits: ResourceList::new(),
    };
    for (name, least) in amounts(limit.part("min")) {
        faults.extend(minimum(&asked, &name, least));
    }
    for (name, most) in amounts(limit.part("max")) {
        let start = format!("maximum {name} usage per {} is {most}", asked.kind);
        match asked.requests.get(&name) {
            None => faults.push(format!("{start}.  No request is specified")),
            Some(request) if *request > most => {
                faults.push(format!("{start}, but request is {request}"))
            }
            Some(_) => {}
        }
    }
}

fn bounds(asked: &Asked, limit: &Value, faults: &mut Vec<String>) {
    for (name, least) in amounts(limit.part("min")) {
        faults.extend(minimum(asked, &name, least));
    }
    for (name, most) in amounts(limit.part("max")) {
        faults.extend(maximum(asked, &name, most));
    }
    for (name, ratio) in amounts(limit.part("maxLimitRequestRatio")) {
        faults.extend(excess(asked, &name, ratio));
    }
}

fn minimum(asked: &Asked, name: &str, least: Quantity) -> Option<String> {
    let start = format!("minimum {name} usage per {} is {least}", asked.kind);
    let Some(request) = asked.requests.get(name) else {
        return Some(format!("{start}.  No request is specified"));
    };
    if *request < least {
        return Some(format!("{start}, but request is {request}"));
    }
    asked
        .limits
        .get(name)
        .filter(|l| **l < least)
        .map(|l| format!("{start}, but limit is {l}"))
}

fn maximum(asked: &Asked, name: &str, most: Quantity) -> Option<String> {
    let start = format!("maximum {name} usage per {} is {most}", asked.kind);
    let Some(limit) = asked.limits.get(name) else {
        return Some(format!("{start}.  No limit is specified"));
    };
    if *limit > most {
        return Some(format!("{start}, but limit is {limit}"));
    }
    asked
        .requests
        .get(name)
        .filter(|r| **r > most)
        .map(|r| format!("{start}, but request is {r}"))
}

fn excess(asked: &Asked, name: &str, most: Quantity) -> Option<String> {
    let start = format!(
        "{name} max limit to request ratio per {} is {most}",
        asked.kind
    );
    let amount = |list: &ResourceList| list.get(name).copied().filter(|q| !q.is_zero());
    let Some(request) = amount(&asked.requests) else {
        return Some(format!(
            "{start}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = amount(&asked.limits) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > most.as_f64()).then(|| format!("{start}, but provided ratio is {ratio:.6}"))
}

fn amounts(list: &Value) -> ResourceList {
    let entries = list.as_object().into_iter().flatten();
    entries
        .filter_map(|(k, v)| Some((k.clone(), Quantity::parse(v.as_str()?).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create};

    fn range(limit: Value) -> [(&'static str, Value); 1] {
        [(
            "limitranges",
            json!({"metadata": {"namespace": "ns", "name": "l"}, "spec": {"limits": [limit]}}),
        )]
    }

    async fn verdict(limit: Value, resources: Value) -> Result<Value, String> {
        let mut request = create(
            "",
            "pods",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        );
        admit(&LimitRanger::default(), &mut request, &range(limit))
            .await
            .map_err(|s| s.message.clone())?;
        Ok(request.object.unwrap())
    }

    #[tokio::test]
    async fn defaults_fill_what_is_missing_and_say_so() {
        let limit = json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
        let pod = verdict(limit, json!({"limits": {"cpu": "2"}}))
            .await
            .unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let max = json!({"type": "Container", "max": {"cpu": "1"}});
        assert_eq!(
            verdict(max.clone(), json!({"limits": {"cpu": "2"}}))
                .await
                .unwrap_err(),
            "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
        );
        assert!(
            verdict(max.clone(), json!({}))
                .await
                .unwrap_err()
                .ends_with("No limit is specified")
        );
        assert!(verdict(max, json!({"limits": {"cpu": "1"}})).await.is_ok());
        let ratio = json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}});
        assert!(
            verdict(
                ratio,
                json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}})
            )
            .await
            .unwrap_err()
            .ends_with(
                "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"
            )
        );
    }

    #[tokio::test]
    async fn claims_have_bounds_of_their_own() {
        let limit = json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
        for (size, allowed) in [("512Mi", false), ("1Gi", true), ("3Gi", false)] {
            let mut request = create(
                "",
                "persistentvolumeclaims",
                json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}}),
            );
            assert_eq!(
                admit(&LimitRanger::default(), &mut request, &range(limit.clone()))
                    .await
                    .is_ok(),
                allowed,
                "{size}"
            );
        }
    }
}
