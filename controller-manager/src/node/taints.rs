//! Which taints a node's conditions call for, and which pods tolerate them. No I/O.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The taint of a node whose kubelet says that it isn't ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node whose kubelet is silent.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Condition, status and the taint that they call for.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The status of a node's condition.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// The node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

/// The keys of the `NoSchedule` taints that the node should have.
fn no_schedule(node: &Node) -> Vec<&'static str> {
    let mut keys: Vec<_> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| condition(node, kind) == Some(*status))
        .map(|(_, _, key)| *key)
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// The key of the `NoExecute` taint that the node should have.
pub fn no_execute(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    }
}

/// Whether the node has this taint.
pub fn has(node: &Node, key: &str, effect: &str) -> bool {
    taints(node)
        .iter()
        .any(|taint| taint.key == key && taint.effect == effect)
}

/// The taints the node should have, if they differ from those it has. `execute` says which `NoExecute` taint of ours it
/// should have; `None` leaves those alone.
pub fn wanted(node: &Node, execute: Option<Option<&str>>, now: &Time) -> Option<Vec<Taint>> {
    let schedule = no_schedule(node);
    let before = taints(node);
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => execute.is_some() && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    };
    let stays = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => schedule.contains(&taint.key.as_str()),
        _ => execute.flatten() == Some(&taint.key),
    };
    let mut after: Vec<Taint> = before
        .iter()
        .filter(|taint| !ours(taint) || stays(taint))
        .cloned()
        .collect();
    let add = schedule.into_iter().map(|key| (key, "NoSchedule"));
    for (key, effect) in add.chain(execute.flatten().map(|key| (key, "NoExecute"))) {
        if !after
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            after.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(now.clone()),
                value: None,
            });
        }
    }
    (after != before).then_some(after)
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        _ => false,
    }
}

/// How long a pod may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as it likes.
    Forever,
    /// So many seconds from when the taints came.
    Seconds(u64),
}

/// How long a pod with these tolerations may stay on a node with these taints.
pub fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest: Option<i64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let Some(used) = tolerations
            .iter()
            .find(|toleration| tolerates(toleration, taint))
        else {
            return Stay::Seconds(0);
        };
        if let Some(seconds) = used.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |shortest| shortest.min(seconds)));
        }
    }
    shortest.map_or(Stay::Forever, |seconds| {
        Stay::Seconds(u64::try_from(seconds).unwrap_or(0))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn node(name: &str, ready: &str, extra: Value) -> Node {
        let mut value = json!({"metadata": {"name": name, "uid": name}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        crate::pod::tests::merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    fn told(node: &Node, execute: Option<Option<&str>>) -> Option<Vec<String>> {
        let taints = wanted(node, execute, &Time(jiff::Timestamp::UNIX_EPOCH))?;
        Some(
            taints
                .iter()
                .map(|t| {
                    format!(
                        "{}:{}",
                        t.key.trim_start_matches("node.kubernetes.io/"),
                        t.effect
                    )
                })
                .collect(),
        )
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let own = json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]}});
        assert_eq!(
            told(&node("n", "True", own.clone()), Some(None)),
            Some(vec!["a:NoExecute".into()])
        );
        assert_eq!(
            told(&node("n", "Unknown", own.clone()), Some(Some(UNREACHABLE))),
            Some(vec![
                "a:NoExecute".into(),
                "unreachable:NoSchedule".into(),
                "unreachable:NoExecute".into()
            ])
        );
        assert_eq!(told(&node("n", "False", own), None), None);
        let cordoned = node("n", "True", json!({"spec": {"unschedulable": true}}));
        assert_eq!(
            told(&cordoned, None),
            Some(vec!["unschedulable:NoSchedule".into()])
        );
        let swap = json!({"spec": {"taints": [{"key": NOT_READY, "effect": "NoExecute"}]}});
        assert_eq!(
            told(&node("n", "Unknown", swap), Some(Some(UNREACHABLE))),
            Some(vec![
                "unreachable:NoSchedule".into(),
                "unreachable:NoExecute".into()
            ])
        );
    }

    #[test]
    fn stays() {
        let taints: Vec<Taint> =
            serde_json::from_value(json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "value": "x", "effect": "NoExecute"},
                {"key": "c", "effect": "NoSchedule"}])).unwrap();
        for (tolerations, expected) in [
            (json!([]), Stay::Seconds(0)),
            (
                json!([{"key": "a", "operator": "Exists"}]),
                Stay::Seconds(0),
            ),
            (json!([{"operator": "Exists"}]), Stay::Forever),
            (
                json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}, {"key": "b", "value": "x", "tolerationSeconds": 60}]),
                Stay::Seconds(60),
            ),
            (
                json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}, {"key": "b", "value": "x"}]),
                Stay::Seconds(300),
            ),
            (
                json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": -1}]),
                Stay::Seconds(0),
            ),
        ] {
            let list: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            assert_eq!(stay(&taints, &list), expected, "{tolerations}");
        }
        assert_eq!(stay(&[], &[]), Stay::Forever);
    }
}
