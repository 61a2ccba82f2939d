//! Requests, limits and QoS as numbers for cgroups: CPU shares, quota, OOM score, and what a pod needs in all.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::quantity;
use crate::runtime::Resources;

/// `status.qosClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests everywhere.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.into_iter().flat_map(|s| {
        s.containers
            .iter()
            .chain(s.init_containers.iter().flatten())
    })
}

fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The QoS class of a pod.
pub fn qos(pod: &Pod) -> Qos {
    let requirements: Vec<Option<&ResourceRequirements>> =
        match pod.spec.as_ref().and_then(|s| s.resources.as_ref()) {
            Some(pod_level) if pod_level.requests.is_some() || pod_level.limits.is_some() => {
                vec![Some(pod_level)]
            }
            _ => containers(pod).map(|c| c.resources.as_ref()).collect(),
        };
    let mut any = false;
    let mut guaranteed = true;
    for requirements in requirements {
        for name in ["cpu", "memory"] {
            let read = |list: Option<&quantity::ResourceList>| {
                quantity::milli_value(list, name).filter(|v| *v > 0)
            };
            let limit = read(requirements.and_then(|r| r.limits.as_ref()));
            let request = read(requirements.and_then(|r| r.requests.as_ref())).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// CPU shares of a request in thousandths.
pub fn shares(millis: i64) -> u64 {
    if millis <= 0 {
        2
    } else {
        u64::try_from(millis * 1024 / 1000)
            .unwrap_or(0)
            .clamp(2, 262_144)
    }
}

/// CFS quota of a limit in thousandths.
pub fn quota(millis: i64, period: u64) -> Option<i64> {
    (millis > 0).then(|| (millis * i64::try_from(period).unwrap_or(100_000) / 1000).max(1000))
}

/// `oom_score_adj` of a container, by upstream's formula.
pub fn oom_score(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    if pod
        .spec
        .as_ref()
        .and_then(|s| s.priority)
        .is_some_and(|p| p >= 2_000_000_000)
    {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = memory_request(container).unwrap_or(0).max(0) as i128;
            let capacity = i128::from(node_memory.max(1));
            let score = 1000 - 1000 * request / capacity;
            // Burstable stays above guaranteed and below best-effort.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

fn requirement(container: &Container, name: &str, millis: bool) -> (Option<i64>, Option<i64>) {
    let read = |list: Option<&quantity::ResourceList>| {
        if millis {
            quantity::milli_value(list, name)
        } else {
            quantity::value(list, name)
        }
    };
    let resources = container.resources.as_ref();
    let limit = read(resources.and_then(|r| r.limits.as_ref()));
    (
        read(resources.and_then(|r| r.requests.as_ref())).or(limit),
        limit,
    )
}

fn memory_request(container: &Container) -> Option<i64> {
    requirement(container, "memory", false).0
}

/// cgroup limits of a container.
pub fn of_container(pod: &Pod, container: &Container, settings: &Settings) -> Resources {
    let (cpu_request, cpu_limit) = requirement(container, "cpu", true);
    let (_, memory_limit) = requirement(container, "memory", false);
    let period = u64::try_from(settings.cfs_period.as_micros()).unwrap_or(100_000);
    let quota = cpu_limit
        .filter(|_| settings.cfs_quota)
        .and_then(|m| quota(m, period));
    Resources {
        cpu_shares: Some(shares(cpu_request.unwrap_or(0))),
        cpu_quota: quota,
        cpu_period: quota.map(|_| period),
        memory_limit: memory_limit.filter(|m| *m > 0),
        pids_limit: None,
        oom_score_adj: Some(oom_score(pod, container, settings.node_memory)),
    }
}

/// Settings of the node that limits depend on.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `cpuCFSQuota`.
    pub cfs_quota: bool,
    /// `cpuCFSQuotaPeriod`.
    pub cfs_period: Duration,
    /// Memory of the node in bytes.
    pub node_memory: u64,
    /// `podPidsLimit`.
    pub pids: i64,
}

/// What a pod asks of one resource: containers and sidecars together, or the largest init phase, plus overhead.
pub fn pod_request(pod: &Pod, name: &str) -> i64 {
    let millis = name == "cpu";
    let read = |list: Option<&quantity::ResourceList>| {
        (if millis {
            quantity::milli_value(list, name)
        } else {
            quantity::value(list, name)
        })
        .unwrap_or(0)
    };
    let Some(spec) = &pod.spec else { return 0 };
    let overhead = read(spec.overhead.as_ref());
    if let Some(level) = spec
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref())
        .filter(|r| r.contains_key(name))
    {
        return read(Some(level)) + overhead;
    }
    let of = |c: &Container| requirement(c, name, millis).0.unwrap_or(0);
    let mut total: i64 = spec.containers.iter().map(of).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if sidecar(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    total += sidecars;
    total.max(peak) + overhead
}

/// Limit of the pod's cgroup for one resource: the sum, if every container has one.
fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    let millis = name == "cpu";
    let spec = pod.spec.as_ref()?;
    let level = spec
        .resources
        .as_ref()
        .and_then(|r| r.limits.as_ref())
        .filter(|l| l.contains_key(name));
    if let Some(level) = level {
        return if millis {
            quantity::milli_value(Some(level), name)
        } else {
            quantity::value(Some(level), name)
        };
    }
    let of = |c: &Container| requirement(c, name, millis).1.filter(|l| *l > 0);
    let running: Option<i64> = spec.containers.iter().map(of).sum();
    let sidecars: Option<i64> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| sidecar(c))
        .map(of)
        .sum();
    let peak = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| !sidecar(c))
        .map(of)
        .collect::<Option<Vec<_>>>()?;
    Some((running? + sidecars?).max(peak.into_iter().max().unwrap_or(0)))
}

/// Limits of the pod's cgroup.
pub fn of_pod(pod: &Pod, settings: &Settings) -> Resources {
    let period = u64::try_from(settings.cfs_period.as_micros()).unwrap_or(100_000);
    let class = qos(pod);
    let quota = pod_limit(pod, "cpu")
        .filter(|_| settings.cfs_quota && class != Qos::BestEffort)
        .and_then(|m| quota(m, period));
    Resources {
        cpu_shares: Some(if class == Qos::BestEffort {
            2
        } else {
            shares(pod_request(pod, "cpu"))
        }),
        cpu_quota: quota,
        cpu_period: quota.map(|_| period),
        memory_limit: pod_limit(pod, "memory").filter(|_| class != Qos::BestEffort),
        pids_limit: (settings.pids > 0).then_some(settings.pids),
        oom_score_adj: None,
    }
}

/// cgroup of a pod below the kubelet's root.
pub fn cgroup(pod: &Pod, uid: &str) -> String {
    match qos(pod) {
        Qos::Guaranteed => format!("pod{uid}"),
        Qos::Burstable => format!("burstable/pod{uid}"),
        Qos::BestEffort => format!("besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init}}))
            .unwrap()
    }

    const SETTINGS: Settings = Settings {
        cfs_quota: true,
        cfs_period: Duration::from_millis(100),
        node_memory: 4 << 30,
        pids: -1,
    };

    #[test]
    fn classes() {
        let best = pod(json!([{"name": "a"}]), json!([]));
        let burst = pod(
            json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]),
            json!([]),
        );
        let full = pod(
            json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]),
            json!([]),
        );
        assert_eq!(
            (qos(&best), qos(&burst), qos(&full)),
            (Qos::BestEffort, Qos::Burstable, Qos::Guaranteed)
        );
        assert_eq!(cgroup(&burst, "u"), "burstable/podu");
        assert_eq!(of_pod(&best, &SETTINGS).cpu_shares, Some(2));
        let resources = of_container(&full, &full.spec.as_ref().unwrap().containers[0], &SETTINGS);
        assert_eq!(
            (
                resources.cpu_shares,
                resources.cpu_quota,
                resources.memory_limit
            ),
            (Some(1024), Some(100_000), Some(1 << 30))
        );
        assert_eq!(resources.oom_score_adj, Some(-997));
        let one_limited = pod(
            json!([{"name": "a", "resources": {"limits": {"memory": "1Gi"}}}, {"name": "b"}]),
            json!([]),
        );
        assert_eq!(
            of_pod(&one_limited, &SETTINGS).memory_limit,
            None,
            "one container is unlimited"
        );
    }

    #[test]
    fn requests_of_init_phases() {
        let pod = pod(
            json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]),
            json!([
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "300m"}}},
            ]),
        );
        assert_eq!(pod_request(&pod, "cpu"), 350);
    }
}
