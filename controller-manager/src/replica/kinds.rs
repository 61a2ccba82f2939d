//! What ReplicaSets and ReplicationControllers have in common, and how each spells it.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::selector::{Selector, SelectorError};
use keelson_runtime::informer::Object;
use kube::Resource;
use serde::Serialize;

use super::plan::Counts;
use crate::options::Workers;

/// Why replicas could not be created or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// The API server's words.
    pub message: String,
}

/// A set of equal pods.
pub trait Replicated:
    Object + Serialize + Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
    /// The kind's name.
    const KIND: &'static str;
    /// The name of its queue in metrics.
    const QUEUE: &'static str;
    /// How many workers the flags give it.
    fn workers(workers: &Workers) -> usize;
    /// The number of pods asked for.
    fn wanted(&self) -> i32;
    /// Which pods are its own.
    fn selector(&self) -> Result<Selector, SelectorError>;
    /// What its pods look like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How long a pod must be ready to be available.
    fn min_ready_seconds(&self) -> i32;
    /// Writes the status; says whether it changed.
    fn report(&mut self, counts: &Counts, failure: Option<&Failure>, now: Time) -> bool;
}

impl Replicated for ReplicaSet {
    const KIND: &'static str = "ReplicaSet";
    const QUEUE: &'static str = "replicaset";

    fn workers(workers: &Workers) -> usize {
        workers.replica_set
    }

    fn wanted(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }

    fn selector(&self) -> Result<Selector, SelectorError> {
        Selector::from_label_selector(self.spec.as_ref().map(|spec| &spec.selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref())
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }

    fn report(&mut self, counts: &Counts, failure: Option<&Failure>, now: Time) -> bool {
        let mut status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.take().unwrap_or_default();
        status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: with_failure(
                conditions,
                failure,
                |condition: &ReplicaSetCondition| &condition.type_,
                |failure| ReplicaSetCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(failure.reason.into()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(now),
                },
            ),
        };
        let changed = self.status.as_ref() != Some(&status);
        self.status = Some(status);
        changed
    }
}

impl Replicated for ReplicationController {
    const KIND: &'static str = "ReplicationController";
    const QUEUE: &'static str = "replicationmanager";

    fn workers(workers: &Workers) -> usize {
        workers.replication_controller
    }

    fn wanted(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }

    fn selector(&self) -> Result<Selector, SelectorError> {
        let map = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Ok(map
            .filter(|map| !map.is_empty())
            .map_or_else(Selector::nothing, Selector::from_map))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref())
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }

    fn report(&mut self, counts: &Counts, failure: Option<&Failure>, now: Time) -> bool {
        let conditions = self
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: self.metadata.generation,
            conditions: with_failure(
                conditions,
                failure,
                |condition: &ReplicationControllerCondition| &condition.type_,
                |failure| ReplicationControllerCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(failure.reason.into()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(now),
                },
            ),
        };
        let changed = self.status.as_ref() != Some(&status);
        self.status = Some(status);
        changed
    }
}

/// Go leaves zero out, and the API server answers what was stored.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// A failure is added once, and taken away when all went well.
fn with_failure<C>(
    mut conditions: Vec<C>,
    failure: Option<&Failure>,
    kind: impl Fn(&C) -> &String,
    make: impl FnOnce(&Failure) -> C,
) -> Option<Vec<C>> {
    let present = conditions
        .iter()
        .any(|condition| kind(condition) == "ReplicaFailure");
    match failure {
        Some(failure) if !present => conditions.push(make(failure)),
        None if present => conditions.retain(|condition| kind(condition) != "ReplicaFailure"),
        _ => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported_once_and_taken_back() {
        let mut set = ReplicaSet::default();
        set.metadata.generation = Some(3);
        let counts = Counts {
            replicas: 1,
            ..Counts::default()
        };
        let failure = Failure {
            reason: "FailedCreate",
            message: "quota".into(),
        };
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        assert!(set.report(&counts, Some(&failure), now.clone()));
        assert!(!set.report(&counts, Some(&failure), Time(jiff::Timestamp::MAX)));
        let status = set.status.clone().unwrap();
        assert_eq!(
            (status.observed_generation, status.conditions.unwrap().len()),
            (Some(3), 1)
        );
        assert!(set.report(&counts, None, now));
        assert_eq!(set.status.unwrap().conditions, None);
    }
}
