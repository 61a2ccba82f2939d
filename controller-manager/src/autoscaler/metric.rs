//! What a single metric of an autoscaler comes to: its value, what that asks for, and how it shows in the status.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use keelson_api::quantity::{Format, Quantity};
use keelson_api::selector::format_label_selector;
use keelson_runtime::Key;
use serde_json::{Value, json};

use super::Controller;
use super::metrics::Wanted;
use super::replicas::{self, Proposal, Target, Tolerance, Warmup};
use super::target::Scaled;
use crate::context::now;

/// What one metric came to.
pub(super) struct Verdict {
    /// What it asks for.
    pub(super) proposal: Proposal,
    /// What the metric is called in messages.
    pub(super) name: String,
    /// Its part of the status.
    pub(super) status: Value,
}

/// Why a metric came to nothing.
pub(super) struct Failure {
    /// The reason of the condition and the event.
    pub(super) reason: &'static str,
    /// For the condition and the event.
    pub(super) why: String,
    /// For the error of all metrics together.
    pub(super) full: String,
}

fn milli(text: &Text) -> i64 {
    Quantity::parse(&text.0).map_or(0, |quantity| quantity.milli_value())
}

fn shown(amount: i64, resource: &str) -> String {
    let quantity = Quantity::from_milli(amount);
    if resource == "memory" {
        quantity.with_format(Format::BinarySi).to_string()
    } else {
        quantity.to_string()
    }
}

/// One metric at a time.
impl Controller {
    fn tolerance(&self, spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
        let all = self.context.options.horizontal_pod_autoscaler_tolerance;
        let own = |text: Option<&Text>| {
            text.and_then(|text| Quantity::parse(&text.0).ok())
                .map_or(all, |quantity| quantity.as_f64())
        };
        let behavior = spec.behavior.as_ref();
        let rules = |up: bool| {
            behavior.and_then(|behavior| {
                if up {
                    behavior.scale_up.as_ref()
                } else {
                    behavior.scale_down.as_ref()
                }
            })
        };
        Tolerance {
            down: own(rules(false).and_then(|rules| rules.tolerance.as_ref())),
            up: own(rules(true).and_then(|rules| rules.tolerance.as_ref())),
        }
    }

    /// What the metric asks for.
    pub(super) async fn metric(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        metric: &MetricSpec,
        scaled: &Scaled,
        pods: &[Arc<Pod>],
    ) -> Result<Verdict, Failure> {
        let place = Place {
            controller: self,
            namespace: &key.namespace,
            scaled,
            pods,
            tolerance: self.tolerance(spec),
        };
        let fail = |reason: &'static str, what: String| {
            move |why: String| Failure {
                reason,
                full: format!("failed to get {what}: {why}"),
                why,
            }
        };
        if let Some(source) = &metric.resource {
            let what = format!("{} resource metric value", source.name);
            return place
                .resource(&source.name, None, &source.target)
                .await
                .map_err(fail("FailedGetResourceMetric", what));
        }
        if let Some(source) = &metric.container_resource {
            let what = format!("{} container metric value", source.container);
            return place
                .resource(&source.name, Some(&source.container), &source.target)
                .await
                .map_err(fail("FailedGetContainerResourceMetric", what));
        }
        if let Some(source) = &metric.pods {
            return place
                .of_pods(&source.metric, &source.target)
                .await
                .map_err(fail("FailedGetPodsMetric", "pods metric value".into()));
        }
        if let Some(source) = &metric.object {
            return place
                .of_object(&source.metric, &source.target, &source.described_object)
                .await
                .map_err(fail("FailedGetObjectMetric", "object metric value".into()));
        }
        if let Some(source) = &metric.external {
            let what = format!("{} external metric value", source.metric.name);
            return place
                .external(&source.metric, &source.target)
                .await
                .map_err(fail("FailedGetExternalMetric", what));
        }
        let why = format!("unknown metric source type {:?}", metric.type_);
        Err(Failure {
            reason: "InvalidMetricSourceType",
            full: why.clone(),
            why,
        })
    }
}

/// What one metric is held against.
struct Place<'a> {
    controller: &'a Controller,
    namespace: &'a str,
    scaled: &'a Scaled,
    pods: &'a [Arc<Pod>],
    tolerance: Tolerance,
}

fn labels_of(metric: &MetricIdentifier) -> String {
    match &metric.selector {
        None => String::new(),
        given => format_label_selector(given.as_ref()),
    }
}

impl Place<'_> {
    fn warmup(&self) -> Warmup {
        let options = &self.controller.context.options;
        Warmup {
            cpu: options.horizontal_pod_autoscaler_cpu_initialization_period,
            readiness: options.horizontal_pod_autoscaler_initial_readiness_delay,
        }
    }

    async fn resource(
        &self,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<Verdict, String> {
        let by_use = target.average_value.is_some();
        let what = if by_use { "usage" } else { "utilization" };
        if !by_use && target.average_utilization.is_none() {
            return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
        }
        let wrap = |why: String| format!("failed to get {resource} {what}: {why}");
        let samples = self
            .controller
            .metrics
            .resource(self.namespace, resource, &self.scaled.selector, container)
            .await
            .map_err(|why| {
                wrap(format!(
                    "unable to get metrics for resource {resource}: {why}"
                ))
            })?;
        let requests = match by_use {
            true => std::collections::BTreeMap::new(),
            false => replicas::requests(self.pods, container, resource).map_err(wrap)?,
        };
        let aim = match (&target.average_value, target.average_utilization) {
            (Some(value), _) => Target::Average(milli(value)),
            (None, utilization) => Target::Utilization(utilization.unwrap_or(100), &requests),
        };
        let proposal = replicas::of_pods(
            self.scaled.replicas,
            self.pods,
            samples,
            &aim,
            (resource == "cpu", self.warmup(), self.tolerance),
            now(),
        )
        .map_err(wrap)?;
        let mut value = json!({"averageValue": shown(proposal.usage, resource)});
        let mut name = format!("{resource} resource");
        if let Some(percent) = proposal.utilization {
            value["averageUtilization"] = json!(percent);
            let kind = if container.is_some() {
                "container resource"
            } else {
                "resource"
            };
            name = format!("{resource} {kind} utilization (percentage of request)");
        }
        let status = match container {
            None => json!({"resource": {"name": resource, "current": value}}),
            Some(container) => {
                json!({"containerResource": {"name": resource, "container": container, "current": value}})
            }
        };
        Ok(Verdict {
            proposal,
            name,
            status,
        })
    }

    async fn of_pods(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<Verdict, String> {
        let labels = labels_of(metric);
        let wanted = Wanted {
            namespace: self.namespace,
            name: &metric.name,
            labels: &labels,
        };
        let samples = self
            .controller
            .metrics
            .pods(&wanted, &self.scaled.selector)
            .await
            .map_err(|why| format!("unable to get metric {}: {why}", metric.name))?;
        let aim = Target::Average(target.average_value.as_ref().map_or(0, milli));
        let proposal = replicas::of_pods(
            self.scaled.replicas,
            self.pods,
            samples,
            &aim,
            (false, self.warmup(), self.tolerance),
            now(),
        )?;
        Ok(Verdict {
            name: format!("pods metric {}", metric.name),
            status: json!({"pods": {"metric": metric, "current": {"averageValue": shown(proposal.usage, "")}}}),
            proposal,
        })
    }

    /// Holds one value against a target for all, or for each.
    fn weigh(
        &self,
        usage: i64,
        target: &MetricTarget,
        kind: &str,
    ) -> Result<(Proposal, Value), String> {
        if let Some(average) = &target.average_value {
            let proposal = replicas::of_share(
                self.scaled.status_replicas,
                usage,
                milli(average),
                self.tolerance,
            );
            return Ok((proposal, json!({"averageValue": shown(proposal.usage, "")})));
        }
        let Some(value) = &target.value else {
            return Err(format!(
                "invalid {kind} metric source: neither a value target nor an average value target was set"
            ));
        };
        let proposal = replicas::of_value(
            self.scaled.replicas,
            self.pods,
            usage,
            milli(value),
            self.tolerance,
        )?;
        Ok((proposal, json!({"value": shown(proposal.usage, "")})))
    }

    async fn of_object(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
        object: &CrossVersionObjectReference,
    ) -> Result<Verdict, String> {
        let labels = labels_of(metric);
        let wanted = Wanted {
            namespace: self.namespace,
            name: &metric.name,
            labels: &labels,
        };
        let wrap = |why: String| {
            format!(
                "unable to get metric {}: {why} on {} {}/{}",
                metric.name, object.kind, self.namespace, object.name
            )
        };
        let version = object.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let resource = self
            .controller
            .context
            .monitors
            .resource(group, &object.kind)
            .ok_or_else(|| {
                wrap(format!(
                    "no matches for kind \"{}\" in group \"{group}\"",
                    object.kind
                ))
            })?;
        let usage = self
            .controller
            .metrics
            .object(&wanted, &resource.group_resource(), &object.name)
            .await
            .map_err(wrap)?;
        let (proposal, current) = self.weigh(usage, target, "object")?;
        Ok(Verdict {
            proposal,
            name: format!("{} metric {}", object.kind, metric.name),
            status: json!({"object": {"describedObject": object, "metric": metric, "current": current}}),
        })
    }

    async fn external(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<Verdict, String> {
        let labels = labels_of(metric);
        let wanted = Wanted {
            namespace: self.namespace,
            name: &metric.name,
            labels: &labels,
        };
        let usage = self
            .controller
            .metrics
            .external(&wanted)
            .await
            .map_err(|why| {
                format!(
                    "unable to get external metric {}/{}/{labels}: {why}",
                    self.namespace, metric.name
                )
            })?;
        let (proposal, current) = self.weigh(usage, target, "external")?;
        Ok(Verdict {
            proposal,
            name: format!("external metric {}({labels})", metric.name),
            status: json!({"external": {"metric": metric, "current": current}}),
        })
    }
}
