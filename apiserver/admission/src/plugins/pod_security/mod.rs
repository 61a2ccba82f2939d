//! PodSecurity: the Pod Security Standards, at the level that a namespace's labels ask for.

use async_trait::async_trait;
use keelson_auth::{Qualified, Status};
use keelson_registry::access::Access;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

mod baseline;
mod checks;
mod policy;
mod restricted;

use checks::{details, evaluate, reasons};
use policy::{Level, Policy, Standard};

/// Upstream's name.
pub const NAME: &str = "PodSecurity";
/// Pods of a namespace that are looked at when its level is raised.
const CHECKED: usize = 3000;
/// Subresources of pods that change nothing the standards speak of.
const IGNORED: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];
/// Resources that hold a template: group, resource, where the template is.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "replicationcontrollers", "spec.template"),
    ("", "podtemplates", "template"),
    ("apps", "replicasets", "spec.template"),
    ("apps", "deployments", "spec.template"),
    ("apps", "statefulsets", "spec.template"),
    ("apps", "daemonsets", "spec.template"),
    ("batch", "jobs", "spec.template"),
    ("batch", "cronjobs", "spec.jobTemplate.spec.template"),
];

/// The plugin.
#[derive(Debug, Default)]
pub struct PodSecurity;

fn template(request: &Request) -> Option<&'static str> {
    TEMPLATES
        .iter()
        .find(|(group, resource, _)| request.is(group, resource))
        .map(|(_, _, path)| *path)
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && (request.is("", "namespaces")
                || (request.concerns("", "pods")
                    && !IGNORED.contains(&request.subresource.as_str()))
                || template(request).is_some())
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        if request.is("", "namespaces") {
            return namespace(request, environment);
        }
        let lookup = environment.lookup.as_ref();
        let found = match lookup.get("namespaces", "", &request.namespace) {
            Some(namespace) => Some(namespace),
            None => lookup.live("namespaces", "", &request.namespace).await?,
        };
        let Some(namespace) = found else {
            return Err(Status::internal(format!(
                "failed to lookup namespace {:?}",
                request.namespace
            )));
        };
        let (policy, errors) = Policy::of(&namespace);
        if errors.is_empty() && policy.is_open() {
            return Ok(());
        }
        if !errors.is_empty() {
            let why = format!(
                "Failed to parse policy: {}",
                keelson_api::field::aggregate(&errors)
            );
            annotate(request, "error", why);
        }
        match template(request) {
            Some(path) => {
                let Some(object) = request.object.clone() else {
                    return Ok(());
                };
                let template = object.part(path);
                advise(
                    request,
                    policy,
                    template.part("metadata"),
                    template.part("spec"),
                );
                Ok(())
            }
            None => pod(request, policy),
        }
    }
}

fn annotate(request: &mut Request, key: &str, value: String) {
    request
        .audit_annotations
        .insert(format!("pod-security.kubernetes.io/{key}"), value);
}

fn pod(request: &mut Request, policy: Policy) -> Result<(), Status> {
    let Some(pod) = request.object.clone() else {
        return Ok(());
    };
    if request.operation == Operation::Update
        && request
            .old_object
            .as_deref()
            .is_some_and(|old| !significant(&pod, old))
    {
        return Ok(());
    }
    let (metadata, spec) = (pod.part("metadata"), pod.part("spec"));
    annotate(request, "enforce-policy", policy.enforce.to_string());
    let violations = judge(policy.enforce, metadata, spec);
    if !violations.is_empty() {
        audit(request, policy, metadata, spec);
        return Err(request.forbidden(format!(
            "violates PodSecurity \"{}\": {}",
            policy.enforce,
            details(&violations)
        )));
    }
    advise(request, policy, metadata, spec);
    Ok(())
}

fn judge(standard: Standard, metadata: &Value, spec: &Value) -> Vec<checks::Violation> {
    if standard.level == Level::Privileged {
        vec![]
    } else {
        evaluate(standard, metadata, spec)
    }
}

fn audit(request: &mut Request, policy: Policy, metadata: &Value, spec: &Value) {
    let violations = judge(policy.audit, metadata, spec);
    if !violations.is_empty() {
        let what = format!(
            "would violate PodSecurity \"{}\": {}",
            policy.audit,
            details(&violations)
        );
        annotate(request, "audit-violations", what);
    }
}

/// Notes and warns, but refuses nothing.
fn advise(request: &mut Request, policy: Policy, metadata: &Value, spec: &Value) {
    audit(request, policy, metadata, spec);
    let violations = judge(policy.warn, metadata, spec);
    if !violations.is_empty() {
        request.warnings.push(format!(
            "would violate PodSecurity \"{}\": {}",
            policy.warn,
            details(&violations)
        ));
    }
}

/// Whether an update may change what the standards speak of: images, which AppArmor and the like may hang on, and containers.
fn significant(new: &Value, old: &Value) -> bool {
    let differs = |list: &str| {
        let (new, old) = (new.items(list), old.items(list));
        new.len() != old.len()
            || new
                .iter()
                .zip(old)
                .any(|(n, o)| n.text("image") != o.text("image"))
    };
    let ephemeral = |c: &Value| {
        let before = old
            .items("spec.ephemeralContainers")
            .iter()
            .find(|o| o.text("name") == c.text("name"));
        before.is_none_or(|o| o.text("image") != c.text("image"))
    };
    differs("spec.containers")
        || differs("spec.initContainers")
        || new.items("spec.ephemeralContainers").iter().any(ephemeral)
}

/// Labels must be readable, and who raises the level hears which pods would not be let in any more.
fn namespace(request: &mut Request, environment: &Environment) -> Result<(), Status> {
    let Some(namespace) = request.object.as_ref() else {
        return Ok(());
    };
    let (policy, errors) = Policy::of(namespace);
    let old = request
        .old_object
        .as_deref()
        .filter(|_| request.operation == Operation::Update)
        .map(Policy::of);
    if !errors.is_empty() && old.as_ref().is_none_or(|(_, before)| *before != errors) {
        return Err(Status::invalid(
            Qualified::new("", "Namespace"),
            namespace.text("metadata.name"),
            &errors,
        ));
    }
    let Some((before, _)) = old else {
        return Ok(());
    };
    let (was, is) = (before.enforce, policy.enforce);
    if was == is
        || is.level == Level::Privileged
        || (was.version == is.version && is.level < was.level)
    {
        return Ok(());
    }
    let name = namespace.text("metadata.name").to_owned();
    let pods = environment.lookup.list("pods", &name);
    let warnings = existing(&name, is, &pods);
    request.warnings.extend(warnings);
    Ok(())
}

fn existing(namespace: &str, standard: Standard, pods: &[std::sync::Arc<Value>]) -> Vec<String> {
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(CHECKED) {
        let violations = evaluate(standard, pod.part("metadata"), pod.part("spec"));
        if violations.is_empty() {
            continue;
        }
        let name = pod.text("metadata.name").to_owned();
        let entry = found
            .entry(reasons(&violations))
            .or_insert_with(|| (name.clone(), 0));
        entry.0 = entry.0.clone().min(name);
        entry.1 += 1;
    }
    let mut warnings = Vec::new();
    if pods.len() > CHECKED {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {CHECKED} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reason, (name, count))| match count {
            1 => format!("{name}: {reason}"),
            2 => format!("{name} (and 1 other pod): {reason}"),
            more => format!("{name} (and {} other pods): {reason}", more - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create, update};

    fn namespace(labels: Value) -> (&'static str, Value) {
        (
            "namespaces",
            json!({"metadata": {"name": "ns", "labels": labels}}),
        )
    }

    fn pod(privileged: bool) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": privileged}}]}})
    }

    #[tokio::test]
    async fn pods_are_refused_and_templates_warned_of() {
        let baseline = [namespace(
            json!({"pod-security.kubernetes.io/enforce": "baseline"}),
        )];
        let refused = admit(&PodSecurity, &mut create("", "pods", pod(true)), &baseline)
            .await
            .unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set \
             securityContext.privileged=true)"
        );
        assert!(
            admit(&PodSecurity, &mut create("", "pods", pod(false)), &baseline)
                .await
                .is_ok()
        );
        let mut deployment = create(
            "apps",
            "deployments",
            json!({"metadata": {"name": "d"}, "spec": {"template": pod(true)}}),
        );
        admit(&PodSecurity, &mut deployment, &baseline)
            .await
            .unwrap();
        assert!(
            deployment.warnings[0]
                .starts_with("would violate PodSecurity \"baseline:latest\": privileged")
        );
        assert!(
            admit(
                &PodSecurity,
                &mut create("", "pods", pod(true)),
                &[namespace(json!({}))]
            )
            .await
            .is_ok()
        );
    }

    #[tokio::test]
    async fn updates_that_touch_no_container_pass() {
        let baseline = [namespace(
            json!({"pod-security.kubernetes.io/enforce": "baseline"}),
        )];
        assert!(
            admit(
                &PodSecurity,
                &mut update("", "pods", pod(true), pod(true)),
                &baseline
            )
            .await
            .is_ok()
        );
        let mut other = pod(true);
        other["spec"]["containers"][0]["image"] = json!("j");
        assert!(
            admit(
                &PodSecurity,
                &mut update("", "pods", pod(true), other),
                &baseline
            )
            .await
            .is_err()
        );
    }

    #[tokio::test]
    async fn raising_the_level_tells_of_the_pods_that_are_there() {
        let mut there = pod(true);
        there["metadata"]["namespace"] = json!("ns");
        let (_, old) = namespace(json!({}));
        let (_, new) = namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        let mut request = update("", "namespaces", old.clone(), new);
        admit(&PodSecurity, &mut request, &[("pods", there)])
            .await
            .unwrap();
        assert_eq!(
            request.warnings,
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "p: privileged"
            ]
        );
        let (_, bad) = namespace(json!({"pod-security.kubernetes.io/enforce": "x"}));
        assert_eq!(
            admit(&PodSecurity, &mut update("", "namespaces", old, bad), &[])
                .await
                .unwrap_err()
                .code,
            422
        );
    }
}
