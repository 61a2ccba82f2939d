//! PodDisruptionBudgets: how many pods may be evicted just now.

mod plan;
mod scale;
mod stale;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use keelson_api::selector::Selector;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error, ResourceExt};

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod_index::Pods;
use plan::{Count, Snapshot};
use scale::{Scales, Sum};

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Pods,
    scales: Scales,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        budgets: context.informers.get(),
        pods: Pods::of(&context.informers),
        scales: Scales::new(&context),
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
    let marks = stale::start(context.clone(), controller.pods.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    let budgets = context.run(queue, workers, reconcile);
    Ok(futures::future::join(budgets, marks).map(drop).boxed())
}

fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
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
        if pods.is_empty() {
            self.say(&budget, Kind::Normal, "NoPods", "No matching pods found");
        }
        let sum = match plan::needs_scale(&budget) {
            true => self.scales.sum(&key.namespace, &pods).await,
            false => Ok(Sum::default()),
        };
        let at = now();
        let count = match sum {
            Ok(sum) => {
                self.tell_of_unmanaged(&budget, &sum);
                plan::count(&Snapshot {
                    budget: &budget,
                    pods: &pods,
                    scale: sum.pods,
                    now: at,
                })
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                let reason = "CalculateExpectedPodCountFailed";
                self.say(&budget, Kind::Warning, reason, &message);
                Count {
                    status: plan::fail_safe(&budget, &why, at),
                    again: None,
                    late: Vec::new(),
                }
            }
        };
        for pod in &count.late {
            let message = format!(
                "Pod was expected by PDB {0}/{0} to be deleted but it wasn't",
                key.namespace
            );
            self.context
                .recorder
                .event(&reference(&**pod), Kind::Warning, "NotDeleted", message);
        }
        if budget.status.as_ref() != Some(&count.status) {
            let mut wanted = (*budget).clone();
            wanted.status = Some(count.status);
            let api =
                Api::<PodDisruptionBudget>::namespaced(self.context.client.clone(), &key.namespace);
            // The eviction handler writes the same status: a conflict must start over, or a granted eviction would be forgotten.
            write::optional(
                api.replace_status(&key.name, &PostParams::default(), &wanted)
                    .await,
            )?;
        }
        Ok(count.again.map_or(Outcome::Done, Outcome::After))
    }

    fn say(&self, budget: &PodDisruptionBudget, kind: Kind, reason: &str, message: &str) {
        self.context
            .recorder
            .event(&reference(budget), kind, reason, message);
    }

    fn tell_of_unmanaged(&self, budget: &PodDisruptionBudget, sum: &Sum) {
        if !sum.unmanaged {
            return;
        }
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            plan::printed(selector)
        );
        self.say(budget, Kind::Warning, "UnmanagedPods", &message);
    }
}
