//! Where a cluster's files, sockets and addresses are. The default cluster is called `keelson` and uses the host's network;
//! any other name gets folders, a cgroup root and a network namespace of its own, so that it never meets a running one. Further
//! nodes of a cluster ([`crate::nodes`]) have theirs inside of the cluster's.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The default cluster's name.
pub const DEFAULT_NAME: &str = "keelson";
/// Pod addresses of the cluster.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// Service addresses.
pub const SERVICE_RANGE: &str = "10.96.0.0/12";
/// Address of the Service `kubernetes`.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Address of the Service `kube-dns`.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// DNS domain of the cluster.
pub const DOMAIN: &str = "cluster.local";
/// Start of the names of further nodes' folders.
pub const NODE_FOLDER: &str = "node-";
/// The API server's port.
pub const API_PORT: u16 = 6443;

/// A cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its name.
    pub name: String,
    /// Root of the file system paths below; `/` but in tests.
    root: PathBuf,
    /// Which of the cluster's nodes this is about; the first one lives with the control plane.
    node: u32,
}

impl Layout {
    /// The layout of the cluster `name`.
    pub fn new(name: &str) -> Result<Self, Failure> {
        Self::at(name, Path::new("/"))
    }

    /// The same below another root.
    pub fn at(name: &str, root: &Path) -> Result<Self, Failure> {
        let good = !name.is_empty()
            && name.len() <= 20
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !good {
            return Err(Failure::new(
                format!(
                    "{name:?} is no name for a cluster: use at most 20 lower-case letters, digits and '-'"
                ),
                "keelson up --name test",
            ));
        }
        Ok(Self {
            name: name.into(),
            root: root.into(),
            node: 1,
        })
    }

    /// The places of one of the cluster's nodes, counted from 1: the first one's are the cluster's own.
    pub fn of_node(&self, node: u32) -> Self {
        Self {
            node,
            ..self.clone()
        }
    }

    /// Which node this is about, counted from 1.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Whether this is about the node that lives with the control plane.
    pub fn is_first(&self) -> bool {
        self.node == 1
    }

    /// Whether this is the cluster on the host's own network.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT_NAME
    }

    /// A folder of the cluster, whichever node this is about.
    fn shared(&self, base: &str) -> PathBuf {
        let base = self.root.join(base.trim_start_matches('/'));
        base.join(self.context())
    }

    /// The node's part of it: further nodes have a folder inside of it.
    fn named(&self, base: &str) -> PathBuf {
        let folder = self.shared(base);
        if self.is_first() {
            folder
        } else {
            folder.join(format!("{NODE_FOLDER}{}", self.node))
        }
    }

    /// State that must survive: etcd, certificates, images, the kubelet's root.
    pub fn state(&self) -> PathBuf {
        self.named("/var/lib")
    }

    /// Certificates and keys of the whole cluster (0700).
    pub fn pki(&self) -> PathBuf {
        self.shared("/var/lib").join("pki")
    }

    /// etcd's data.
    pub fn etcd(&self) -> PathBuf {
        self.state().join("etcd")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// The kubelet's `--root-dir`.
    pub fn kubelet(&self) -> PathBuf {
        if self.is_default() && self.is_first() {
            self.root.join("var/lib/kubelet")
        } else {
            self.state().join("kubelet")
        }
    }

    /// What the API server encrypts in etcd, and the keys (0600).
    pub fn encryption_configuration(&self) -> PathBuf {
        self.configuration().join("encryption.yaml")
    }

    /// Configuration files and kubeconfigs.
    pub fn configuration(&self) -> PathBuf {
        self.named("/etc")
    }

    /// The administrator's kubeconfig (0600).
    pub fn admin_conf(&self) -> PathBuf {
        self.configuration().join("admin.conf")
    }

    /// A daemon's kubeconfig.
    pub fn kubeconfig(&self, daemon: &str) -> PathBuf {
        self.configuration().join(format!("{daemon}.conf"))
    }

    /// Where static pods are read from.
    pub fn manifests(&self) -> PathBuf {
        self.configuration().join("manifests")
    }

    /// Logs of the daemons.
    pub fn logs(&self) -> PathBuf {
        self.named("/var/log")
    }

    /// The pods' logs.
    pub fn pod_logs(&self) -> PathBuf {
        if self.is_default() && self.is_first() {
            self.root.join("var/log/pods")
        } else {
            self.logs().join("pods")
        }
    }

    /// The flat folder of links that log collectors read.
    pub fn container_logs(&self) -> PathBuf {
        if self.is_default() && self.is_first() {
            self.root.join("var/log/containers")
        } else {
            self.logs().join("containers")
        }
    }

    /// Sockets, pid files and shim state; empty after a reboot.
    pub fn run(&self) -> PathBuf {
        self.named("/run")
    }

    /// Name of the node's root cgroup.
    pub fn cgroup_root(&self) -> String {
        if self.is_first() {
            self.context()
        } else {
            // No cluster's name has a dot in it, so this is none's first node.
            format!("{}.{NODE_FOLDER}{}", self.context(), self.node)
        }
    }

    /// The network namespace the node lives in; `None` is the host's.
    pub fn netns(&self) -> Option<String> {
        (!self.is_default() || !self.is_first()).then(|| self.cgroup_root())
    }

    /// Name of the pods' bridge (an interface name has at most 15 bytes).
    pub fn bridge(&self) -> &'static str {
        "keelson0"
    }

    /// Name of the kubeconfig's cluster and context.
    pub fn context(&self) -> String {
        if self.is_default() {
            "keelson".into()
        } else {
            format!("keelson-{}", self.name)
        }
    }

    /// The node's name in the cluster.
    pub fn node_name(&self) -> String {
        match (self.is_first(), self.is_default()) {
            (true, true) => node_name(),
            (true, false) => format!("{}-node", self.name),
            (false, true) => format!("{}-{NODE_FOLDER}{}", node_name(), self.node),
            (false, false) => format!("{}-{NODE_FOLDER}{}", self.name, self.node),
        }
    }

    /// Every folder that `uninstall` removes: of the whole cluster, or of one further node.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.run(), self.state(), self.configuration(), self.logs()];
        if self.is_default() && self.is_first() {
            folders.extend([self.kubelet(), self.pod_logs(), self.container_logs()]);
        }
        folders
    }
}

/// The node's own name: the host's, in the form that Kubernetes wants.
pub fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() {
        "localhost".into()
    } else {
        name
    }
}

/// The address of the interface that the default route uses, found by asking the kernel (a UDP socket sends nothing on connect).
pub fn primary_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.255:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|a| a.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_do_not_share_places() {
        let one = Layout::new("keelson").expect("default");
        let two = Layout::new("walk").expect("named");
        assert_eq!(one.admin_conf(), Path::new("/etc/keelson/admin.conf"));
        assert_eq!(one.etcd(), Path::new("/var/lib/keelson/etcd"));
        assert_eq!(two.etcd(), Path::new("/var/lib/keelson-walk/etcd"));
        for folder in two.folders() {
            assert!(
                one.folders()
                    .iter()
                    .all(|f| !folder.starts_with(f) && !f.starts_with(&folder)),
                "{folder:?}"
            );
        }
        assert_eq!(two.netns().as_deref(), Some("keelson-walk"));
    }

    #[test]
    fn further_nodes_have_places_of_their_own_inside_the_cluster() {
        for name in ["keelson", "walk"] {
            let cluster = Layout::new(name).expect("layout");
            let node = cluster.of_node(2);
            assert_eq!(node.pki(), cluster.pki());
            assert_eq!(node.context(), cluster.context());
            for folder in node.folders() {
                assert!(
                    cluster.folders().iter().any(|f| folder.starts_with(f)),
                    "uninstall would leave {folder:?}"
                );
            }
            assert!(node.kubelet().starts_with(node.state()));
            assert_ne!(node.netns(), cluster.netns());
            assert_ne!(node.cgroup_root(), cluster.cgroup_root());
            assert_ne!(node.node_name(), cluster.node_name());
        }
        let node = Layout::new("walk").expect("layout").of_node(3);
        assert_eq!(node.node_name(), "walk-node-3");
        assert_eq!(node.netns().as_deref(), Some("keelson-walk.node-3"));
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "Upper",
            "a/b",
            "..",
            "-x",
            "x-",
            "a23456789012345678901",
        ] {
            assert!(Layout::new(name).is_err(), "{name}");
        }
    }
}
