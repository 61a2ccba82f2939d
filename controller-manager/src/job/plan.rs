//! The next step of a Job: which pods have ended and count, whether the Job is over, how many pods to create or delete. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::failure::{self, Action};
use super::indexes::Indexes;
use crate::pod;

/// The finalizer that keeps a pod until it has been counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The annotation (and label) with a pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The annotation with how often a pod's index failed before.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same for failures that don't count.
const MOST_PODS: i32 = 500;

/// What is known of one Job.
pub struct Snapshot<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// UIDs of pods whose finalizer this process took off, though the cache may not show it yet.
    pub released: &'a HashSet<String>,
    /// The time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to create: their index, if they have one, and how often that failed before.
    pub create: Vec<(Option<i32>, i32)>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have been noted in the status and may lose their finalizer.
    pub release: Vec<Arc<Pod>>,
    /// The status before finalizers are taken off.
    pub noted: JobStatus,
    /// The status once they are.
    pub counted: JobStatus,
    /// What the Job became just now: reason and message for the event.
    pub over: Option<(&'static str, String, String)>,
    /// When to look again even if nothing happens.
    pub again: Option<Duration>,
}

/// The Job's spec.
pub fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

/// A condition of the Job that is true.
pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the Job is over.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| {
        condition(status, "Complete").is_some() || condition(status, "Failed").is_some()
    })
}

/// Whether pods of the Job have indexes.
pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// A pod's completion index.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.annotations()
        .get(INDEX)?
        .parse()
        .ok()
        .filter(|index| *index >= 0)
}

fn index_failures(pod: &Pod) -> i32 {
    pod.annotations()
        .get(INDEX_FAILURES)
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Sets a condition; says whether it is news.
fn set(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(own) = conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind)
    {
        if own.status == value && own.reason.as_deref() == Some(reason) {
            return false;
        }
        if own.status != value {
            own.last_transition_time = Some(Time(now));
        }
        own.status = value.into();
        own.reason = Some(reason.into());
        own.message = Some(message.into());
        own.last_probe_time = Some(Time(now));
        return true;
    }
    conditions.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

/// How the pods stand.
#[derive(Default)]
struct Census {
    active: Vec<Arc<Pod>>,
    terminating: i32,
    ready: i32,
    succeeded: Vec<Arc<Pod>>,
    failed: Vec<Arc<Pod>>,
}

fn survey(snapshot: &Snapshot<'_>, spec: &JobSpec) -> Census {
    let only_failed = spec.pod_replacement_policy.as_deref() == Some("Failed")
        || spec.pod_failure_policy.is_some();
    let mut census = Census::default();
    for pod in snapshot.pods {
        let held = pod
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER)
            && !snapshot.released.contains(pod::uid(pod));
        let gone = pod::is_deleting(pod);
        match pod::phase(pod) {
            "Succeeded" if held => census.succeeded.push(pod.clone()),
            "Failed" if held => census.failed.push(pod.clone()),
            "Succeeded" | "Failed" => {}
            _ if gone => {
                census.terminating += 1;
                // A pod that is told to go counts as failed, unless only real failures do.
                if held && !only_failed {
                    census.failed.push(pod.clone());
                }
            }
            _ => {
                census.ready += i32::from(pod::is_ready(pod));
                census.active.push(pod.clone());
            }
        }
    }
    census
}

/// How an index fares that failed before.
#[derive(Clone, Copy, Default)]
struct Retry {
    failures: i32,
    since: Option<Timestamp>,
}

struct Work<'a> {
    snapshot: &'a Snapshot<'a>,
    spec: JobSpec,
    census: Census,
    plan: Plan,
    succeeded_indexes: Indexes,
    failed_indexes: Indexes,
    /// Failures of indexes that are not given up, and when the last of them was.
    retries: BTreeMap<i32, Retry>,
    fail_job: Option<String>,
}

/// Decides.
pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let spec = spec(snapshot.job);
    let census = survey(snapshot, &spec);
    let status = snapshot.job.status.clone().unwrap_or_default();
    let completions = spec.completions.unwrap_or(0);
    let indexes =
        |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), completions);
    let mut work = Work {
        succeeded_indexes: indexes(&status.completed_indexes),
        failed_indexes: indexes(&status.failed_indexes),
        retries: BTreeMap::new(),
        fail_job: None,
        plan: Plan {
            noted: status,
            ..Plan::default()
        },
        spec,
        census,
        snapshot,
    };
    work.note();
    work.count();
    if !is_finished(snapshot.job) {
        work.judge();
        work.manage();
    }
    work.finish()
}

impl Work<'_> {
    /// Notes pods that ended in the status, from where they are counted once their finalizer is off.
    fn note(&mut self) {
        if self.plan.noted.start_time.is_none() && self.spec.suspend != Some(true) {
            self.plan.noted.start_time = Some(Time(self.snapshot.now));
        }
        let indexed = is_indexed(&self.spec);
        let completions = self.spec.completions.unwrap_or(0);
        let uncounted = self
            .plan
            .noted
            .uncounted_terminated_pods
            .get_or_insert_default();
        let mut known: HashSet<String> = uncounted
            .succeeded
            .iter()
            .flatten()
            .chain(uncounted.failed.iter().flatten())
            .cloned()
            .collect();
        for pod in &self.census.succeeded {
            self.plan.release.push(pod.clone());
            if indexed {
                // An index that was completed twice counts once, so indexes are the count.
                if let Some(index) = index(pod).filter(|index| *index < completions) {
                    self.succeeded_indexes.0.insert(index);
                }
            } else if known.insert(pod::uid(pod).to_owned()) {
                uncounted
                    .succeeded
                    .get_or_insert_default()
                    .push(pod::uid(pod).to_owned());
            }
        }
        let replaced: BTreeSet<i32> = self
            .census
            .active
            .iter()
            .filter_map(|pod| index(pod))
            .collect();
        for pod in &self.census.failed {
            let action = failure::action(&self.spec, pod);
            if let Action::FailJob(message) = &action {
                self.fail_job.get_or_insert_with(|| message.clone());
            }
            if let (Some(limit), Some(index)) = (self.spec.backoff_limit_per_index, index(pod)) {
                let failures = index_failures(pod) + i32::from(action != Action::Ignore);
                if action == Action::FailIndex || failures > limit {
                    self.failed_indexes.0.insert(index);
                } else if index < completions && !is_finished(self.snapshot.job) {
                    let retry = self.retries.entry(index).or_default();
                    retry.failures = retry.failures.max(failures);
                    retry.since = retry.since.max(pod::finished_at(pod));
                    // It knows how often its index failed: it stays until another pod has taken that over.
                    if !replaced.contains(&index)
                        && !self.succeeded_indexes.0.contains(&index)
                        && self.fail_job.is_none()
                    {
                        continue;
                    }
                }
            }
            self.plan.release.push(pod.clone());
            if action != Action::Ignore && known.insert(pod::uid(pod).to_owned()) {
                uncounted
                    .failed
                    .get_or_insert_default()
                    .push(pod::uid(pod).to_owned());
            }
        }
        self.failed_indexes
            .0
            .retain(|index| !self.succeeded_indexes.0.contains(index));
        if indexed {
            self.plan.noted.completed_indexes =
                Some(self.succeeded_indexes.text()).filter(|text| !text.is_empty());
        }
        if self.spec.backoff_limit_per_index.is_some() {
            self.plan.noted.failed_indexes = Some(self.failed_indexes.text());
        }
    }

    /// The status once the finalizers are off.
    fn count(&mut self) {
        let mut status = self.plan.noted.clone();
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let many = |list: &Option<Vec<String>>| {
            i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX)
        };
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        status.failed = some(status.failed.unwrap_or(0) + many(&uncounted.failed));
        status.succeeded = some(if is_indexed(&self.spec) {
            i32::try_from(self.succeeded_indexes.0.len()).unwrap_or(i32::MAX)
        } else {
            status.succeeded.unwrap_or(0) + many(&uncounted.succeeded)
        });
        status.uncounted_terminated_pods =
            Some(k8s_openapi::api::batch::v1::UncountedTerminatedPods::default());
        self.plan.counted = status;
    }

    /// Why the Job has failed, if it has.
    fn failed(&mut self) -> Option<(&'static str, String)> {
        let status = &self.plan.counted;
        let succeeded = status.succeeded.unwrap_or(0);
        if let Some(target) = condition(status, "FailureTarget") {
            let reason = match target.reason.as_deref() {
                Some("DeadlineExceeded") => "DeadlineExceeded",
                Some("PodFailurePolicy") => "PodFailurePolicy",
                Some("FailedIndexes") => "FailedIndexes",
                Some("MaxFailedIndexesExceeded") => "MaxFailedIndexesExceeded",
                _ => "BackoffLimitExceeded",
            };
            return Some((reason, target.message.clone().unwrap_or_default()));
        }
        if let Some(message) = self.fail_job.take() {
            return Some(("PodFailurePolicy", message));
        }
        let restarts: i32 = self.census.active.iter().map(|pod| restarts(pod)).sum();
        let limit =
            self.spec
                .backoff_limit
                .unwrap_or(if self.spec.backoff_limit_per_index.is_some() {
                    i32::MAX
                } else {
                    6
                });
        let on_failure = self
            .spec
            .template
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            == Some("OnFailure");
        let exhausted = on_failure && limit != i32::MAX && restarts > 0 && restarts >= limit;
        if status.failed.unwrap_or(0) > limit || exhausted {
            return Some((
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit".into(),
            ));
        }
        if let (Some(deadline), Some(start)) = (
            self.spec.active_deadline_seconds,
            status.start_time.as_ref(),
        ) && self.spec.suspend != Some(true)
        {
            let left = start.0.as_second() + deadline - self.snapshot.now.as_second();
            if left <= 0 {
                return Some((
                    "DeadlineExceeded",
                    "Job was active longer than specified deadline".into(),
                ));
            }
            self.wake_in(left);
        }
        let most = self.spec.max_failed_indexes;
        let given_up = i32::try_from(self.failed_indexes.0.len()).unwrap_or(i32::MAX);
        if most.is_some_and(|most| given_up > most) {
            return Some((
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes".into(),
            ));
        }
        let over = given_up + succeeded >= self.spec.completions.unwrap_or(i32::MAX);
        (given_up > 0 && over).then(|| ("FailedIndexes", "Job has failed indexes".into()))
    }

    fn wake_in(&mut self, seconds: i64) {
        let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1));
        self.plan.again = Some(self.plan.again.map_or(pause, |again| again.min(pause)));
    }

    /// Why the Job has succeeded, if it has.
    fn succeeded(&self) -> Option<(&'static str, String)> {
        let status = &self.plan.counted;
        if let Some(met) = condition(status, "SuccessCriteriaMet") {
            let reason = if met.reason.as_deref() == Some("SuccessPolicy") {
                "SuccessPolicy"
            } else {
                "CompletionsReached"
            };
            return Some((reason, met.message.clone().unwrap_or_default()));
        }
        let rules = self
            .spec
            .success_policy
            .as_ref()
            .map(|policy| policy.rules.as_slice())
            .unwrap_or_default();
        for (place, rule) in rules.iter().enumerate() {
            let wanted = rule
                .succeeded_indexes
                .as_ref()
                .map(|text| Indexes::parse(text, self.spec.completions.unwrap_or(0)).0);
            let done: BTreeSet<i32> = match &wanted {
                Some(wanted) => wanted
                    .intersection(&self.succeeded_indexes.0)
                    .copied()
                    .collect(),
                None => self.succeeded_indexes.0.clone(),
            };
            let needed = rule.succeeded_count.map_or_else(
                || wanted.as_ref().map_or(usize::MAX, BTreeSet::len),
                |count| usize::try_from(count).unwrap_or(0),
            );
            if done.len() >= needed {
                return Some(("SuccessPolicy", format!("Matched rules at index {place}")));
            }
        }
        let count = status.succeeded.unwrap_or(0);
        let done = match self.spec.completions {
            Some(completions) => count >= completions,
            None => count > 0 && self.census.active.is_empty(),
        };
        done.then(|| {
            (
                "CompletionsReached",
                "Reached expected number of succeeded pods".into(),
            )
        })
    }

    /// Whether the Job is over, or suspended; its pods go first, and only then is it said.
    fn judge(&mut self) {
        let now = self.snapshot.now;
        let failed = self.failed();
        let succeeded = if failed.is_none() {
            self.succeeded()
        } else {
            None
        };
        let (interim, last, (reason, message)) = match (failed, succeeded) {
            (Some(why), _) => ("FailureTarget", "Failed", why),
            (None, Some(why)) => ("SuccessCriteriaMet", "Complete", why),
            (None, None) => return self.suspend(),
        };
        let mut active = std::mem::take(&mut self.census.active);
        let left = !active.is_empty() || self.census.terminating > 0;
        self.plan.delete.append(&mut active);
        self.census.ready = 0;
        for status in [&mut self.plan.noted, &mut self.plan.counted] {
            set(status, interim, "True", reason, &message, now);
        }
        if left {
            return;
        }
        let status = &mut self.plan.counted;
        set(status, last, "True", reason, &message, now);
        if last == "Complete" {
            status.completion_time = Some(Time(now));
        }
        let event = if last == "Complete" {
            "Job completed".to_owned()
        } else {
            message
        };
        self.plan.over = Some((reason, last.to_owned(), event));
    }

    fn suspend(&mut self) {
        let now = self.snapshot.now;
        let suspended = condition(&self.plan.counted, "Suspended").is_some();
        if self.spec.suspend == Some(true) {
            let mut active = std::mem::take(&mut self.census.active);
            self.plan.delete.append(&mut active);
            self.census.ready = 0;
            let status = &mut self.plan.counted;
            if set(
                status,
                "Suspended",
                "True",
                "JobSuspended",
                "Job suspended",
                now,
            ) {
                self.plan.over = Some(("Suspended", "Suspended".into(), "Job suspended".into()));
            }
            status.start_time = None;
            self.plan.noted.start_time = None;
        } else if suspended {
            let status = &mut self.plan.counted;
            set(
                status,
                "Suspended",
                "False",
                "JobResumed",
                "Job resumed",
                now,
            );
            status.start_time = Some(Time(now));
            self.plan.noted.start_time = Some(Time(now));
            self.plan.over = Some(("Resumed", "Resumed".into(), "Job resumed".into()));
        }
    }

    /// Creates or deletes pods, so that as many are active as should be.
    fn manage(&mut self) {
        let over = ["FailureTarget", "SuccessCriteriaMet"]
            .iter()
            .any(|kind| condition(&self.plan.counted, kind).is_some());
        if over
            || self.spec.suspend == Some(true)
            || self.snapshot.job.metadata.deletion_timestamp.is_some()
        {
            return;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let active = i32::try_from(self.census.active.len()).unwrap_or(i32::MAX);
        let succeeded = self.plan.counted.succeeded.unwrap_or(0);
        let wanted = match self.spec.completions {
            None if succeeded > 0 => active,
            None => parallelism,
            Some(completions) => {
                let given_up = i32::try_from(self.failed_indexes.0.len()).unwrap_or(0);
                (completions - succeeded - given_up).max(0).min(parallelism)
            }
        };
        if active > wanted {
            let surplus = usize::try_from(active - wanted).unwrap_or(0);
            let now = self.snapshot.now;
            self.census
                .active
                .sort_by(|a, b| pod::deletion_order((a, 0), (b, 0), now));
            self.plan.delete.extend(self.census.active.drain(..surplus));
            return;
        }
        let held = if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            self.census.terminating
        } else {
            0
        };
        let missing = (wanted - active - held).clamp(0, MOST_PODS);
        if !is_indexed(&self.spec) {
            self.plan.create = (0..missing).map(|_| (None, 0)).collect();
            return;
        }
        let mut busy: BTreeSet<i32> = self
            .census
            .active
            .iter()
            .filter_map(|pod| index(pod))
            .collect();
        if held > 0 {
            busy.extend(
                self.snapshot
                    .pods
                    .iter()
                    .filter(|pod| pod::is_deleting(pod) && !pod::is_terminal(pod))
                    .filter_map(|pod| index(pod)),
            );
        }
        let free = (0..self.spec.completions.unwrap_or(0)).filter(|index| {
            !busy.contains(index)
                && !self.succeeded_indexes.0.contains(index)
                && !self.failed_indexes.0.contains(index)
        });
        let free: Vec<i32> = free.collect();
        let mut create = Vec::new();
        for index in free {
            if create.len() >= usize::try_from(missing).unwrap_or(0) {
                break;
            }
            let retry = self.retries.get(&index).copied().unwrap_or_default();
            // An index that failed waits alone; the others go on.
            let left = retry.since.map_or(0, |since| {
                let pause = retry_pause(retry.failures).as_secs();
                since.as_second() + i64::try_from(pause).unwrap_or(0)
                    - self.snapshot.now.as_second()
            });
            if left > 0 {
                self.wake_in(left);
            } else {
                create.push((Some(index), retry.failures));
            }
        }
        self.plan.create = create;
    }

    fn finish(mut self) -> Plan {
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        let active = i32::try_from(self.census.active.len()).unwrap_or(i32::MAX);
        let terminating =
            self.census.terminating + i32::try_from(self.plan.delete.len()).unwrap_or(0);
        let over = is_finished(self.snapshot.job)
            || condition(&self.plan.counted, "Complete").is_some()
            || condition(&self.plan.counted, "Failed").is_some();
        for status in [&mut self.plan.noted, &mut self.plan.counted] {
            status.active = some(active);
            status.ready = Some(self.census.ready);
            status.terminating = Some(if over { 0 } else { terminating });
        }
        self.plan
    }
}

/// The first pause after a failed pod, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How long a new pod waits after so many failures.
pub fn retry_pause(failures: i32) -> Duration {
    let Ok(more @ 0..) = u32::try_from(failures - 1) else {
        return Duration::ZERO;
    };
    FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(more.min(16)))
        .min(LONGEST_PAUSE)
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    all.map(|container| container.restart_count).sum()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
