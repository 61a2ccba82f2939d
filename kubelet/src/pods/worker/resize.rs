//! Resizes: taking a changed spec if the node has room, and bringing cgroups from what they have to what was taken.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use keelson_runtime::recorder::Kind;
use serde_json::{Value, json};

use super::super::allotment::{Allotment, Figures, Record, figures, same};
use super::super::containers::{self, Item, Role};
use super::super::memory::{Doom, ImageProgress, ResizeNote, Stage};
use super::super::resources;
use super::Worker;
use crate::clock;
use crate::runtime::{ContainerRef, Resources, SandboxStatus};

/// How long after a failure a resize is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The message of an event: what the spec asks for, in JSON.
fn event_message(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<Value> {
        containers
            .iter()
            .map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let spec = pod.spec.as_ref();
    let init = list(
        spec.and_then(|s| s.init_containers.as_deref())
            .unwrap_or_default(),
    );
    let apps = list(spec.map(|s| s.containers.as_slice()).unwrap_or_default());
    let mut parts = Vec::new();
    if !init.is_empty() {
        parts.push(format!("\"initContainers\":{}", Value::from(init)));
    }
    parts.push(format!("\"containers\":{}", Value::from(apps)));
    parts.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        parts.push(format!("\"error\":{}", Value::from(error)));
    }
    format!("{prefix}: {{{}}}", parts.join(","))
}

/// Whether the container's policy asks for a restart where these figures change.
fn needs_restart(item: &Item, old: Figures, new: Figures) -> bool {
    let restarts = |name: &str| {
        item.container
            .resize_policy
            .iter()
            .flatten()
            .any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let cpu = (old.cpu_request, old.cpu_limit) != (new.cpu_request, new.cpu_limit);
    let memory = (old.memory_request, old.memory_limit) != (new.memory_request, new.memory_limit);
    (cpu && restarts("cpu")) || (memory && restarts("memory"))
}

/// The larger of both, setting by setting: what holds children of both sizes.
fn widest(a: &Resources, b: &Resources) -> Resources {
    fn more<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
        // Nothing set means no limit.
        Some(a?.max(b?))
    }
    Resources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota: more(a.cpu_quota, b.cpu_quota),
        cpu_period: a.cpu_period.or(b.cpu_period),
        memory_limit: more(a.memory_limit, b.memory_limit),
        pids_limit: b.pids_limit,
        oom_score_adj: None,
    }
}

/// A limit that is to go is written as such.
fn explicit(resources: Resources) -> Resources {
    Resources {
        cpu_quota: Some(resources.cpu_quota.unwrap_or(-1)),
        memory_limit: Some(resources.memory_limit.unwrap_or(-1)),
        ..resources
    }
}

impl Worker {
    /// The pod with the figures it was allotted; takes a changed spec first, if the node has room for it.
    pub(super) fn allot(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let dir = self.host.volumes.pod_dir(self.uid());
        if self.memory.record.is_none() {
            let record = Record::load(&dir).unwrap_or_else(|| {
                let record = Record::of(pod);
                if self.memory.stage == Stage::Running
                    && let Err(error) = record.store(&dir)
                {
                    tracing::warn!(%error, pod = %self.pod_ref.name, "keeping the record of a pod's resources");
                }
                record
            });
            self.host
                .allotments
                .set(&self.pod_ref.uid, record.allocated.apply(pod));
            self.memory.record = Some(record);
        }
        let Some(mut record) = self.memory.record.take() else {
            return pod.clone();
        };
        let wanted = Allotment::of(pod);
        if record.allocated.means(&wanted) {
            self.memory.resize_pending = None;
            record.allocated = wanted;
        } else if self.memory.stage == Stage::Running {
            self.take(pod, wanted, &mut record);
            if let Err(error) = record.store(&dir) {
                tracing::warn!(%error, pod = %self.pod_ref.name, "keeping the record of a pod's resources");
            }
        }
        let allotted = record.allocated.apply(pod);
        self.memory.record = Some(record);
        allotted
    }

    /// Takes a changed spec, or notes why it has to wait.
    fn take(&mut self, pod: &Arc<Pod>, wanted: Allotment, record: &mut Record) {
        let now = self.host.clock.now();
        let node = self.host.node.borrow().clone();
        let generation = pod.metadata.generation;
        let refused = self
            .host
            .allotments
            .try_set(&self.pod_ref.uid, pod, node.as_deref());
        let Some(verdict) = refused else {
            record.allocated = wanted;
            self.memory.resize_pending = None;
            self.memory.resize_retry = None;
            self.memory.resizing = Some(ResizeNote::new(generation, now));
            let message = event_message("Pod resize started", pod, generation, "");
            self.host
                .event(pod, None, Kind::Normal, "ResizeStarted", message);
            return;
        };
        let message = verdict
            .message
            .trim_start_matches("Pod was rejected: ")
            .to_owned();
        let known = self
            .memory
            .resize_pending
            .as_ref()
            .is_some_and(|note| note.generation == generation);
        if !known {
            let text = event_message("Pod resize Deferred", pod, generation, &message);
            self.host
                .event(pod, None, Kind::Warning, "ResizeDeferred", text);
        }
        let since = self.memory.resize_pending.take().map_or(now, |n| n.since);
        self.memory.resize_pending = Some(ResizeNote {
            reason: "Deferred".into(),
            message,
            generation,
            since,
        });
    }

    /// Gives running containers and the pod's cgroup the limits they were allotted.
    pub(super) async fn resize(
        &mut self,
        pod: &Arc<Pod>,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
    ) {
        let now = self.host.clock.now();
        if self.memory.resize_retry.is_some_and(|at| at > now) {
            return;
        }
        let Some(mut record) = self.memory.record.take() else {
            return;
        };
        if record.actuated == record.allocated && self.memory.resizing.is_none() {
            self.memory.record = Some(record);
            return;
        }
        let outcome = self.actuate(pod, items, sandbox, &mut record).await;
        let dir = self.host.volumes.pod_dir(self.uid());
        if let Err(error) = record.store(&dir) {
            tracing::warn!(%error, pod = %self.pod_ref.name, "keeping the record of a pod's resources");
        }
        match outcome {
            Ok(true) => self.resized(pod),
            Ok(false) => {}
            Err(error) => self.resize_failed(pod, &error, now),
        }
        self.memory.record = Some(record);
    }

    fn resized(&mut self, pod: &Pod) {
        self.memory.resize_retry = None;
        if let Some(note) = self.memory.resizing.take() {
            let message = event_message("Pod resize completed", pod, note.generation, "");
            self.host
                .event(pod, None, Kind::Normal, "ResizeCompleted", message);
        }
    }

    fn resize_failed(&mut self, pod: &Pod, error: &str, now: Timestamp) {
        self.memory.resize_retry = Some(clock::after(now, RETRY));
        let generation = pod.metadata.generation;
        let note = self
            .memory
            .resizing
            .get_or_insert_with(|| ResizeNote::new(generation, now));
        if note.message != error {
            "Error".clone_into(&mut note.reason);
            error.clone_into(&mut note.message);
            let message = event_message("Pod resize error", pod, note.generation, error);
            self.host
                .event(pod, None, Kind::Warning, "ResizeError", message);
        }
    }

    /// Whether all is as allotted afterwards.
    async fn actuate(
        &mut self,
        pod: &Arc<Pod>,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
        record: &mut Record,
    ) -> Result<bool, String> {
        let whole = record.allocated.pod.clone();
        let mut changes: Vec<(&Item, ContainerRef, Figures, Figures)> = Vec::new();
        let mut restarting = false;
        for item in items
            .iter()
            .filter(|i| matches!(i.role, Role::App | Role::Sidecar))
        {
            let own = item.container.resources.clone().unwrap_or_default();
            let running =
                containers::latest(sandbox, item.name()).filter(|s| containers::running(s));
            let Some(found) = running else {
                // It will be started with what it was allotted.
                record.actuated.containers.insert(item.name().into(), own);
                continue;
            };
            let had = record.actuated.containers.get(item.name());
            let old = figures(record.actuated.pod.as_ref(), had);
            let new = figures(whole.as_ref(), Some(&own));
            if old == new {
                record.actuated.containers.insert(item.name().into(), own);
            } else if needs_restart(item, old, new) {
                restarting = true;
                self.restart_for_resize(item, found.container.attempt);
            } else {
                changes.push((item, found.container.clone(), old, new));
            }
        }
        let before = record.actuated.apply(pod);
        let (old, new) = (
            resources::of_pod(&before, &self.host.limits),
            resources::of_pod(pod, &self.host.limits),
        );
        self.check_memory(&changes, &old, &new).await?;
        let runtime = self.host.runtime.runtime.clone();
        let uid = self.uid().to_owned();
        if sandbox.is_some() {
            let wide = explicit(widest(&old, &new));
            runtime
                .update_pod_resources(&uid, &wide)
                .await
                .map_err(|e| e.to_string())?;
        }
        // What shrinks goes first, so that the sum never exceeds the pod's.
        changes.sort_by_key(|(_, _, old, new)| {
            (
                new.memory_limit > old.memory_limit,
                new.cpu_limit > old.cpu_limit,
            )
        });
        for (item, container, _, _) in changes {
            let wanted = resources::of_container(pod, &item.container, &self.host.limits);
            runtime
                .update_resources(&container, &explicit(wanted))
                .await
                .map_err(|e| e.to_string())?;
            let own = item.container.resources.clone().unwrap_or_default();
            record.actuated.containers.insert(item.name().into(), own);
        }
        if restarting {
            return Ok(false);
        }
        if sandbox.is_some() {
            runtime
                .update_pod_resources(&uid, &explicit(new))
                .await
                .map_err(|e| e.to_string())?;
        }
        record.actuated = record.allocated.clone();
        Ok(true)
    }

    fn restart_for_resize(&mut self, item: &Item, attempt: u32) {
        let progress = self.memory.container(item.name());
        if progress.doom.is_none() {
            progress.doom = Some(Doom {
                message: format!("Container {} resize requires restart", item.name()),
                grace: None,
            });
            progress.image = ImageProgress::Unknown;
        }
        progress.resize_restart = Some(attempt);
    }

    /// Refuses memory limits below what is in use: the kernel would kill.
    async fn check_memory(
        &self,
        changes: &[(&Item, ContainerRef, Figures, Figures)],
        old: &Resources,
        new: &Resources,
    ) -> Result<(), String> {
        let runtime = &self.host.runtime.runtime;
        let shrinks = |old: Option<i64>, new: Option<i64>| {
            new.filter(|n| *n > 0 && old.is_none_or(|o| o <= 0 || o > *n))
        };
        let mut errors = Vec::new();
        if let Some(limit) = shrinks(old.memory_limit, new.memory_limit)
            && let Ok(usage) = runtime.pod_usage(self.uid()).await
            && usage.memory_usage >= limit.unsigned_abs()
        {
            errors.push(format!(
                "attempting to set pod memory limit ({limit}) below current usage ({})",
                usage.memory_usage
            ));
        }
        for (item, container, old, new) in changes {
            if let Some(limit) = shrinks(Some(old.memory_limit), Some(new.memory_limit))
                && let Ok(usage) = runtime.usage(container).await
                && usage.memory_usage >= limit.unsigned_abs()
            {
                errors.push(format!(
                    "attempting to set container {:?} memory limit ({limit}) below current usage ({})",
                    item.name(),
                    usage.memory_usage
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// A container was started with what it was allotted.
    pub(super) fn started_with(&mut self, item: &Item) {
        let own: ResourceRequirements = item.container.resources.clone().unwrap_or_default();
        let dir = self.host.volumes.pod_dir(self.uid());
        let Some(record) = &mut self.memory.record else {
            return;
        };
        if !record.allocated.containers.contains_key(item.name()) {
            return;
        }
        let old = record
            .actuated
            .containers
            .insert(item.name().into(), own.clone());
        if old.is_none_or(|old| !same(&old, &own))
            && let Err(error) = record.store(&dir)
        {
            tracing::warn!(%error, pod = %self.pod_ref.name, "keeping the record of a pod's resources");
        }
    }
}
