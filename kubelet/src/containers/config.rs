//! Where the runtime keeps its things. Two runtimes with different directories and names share a machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Places and names of one node's runtime.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sockets and records of sandboxes; may be lost with the machine's memory. `/run/keelson`.
    pub state_dir: PathBuf,
    /// Writable layers of containers. `/var/lib/keelson/containers`.
    pub container_root: PathBuf,
    /// The image store. `/var/lib/keelson/images`.
    pub image_root: PathBuf,
    /// cgroup below which all pods are. `keelson`.
    pub cgroup_root: String,
    /// The shim's program.
    pub shim: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The pods' bridge. `keelson0`.
    pub bridge: String,
    /// The nftables table for masquerade, forwarding and hostPorts. `keelson-node`.
    pub table: String,
    /// The range that all pods of the cluster are in; what leaves it is masqueraded. `10.244.0.0/16`.
    pub cluster_cidr: Option<ipnet::IpNet>,
    /// Where CNI configurations are looked for. `/etc/cni/net.d`.
    pub cni_config_dir: PathBuf,
    /// Where CNI plugins are. `/opt/cni/bin`.
    pub cni_bin_dir: PathBuf,
    /// Registry host → endpoints that are asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
}

impl Config {
    /// The places of the default cluster, with the shim beside this program.
    pub fn new(node_name: impl Into<String>) -> Self {
        let shim = std::env::current_exe()
            .ok()
            .and_then(|program| {
                program
                    .parent()
                    .map(|directory| directory.join("keelson-shim"))
            })
            .unwrap_or_else(|| PathBuf::from("keelson-shim"));
        Self {
            state_dir: "/run/keelson".into(),
            container_root: "/var/lib/keelson/containers".into(),
            image_root: "/var/lib/keelson/images".into(),
            cgroup_root: "keelson".into(),
            shim,
            node_name: node_name.into(),
            bridge: "keelson0".into(),
            table: "keelson-node".into(),
            cluster_cidr: None,
            cni_config_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            mirrors: BTreeMap::new(),
        }
    }
}
