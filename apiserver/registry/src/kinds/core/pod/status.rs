//! `pods/status`: what the kubelet and the scheduler report.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::update;
use crate::access::{Access, copy, items_mut, remove, set};
use crate::columns::Column;
use crate::meta::{faults, immutable};
use crate::strategy::{Context, Strategy};
use crate::validation::ip;

/// The rules of `pods/status`.
pub(super) struct Rules;

impl Strategy for Rules {
    fn default(&self, pod: &mut Value) {
        super::Rules.default(pod);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "spec");
        remove(new, "metadata.deletionTimestamp");
        // Old kubelets would drop owners that they do not know.
        copy(new, old, "metadata.ownerReferences");
        if new.text("status.qosClass").is_empty() {
            copy(new, old, "status.qosClass");
        }
        if new.number("status.observedGeneration") == 0 {
            copy(new, old, "status.observedGeneration");
        }
        for condition in items_mut(new, "status.conditions") {
            let kind = condition.text("type").to_string();
            let before = old
                .items("status.conditions")
                .iter()
                .find(|c| c.text("type") == kind)
                .map_or(0, |c| c.number("observedGeneration"));
            if condition.number("observedGeneration") == 0 && before != 0 {
                set(condition, "observedGeneration", before);
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        update::annotations(&mut errors, new, old);
        let path = Path::new("status");
        conditions(&mut errors, new, &path.child("conditions"));
        nominated(&mut errors, new, old, &path.child("nominatedNodeName"));
        let observed = new.number("status.observedGeneration");
        if observed < 0 {
            errors.push(Error::invalid(
                &path.child("observedGeneration"),
                observed,
                "must be a non-negative integer",
            ));
        }
        immutable(
            &mut errors,
            new.part("status.qosClass"),
            old.part("status.qosClass"),
            &path.child("qosClass"),
        );
        transitions(&mut errors, new, old, &path);
        addresses(&mut errors, new, &path);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &[
            "spec",
            "metadata.deletionTimestamp",
            "metadata.ownerReferences",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        super::row::COLUMNS
    }

    fn row(&self, pod: &Value, now: Timestamp) -> Vec<Value> {
        super::row::cells(pod, now)
    }
}

fn conditions(errors: &mut ErrorList, pod: &Value, path: &Path<'_>) {
    for (i, condition) in pod.items("status.conditions").iter().enumerate() {
        let at = path.index(i);
        let (observed, kind) = (
            condition.number("observedGeneration"),
            condition.text("type"),
        );
        if observed < 0 {
            errors.push(Error::invalid(
                &at.child("observedGeneration"),
                observed,
                "must be a non-negative integer",
            ));
        }
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            faults(errors, &at.child("Type"), kind, names::qualified_name(kind));
        }
    }
}

fn nominated(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let (now, before) = (
        new.text("status.nominatedNodeName"),
        old.text("status.nominatedNodeName"),
    );
    if now.is_empty() || now == before {
        return;
    }
    faults(errors, path, now, names::dns1123_subdomain(now));
    if !old.text("spec.nodeName").is_empty() {
        errors.push(Error::forbidden(
            path,
            "may not be set on pods that are already bound to a node",
        ));
    }
}

/// A container that ended for good does not come back.
fn transitions(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    const DETAIL: &str = "may not be transitioned to non-terminated state";
    for (statuses, specs) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        let list = path.child(statuses);
        let containers = if specs.is_empty() {
            &[][..]
        } else {
            old.part("spec").items(specs)
        };
        for (i, before) in old
            .part("status")
            .items(statuses)
            .iter()
            .enumerate()
            .filter(|(_, s)| s.has("state.terminated"))
        {
            let name = before.text("name");
            let container = containers.iter().find(|c| c.text("name") == name);
            let code = before.number("state.terminated.exitCode");
            let revived = |s: &Value| s.text("name") == name && !s.has("state.terminated");
            if new.part("status").items(statuses).iter().any(revived)
                && (specs.is_empty() || !may_restart(old.part("spec"), container, code))
            {
                errors.push(Error::forbidden(&list.index(i).child("state"), DETAIL));
            }
        }
    }
}

fn may_restart(spec: &Value, container: Option<&Value>, code: i64) -> bool {
    // A rule that restarts all containers may restart any.
    let all = |c: &Value| {
        c.items("restartPolicyRules")
            .iter()
            .any(|r| r.text("action") == "RestartAllContainers")
    };
    if ["containers", "initContainers"]
        .iter()
        .any(|l| spec.items(l).iter().any(all))
    {
        return true;
    }
    let Some(container) = container else {
        return false;
    };
    let listed = |rule: &Value| {
        let has = rule
            .items("exitCodes.values")
            .iter()
            .any(|v| v.as_i64() == Some(code));
        has == (rule.text("exitCodes.operator") == "In")
    };
    if container
        .items("restartPolicyRules")
        .iter()
        .any(|r| r.text("action") == "Restart" && listed(r))
    {
        return true;
    }
    let own = container.text("restartPolicy");
    match if own.is_empty() {
        spec.text("restartPolicy")
    } else {
        own
    } {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn addresses(errors: &mut ErrorList, pod: &Value, path: &Path<'_>) {
    for field in ["podIPs", "hostIPs"] {
        let (list, at) = (pod.part("status").items(field), path.child(field));
        let parsed: Vec<_> = list
            .iter()
            .enumerate()
            .filter_map(|(i, a)| ip(errors, a.text("ip"), &at.index(i)))
            .collect();
        let families = (
            parsed.iter().any(std::net::IpAddr::is_ipv4),
            parsed.iter().any(std::net::IpAddr::is_ipv6),
        );
        if list.len() > 2 || (list.len() == 2 && families != (true, true)) {
            errors.push(Error::invalid(
                &at,
                list,
                "may specify no more than one IP for each IP family",
            ));
        }
    }
    if let Some(first) = pod.items("status.hostIPs").first()
        && first.text("ip") != pod.text("status.hostIP")
    {
        let at = path.child("hostIPs");
        errors.push(Error::invalid(
            &at.index(0).child("ip"),
            first.text("ip"),
            "must be equal to `hostIP`",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ended_containers_stay_ended() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]}});
        let mut new = old.clone();
        new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
        let errors = Rules.validate_update(&new, &old, &context);
        assert_eq!(
            errors[0].to_string(),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        );
        let mut always = old.clone();
        always["spec"]["restartPolicy"] = "OnFailure".into();
        assert!(Rules.validate_update(&new, &always, &context).is_empty());
    }

    #[test]
    fn the_spec_and_owners_stay() {
        let old = json!({"metadata": {"ownerReferences": [{"uid": "1"}]}, "spec": {"a": 1}, "status": {"qosClass": "BestEffort"}});
        let mut new = json!({"metadata": {"labels": {"x": "y"}, "deletionTimestamp": "t"}, "spec": {"a": 2}, "status": {"phase": "Running"}});
        Rules.prepare_for_update(&mut new, &old, &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(
            new,
            json!({"metadata": {"labels": {"x": "y"}, "ownerReferences": [{"uid": "1"}]}, "spec": {"a": 1},
                "status": {"phase": "Running", "qosClass": "BestEffort"}})
        );
    }
}
