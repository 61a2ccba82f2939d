//! The command line: upstream's flags, and `--keelson-*` for the container runtime that is built in here.
//!
//! What is set in the configuration file is in [`crate::config`]; a flag that upstream lets override the file does so
//! in [`Flags::apply`].

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser};

use crate::config::{ConfiguredTaint, KubeletConfiguration};

/// The kubelet: runs the pods of one node.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubelet", version = crate::version::KUBELET, disable_help_subcommand = true)]
pub struct Flags {
    /// KubeletConfiguration file (kubelet.config.k8s.io/v1beta1).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Kubeconfig with which to talk to the API server; without it only static pods run.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Node name, instead of the host's name.
    #[arg(long, default_value = "")]
    pub hostname_override: String,
    /// Address of the node.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Directory of pods' volumes and other state.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Labels `k=v,…` added when the node registers.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints `key=value:effect,…` of the node when it registers.
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// cgroup below which pods' cgroups are made.
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// Where a self-signed serving certificate is kept.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// Directory of static pod manifests.
    #[arg(long)]
    pub pod_manifest_path: Option<String>,
    /// Logging.
    #[command(flatten)]
    pub log: keelson_daemon::logging::LogOptions,
    /// Secure port.
    #[arg(long)]
    pub port: Option<u16>,
    /// Secure address.
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Health port on loopback; 0 = off.
    #[arg(long)]
    pub healthz_port: Option<u16>,
    /// Most pods on the node.
    #[arg(long)]
    pub max_pods: Option<i64>,
    /// Pod range, for a kubelet without an API server.
    #[arg(long)]
    pub pod_cidr: Option<String>,
    /// Register the node.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub register_node: Option<bool>,
    /// Addresses of the cluster DNS.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long)]
    pub cluster_domain: Option<String>,

    /// Image store.
    #[arg(long, default_value = "/var/lib/keelson/images")]
    pub keelson_image_root: PathBuf,
    /// State of sandboxes; must not survive a reboot.
    #[arg(long, default_value = "/run/keelson")]
    pub keelson_state_dir: PathBuf,
    /// Writable layers of containers.
    #[arg(long, default_value = "/var/lib/keelson/containers")]
    pub keelson_container_root: PathBuf,
    /// The shim's binary; next to the kubelet's unless given.
    #[arg(long)]
    pub keelson_shim: Option<PathBuf>,
    /// Bridge of the pod network.
    #[arg(long, default_value = "keelson0")]
    pub keelson_bridge: String,
    /// Cluster name: suffix of nftables tables and the like unless it is `keelson`.
    #[arg(long, default_value = "keelson")]
    pub keelson_cluster: String,
    /// Registry mirrors `registry=url`, repeated; `*=url` is asked instead of all others.
    #[arg(long)]
    pub keelson_registry_mirror: Vec<String>,
    /// The cluster's pod range, which is not masqueraded.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub keelson_cluster_cidr: String,
    /// Where symlinks for log collectors are made.
    #[arg(long, default_value = "/var/log/containers")]
    pub keelson_container_logs_dir: PathBuf,
}

/// A flag that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// A label is not `key=value`.
    #[error("--node-labels: {0:?} is not key=value")]
    Label(String),
    /// A label in a namespace that kubelets may not set.
    #[error("unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{0}]")]
    ForbiddenLabel(String),
    /// A taint is not `key=value:effect`.
    #[error("--register-with-taints: {0:?} is not key=value:effect")]
    Taint(String),
}

impl Flags {
    /// Lays the flags that were given over the configuration.
    pub fn apply(&self, config: &mut KubeletConfiguration) -> Result<(), FlagError> {
        if let Some(path) = &self.pod_manifest_path {
            config.static_pod_path.clone_from(path);
        }
        if let Some(root) = &self.cgroup_root {
            config.cgroup_root.clone_from(root);
        }
        config.port = self.port.unwrap_or(config.port);
        config.address = self.address.unwrap_or(config.address);
        config.healthz_port = self.healthz_port.unwrap_or(config.healthz_port);
        config.max_pods = self.max_pods.unwrap_or(config.max_pods);
        config.register_node = self.register_node.unwrap_or(config.register_node);
        if let Some(cidr) = &self.pod_cidr {
            config.pod_cidr.clone_from(cidr);
        }
        if !self.cluster_dns.is_empty() {
            config.cluster_dns.clone_from(&self.cluster_dns);
        }
        if let Some(domain) = &self.cluster_domain {
            config.cluster_domain.clone_from(domain);
        }
        if !self.register_with_taints.is_empty() {
            config.register_with_taints = self
                .register_with_taints
                .iter()
                .map(|t| parse_taint(t))
                .collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// `--node-labels` as pairs.
    pub fn labels(&self) -> Result<Vec<(String, String)>, FlagError> {
        let mut labels = Vec::new();
        for pair in self.node_labels.iter().filter(|p| !p.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| FlagError::Label(pair.clone()))?;
            if !label_allowed(key) {
                return Err(FlagError::ForbiddenLabel(key.to_owned()));
            }
            labels.push((key.to_owned(), value.to_owned()));
        }
        Ok(labels)
    }
}

/// Which labels of the kubernetes.io space a kubelet may give itself.
fn label_allowed(key: &str) -> bool {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
    ];
    let Some((namespace, _)) = key.split_once('/') else {
        return true;
    };
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    ALLOWED.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn parse_taint(text: &str) -> Result<ConfiguredTaint, FlagError> {
    let bad = || FlagError::Taint(text.to_owned());
    let (pair, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(bad());
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(ConfiguredTaint {
        key: key.into(),
        value: value.into(),
        effect: effect.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints() {
        let flags = Flags::parse_from([
            "kubelet",
            "--node-labels=a=b,example.com/x=y",
            "--register-with-taints=k=v:NoSchedule,e:NoExecute",
            "-v",
            "4",
        ]);
        assert_eq!(flags.labels().unwrap().len(), 2);
        let mut config = KubeletConfiguration::default();
        flags.apply(&mut config).unwrap();
        assert_eq!(config.register_with_taints[1].key, "e");
        let flags = Flags::parse_from([
            "kubelet",
            "--node-labels=node-role.kubernetes.io/control-plane=",
        ]);
        assert!(matches!(flags.labels(), Err(FlagError::ForbiddenLabel(_))));
    }
}
