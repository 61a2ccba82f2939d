//! How many pods to create or which to delete, and what the status says. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod;

/// Pods created or deleted in one go at most.
pub const BURST: usize = 500;

/// What is known of one set of replicas.
pub struct Snapshot<'a> {
    /// The number asked for.
    pub wanted: i32,
    /// How long a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// The labels of the template.
    pub template_labels: Option<&'a BTreeMap<String, String>>,
    /// The pods that belong to the set.
    pub pods: &'a [Arc<Pod>],
    /// The pods of this set and its siblings, which decide the crowded nodes.
    pub related: &'a [Arc<Pod>],
    /// The time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Create so many pods.
    Create(usize),
    /// Delete these pods.
    Delete(Vec<Arc<Pod>>),
}

/// What the status says of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// Those that carry all labels of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready long enough.
    pub available: i32,
    /// Pods on their way out.
    pub terminating: i32,
}

/// Decides.
pub fn plan(snapshot: &Snapshot<'_>) -> Change {
    let active: Vec<_> = snapshot
        .pods
        .iter()
        .filter(|pod| pod::is_active(pod))
        .cloned()
        .collect();
    let wanted = usize::try_from(snapshot.wanted).unwrap_or(0);
    if active.len() < wanted {
        return Change::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Change::Nothing;
    }
    Change::Delete(cheapest(active, surplus, snapshot))
}

fn cheapest(mut active: Vec<Arc<Pod>>, count: usize, snapshot: &Snapshot<'_>) -> Vec<Arc<Pod>> {
    if count < active.len() {
        let mut crowd: HashMap<&str, usize> = HashMap::new();
        for pod in snapshot.related.iter().filter(|pod| pod::is_active(pod)) {
            *crowd.entry(pod::node(pod)).or_default() += 1;
        }
        let rank = |pod: &Pod| crowd.get(pod::node(pod)).copied().unwrap_or(0);
        active.sort_by(|a, b| pod::deletion_order((a, rank(a)), (b, rank(b)), snapshot.now));
        active.truncate(count);
    }
    active
}

/// Counts the pods.
pub fn count(snapshot: &Snapshot<'_>) -> Counts {
    let mut counts = Counts::default();
    for pod in snapshot.pods {
        if pod::is_deleting(pod) && !pod::is_terminal(pod) {
            counts.terminating += 1;
        }
        if !pod::is_active(pod) {
            continue;
        }
        counts.replicas += 1;
        let labels = pod.labels();
        if snapshot.template_labels.is_none_or(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        }) {
            counts.fully_labeled += 1;
        }
        if pod::is_ready(pod) {
            counts.ready += 1;
            if pod::is_available(pod, snapshot.min_ready_seconds, snapshot.now) {
                counts.available += 1;
            }
        }
    }
    counts
}

/// When a pod that is ready but not available yet will be.
pub fn next_available(snapshot: &Snapshot<'_>) -> Option<Duration> {
    snapshot
        .pods
        .iter()
        .filter(|pod| pod::is_active(pod))
        .filter_map(|pod| pod::ready_since(pod))
        .map(|since| {
            since.as_second() + i64::from(snapshot.min_ready_seconds) - snapshot.now.as_second()
        })
        .filter(|left| *left > 0)
        .min()
        .and_then(|left| u64::try_from(left).ok())
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod as make;
    use serde_json::json;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn pods(words: &[&str]) -> Vec<Arc<Pod>> {
        words
            .iter()
            .enumerate()
            .map(|(n, word)| {
                let extra = match *word {
                    "pending" => json!({"status": {"phase": "Pending"}}),
                    "failed" => json!({"status": {"phase": "Failed"}}),
                    "leaving" => json!({"metadata": {"deletionTimestamp": NOW}, "status": {"phase": "Running"}}),
                    ready => json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": ready},
                        "status": {"phase": "Running", "conditions":
                            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:50Z"}]}}),
                };
                Arc::new(make(&format!("p{n}"), extra))
            })
            .collect()
    }

    fn snapshot<'a>(wanted: i32, pods: &'a [Arc<Pod>]) -> Snapshot<'a> {
        Snapshot {
            wanted,
            min_ready_seconds: 0,
            template_labels: None,
            pods,
            related: pods,
            now: NOW.parse().unwrap(),
        }
    }

    #[test]
    fn plans() {
        // wanted, pods => plan
        for (wanted, words, expected) in [
            (3, &[][..], "create 3"),
            (3, &["n", "failed", "leaving"][..], "create 2"),
            (1, &["n"][..], "nothing"),
            (1, &["n", "pending"][..], "delete p1"),
            (2, &["n", "m", "n"][..], "delete p0"),
            (0, &["n", "leaving"][..], "delete p0"),
            (900, &[][..], "create 500"),
        ] {
            let pods = pods(words);
            let told = match plan(&snapshot(wanted, &pods)) {
                Change::Nothing => "nothing".to_owned(),
                Change::Create(count) => format!("create {count}"),
                Change::Delete(pods) => {
                    format!(
                        "delete {}",
                        pods.iter()
                            .map(|p| p.name_any())
                            .collect::<Vec<_>>()
                            .join(" ")
                    )
                }
            };
            assert_eq!(told, expected, "{wanted} {words:?}");
        }
    }

    #[test]
    fn counts_and_the_time_of_the_next_available_pod() {
        let pods = pods(&["n", "pending", "failed", "leaving"]);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let snapshot = Snapshot {
            min_ready_seconds: 15,
            template_labels: Some(&labels),
            ..snapshot(2, &pods)
        };
        let counts = count(&snapshot);
        assert_eq!(
            counts,
            Counts {
                replicas: 2,
                fully_labeled: 1,
                ready: 1,
                available: 0,
                terminating: 1
            }
        );
        assert_eq!(next_available(&snapshot), Some(Duration::from_secs(5)));
    }
}
