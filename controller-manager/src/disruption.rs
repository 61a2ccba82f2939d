//! PodDisruptionBudgets: how many pods may be evicted just now.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_api::selector::Selector;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners};
use kube::api::PostParams;
use kube::{Api, Error, ResourceExt};

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;

/// How long an eviction that was granted may take to show as a deletion.
const DELETION_TIMEOUT: i64 = 120;

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Pods,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        budgets: context.informers.get(),
        pods: Pods::of(&context.informers),
        deployments: context.informers.get(),
        replica_sets: context.informers.get(),
        stateful_sets: context.informers.get(),
        replication_controllers: context.informers.get(),
        queue: Queue::new("disruption"),
        context,
    });
    let this = controller.clone();
    controller.budgets.handle(move |event| {
        if let Some(budget) = event.object() {
            this.queue.add(Key::of(&**budget));
        }
    });
    let this = controller.clone();
    controller.pods.handle(move |event| {
        if let Event::Updated { old, new } = event
            && old.metadata.labels != new.metadata.labels
        {
            this.wake(old);
        }
        if let Some(pod) = event.object() {
            this.wake(pod);
        }
    });
    let workers = controller.context.options.workers.disruption;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
}

fn part(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .unwrap_or(0);
            i32::try_from((percent * i64::from(total) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// What is known of one budget.
struct Snapshot<'a> {
    budget: &'a PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    /// How many pods the owners of these pods ask for; `None` if that can't be told.
    scale: Option<i32>,
    now: Timestamp,
}

/// The counts of a budget, and when granted evictions that were never carried out are forgotten.
fn count(snapshot: &Snapshot<'_>) -> Option<(PodDisruptionBudgetStatus, Option<Duration>)> {
    let spec = snapshot.budget.spec.clone().unwrap_or_default();
    let before = snapshot.budget.status.clone().unwrap_or_default();
    let alive: Vec<_> = snapshot
        .pods
        .iter()
        .filter(|pod| !pod::is_terminal(pod))
        .collect();
    let total = i32::try_from(alive.len()).unwrap_or(i32::MAX);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = snapshot.scale?;
            (expected, (expected - part(most, expected)).max(0))
        }
        (None, Some(IntOrString::Int(least))) => (total, *least),
        (None, Some(least)) => {
            let expected = snapshot.scale?;
            (expected, part(least, expected))
        }
        (None, None) => (total, 0),
    };
    let mut disrupted = BTreeMap::new();
    let mut wake: Option<i64> = None;
    for (name, at) in before.disrupted_pods.iter().flatten() {
        let still = alive
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !pod::is_deleting(pod));
        let left = at.0.as_second() + DELETION_TIMEOUT - snapshot.now.as_second();
        if still && left > 0 {
            disrupted.insert(name.clone(), at.clone());
            wake = Some(wake.map_or(left, |wake| wake.min(left)));
        }
    }
    let healthy = alive
        .iter()
        .filter(|pod| {
            !pod::is_deleting(pod) && pod::is_ready(pod) && !disrupted.contains_key(&pod.name_any())
        })
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 {
        0
    } else {
        (healthy - desired).max(0)
    };
    let status = PodDisruptionBudgetStatus {
        conditions: before.conditions,
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: snapshot.budget.metadata.generation,
    };
    Some((
        status,
        wake.and_then(|left| u64::try_from(left).ok())
            .map(Duration::from_secs),
    ))
}

/// Sets the condition that says whether evictions are allowed.
fn judge(
    status: &mut PodDisruptionBudgetStatus,
    failed: Option<&str>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let allowed = status.disruptions_allowed.unwrap_or(0) > 0;
    let (value, reason) = match (failed, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, true) => ("True", "SufficientPods"),
        (None, false) => ("False", "InsufficientPods"),
    };
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionAllowed");
    let since = before
        .filter(|own| own.status == value)
        .map_or(Time(now), |own| own.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: failed.unwrap_or_default().into(),
        last_transition_time: since,
        observed_generation: generation,
    });
}

impl Controller {
    fn wake(&self, pod: &Pod) {
        for budget in self
            .budgets
            .list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        {
            if selector_of(&budget).matches(pod.labels()) {
                self.queue.add(Key::of(&*budget));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Outcome::Done);
        };
        let selector = selector_of(&budget);
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(pod.labels()));
        let scale = self.scale(&key.namespace, &pods);
        let at = now();
        let snapshot = Snapshot {
            budget: &budget,
            pods: &pods,
            scale,
            now: at,
        };
        let (mut status, wake, failed) = match count(&snapshot) {
            Some((status, wake)) => (status, wake, None),
            None => {
                let message =
                    "found no controllers or controllers without a scale for some of the pods";
                self.context.recorder.event(
                    &reference(&*budget),
                    Kind::Warning,
                    "CalculateExpectedPodCountFailed",
                    message,
                );
                let before = budget.status.clone().unwrap_or_default();
                let status = PodDisruptionBudgetStatus {
                    disruptions_allowed: Some(0),
                    observed_generation: budget.metadata.generation,
                    ..before
                };
                (status, None, Some(message))
            }
        };
        judge(&mut status, failed, budget.metadata.generation, at);
        if budget.status.as_ref() != Some(&status) {
            let mut wanted = (*budget).clone();
            wanted.status = Some(status);
            let api =
                Api::<PodDisruptionBudget>::namespaced(self.context.client.clone(), &key.namespace);
            // The eviction handler writes the same status: a conflict must start over, or a granted eviction would be forgotten.
            keelson_runtime::write::optional(
                api.replace_status(&key.name, &PostParams::default(), &wanted)
                    .await,
            )?;
        }
        Ok(wake.map_or(Outcome::Done, Outcome::After))
    }

    /// The sum of what the pods' owners ask for; `None` if a pod has no owner with a scale.
    fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Option<i32> {
        let (mut seen, mut total) = (HashSet::new(), 0);
        for pod in pods {
            let owner = owners::controller_of(&pod.metadata)?;
            if seen.insert(owner.uid.clone()) {
                let (top, size) = self.owner_scale(namespace, owner)?;
                if top == owner.uid || seen.insert(top) {
                    total += size;
                }
            }
        }
        Some(total)
    }

    /// The UID of the topmost owner with a scale, and that scale.
    fn owner_scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let same = |meta: &ObjectMeta| meta.uid.as_deref() == Some(&owner.uid);
        let size = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self
                    .replica_sets
                    .find(namespace, &owner.name)
                    .filter(|set| same(&set.metadata))?;
                if let Some(above) =
                    owners::controller_of(&set.metadata).filter(|above| above.kind == "Deployment")
                {
                    let deployment = self.deployments.find(namespace, &above.name)?;
                    return Some((
                        above.uid.clone(),
                        deployment.spec.as_ref()?.replicas.unwrap_or(1),
                    ));
                }
                set.spec.as_ref()?.replicas
            }
            "StatefulSet" => {
                self.stateful_sets
                    .find(namespace, &owner.name)
                    .filter(|set| same(&set.metadata))?
                    .spec
                    .as_ref()?
                    .replicas
            }
            "ReplicationController" => {
                self.replication_controllers
                    .find(namespace, &owner.name)
                    .filter(|set| same(&set.metadata))?
                    .spec
                    .as_ref()?
                    .replicas
            }
            _ => return None,
        };
        Some((owner.uid.clone(), size.unwrap_or(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod as make;
    use serde_json::{Value, json};

    fn allowed(
        spec: Value,
        ready: usize,
        waiting: usize,
        scale: Option<i32>,
        disrupted: Value,
    ) -> Option<(i32, i32, i32)> {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"spec": spec, "status": {"disruptedPods": disrupted,
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}}))
            .unwrap();
        let pods: Vec<_> = (0..ready + waiting)
            .map(|n| {
                let status = if n < ready { "True" } else { "False" };
                Arc::new(make(&format!("p{n}"), json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})))
            })
            .collect();
        let (status, _) = count(&Snapshot {
            budget: &budget,
            pods: &pods,
            scale,
            now: Timestamp::UNIX_EPOCH,
        })?;
        Some((
            status.current_healthy?,
            status.desired_healthy?,
            status.disruptions_allowed?,
        ))
    }

    #[test]
    fn counts() {
        assert_eq!(
            allowed(json!({"minAvailable": 2}), 3, 0, None, json!({})),
            Some((3, 2, 1))
        );
        assert_eq!(
            allowed(json!({"minAvailable": 2}), 1, 2, None, json!({})),
            Some((1, 2, 0))
        );
        assert_eq!(
            allowed(json!({"maxUnavailable": 1}), 3, 0, Some(3), json!({})),
            Some((3, 2, 1))
        );
        assert_eq!(
            allowed(json!({"maxUnavailable": "50%"}), 5, 0, Some(5), json!({})),
            Some((5, 2, 3))
        );
        assert_eq!(
            allowed(json!({"minAvailable": "50%"}), 3, 0, Some(5), json!({})),
            Some((3, 3, 0))
        );
        assert_eq!(
            allowed(json!({"maxUnavailable": 1}), 3, 0, None, json!({})),
            None
        );
        // An eviction just granted counts until the deletion shows, or two minutes have passed.
        assert_eq!(
            allowed(
                json!({"minAvailable": 2}),
                3,
                0,
                None,
                json!({"p0": "1969-12-31T23:59:50Z"})
            ),
            Some((2, 2, 0))
        );
        assert_eq!(
            allowed(
                json!({"minAvailable": 2}),
                3,
                0,
                None,
                json!({"p0": "1969-12-31T23:50:00Z"})
            ),
            Some((3, 2, 1))
        );
    }
}
