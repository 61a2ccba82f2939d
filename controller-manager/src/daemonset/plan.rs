//! On which nodes a DaemonSet's pods should be created and deleted, and what its status says. No I/O.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, PodTemplateSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::node::{fit, taints};
use crate::pod;
use crate::revision::HASH;

/// What is known of one DaemonSet.
pub struct Snapshot<'a> {
    /// The DaemonSet.
    pub set: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// The hash of its present template.
    pub hash: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The nodes that need a pod.
    pub create: Vec<String>,
    /// The pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Those among them that ended by themselves, which events tell of.
    pub ended: Vec<Arc<Pod>>,
}

/// The tolerations that every daemon has.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The template with the tolerations that every daemon has.
pub fn tolerant(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let spec = template.spec.get_or_insert_default();
    let network = (spec.host_network == Some(true))
        .then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let present = tolerations.iter().any(|own| {
            own.key.as_deref() == Some(key)
                && own.effect.as_deref() == Some(effect)
                && own.operator.as_deref() == Some("Exists")
                && own.toleration_seconds.is_none()
        });
        if !present {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    }
    template
}

/// Pins a pod to a node through affinity, so that the scheduler still checks what only it can check.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![field]),
        match_expressions: None,
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    // What the template required of the node has been checked already.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
}

/// The node that a pod is on or is pinned to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let bound = pod::node(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let field = required
        .node_selector_terms
        .first()?
        .match_fields
        .as_ref()?
        .first()?;
    (field.key == "metadata.name")
        .then(|| field.values.as_ref()?.first().map(String::as_str))
        .flatten()
}

/// Whether the node should get a daemon, and whether one that is there may stay.
pub fn belongs(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if !fit::allows(spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let refused = |effects: &[&str]| {
        taints::taints(node).iter().any(|taint| {
            effects.contains(&taint.effect.as_str())
                && !tolerations.iter().any(|own| taints::tolerates(own, taint))
        })
    };
    (
        !refused(&["NoExecute", "NoSchedule"]),
        !refused(&["NoExecute"]),
    )
}

fn scaled(value: Option<&IntOrString>, total: usize, default: i32, up: bool) -> usize {
    let number = match value {
        None => i64::from(default),
        Some(IntOrString::Int(number)) => i64::from(*number),
        Some(IntOrString::String(text)) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .unwrap_or(0);
            let product = percent * i64::try_from(total).unwrap_or(i64::MAX);
            if up {
                (product + 99) / 100
            } else {
                product / 100
            }
        }
    };
    usize::try_from(number).unwrap_or(0)
}

type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Arc<Pod>>>;

fn by_node<'a>(pods: &'a [Arc<Pod>]) -> ByNode<'a> {
    let mut map: ByNode<'_> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = node_of(pod) {
            map.entry(node).or_default().push(pod);
        }
    }
    for pods in map.values_mut() {
        pods.sort_by_key(|pod| {
            (
                pod::node(pod).is_empty(),
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            )
        });
    }
    map
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(HASH).is_some_and(|own| own == hash)
}

/// Decides.
pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let spec = snapshot.set.spec.clone().unwrap_or_default();
    let template = tolerant(&spec.template).spec.unwrap_or_default();
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    let pods = by_node(snapshot.pods);
    let rolling = spec
        .update_strategy
        .as_ref()
        .is_none_or(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
    let update = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let members: Vec<_> = snapshot
        .nodes
        .iter()
        .map(|node| (node, belongs(&template, node)))
        .collect();
    let total = members.iter().filter(|(_, (run, _))| *run).count();
    let surge = scaled(
        update.and_then(|update| update.max_surge.as_ref()),
        total,
        0,
        true,
    );
    let mut plan = Plan::default();
    for (node, (run, stay)) in &members {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let own = pods.get(name).map(Vec::as_slice).unwrap_or_default();
        if *stay {
            keep(own, surge > 0, snapshot, seconds, &mut plan);
            if *run && own.is_empty() {
                plan.create.push(name.to_owned());
            }
        } else {
            plan.delete.extend(
                own.iter()
                    .filter(|pod| !pod::is_deleting(pod))
                    .map(|pod| (*pod).clone()),
            );
        }
    }
    if rolling {
        let unavailable = scaled(
            update.and_then(|update| update.max_unavailable.as_ref()),
            total,
            1,
            true,
        );
        let members = members
            .iter()
            .filter(|(_, (run, _))| *run)
            .map(|(node, _)| node.name_any())
            .collect::<Vec<_>>();
        if surge > 0 {
            roll_with_surge(&members, &pods, surge, seconds, snapshot, &mut plan);
        } else {
            roll(&members, &pods, unavailable, seconds, snapshot, &mut plan);
        }
    }
    let mut seen = HashSet::new();
    plan.delete
        .retain(|pod| seen.insert(pod::uid(pod).to_owned()));
    plan
}

/// Deletes the pods of one node that have ended, and all but the oldest of those that haven't.
fn keep(own: &[&Arc<Pod>], surge: bool, snapshot: &Snapshot<'_>, seconds: i32, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in own.iter().filter(|pod| !pod::is_deleting(pod)) {
        if pod::is_terminal(pod) {
            plan.ended.push((*pod).clone());
            plan.delete.push((*pod).clone());
        } else {
            running.push(*pod);
        }
    }
    if !surge {
        plan.delete.extend(running.into_iter().skip(1).cloned());
        return;
    }
    // One old and one new pod may be there side by side.
    let (new, old): (Vec<_>, Vec<_>) = running
        .into_iter()
        .partition(|pod| is_new(pod, snapshot.hash));
    let ready = new
        .iter()
        .any(|pod| pod::is_available(pod, seconds, snapshot.now));
    plan.delete.extend(new.into_iter().skip(1).cloned());
    plan.delete
        .extend(old.into_iter().skip(usize::from(!ready)).cloned());
}

fn roll(
    members: &[String],
    pods: &ByNode<'_>,
    most: usize,
    seconds: i32,
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
) {
    let mut unavailable = 0;
    let (mut broken, mut candidates) = (Vec::new(), Vec::new());
    for name in members {
        let own = pods
            .get(name.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let Some(pod) = own.iter().find(|pod| !pod::is_terminal(pod)) else {
            unavailable += 1;
            continue;
        };
        let works = pod::is_available(pod, seconds, snapshot.now) && !pod::is_deleting(pod);
        if is_new(pod, snapshot.hash) || pod::is_deleting(pod) {
            unavailable += usize::from(!works);
        } else if works {
            candidates.push((*pod).clone());
        } else {
            // It doesn't work anyway, so replacing it costs nothing.
            broken.push((*pod).clone());
        }
    }
    let left = most.saturating_sub(unavailable + broken.len());
    plan.delete.extend(broken);
    plan.delete.extend(candidates.into_iter().take(left));
}

fn roll_with_surge(
    members: &[String],
    pods: &ByNode<'_>,
    most: usize,
    seconds: i32,
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for name in members {
        let own = pods
            .get(name.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut alive = own
            .iter()
            .filter(|pod| !pod::is_terminal(pod) && !pod::is_deleting(pod));
        let new = alive.clone().find(|pod| is_new(pod, snapshot.hash));
        let old = alive.find(|pod| !is_new(pod, snapshot.hash));
        match (old, new) {
            (Some(_), Some(new)) if !pod::is_available(new, seconds, snapshot.now) => surging += 1,
            (Some(old), None) if !pod::is_available(old, seconds, snapshot.now) => {
                plan.create.push(name.clone())
            }
            (Some(_), None) => candidates.push(name.clone()),
            _ => {}
        }
    }
    let left = most.saturating_sub(surging);
    plan.create.extend(candidates.into_iter().take(left));
    plan.create.sort();
    plan.create.dedup();
}

/// Counts.
pub fn status(snapshot: &Snapshot<'_>) -> DaemonSetStatus {
    let spec = snapshot.set.spec.clone().unwrap_or_default();
    let template = tolerant(&spec.template).spec.unwrap_or_default();
    let before = snapshot.set.status.clone().unwrap_or_default();
    let pods = by_node(snapshot.pods);
    let (mut desired, mut current, mut ready, mut available, mut updated, mut wrong) =
        (0, 0, 0, 0, 0, 0);
    for node in snapshot.nodes {
        let own = pods
            .get(node.metadata.name.as_deref().unwrap_or_default())
            .map(Vec::as_slice)
            .unwrap_or_default();
        if !belongs(&template, node).0 {
            wrong += i32::from(!own.is_empty());
            continue;
        }
        desired += 1;
        let Some(oldest) = own.first() else { continue };
        current += 1;
        if pod::is_ready(oldest) {
            ready += 1;
            available += i32::from(pod::is_available(
                oldest,
                spec.min_ready_seconds.unwrap_or(0),
                snapshot.now,
            ));
        }
        updated += i32::from(
            own.iter()
                .any(|pod| is_new(pod, snapshot.hash) && !pod::is_deleting(pod)),
        );
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    DaemonSetStatus {
        collision_count: before.collision_count,
        conditions: before.conditions,
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_available: some(available),
        number_misscheduled: wrong,
        number_ready: ready,
        number_unavailable: some(desired - available),
        observed_generation: snapshot.set.metadata.generation,
        updated_number_scheduled: some(updated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::taints::tests::node;
    use crate::pod::tests::{merge, pod};
    use serde_json::{Value, json};

    fn set(extra: Value) -> DaemonSet {
        let mut value = json!({"metadata": {"name": "d", "namespace": "default"}, "spec": {"selector": {},
            "template": {"spec": {"containers": []}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}}});
        merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    fn daemon(name: &str, node: &str, hash: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let mut value = json!({"metadata": {"labels": {HASH: hash}}, "spec": {"nodeName": node}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        merge(&mut value, &extra);
        Arc::new(pod(name, value))
    }

    fn told(plan: &Plan) -> String {
        let delete: Vec<_> = plan.delete.iter().map(|p| p.name_any()).collect();
        format!("+{} -{}", plan.create.join(","), delete.join(","))
    }

    fn nodes() -> Vec<Arc<Node>> {
        vec![
            Arc::new(node("n1", "True", json!({}))),
            Arc::new(node("n2", "True", json!({}))),
            Arc::new(node(
                "tainted",
                "True",
                json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}),
            )),
            Arc::new(node(
                "cordoned",
                "True",
                json!({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
            )),
        ]
    }

    #[test]
    fn plans() {
        let (set, nodes) = (set(json!({})), nodes());
        for (pods, expected) in [
            (vec![], "+n1,n2,cordoned -"),
            (
                // On a tainted node a daemon isn't started, but one that is there stays.
                vec![
                    daemon("a", "n1", "h", true, json!({})),
                    daemon("b", "n2", "h", true, json!({})),
                    daemon("c", "tainted", "h", true, json!({})),
                    daemon("d", "cordoned", "h", true, json!({})),
                ],
                "+ -",
            ),
            (
                vec![
                    daemon("a", "n1", "h", true, json!({})),
                    daemon("b", "n1", "h", true, json!({})),
                    daemon(
                        "c",
                        "n2",
                        "h",
                        false,
                        json!({"status": {"phase": "Failed"}}),
                    ),
                    daemon("d", "cordoned", "h", true, json!({})),
                ],
                "+ -b,c",
            ),
            (
                // One old pod at a time, and the broken one at once.
                vec![
                    daemon("a", "n1", "old", true, json!({})),
                    daemon("b", "n2", "old", true, json!({})),
                    daemon("d", "cordoned", "old", true, json!({})),
                ],
                "+ -a",
            ),
            (
                vec![
                    daemon("a", "n1", "h", false, json!({})),
                    daemon("b", "n2", "old", true, json!({})),
                    daemon("d", "cordoned", "old", false, json!({})),
                ],
                "+ -d",
            ),
        ] {
            let snapshot = Snapshot {
                set: &set,
                nodes: &nodes,
                pods: &pods,
                hash: "h",
                now: Timestamp::UNIX_EPOCH,
            };
            assert_eq!(told(&plan(&snapshot)), expected);
        }
    }

    #[test]
    fn surge_starts_the_new_pod_before_the_old_one_goes() {
        let set = set(
            json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}),
        );
        let nodes = nodes();
        let old = vec![
            daemon("a", "n1", "old", true, json!({})),
            daemon("b", "n2", "old", true, json!({})),
            daemon("d", "cordoned", "h", true, json!({})),
        ];
        fn snapshot<'a>(
            set: &'a DaemonSet,
            nodes: &'a [Arc<Node>],
            pods: &'a [Arc<Pod>],
        ) -> Snapshot<'a> {
            Snapshot {
                set,
                nodes,
                pods,
                hash: "h",
                now: Timestamp::UNIX_EPOCH,
            }
        }
        assert_eq!(told(&plan(&snapshot(&set, &nodes, &old))), "+n1 -");
        let mut pods = old.clone();
        pods.push(daemon("a2", "n1", "h", false, json!({})));
        assert_eq!(told(&plan(&snapshot(&set, &nodes, &pods))), "+ -");
        *pods.last_mut().unwrap() = daemon("a2", "n1", "h", true, json!({}));
        assert_eq!(told(&plan(&snapshot(&set, &nodes, &pods))), "+n2 -a");
    }

    #[test]
    fn a_pinned_pod_belongs_to_its_node_before_it_is_bound() {
        let mut spec = PodSpec::default();
        pin(&mut spec, "n1");
        let pod = Pod {
            spec: Some(spec),
            ..Pod::default()
        };
        assert_eq!(node_of(&pod), Some("n1"));
    }

    #[test]
    fn counts() {
        let (set, nodes) = (set(json!({"metadata": {"generation": 2}})), nodes());
        let pods = [
            daemon("a", "n1", "h", true, json!({})),
            daemon("b", "n2", "old", false, json!({})),
            daemon("c", "tainted", "h", true, json!({})),
        ];
        let status = status(&Snapshot {
            set: &set,
            nodes: &nodes,
            pods: &pods,
            hash: "h",
            now: Timestamp::UNIX_EPOCH,
        });
        assert_eq!(
            (
                status.desired_number_scheduled,
                status.current_number_scheduled,
                status.number_ready
            ),
            (3, 2, 1)
        );
        assert_eq!(
            (
                status.number_misscheduled,
                status.updated_number_scheduled,
                status.number_unavailable
            ),
            (1, Some(1), Some(2))
        );
    }
}
