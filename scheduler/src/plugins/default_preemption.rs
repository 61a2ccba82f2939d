//! DefaultPreemption: takes pods of lower priority off a node so that a pod of higher priority fits.
//!
//! What would be is tried on copies ([`victims`]); the best node is chosen by what it costs; only then is anybody
//! evicted. PodDisruptionBudgets are kept as far as there is a choice.

mod victims;

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use keelson_runtime::recorder::{Kind as EventKind, reference};
use keelson_runtime::{Informer, write};
use kube::Api;
use rand::RngExt;
use serde::Deserialize;
use serde_json::Value;

use super::{PluginError, arguments};
use crate::framework::{
    Change, Diagnosis, Handle, Kind, Plugin, Point, PostFilter, PostFilterInput, Rejection,
};
use crate::metrics::METRICS;
use crate::model::{NodeInfo, PodInfo};
use crate::report::{Nomination, set_condition};
use victims::Candidate;

const NAME: &str = "DefaultPreemption";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

pub struct DefaultPreemption {
    handle: Handle,
    budgets: Informer<PodDisruptionBudget>,
    min_percentage: usize,
    min_absolute: usize,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefaultPreemptionArgs {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

pub fn make(given: Option<&Value>, handle: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: DefaultPreemptionArgs = arguments(NAME, given)?;
    Ok(Arc::new(DefaultPreemption {
        handle: handle.clone(),
        budgets: handle.informers.get(),
        min_percentage: args.min_candidate_nodes_percentage.unwrap_or(10),
        min_absolute: args.min_candidate_nodes_absolute.unwrap_or(100),
    }))
}

/// Whether the pod may take others' places, or why not.
fn eligible(input: &PostFilterInput<'_>, nominated: Option<&str>) -> Result<(), &'static str> {
    let pod = input.pod;
    let policy = pod
        .spec()
        .and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    let Some(name) = nominated.filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let lost = input
        .diagnosis
        .of(name)
        .is_some_and(|rejection| rejection.kind == Kind::Unresolvable);
    let Some(node) = input.snapshot.node(name).filter(|_| !lost) else {
        return Ok(());
    };
    // Room is being made already: evicting more would not make it faster.
    let leaving = node.pods().iter().any(|other| {
        other.is_terminating() && other.priority < pod.priority && was_preempted(other)
    });
    if leaving {
        return Err("not eligible due to a terminating pod on the nominated node.");
    }
    Ok(())
}

fn was_preempted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

impl DefaultPreemption {
    /// Nodes on which room can be made, no more than are worth comparing, and what the others said.
    fn candidates(&self, input: &PostFilterInput<'_>) -> (Vec<Candidate>, Diagnosis) {
        let mut told = Diagnosis {
            all_nodes: input.snapshot.nodes.len(),
            absent: Some(Rejection::unresolvable(NOT_HELPFUL)),
            ..Diagnosis::default()
        };
        let worth_a_look: Vec<&Arc<NodeInfo>> = input
            .snapshot
            .nodes
            .iter()
            .filter(|node| {
                let verdict = input.diagnosis.of(node.name());
                verdict.is_some_and(|rejection| rejection.kind == Kind::Unschedulable)
            })
            .collect();
        if worth_a_look.is_empty() {
            return (Vec::new(), told);
        }
        let budgets = self.budgets.list();
        let wanted = (worth_a_look.len() * self.min_percentage / 100).max(self.min_absolute);
        let start = rand::rng().random_range(0..worth_a_look.len());
        let mut candidates = Vec::new();
        for node in worth_a_look[start..].iter().chain(&worth_a_look[..start]) {
            let nominator = &self.handle.nominator;
            match victims::on_node(
                input.profile,
                nominator,
                input.state,
                input.pod,
                node,
                &budgets,
            ) {
                Ok(candidate) => candidates.push(candidate),
                Err(rejection) => told.refuse(node.name(), rejection),
            }
            // One that costs no budget must be among those to choose from.
            if candidates.len() >= wanted && candidates.iter().any(|c| c.violations == 0) {
                break;
            }
        }
        (candidates, told)
    }

    /// Evicts the victims, and takes back nominations of lower pods that counted on their room.
    async fn evict(&self, pod: &PodInfo, chosen: &Candidate) -> Result<(), kube::Error> {
        let evictions = chosen
            .victims
            .iter()
            .map(|victim| self.evict_one(pod, victim, &chosen.node));
        for outcome in join_all(evictions).await {
            outcome?;
        }
        METRICS
            .preemption_victims
            .observe(chosen.victims.len() as f64);
        for other in self.handle.nominator.on(&chosen.node) {
            if other.priority < pod.priority && other.uid != pod.uid {
                self.handle.nominator.remove(&other.uid);
                self.clear_nomination(&other).await?;
            }
        }
        Ok(())
    }

    async fn clear_nomination(&self, pod: &PodInfo) -> Result<(), kube::Error> {
        let patch = serde_json::json!({"status": {"nominatedNodeName": null}});
        let pods = Api::<Pod>::namespaced(self.handle.client.clone(), pod.namespace());
        let params = kube::api::PatchParams::default();
        let answer = pods
            .patch_status(&pod.key.name, &params, &kube::api::Patch::Merge(patch))
            .await;
        write::optional(answer).map(|_| ())
    }

    async fn evict_one(
        &self,
        pod: &PodInfo,
        victim: &PodInfo,
        node: &str,
    ) -> Result<(), kube::Error> {
        let refused = Rejection::unschedulable("preempted");
        if self.handle.waiting.reject(&victim.uid, refused) {
            return Ok(());
        }
        let text = format!(
            "{}: preempting to accommodate a higher priority pod",
            pod.scheduler_name()
        );
        set_condition(
            &self.handle,
            victim,
            "DisruptionTarget",
            "True",
            "PreemptionByScheduler",
            &text,
            &Nomination::Keep,
        )
        .await?;
        let pods = Api::<Pod>::namespaced(self.handle.client.clone(), victim.namespace());
        let params = write::delete_params(Some(&victim.uid), None);
        let answer = pods.delete(&victim.key.name, &params).await;
        if write::optional(answer)?.is_none() {
            return Ok(());
        }
        self.handle.recorder.action(
            &reference(victim.pod.as_ref()),
            EventKind::Normal,
            "Preempted",
            "Preempting",
            format!("Preempted by pod {} on node {node}", pod.uid),
        );
        Ok(())
    }
}

#[async_trait]
impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter]
    }

    fn helped_by(&self, _: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::PodDeleted(_))
    }

    async fn post_filter(&self, input: PostFilterInput<'_>) -> Result<PostFilter, Rejection> {
        METRICS.preemption_attempts.inc();
        let said = |message: &str, clear| PostFilter {
            nominated: None,
            clear_nomination: clear,
            message: format!("preemption: {message}"),
        };
        let nominated = self.handle.nominator.node_of(&input.pod.uid);
        if let Err(why) = eligible(&input, nominated.as_deref()) {
            return Ok(said(why, false));
        }
        let (candidates, told) = self.candidates(&input);
        let Some(chosen) = victims::best(candidates) else {
            // Whatever was nominated before is no good any more.
            return Ok(said(&told.message(), nominated.is_some()));
        };
        self.evict(input.pod, &chosen)
            .await
            .map_err(Rejection::error)?;
        tracing::info!(pod = %input.pod.key, node = chosen.node, victims = chosen.victims.len(), "preempted");
        Ok(PostFilter {
            nominated: Some(chosen.node),
            ..PostFilter::default()
        })
    }
}
