//! A Deployment's counts and conditions, and when its progress deadline passes. No I/O.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.progress_deadline_seconds)
        .filter(|seconds| *seconds != i32::MAX)
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Sets a condition, unless it says so already; keeps the time of the last transition if the status is the same.
fn set(status: &mut DeploymentStatus, mut wanted: DeploymentCondition) {
    if let Some(current) = find(status, &wanted.type_) {
        if current.status == wanted.status && current.reason == wanted.reason {
            return;
        }
        if current.status == wanted.status {
            wanted
                .last_transition_time
                .clone_from(&current.last_transition_time);
        }
    }
    remove(status, &wanted.type_);
    status.conditions.get_or_insert_default().push(wanted);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Notes that the Deployment was paused or resumed, so that the time in between doesn't count against its deadline.
pub fn note_pause(deployment: &mut Deployment, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let status = deployment.status.get_or_insert_default();
    let reason = find(status, PROGRESSING).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let noted = reason.as_deref() == Some(PAUSED);
    if paused && !noted {
        set(
            status,
            condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now),
        );
    } else if !paused && noted {
        set(
            status,
            condition(
                PROGRESSING,
                "Unknown",
                RESUMED,
                "Deployment is resumed",
                now,
            ),
        );
    }
}

/// Notes that the new ReplicaSet was there already.
pub fn note_found(deployment: &mut Deployment, name: &str, now: Timestamp) {
    let status = deployment.status.get_or_insert_default();
    if find(status, PROGRESSING).is_none() && deadline(deployment).is_some() {
        let message = format!("Found new replica set {name:?}");
        let found = condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now);
        set(deployment.status.get_or_insert_default(), found);
    }
}

/// Notes that the new ReplicaSet was created.
pub fn note_created(deployment: &mut Deployment, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() {
        let message = format!("Created new replica set {name:?}");
        let created = condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now);
        set(deployment.status.get_or_insert_default(), created);
    }
}

/// Notes that the new ReplicaSet could not be created; says what the event is to say.
pub fn note_create_failed(
    deployment: &mut Deployment,
    name: &str,
    error: &str,
    now: Timestamp,
) -> String {
    let message = format!("Failed to create new replica set {name:?}: {error}");
    if deadline(deployment).is_some() {
        let failed = condition(
            PROGRESSING,
            "False",
            "ReplicaSetCreateError",
            message.clone(),
            now,
        );
        set(deployment.status.get_or_insert_default(), failed);
    }
    message
}

/// Counts the pods of all sets, and says whether enough are available.
pub fn count(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum::<i32>();
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let available = sum(sets::available);
    let terminating: Option<i32> = sets
        .iter()
        .map(|set| {
            set.status
                .as_ref()
                .and_then(|status| status.terminating_replicas)
        })
        .sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(actual)),
        updated_replicas: some(new.map_or(0, actual)),
        ready_replicas: some(sum(|set| {
            set.status
                .as_ref()
                .and_then(|s| s.ready_replicas)
                .unwrap_or(0)
        })),
        available_replicas: some(available),
        unavailable_replicas: some((sum(sets::size) - available).max(0)),
        terminating_replicas: terminating,
        collision_count: before.collision_count,
        conditions: before.conditions,
    };
    let wanted = sets::wanted(deployment);
    let most_unavailable = if wanted == 0 {
        0
    } else {
        sets::fenceposts(deployment).1
    };
    set(
        &mut status,
        if available >= wanted - most_unavailable {
            condition(
                AVAILABLE,
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
                now,
            )
        } else {
            let message = "Deployment does not have minimum availability.";
            condition(
                AVAILABLE,
                "False",
                "MinimumReplicasUnavailable",
                message,
                now,
            )
        },
    );
    status
}

/// Whether all pods are new and available.
pub fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let wanted = sets::wanted(deployment);
    status.is_some_and(|status| {
        status.updated_replicas.unwrap_or(0) == wanted
            && status.replicas.unwrap_or(0) == wanted
            && status.available_replicas.unwrap_or(0) == wanted
            && status.observed_generation.unwrap_or(0)
                >= deployment.metadata.generation.unwrap_or(0)
    })
}

/// Whether there are more new, ready or available pods, or fewer old ones, than before.
fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(progressing)) = (deadline(deployment), find(status, PROGRESSING))
    else {
        return false;
    };
    match progressing.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => progressing
            .last_update_time
            .as_ref()
            .is_some_and(|time| time.0.as_second() + i64::from(deadline) < now.as_second()),
    }
}

/// Writes the status after a step of a rollout, and says when to look at the deadline again.
pub fn after_rollout(
    deployment: &mut Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<Duration> {
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = count(deployment, sets, new, now);
    if deadline(deployment).is_none() {
        remove(&mut status, PROGRESSING);
    }
    let current = find(&before, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|condition| condition.reason.as_deref() == Some(COMPLETE));
    if deadline(deployment).is_some() && !was_complete {
        let subject = match new {
            Some(set) => format!(
                "ReplicaSet {:?}",
                set.metadata.name.as_deref().unwrap_or_default()
            ),
            None => format!(
                "Deployment {:?}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        if is_complete(deployment, Some(&status)) {
            let message = format!("{subject} has successfully progressed.");
            set(
                &mut status,
                condition(PROGRESSING, "True", COMPLETE, message, now),
            );
        } else if has_progressed(&before, &status) {
            let message = format!("{subject} is progressing.");
            let mut progressing = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(current) = current.filter(|current| current.status == "True") {
                progressing.last_transition_time = current.last_transition_time;
            }
            // Taken away first, so that the time of the last update moves although the reason stays.
            remove(&mut status, PROGRESSING);
            set(&mut status, progressing);
        } else if has_timed_out(deployment, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set(
                &mut status,
                condition(PROGRESSING, "False", TIMED_OUT, message, now),
            );
        }
    }
    match failure(sets, new) {
        Some(failed) => set(&mut status, failed),
        None => remove(&mut status, FAILURE),
    }
    let again = until_deadline(deployment, &status, now);
    deployment.status = Some(status);
    again
}

/// The failure of the new set, or else of any.
fn failure(sets: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    new.into_iter()
        .chain(sets.iter().copied())
        .flat_map(|set| {
            set.status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
        })
        .find(|condition| condition.type_ == FAILURE)
        .map(|found| DeploymentCondition {
            type_: found.type_.clone(),
            status: found.status.clone(),
            reason: found.reason.clone(),
            message: found.message.clone(),
            last_transition_time: found.last_transition_time.clone(),
            last_update_time: found.last_transition_time.clone(),
        })
}

fn until_deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let progressing = find(status, PROGRESSING)?;
    if is_complete(deployment, Some(status)) || progressing.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let end = progressing.last_update_time.as_ref()?.0.as_second() + i64::from(deadline);
    // A second more, because times are kept in whole seconds.
    let left = (end - now.as_second()).max(0) + 1;
    u64::try_from(left).ok().map(Duration::from_secs)
}
