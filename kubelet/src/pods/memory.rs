//! What a pod worker remembers between two looks: progress of each container that the runtime does not know.
//!
//! All of it can be lost with the process: after a restart the runtime's list and the API's status are enough.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::allotment::Record;
use super::backoff::Backoff;
use crate::runtime::Image;

/// Where a container's image is.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ImageProgress {
    /// Not looked for in this attempt.
    #[default]
    Unknown,
    /// Being looked for or pulled.
    Fetching,
    /// There.
    Present(Image),
    /// Not to be had; try again then.
    Failed {
        /// When it failed.
        since: Timestamp,
        /// When to try again.
        retry_at: Timestamp,
        /// ImagePullBackOff was said, or does not apply.
        told: bool,
    },
}

/// Why a running container must go.
#[derive(Debug, Clone, PartialEq)]
pub struct Doom {
    /// For the Killing event.
    pub message: String,
    /// Grace instead of the pod's (a probe's own).
    pub grace: Option<Duration>,
}

/// Results of probes of the running attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probed {
    /// Startup; `None` = no result yet.
    pub startup: Option<bool>,
    /// Readiness; `None` = no result yet.
    pub readiness: Option<bool>,
}

/// How far the replacement of a container with a changed spec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// The old one is being stopped.
    Stopping,
    /// The old one ended at this time.
    Ended(Timestamp),
}

/// Progress of one container.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Its image.
    pub image: ImageProgress,
    /// Why it waits: reason and message of `state.waiting`.
    pub waiting: Option<(String, String)>,
    /// A start or hook is under way.
    pub busy: bool,
    /// Being stopped; by then it is killed.
    pub stopping: Option<Timestamp>,
    /// Not to be started before.
    pub retry_at: Option<Timestamp>,
    /// Of restarts.
    pub backoff: Backoff,
    /// The failure a BackOff event was sent for.
    pub backoff_told: Option<Timestamp>,
    /// Of image pulls.
    pub pull_backoff: Backoff,
    /// To be stopped though the pod goes on.
    pub doom: Option<Doom>,
    /// It is being stopped, or was at this time, to be started again by a changed spec.
    pub replacement: Option<Replacement>,
    /// Probe results of the running attempt.
    pub probed: Probed,
    /// Attempt whose postStart hook has ended.
    pub post_started: Option<u32>,
    /// Termination messages read so far, by attempt.
    pub messages: BTreeMap<u32, String>,
    /// The attempt that was stopped to be started again with other limits.
    pub resize_restart: Option<u32>,
    /// User the container runs as, where known.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// How far the life of the pod is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Containers are started and kept running.
    Running,
    /// Containers are being stopped until `deadline`.
    Terminating {
        /// End of the grace period.
        deadline: Timestamp,
    },
    /// Nothing runs; sandbox and volumes are gone or going.
    Terminated,
}

/// Why the pod was ended by the node rather than by its containers: `status.reason` and `status.message`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted`, `OutOfcpu`, …
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Grace instead of the pod's.
    pub grace: Option<Duration>,
    /// The pod was disrupted by the node: what the condition DisruptionTarget gives as reason.
    pub disruption: Option<&'static str>,
}

/// A resize that waits or is under way: what its condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResizeNote {
    /// `Deferred`, `Error` or empty.
    pub reason: String,
    /// A sentence, or empty.
    pub message: String,
    /// Generation of the spec that asked for it.
    pub generation: Option<i64>,
    /// Since when.
    pub since: Timestamp,
}

impl ResizeNote {
    /// Nothing to complain about.
    pub fn new(generation: Option<i64>, since: Timestamp) -> Self {
        Self {
            reason: String::new(),
            message: String::new(),
            generation,
            since,
        }
    }
}

/// Memory of a worker.
#[derive(Debug, Clone)]
pub struct Memory {
    /// How far it is.
    pub stage: Stage,
    /// `status.startTime`.
    pub start_time: Timestamp,
    /// By container name.
    pub progress: BTreeMap<String, Progress>,
    /// Volumes are set up in this sandbox's life.
    pub volumes_ready: bool,
    /// Sandbox or volumes failed; not before.
    pub blocked_until: Option<Timestamp>,
    /// Of the sandbox.
    pub sandbox_backoff: Backoff,
    /// Last published status (at first: the API's).
    pub last: PodStatus,
    /// Why it was ended, if not by its containers.
    pub verdict: Option<Verdict>,
    /// The sandbox and volumes are gone.
    pub torn_down: bool,
    /// What was accepted and given of the requests and limits; read at the first look.
    pub record: Option<Record>,
    /// A resize that the node has no room for.
    pub resize_pending: Option<ResizeNote>,
    /// A resize that was accepted and is not done.
    pub resizing: Option<ResizeNote>,
    /// A failed resize is not tried again before.
    pub resize_retry: Option<Timestamp>,
}

impl Memory {
    /// The memory of a pod seen for the first time.
    pub fn new(last: PodStatus, now: Timestamp) -> Self {
        Self {
            stage: Stage::Running,
            start_time: last.start_time.as_ref().map_or(now, |t| t.0),
            progress: BTreeMap::new(),
            volumes_ready: false,
            blocked_until: None,
            sandbox_backoff: Backoff::default(),
            last,
            verdict: None,
            torn_down: false,
            record: None,
            resize_pending: None,
            resizing: None,
            resize_retry: None,
        }
    }

    /// Progress of a container, made if there is none.
    pub fn container(&mut self, name: &str) -> &mut Progress {
        self.progress.entry(name.to_owned()).or_default()
    }
}
