//! Horizontal autoscaling: as many replicas as the metrics ask for, within bounds and at a bounded rate.
//!
//! [`metric`] says what a metric of the spec comes to, [`replicas`] how many replicas that is, [`pace`] how far it is followed at once;
//! [`metrics`] fetches the numbers, and [`target`] is what is scaled.

mod metric;
mod metrics;
mod pace;
mod replicas;
mod target;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    MetricStatus,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::selector::Selector;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod_control::words;
use crate::pod_index::Pods;
use metrics::Metrics;
use pace::{History, Limits};
use target::Scaled;

struct Controller {
    context: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Pods,
    metrics: Metrics,
    histories: Mutex<HashMap<Key, History>>,
    /// The selectors of all autoscalers that were looked at, to find two that reach for the same pods.
    selectors: Mutex<HashMap<Key, Selector>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("horizontalpodautoscaler");
    // What kinds there are is known by the monitors.
    context.monitors.listen(Box::new(|_, _| {}));
    let controller = Arc::new(Controller {
        autoscalers: context.informers.get(),
        pods: Pods::of(&context.informers),
        metrics: Metrics::new(context.client.clone()),
        histories: Mutex::default(),
        selectors: Mutex::default(),
        context,
    });
    let (wake, this) = (queue.clone(), controller.clone());
    controller.autoscalers.handle(move |event| match event {
        Event::Added(autoscaler) => wake.add(Key::of(&**autoscaler)),
        Event::Updated { old, new } if old.spec != new.spec => wake.add(Key::of(&**new)),
        Event::Deleted(autoscaler) => {
            let key = Key::of(&**autoscaler);
            this.histories.lock().remove(&key);
            this.selectors.lock().remove(&key);
        }
        Event::Updated { .. } | Event::Resync => {}
    });
    let workers = controller.context.options.workers.horizontal_pod_autoscaler;
    let period = controller
        .context
        .options
        .horizontal_pod_autoscaler_sync_period;
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move {
            let Some(autoscaler) = controller.autoscalers.get(&key) else {
                return Ok::<_, kube::Error>(Outcome::Done);
            };
            if let Err(error) = controller.look(&key, &autoscaler).await {
                warn!(autoscaler = %key, %error, "cannot scale");
            }
            // Load changes by itself: it is looked at again and again, failed or not.
            Ok(Outcome::After(period))
        }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

/// The part of a status that is being made.
struct Draft {
    conditions: Vec<HorizontalPodAutoscalerCondition>,
    metrics: Vec<MetricStatus>,
    now: Timestamp,
}

impl Draft {
    fn set(&mut self, kind: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        let place = self
            .conditions
            .iter()
            .position(|condition| condition.type_ == kind);
        let place = place.unwrap_or_else(|| {
            self.conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.to_owned(),
                ..HorizontalPodAutoscalerCondition::default()
            });
            self.conditions.len() - 1
        });
        let condition = &mut self.conditions[place];
        if condition.status != status {
            condition.last_transition_time = Some(Time(self.now));
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.into());
    }
}

impl Controller {
    async fn look(&self, key: &Key, autoscaler: &HorizontalPodAutoscaler) -> Result<(), String> {
        let about = reference(autoscaler);
        let spec = autoscaler.spec.clone();
        let before = autoscaler.status.clone().unwrap_or_default();
        let mut draft = Draft {
            conditions: before.conditions.unwrap_or_default(),
            metrics: Vec::new(),
            now: now(),
        };
        let mut scaled = match self.scale_of(key, &spec.scale_target_ref).await {
            Ok(scaled) => scaled,
            Err(why) => {
                self.warn(&about, "FailedGetScale", &why);
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                draft.set("AbleToScale", false, "FailedGetScale", message);
                let replicas = (before.current_replicas, before.desired_replicas);
                self.write(autoscaler, draft, replicas, false).await?;
                return Err(format!("failed to query scale subresource: {why}"));
            }
        };
        draft.set(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = scaled.replicas;
        let at = Instant::now();
        self.histories
            .lock()
            .entry(key.clone())
            .or_default()
            .begin(current, at);
        let min = spec.min_replicas.unwrap_or(1);
        let mut trouble = None;
        let (desired, reason) = if current == 0 {
            draft.set(
                "ScalingActive",
                false,
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            (0, String::new())
        } else if current > spec.max_replicas {
            (
                spec.max_replicas,
                "Current number of replicas above Spec.MaxReplicas".into(),
            )
        } else if current < min {
            (
                min,
                "Current number of replicas below Spec.MinReplicas".into(),
            )
        } else {
            match self.measure(key, &about, &spec, &scaled, &mut draft).await {
                Err(why) => {
                    self.warn(&about, "FailedComputeMetricsReplicas", &why);
                    let replicas = (Some(current), before.desired_replicas);
                    self.write(autoscaler, draft, replicas, false).await?;
                    return Err(why);
                }
                Ok((replicas, name, partly)) => {
                    trouble = partly;
                    let reason = if replicas > current {
                        format!("{name} above target")
                    } else {
                        "All metrics below target".into()
                    };
                    (
                        self.pace(key, &spec, (current, min), replicas, &mut draft),
                        reason,
                    )
                }
            }
        };
        let rescale = desired != current;
        if rescale {
            let scaling = self.rescale(&about, &mut scaled, desired, &reason, &mut draft);
            if let Err(why) = scaling.await {
                let replicas = (Some(current), before.desired_replicas);
                self.write(autoscaler, draft, replicas, false).await?;
                return Err(why);
            }
            let mut histories = self.histories.lock();
            histories.entry(key.clone()).or_default().scaled(
                spec.behavior.as_ref(),
                current,
                desired,
                Instant::now(),
            );
        }
        self.write(autoscaler, draft, (Some(current), desired), rescale)
            .await?;
        trouble.map_or(Ok(()), Err)
    }

    fn warn(&self, about: &ObjectReference, reason: &str, message: &str) {
        self.context
            .recorder
            .event(about, Kind::Warning, reason, message);
    }

    fn pace(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        (current, min): (i32, i32),
        desired: i32,
        draft: &mut Draft,
    ) -> i32 {
        let limits = Limits {
            behavior: spec.behavior.as_ref(),
            min,
            max: spec.max_replicas,
            current,
            downscale_window: self
                .context
                .options
                .horizontal_pod_autoscaler_downscale_stabilization,
        };
        let mut histories = self.histories.lock();
        let history = histories.entry(key.clone()).or_default();
        let paced = history.pace(&limits, desired, Instant::now());
        draft.set("AbleToScale", true, paced.able.0, paced.able.1);
        draft.set(
            "ScalingLimited",
            paced.limited.0,
            paced.limited.1,
            paced.limited.2,
        );
        paced.replicas
    }

    /// The pods under the target's selector, which must be no other autoscaler's too.
    fn pods_of(
        &self,
        key: &Key,
        about: &ObjectReference,
        text: &str,
        draft: &mut Draft,
    ) -> Result<Vec<Arc<Pod>>, String> {
        let mut fail = |event: &str, reason: &str, why: String, message: String| {
            self.warn(about, event, &why);
            draft.set("ScalingActive", false, reason, message);
            Err(why)
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return fail(
                "SelectorRequired",
                "InvalidSelector",
                "selector is required".into(),
                message,
            );
        }
        let selector = match Selector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let why = format!(
                    "couldn't convert selector into a corresponding internal selector object: {error}"
                );
                return fail("InvalidSelector", "InvalidSelector", why.clone(), why);
            }
        };
        let pods: Vec<Arc<Pod>> = self
            .pods
            .list_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| selector.matches(pod.labels()))
            .collect();
        let mut rivals: Vec<Key> = {
            let mut selectors = self.selectors.lock();
            selectors.insert(key.clone(), selector);
            selectors
                .iter()
                .filter(|(other, selector)| {
                    other.namespace == key.namespace
                        && pods.iter().any(|pod| selector.matches(pod.labels()))
                })
                .map(|(other, _)| other.clone())
                .collect()
        };
        if rivals.len() > 1 {
            rivals.sort();
            let names: Vec<String> = rivals
                .iter()
                .map(|rival| format!("{{{} {}}}", rival.name, rival.namespace))
                .collect();
            let why = format!(
                "pods by selector {text} are controlled by multiple HPAs: [{}]",
                names.join(" ")
            );
            return fail("AmbiguousSelector", "AmbiguousSelector", why.clone(), why);
        }
        Ok(pods)
    }

    /// What all metrics together ask for, which of them asks for the most, and what went wrong with others.
    async fn measure(
        &self,
        key: &Key,
        about: &ObjectReference,
        spec: &HorizontalPodAutoscalerSpec,
        scaled: &Scaled,
        draft: &mut Draft,
    ) -> Result<(i32, String, Option<String>), String> {
        let pods = self.pods_of(key, about, &scaled.selector, draft)?;
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let (mut replicas, mut name) = (0, String::new());
        let mut failures = Vec::new();
        for metric in metrics {
            match self.metric(key, spec, metric, scaled, &pods).await {
                Ok(verdict) => {
                    let mut status = verdict.status;
                    status["type"] = json!(metric.type_);
                    draft.metrics.extend(serde_json::from_value(status).ok());
                    if replicas == 0 || verdict.proposal.replicas > replicas {
                        replicas = verdict.proposal.replicas;
                        name = verdict.name;
                    }
                }
                Err(failure) => {
                    self.warn(about, failure.reason, &failure.why);
                    failures.push(failure);
                }
            }
        }
        let trouble = failures.first().map(|first| {
            format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                failures.len(),
                metrics.len(),
                first.full
            )
        });
        if let (Some(first), Some(trouble)) = (failures.first(), &trouble)
            && (failures.len() >= metrics.len() || replicas < scaled.replicas)
        {
            let message = format!(
                "the HPA was unable to compute the replica count: {}",
                first.why
            );
            draft.set("ScalingActive", false, first.reason, message);
            return Err(trouble.clone());
        }
        draft.set(
            "ScalingActive",
            true,
            "ValidMetricFound",
            format!("the HPA was able to successfully calculate a replica count from {name}"),
        );
        Ok((replicas, name, trouble))
    }

    async fn write(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        draft: Draft,
        (current, desired): (Option<i32>, i32),
        rescaled: bool,
    ) -> Result<(), String> {
        let mut next = autoscaler.clone();
        let status = next.status.get_or_insert_default();
        status.current_replicas = current.filter(|count| *count != 0);
        status.desired_replicas = desired;
        status.conditions = Some(draft.conditions);
        status.current_metrics = Some(draft.metrics).filter(|metrics| !metrics.is_empty());
        if rescaled {
            status.last_scale_time = Some(Time(draft.now));
        }
        if next.status == autoscaler.status {
            return Ok(());
        }
        let namespace = next.namespace().unwrap_or_default();
        let api =
            Api::<HorizontalPodAutoscaler>::namespaced(self.context.client.clone(), &namespace);
        match api
            .replace_status(&next.name_any(), &PostParams::default(), &next)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => {
                let why = words(&error);
                self.warn(&reference(autoscaler), "FailedUpdateStatus", &why);
                Err(format!("failed to update status: {why}"))
            }
        }
    }
}
