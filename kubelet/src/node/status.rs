//! The Node object as upstream's kubelet writes it, from a snapshot of the host. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
    NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::machine::Machine;
use crate::config::KubeletConfiguration;
use crate::quantity::{self, ResourceList};
use crate::runtime::Image;

/// What the node object is made from.
#[derive(Debug, Clone)]
pub struct Snapshot<'a> {
    /// Node name.
    pub name: &'a str,
    /// Host name.
    pub hostname: &'a str,
    /// Addresses, the chosen one first.
    pub addresses: &'a [IpAddr],
    /// The host.
    pub machine: &'a Machine,
    /// Settings.
    pub config: &'a KubeletConfiguration,
    /// Labels from flags.
    pub labels: &'a [(String, String)],
    /// Images in the store.
    pub images: &'a [Image],
    /// Pressure and readiness, as observed.
    pub health: &'a Health,
    /// Now.
    pub now: Timestamp,
}

/// What conditions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Too little memory is available.
    pub memory_pressure: bool,
    /// Too little disk is available.
    pub disk_pressure: bool,
    /// Too few process ids are available.
    pub pid_pressure: bool,
    /// Why the node isn't ready; empty when it is.
    pub not_ready: Vec<String>,
}

/// The API features that pods may ask of this node (`node.status.declaredFeatures`).
const DECLARED_FEATURES: &[&str] = &["ContainerRestartRules", "UserNamespacesHostNetworkSupport"];

/// Resources of the host.
pub fn capacity(machine: &Machine, config: &KubeletConfiguration) -> ResourceList {
    let mut list = ResourceList::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), quantity::from_bytes_ki(machine.memory)),
        (
            "ephemeral-storage".to_owned(),
            quantity::from_bytes_ki(machine.disk),
        ),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    for (size, bytes) in &machine.hugepages {
        list.insert(
            format!("hugepages-{size}"),
            if *bytes == 0 {
                Quantity("0".into())
            } else {
                quantity::from_bytes_ki(*bytes)
            },
        );
    }
    list
}

/// A threshold such as `10%` or `100Mi` in bytes of `total`.
pub fn threshold(text: &str, total: u64) -> Option<u64> {
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse::<f64>()
            .ok()
            .map(|p| (total as f64 * p / 100.0) as u64),
        None => quantity::bytes(text).and_then(|n| u64::try_from(n).ok()),
    }
}

/// Capacity less what is reserved and what eviction keeps free.
pub fn allocatable(capacity: &ResourceList, config: &KubeletConfiguration) -> ResourceList {
    let mut list = capacity.clone();
    for (name, quantity) in &mut list {
        let reserved =
            |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_else(|| "0".into());
        let (system, kube) = (
            reserved(&config.system_reserved),
            reserved(&config.kube_reserved),
        );
        if name == "cpu" {
            let millis = [&system, &kube]
                .iter()
                .filter_map(|q| quantity::millis(q))
                .sum::<i64>();
            if millis > 0 {
                *quantity = quantity::from_millis(
                    (quantity::millis(&quantity.0).unwrap_or(0) - millis).max(0),
                );
            }
            continue;
        }
        let total = quantity::bytes(&quantity.0).unwrap_or(0);
        let mut less: i64 = [&system, &kube]
            .iter()
            .filter_map(|q| quantity::bytes(q))
            .sum();
        let signal = match name.as_str() {
            "memory" => "memory.available",
            "ephemeral-storage" => "nodefs.available",
            _ => "",
        };
        if let Some(kept) = config
            .eviction_hard
            .get(signal)
            .and_then(|t| threshold(t, total.max(0) as u64))
        {
            less += kept as i64;
        }
        if less > 0 {
            let left = (total - less).max(0) as u64;
            // Upstream prints what a percentage leaves in bytes, what an amount in Ki leaves in Ki.
            *quantity = if name == "ephemeral-storage" {
                Quantity(left.to_string())
            } else {
                quantity::from_bytes_ki(left)
            };
        }
    }
    list
}

fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> NodeCondition {
    NodeCondition {
        type_: type_.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The four conditions, with upstream's reasons and sentences.
pub fn conditions(health: &Health, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |type_: &str, on: bool, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if on { bad } else { good };
        condition(type_, on, reason, message, now)
    };
    let ready = if health.not_ready.is_empty() {
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
            now,
        )
    } else {
        let message = match health.not_ready.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        condition("Ready", false, "KubeletNotReady", &message, now)
    };
    vec![
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ),
        ready,
    ]
}

fn images(images: &[Image], max: i32) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    images
        .into_iter()
        .take(limit)
        .map(|image| ContainerImage {
            names: Some(
                image
                    .digests
                    .iter()
                    .chain(&image.tags)
                    .take(5)
                    .cloned()
                    .collect(),
            ),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// The labels that this kubelet owns.
pub fn labels(snapshot: &Snapshot<'_>) -> BTreeMap<String, String> {
    let arch = &snapshot.machine.architecture;
    let mut labels = BTreeMap::from([
        (
            "kubernetes.io/hostname".to_owned(),
            snapshot.hostname.to_owned(),
        ),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch.clone()),
    ]);
    labels.extend(snapshot.labels.iter().cloned());
    labels
}

/// `status` as it should be; conditions carry `now` as transition time.
pub fn status(snapshot: &Snapshot<'_>) -> NodeStatus {
    let capacity = capacity(snapshot.machine, snapshot.config);
    let mut addresses: Vec<NodeAddress> = snapshot
        .addresses
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".into(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".into(),
        address: snapshot.hostname.to_owned(),
    });
    let machine = snapshot.machine;
    NodeStatus {
        allocatable: Some(allocatable(&capacity, snapshot.config)),
        capacity: Some(capacity),
        addresses: Some(addresses),
        conditions: Some(conditions(snapshot.health, snapshot.now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(snapshot.config.port),
            }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: crate::version::runtime(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: crate::version::KUBELET.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            swap: (machine.swap > 0).then(|| NodeSwapStatus {
                capacity: i64::try_from(machine.swap).ok(),
            }),
            system_uuid: machine.system_uuid.clone(),
        }),
        images: Some(images(
            snapshot.images,
            snapshot.config.node_status_max_images,
        )),
        declared_features: Some(DECLARED_FEATURES.iter().map(|f| (*f).to_owned()).collect()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(false),
            }),
        }]),
        ..NodeStatus::default()
    }
}

/// The object for registration.
pub fn node(snapshot: &Snapshot<'_>) -> Node {
    let mut taints: Vec<Taint> = snapshot
        .config
        .register_with_taints
        .iter()
        .map(|t| Taint {
            key: t.key.clone(),
            value: (!t.value.is_empty()).then(|| t.value.clone()),
            effect: t.effect.clone(),
            time_added: None,
        })
        .collect();
    taints.sort_by(|a, b| a.key.cmp(&b.key));
    Node {
        metadata: ObjectMeta {
            name: Some(snapshot.name.to_owned()),
            labels: Some(labels(snapshot)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status(snapshot)),
    }
}

/// Keeps transition times of conditions that did not change, and conditions that others wrote.
pub fn carry_over(new: &mut NodeStatus, old: &NodeStatus) {
    let old_conditions = old.conditions.as_deref().unwrap_or_default();
    let conditions = new.conditions.get_or_insert_default();
    for condition in conditions.iter_mut() {
        if let Some(before) = old_conditions.iter().find(|c| c.type_ == condition.type_)
            && before.status == condition.status
        {
            condition
                .last_transition_time
                .clone_from(&before.last_transition_time);
        }
    }
    for before in old_conditions {
        if !conditions.iter().any(|c| c.type_ == before.type_) {
            conditions.push(before.clone());
        }
    }
}

/// Whether more than heartbeat times differ.
pub fn differs(new: &NodeStatus, old: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        if let Some(conditions) = &mut status.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.phase = None;
        status.config = None;
        if status.images.as_ref().is_some_and(Vec::is_empty) {
            status.images = None;
        }
        status
    };
    still(new) != still(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory: 4 << 30,
            disk: 100 << 30,
            hugepages: vec![("2Mi".into(), 0)],
            ..Machine::default()
        }
    }

    #[test]
    fn allocatable_leaves_room() {
        let mut config = KubeletConfiguration::default();
        config.system_reserved.insert("cpu".into(), "200m".into());
        let capacity = capacity(&machine(), &config);
        let allocatable = allocatable(&capacity, &config);
        assert_eq!(allocatable["cpu"].0, "1800m");
        assert_eq!(
            allocatable["memory"].0,
            format!("{}Ki", (4 << 20) - 100 * 1024)
        );
        assert_eq!(
            allocatable["ephemeral-storage"].0,
            (90u64 << 30).to_string()
        );
        assert_eq!(allocatable["pods"].0, "110");
        assert_eq!(allocatable["hugepages-2Mi"].0, "0");
    }

    #[test]
    fn conditions_keep_their_transition_times() {
        let (early, late): (Timestamp, Timestamp) = (
            "2026-01-01T00:00:00Z".parse().unwrap(),
            "2026-01-01T00:01:00Z".parse().unwrap(),
        );
        let foreign = condition("NetworkUnavailable", false, "X", "y", early);
        let mut old = NodeStatus {
            conditions: Some(conditions(&Health::default(), early)),
            ..NodeStatus::default()
        };
        old.conditions.as_mut().unwrap().push(foreign);
        let health = Health {
            not_ready: vec!["container runtime network not ready: x".into()],
            ..Health::default()
        };
        let mut new = NodeStatus {
            conditions: Some(conditions(&health, late)),
            ..NodeStatus::default()
        };
        carry_over(&mut new, &old);
        let got = new.conditions.clone().unwrap();
        assert_eq!(got[0].last_transition_time, Some(Time(early)));
        assert_eq!(got[3].last_transition_time, Some(Time(late)));
        assert_eq!(got[3].reason.as_deref(), Some("KubeletNotReady"));
        assert_eq!(got[4].type_, "NetworkUnavailable");
        assert!(differs(&new, &old));
        let mut same = NodeStatus {
            conditions: Some(conditions(&Health::default(), late)),
            ..NodeStatus::default()
        };
        carry_over(&mut same, &old);
        assert!(!differs(&same, &old), "only heartbeats moved");
    }
}
