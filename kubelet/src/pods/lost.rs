//! Containers that the runtime no longer has though the status says they run: after a reboot, or a lost sandbox.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers;
use super::memory::Memory;
use crate::runtime::SandboxStatus;

/// Turns `running` of what the runtime does not have into what upstream says of containers it cannot find.
pub fn mark(memory: &mut Memory, sandbox: Option<&SandboxStatus>, now: Timestamp) {
    let last = &mut memory.last;
    let lists = [
        &mut last.init_container_statuses,
        &mut last.container_statuses,
        &mut last.ephemeral_container_statuses,
    ];
    for status in lists.into_iter().flatten().flatten() {
        if containers::latest(sandbox, &status.name).is_none() {
            lose(status, now);
        }
    }
}

/// Forgets what was under way in a sandbox that is gone.
pub fn forget_progress(memory: &mut Memory) {
    for progress in memory.progress.values_mut() {
        progress.stopping = None;
        progress.doom = None;
        progress.busy = false;
    }
}

fn lose(status: &mut ContainerStatus, now: Timestamp) {
    let Some(running) = status.state.as_ref().and_then(|s| s.running.clone()) else {
        return;
    };
    status.state = Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            container_id: status.container_id.clone(),
            started_at: running.started_at,
            finished_at: Some(Time(now)),
            signal: None,
        }),
        ..ContainerState::default()
    });
}
