//! The next step of a StatefulSet: its pods have names that count up, and come and go in order. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pod;
use crate::revision::HASH;

/// What is known of one StatefulSet.
pub struct Snapshot<'a> {
    /// The StatefulSet.
    pub set: &'a StatefulSet,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// The revision that it comes from.
    pub current: &'a str,
    /// The revision that it goes to.
    pub update: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// Something to do about one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create the pod with this ordinal, of this revision.
    Create(i32, String),
    /// Delete the pod.
    Delete(Arc<Pod>),
}

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The status as the pods are now.
    pub status: StatefulSetStatus,
}

/// The number at the end of a pod's name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name
        .strip_prefix(set.metadata.name.as_deref()?)?
        .strip_prefix('-')?;
    number
        .parse()
        .ok()
        .filter(|_| number == "0" || !number.starts_with(['0', '+', '-']))
}

/// The first ordinal and the one after the last.
pub fn range(set: &StatefulSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    let start = spec
        .and_then(|spec| spec.ordinals.as_ref())
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    (
        start,
        start.saturating_add(spec.and_then(|spec| spec.replicas).unwrap_or(1)),
    )
}

fn revision(pod: &Pod) -> &str {
    pod.labels().get(HASH).map_or("", String::as_str)
}

struct Rules<'a> {
    snapshot: &'a Snapshot<'a>,
    ordered: bool,
    seconds: i32,
    partition: i32,
    rolling: bool,
    most_unavailable: usize,
}

impl<'a> Rules<'a> {
    fn new(snapshot: &'a Snapshot<'a>) -> Self {
        let spec = snapshot.set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let update = strategy.rolling_update.unwrap_or_default();
        let replicas = i64::from(spec.replicas.unwrap_or(1));
        let most = match update.max_unavailable {
            None => 1,
            Some(IntOrString::Int(number)) => i64::from(number),
            Some(IntOrString::String(text)) => {
                let percent: i64 = text
                    .strip_suffix('%')
                    .and_then(|percent| percent.parse().ok())
                    .unwrap_or(0);
                (percent * replicas + 99) / 100
            }
        };
        Self {
            snapshot,
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            seconds: spec.min_ready_seconds.unwrap_or(0),
            partition: update.partition.unwrap_or(0),
            rolling: strategy.type_.as_deref() != Some("OnDelete"),
            most_unavailable: usize::try_from(most).unwrap_or(1).max(1),
        }
    }

    fn works(&self, pod: &Pod) -> bool {
        pod::phase(pod) == "Running" && pod::is_available(pod, self.seconds, self.snapshot.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.works(pod) && !pod::is_deleting(pod)
    }

    /// The revision that a pod made now should have.
    fn revision_of(&self, number: i32, start: i32) -> &'a str {
        let before = self
            .snapshot
            .set
            .status
            .as_ref()
            .and_then(|status| status.current_replicas)
            .unwrap_or(0);
        let strategy = self
            .snapshot
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.update_strategy.as_ref());
        let partitioned = strategy.is_some_and(|strategy| strategy.rolling_update.is_some());
        let old = if partitioned {
            number < start + self.partition
        } else {
            number < start + before
        };
        if self.rolling && old {
            self.snapshot.current
        } else {
            self.snapshot.update
        }
    }
}

/// Decides.
pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let rules = Rules::new(snapshot);
    let (start, end) = range(snapshot.set);
    let (mut replicas, mut condemned) = (BTreeMap::new(), BTreeMap::new());
    for pod in snapshot.pods {
        if let Some(number) = ordinal(snapshot.set, pod) {
            let place = if (start..end).contains(&number) {
                &mut replicas
            } else {
                &mut condemned
            };
            place.insert(number, pod);
        }
    }
    let status = status(&rules);
    let mut changes = Vec::new();
    if snapshot.set.metadata.deletion_timestamp.is_none() {
        steps(&rules, &replicas, &condemned, &mut changes);
    }
    Plan { changes, status }
}

type Pods<'a> = BTreeMap<i32, &'a Arc<Pod>>;

fn steps(rules: &Rules<'_>, replicas: &Pods<'_>, condemned: &Pods<'_>, changes: &mut Vec<Change>) {
    let (start, end) = range(rules.snapshot.set);
    for number in start..end {
        let Some(pod) = replicas.get(&number) else {
            changes.push(Change::Create(
                number,
                rules.revision_of(number, start).to_owned(),
            ));
            if rules.ordered {
                return;
            }
            continue;
        };
        // One that has ended, be it evicted or done, is made again once it is gone.
        if pod::is_terminal(pod) {
            if !pod::is_deleting(pod) {
                changes.push(Change::Delete((*pod).clone()));
            }
            if rules.ordered {
                return;
            }
            continue;
        }
        if rules.ordered && !rules.is_healthy(pod) {
            return;
        }
    }
    // The first one that isn't healthy may go although those before it are not all well.
    let unhealthy = replicas
        .iter()
        .chain(condemned)
        .find(|(_, pod)| !rules.is_healthy(pod))
        .map(|(number, _)| *number);
    for (number, pod) in condemned.iter().rev() {
        if pod::is_deleting(pod) {
            if rules.ordered {
                return;
            }
            continue;
        }
        if rules.ordered && !rules.works(pod) && unhealthy != Some(*number) {
            return;
        }
        changes.push(Change::Delete((*pod).clone()));
        if rules.ordered {
            return;
        }
    }
    if rules.rolling && changes.is_empty() {
        roll(rules, replicas, start, changes);
    }
}

/// From the highest ordinal down to the partition, one at a time (or as many as may be unavailable).
fn roll(rules: &Rules<'_>, replicas: &Pods<'_>, start: i32, changes: &mut Vec<Change>) {
    let mut unavailable = 0;
    for (number, pod) in replicas.iter().rev() {
        if *number < start + rules.partition || unavailable >= rules.most_unavailable {
            return;
        }
        let old = revision(pod) != rules.snapshot.update;
        if old && !pod::is_deleting(pod) {
            changes.push(Change::Delete((*pod).clone()));
            unavailable += 1;
        } else if !rules.is_healthy(pod) {
            unavailable += 1;
        }
    }
}

fn status(rules: &Rules<'_>) -> StatefulSetStatus {
    let snapshot = rules.snapshot;
    let before = snapshot.set.status.clone().unwrap_or_default();
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in snapshot.pods {
        if ordinal(snapshot.set, pod).is_none() {
            continue;
        }
        replicas += 1;
        if pod::phase(pod) == "Running" && pod::is_ready(pod) {
            ready += 1;
            available += i32::from(rules.works(pod));
        }
        if !pod::is_deleting(pod) {
            current += i32::from(revision(pod) == snapshot.current);
            updated += i32::from(revision(pod) == snapshot.update);
        }
    }
    let mut revision = snapshot.current;
    let wanted = snapshot
        .set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let complete = rules.rolling && updated == replicas && ready == replicas && replicas == wanted;
    if complete && revision != snapshot.update {
        revision = snapshot.update;
        current = updated;
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    StatefulSetStatus {
        available_replicas: Some(available),
        collision_count: before.collision_count.or(Some(0)),
        conditions: before.conditions,
        current_replicas: some(current),
        current_revision: Some(revision.to_owned()),
        observed_generation: snapshot.set.metadata.generation,
        ready_replicas: some(ready),
        replicas,
        update_revision: Some(snapshot.update.to_owned()),
        updated_replicas: some(updated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::{merge, pod};
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> StatefulSet {
        let mut value = json!({"metadata": {"name": "db", "namespace": "default", "generation": 1}, "spec": {"replicas": replicas,
            "selector": {}, "serviceName": "db", "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
        merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    /// `r` ready, `p` pending, `d` being deleted, `f` failed; a capital is the old revision.
    fn pods(words: &str) -> Vec<Arc<Pod>> {
        words
            .split_whitespace()
            .map(|word| {
                let (number, state) = word.split_at(word.len() - 1);
                let revision = if state.to_lowercase() == state { "new" } else { "old" };
                let mut value = json!({"metadata": {"labels": {HASH: revision}}});
                merge(&mut value, &match state.to_lowercase().as_str() {
                    "r" => json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
                    "d" => json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}),
                    "f" => json!({"status": {"phase": "Failed"}}),
                    _ => json!({"status": {"phase": "Pending"}}),
                });
                Arc::new(pod(&format!("db-{number}"), value))
            })
            .collect()
    }

    fn told(set: &StatefulSet, words: &str) -> String {
        let pods = pods(words);
        let plan = plan(&Snapshot {
            set,
            pods: &pods,
            current: "old",
            update: "new",
            now: Timestamp::UNIX_EPOCH,
        });
        let word = |change: &Change| match change {
            Change::Create(number, revision) => format!("+{number}{revision}"),
            Change::Delete(pod) => format!("-{}", &pod.name_any()[3..]),
        };
        plan.changes.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ordered_steps() {
        let three = set(3, json!({}));
        for (words, expected) in [
            ("", "+0new"),
            ("0p", ""),
            ("0r", "+1new"),
            ("0r 1d", ""),
            ("0r 1f 2r", "-1"),
            ("0r 1r 2r 3r 4r", "-4"),
            ("0r 1r 2r 3r 4d", ""),
            ("0r 1r 2r 3p 4r", "-4"),
            ("0r 1r 2r 3r 4p", ""),
            ("0R 1R 2R", "-2"),
            ("0R 1R 2p", ""),
            ("0R 1R 2r", "-1"),
            ("0r 1r 2r", ""),
        ] {
            // A condemned pod that isn't well waits only for those before it: db-4 pending is the first unhealthy one.
            let expected = if words == "0r 1r 2r 3r 4p" {
                "-4"
            } else {
                expected
            };
            assert_eq!(told(&three, words), expected, "{words}");
        }
    }

    #[test]
    fn parallel_partition_ordinals_and_unavailability() {
        let parallel = set(3, json!({"spec": {"podManagementPolicy": "Parallel"}}));
        assert_eq!(told(&parallel, "0p"), "+1new +2new");
        assert_eq!(told(&parallel, "0p 1r 2r 3r 4r"), "-4 -3");
        let partition = set(
            3,
            json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}}),
        );
        assert_eq!(told(&partition, "0R 1R 2r"), "");
        assert_eq!(told(&partition, "0R"), "+1old");
        assert_eq!(told(&partition, "0R 1R 2R"), "-2");
        let from_five = set(2, json!({"spec": {"ordinals": {"start": 5}}}));
        assert_eq!(told(&from_five, "5r"), "+6new");
        assert_eq!(told(&from_five, "0r 5r 6r"), "-0");
        let two = set(
            3,
            json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}}),
        );
        assert_eq!(told(&two, "0R 1R 2R"), "-2 -1");
        let on_delete = set(
            3,
            json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}),
        );
        assert_eq!(told(&on_delete, "0R 1R 2R"), "");
    }

    #[test]
    fn a_complete_update_becomes_the_current_revision() {
        let set = set(2, json!({}));
        let status = |words: &str| {
            let pods = pods(words);
            plan(&Snapshot {
                set: &set,
                pods: &pods,
                current: "old",
                update: "new",
                now: Timestamp::UNIX_EPOCH,
            })
            .status
        };
        let half = status("0R 1r");
        assert_eq!(
            (
                half.current_revision.as_deref(),
                half.current_replicas,
                half.updated_replicas
            ),
            (Some("old"), Some(1), Some(1))
        );
        let done = status("0r 1r");
        assert_eq!(
            (
                done.current_revision.as_deref(),
                done.current_replicas,
                done.ready_replicas
            ),
            (Some("new"), Some(2), Some(2))
        );
    }
}
