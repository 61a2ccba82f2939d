//! Amounts of resources: what pods request and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use keelson_api::quantity::Quantity;

/// What a container without a CPU request counts for when nodes are scored.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts for when nodes are scored.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, ApiQuantity>;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// How many pods a node takes.
    pub pods: i64,
    /// Everything else: huge pages, extended resources, attachable volumes.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// The amounts of a resource list. A quantity that can't be read counts as nothing: the API server let none in.
    pub fn of(list: &List) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            let Ok(quantity) = Quantity::parse(&quantity.0) else {
                continue;
            };
            resources.add_one(name, &quantity);
        }
        resources
    }

    fn add_one(&mut self, name: &str, quantity: &Quantity) {
        match name {
            "cpu" => self.milli_cpu += quantity.milli_value(),
            "memory" => self.memory += quantity.value(),
            "ephemeral-storage" => self.ephemeral_storage += quantity.value(),
            "pods" => self.pods += quantity.value(),
            other => *self.scalar.entry(other.to_owned()).or_default() += quantity.value(),
        }
    }

    /// The amount of a resource by its API name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            other => self.scalar.get(other).copied().unwrap_or(0),
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            "pods" => self.pods = amount,
            other => {
                self.scalar.insert(other.to_owned(), amount);
            }
        }
    }

    /// Adds all amounts.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |a, b| a + b);
    }

    /// Takes all amounts away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |a, b| a - b);
    }

    /// The greater of each amount.
    pub fn raise(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }
}

/// Whether an init container keeps running beside the others.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod requests: the sum of its containers and sidecars or what its init containers need at a time, whichever
/// is more; what is said for the whole pod counts instead; overhead comes on top. `of` says what one container
/// requests.
fn total(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        let mut moment = sidecars.clone();
        moment.add(&own);
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
        }
        starting.raise(&moment);
    }
    running.raise(&starting);
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (name, quantity) in whole.into_iter().flatten() {
        if let Ok(quantity) = Quantity::parse(&quantity.0) {
            let mut amount = Resources::default();
            amount.add_one(name, &quantity);
            running.set(name, amount.get(name));
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::of(overhead));
    }
    running
}

/// What a pod requests of a node. While a resize is under way, the greater of what is asked and what is given counts.
pub fn pod_requests(pod: &Pod) -> Resources {
    let statuses = pod.status.as_ref().map(|status| {
        let running = status.container_statuses.iter().flatten();
        running.chain(status.init_container_statuses.iter().flatten())
    });
    let statuses: BTreeMap<&str, _> = statuses
        .into_iter()
        .flatten()
        .map(|status| (status.name.as_str(), status))
        .collect();
    total(pod, |container| {
        let mut requests = container_requests(container);
        if let Some(status) = statuses.get(container.name.as_str()) {
            if let Some(allocated) = &status.allocated_resources {
                requests.raise(&Resources::of(allocated));
            }
            let actual = status.resources.as_ref().and_then(|r| r.requests.as_ref());
            if let Some(actual) = actual {
                requests.raise(&Resources::of(actual));
            }
        }
        requests
    })
}

fn container_requests(container: &Container) -> Resources {
    let requests = container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    requests.map(Resources::of).unwrap_or_default()
}

/// CPU and memory as they count for scoring: something even where nothing is requested.
pub(super) fn pod_requests_for_scoring(pod: &Pod) -> (i64, i64) {
    let resources = total(pod, |container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let asks = |name: &str| requests.is_some_and(|list| list.contains_key(name));
        let mut resources = container_requests(container);
        if !asks("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    });
    (resources.milli_cpu, resources.memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[test]
    fn init_containers_sidecars_overhead_and_whole_pods() {
        let pod = build::pod_from(serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {
                "overhead": {"cpu": "10m"},
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Gi", "example.com/gpu": "1"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "200m"}}},
                ],
                "initContainers": [
                    {"name": "early", "resources": {"requests": {"cpu": "500m"}}},
                    {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                    {"name": "late", "resources": {"requests": {"cpu": "1", "memory": "100Mi"}}},
                ],
            },
        }));
        let requests = pod_requests(&pod);
        // The last init container runs beside the sidecar: 1000 + 50 is more than 100 + 200 + 50.
        assert_eq!(requests.milli_cpu, 1_060);
        assert_eq!(requests.memory, 1 << 30);
        assert_eq!(requests.get("example.com/gpu"), 1);

        let pod = build::pod_from(serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {
                "resources": {"requests": {"cpu": "2"}},
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "5"}}}],
            },
        }));
        let requests = pod_requests(&pod);
        assert_eq!((requests.milli_cpu, requests.memory), (2_000, 5));
    }

    #[test]
    fn a_container_without_requests_counts_when_scoring() {
        let pod = build::pod("p")
            .container(&[])
            .container(&[("cpu", "1")])
            .done();
        assert_eq!(pod_requests(&pod).milli_cpu, 1_000);
        assert_eq!(
            pod_requests_for_scoring(&pod),
            (1_000 + DEFAULT_MILLI_CPU, 2 * DEFAULT_MEMORY)
        );
    }
}
