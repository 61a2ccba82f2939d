//! What a failed pod means for its Job, by the Job's failure policy. No I/O.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod;

/// What to do about a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Count it against the limit.
    Count,
    /// Replace it without counting.
    Ignore,
    /// Give its index up.
    FailIndex,
    /// Give the Job up, and say why.
    FailJob(String),
}

/// The first container whose exit code meets a requirement, and that code.
fn exit_code(
    pod: &Pod,
    requirement: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    statuses
        .filter(|container| {
            requirement
                .container_name
                .as_ref()
                .is_none_or(|name| *name == container.name)
        })
        .filter_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            Some((container.name.clone(), code))
        })
        .find(|(_, code)| {
            *code != 0
                && match requirement.operator.as_str() {
                    "In" => requirement.values.contains(code),
                    "NotIn" => !requirement.values.contains(code),
                    _ => false,
                }
        })
}

fn met(rule: &PodFailurePolicyRule, index: usize, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(requirement) = &rule.on_exit_codes {
        let (container, code) = exit_code(pod, requirement)?;
        return Some(format!(
            "Container {container} for pod {name} failed with exit code {code} matching {} rule at index {index}",
            rule.action
        ));
    }
    let pattern = rule.on_pod_conditions.iter().flatten().find(|pattern| {
        pod::condition(pod, &pattern.type_)
            .is_some_and(|own| own.status == pattern.status.as_deref().unwrap_or("True"))
    })?;
    Some(format!(
        "Pod {name} has condition {} matching {} rule at index {index}",
        pattern.type_, rule.action
    ))
}

/// Decides about one failed pod.
pub fn action(spec: &JobSpec, pod: &Pod) -> Action {
    let rules = spec
        .pod_failure_policy
        .as_ref()
        .map(|policy| policy.rules.as_slice())
        .unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        if let Some(message) = met(rule, index, pod) {
            return match rule.action.as_str() {
                "Ignore" => Action::Ignore,
                "FailIndex" if spec.backoff_limit_per_index.is_some() => Action::FailIndex,
                "FailJob" => Action::FailJob(message),
                _ => Action::Count,
            };
        }
    }
    Action::Count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_is_met_decides() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}}]}}))
        .unwrap();
        let failed = |code: i32, disrupted: bool| {
            let conditions = if disrupted {
                json!([{"type": "DisruptionTarget", "status": "True"}])
            } else {
                json!([])
            };
            pod(
                "p",
                json!({"status": {"phase": "Failed", "conditions": conditions, "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}),
            )
        };
        assert_eq!(action(&spec, &failed(42, true)), Action::Ignore);
        assert_eq!(
            action(&spec, &failed(42, false)),
            Action::FailJob("Container c for pod default/p failed with exit code 42 matching FailJob rule at index 1".into())
        );
        assert_eq!(action(&spec, &failed(7, false)), Action::Ignore);
        assert_eq!(action(&spec, &failed(1, false)), Action::Count);
    }
}
