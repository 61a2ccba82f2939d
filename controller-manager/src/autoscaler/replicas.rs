//! How many replicas a metric asks for. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod;

/// What a metric says of one pod, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window: Duration,
}

/// Samples by pod.
pub type Samples = BTreeMap<String, Sample>;

/// How far from its target a metric may be without any effect.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub down: f64,
    pub up: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// When pods count as not ready yet.
#[derive(Clone, Copy, Debug)]
pub struct Warmup {
    pub cpu: Duration,
    pub readiness: Duration,
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// The average, or the whole where that is the target; thousandths.
    pub usage: i64,
    /// Percent of the requests, where that is the target.
    pub utilization: Option<i32>,
}

/// The target of a metric of pods.
pub enum Target<'a> {
    /// So many thousandths a pod.
    Average(i64),
    /// So many percent of the requests.
    Utilization(i32, &'a BTreeMap<String, i64>),
}

struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

fn after(time: Timestamp, more: Duration) -> Timestamp {
    SignedDuration::try_from(more)
        .ok()
        .and_then(|more| time.checked_add(more).ok())
        .unwrap_or(Timestamp::MAX)
}

/// Whether a pod's CPU use says nothing yet, because it is still starting.
fn is_starting(pod: &Pod, sample: &Sample, warmup: Warmup, now: Timestamp) -> bool {
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref())
        .map(|time| time.0);
    let (Some(ready), Some(started)) = (pod::condition(pod, "Ready"), started) else {
        return true;
    };
    let changed = ready
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let not_ready = ready.status == "False";
    if after(started, warmup.cpu) > now {
        not_ready || sample.at < after(changed, sample.window)
    } else {
        not_ready && after(started, warmup.readiness) > changed
    }
}

/// Sorts pods, and takes away samples that must not count.
fn group(
    pods: &[Arc<Pod>],
    samples: &mut Samples,
    cpu: bool,
    warmup: Warmup,
    now: Timestamp,
) -> Groups {
    let mut groups = Groups {
        ready: 0,
        unready: BTreeSet::new(),
        missing: BTreeSet::new(),
    };
    for pod in pods {
        let name = pod.name_any();
        if pod::is_deleting(pod) || pod::phase(pod) == "Failed" {
            samples.remove(&name);
        } else if pod::phase(pod) == "Pending" {
            samples.remove(&name);
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => {
                    groups.missing.insert(name);
                }
                Some(sample) if cpu && is_starting(pod, sample, warmup, now) => {
                    samples.remove(&name);
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// The ratio of use to target, the average use and its percentage.
fn ratio(samples: &Samples, target: &Target<'_>) -> Result<(f64, i64, Option<i32>), String> {
    match target {
        Target::Average(target) => {
            let total: i64 = samples.values().map(|sample| sample.value).sum();
            let average = total / i64::try_from(samples.len()).unwrap_or(1).max(1);
            Ok((average as f64 / *target as f64, average, None))
        }
        Target::Utilization(target, requests) => {
            let (mut used, mut asked, mut count) = (0i64, 0i64, 0i64);
            for (name, sample) in samples {
                if let Some(request) = requests.get(name) {
                    used += sample.value;
                    asked += request;
                    count += 1;
                }
            }
            if asked == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let percent = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
            Ok((
                f64::from(percent) / f64::from(*target),
                used / count.max(1),
                Some(percent),
            ))
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "casts of floats saturate, as is wanted"
)]
fn up(count: f64) -> i32 {
    count.ceil() as i32
}

/// What a metric of the pods asks for.
pub fn of_pods(
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    target: &Target<'_>,
    (cpu, warmup, tolerance): (bool, Warmup, Tolerance),
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, &mut samples, cpu, warmup, now);
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (first, usage, utilization) = ratio(&samples, target)?;
    let proposal = |replicas| Proposal {
        replicas,
        usage,
        utilization,
    };
    let more_and_unready = !groups.unready.is_empty() && first > 1.0;
    if !more_and_unready && groups.missing.is_empty() {
        if tolerance.covers(first) {
            return Ok(proposal(current));
        }
        return Ok(proposal(up(first * groups.ready as f64)));
    }
    // What isn't known is taken to be what speaks against the change.
    let assumed = |value| Sample {
        value,
        at: now,
        window: Duration::ZERO,
    };
    if first != 1.0 {
        for name in &groups.missing {
            let value = match target {
                _ if first > 1.0 => 0,
                Target::Average(target) => *target,
                Target::Utilization(target, requests) => {
                    requests.get(name).copied().unwrap_or(0) * i64::from((*target).max(100)) / 100
                }
            };
            samples.insert(name.clone(), assumed(value));
        }
    }
    if more_and_unready {
        for name in &groups.unready {
            samples.insert(name.clone(), assumed(0));
        }
    }
    let (second, _, _) = ratio(&samples, target)?;
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    if tolerance.covers(second) || turned {
        return Ok(proposal(current));
    }
    let replicas = up(second * samples.len() as f64);
    let wrong_way = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    Ok(proposal(if wrong_way { current } else { replicas }))
}

/// What a metric that is one value for all pods asks for.
pub fn of_value(
    current: i32,
    pods: &[Arc<Pod>],
    usage: i64,
    target: i64,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let ratio = usage as f64 / target as f64;
    let replicas = if current == 0 {
        up(ratio)
    } else if tolerance.covers(ratio) {
        current
    } else {
        if pods.is_empty() {
            return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
        }
        let ready = pods
            .iter()
            .filter(|pod| pod::phase(pod) == "Running" && pod::is_ready(pod))
            .count();
        up(ratio * ready as f64)
    };
    Ok(Proposal {
        replicas,
        usage,
        utilization: None,
    })
}

/// What a metric that is one value to be shared by all pods asks for.
pub fn of_share(status: i32, usage: i64, target: i64, tolerance: Tolerance) -> Proposal {
    let ratio = usage as f64 / (target as f64 * f64::from(status));
    let replicas = if tolerance.covers(ratio) {
        status
    } else {
        up(usage as f64 / target as f64)
    };
    #[allow(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    let average = (usage as f64 / f64::from(status)).ceil() as i64;
    Proposal {
        replicas,
        usage: average,
        utilization: None,
    }
}

/// What pods (or one container of each) request of a resource, in thousandths.
pub fn requests(
    pods: &[Arc<Pod>],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let name = pod.name_any();
        let Some(spec) = &pod.spec else { continue };
        let pod_level = spec
            .resources
            .as_ref()
            .is_some_and(|resources| resources.requests.is_some());
        if pod_level && container.is_none() {
            let amount = keelson_api::pod::requests(spec);
            let amount = amount
                .get(resource)
                .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"))?;
            all.insert(name, amount.milli_value());
            continue;
        }
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|own| keelson_api::pod::is_sidecar(own));
        let (mut total, mut found) = (0, false);
        for own in spec.containers.iter().chain(sidecars) {
            if container.is_some_and(|wanted| wanted != own.name) {
                continue;
            }
            found = true;
            let request = own
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref())
                .and_then(|requests| requests.get(resource))
                .and_then(|text| keelson_api::quantity::Quantity::parse(&text.0).ok())
                .ok_or_else(|| {
                    format!(
                        "missing request for {resource} in container {} of Pod {name}",
                        own.name
                    )
                })?;
            total += request.milli_value();
        }
        if let Some(wanted) = container.filter(|_| !found) {
            return Err(format!("container {wanted} not found in Pod {name}"));
        }
        all.insert(name, total);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use serde_json::json;

    const NOW: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn running(name: &str, ready: &str) -> Arc<Pod> {
        Arc::new(pod(
            name,
            json!({"status": {"phase": "Running", "startTime": "1970-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}),
        ))
    }

    fn told(pods: &[Arc<Pod>], values: &[i64], target: i32) -> Result<Proposal, String> {
        let samples = values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let sample = Sample {
                    value: *value,
                    at: at(NOW),
                    window: Duration::from_secs(30),
                };
                (format!("p{index}"), sample)
            })
            .collect();
        let requests = requests(pods, None, "cpu").unwrap();
        let warmup = Warmup {
            cpu: Duration::from_secs(300),
            readiness: Duration::from_secs(30),
        };
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let current = i32::try_from(pods.len()).unwrap();
        of_pods(
            current,
            pods,
            samples,
            &Target::Utilization(target, &requests),
            (true, warmup, tolerance),
            at(NOW),
        )
    }

    #[test]
    fn utilization_decides() {
        let two = [running("p0", "True"), running("p1", "True")];
        assert_eq!(told(&two, &[1000, 1000], 50).unwrap().replicas, 4);
        assert_eq!(
            told(&two, &[520, 530], 50).unwrap().replicas,
            2,
            "tolerated"
        );
        assert_eq!(told(&two, &[100, 100], 50).unwrap().replicas, 1);
        assert_eq!(told(&two, &[100, 100], 50).unwrap().utilization, Some(10));
        // The second pod's sample is missing: it is taken to use all it asked for when scaling down, and nothing when scaling up.
        assert_eq!(told(&two, &[100], 50).unwrap().replicas, 2);
        assert_eq!(told(&two, &[1500], 50).unwrap().replicas, 3);
        assert!(
            told(&two, &[], 50)
                .unwrap_err()
                .starts_with("did not receive")
        );
        assert!(told(&[], &[], 50).is_err());
        let bare = [Arc::new(pod(
            "p0",
            json!({"spec": {"containers": [{"name": "c"}]}}),
        ))];
        assert_eq!(
            requests(&bare, None, "cpu").unwrap_err(),
            "missing request for cpu in container c of Pod p0"
        );
    }

    #[test]
    fn values_are_held_against_ready_pods_or_shared() {
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let pods = [running("p0", "True"), running("p1", "True")];
        assert_eq!(
            of_value(2, &pods, 3000, 1000, tolerance).unwrap().replicas,
            6
        );
        assert_eq!(of_value(0, &[], 3000, 1000, tolerance).unwrap().replicas, 3);
        let shared = of_share(2, 9000, 3000, tolerance);
        assert_eq!((shared.replicas, shared.usage), (3, 4500));
    }
}
