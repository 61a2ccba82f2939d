//! The daemons of a cluster, in the order they start: one row each with its command line.
//!
//! The same rows make the supervised processes and the systemd units, so that both run exactly the same thing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::certificates::Certificates;
use crate::layout::{API_PORT, Layout, POD_RANGE, SERVICE_RANGE};
use crate::nodes;

/// A daemon of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its name: upstream's.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Additional environment.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

/// The names on a cluster of one node, in the order of start; stopping goes the other way.
pub const NAMES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Where programs are taken from.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of our own daemons.
    pub ours: PathBuf,
    /// etcd's program.
    pub etcd: PathBuf,
}

/// What the command lines depend on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Places.
    pub layout: &'a Layout,
    /// Certificates.
    pub certificates: &'a Certificates,
    /// Programs.
    pub programs: &'a Programs,
    /// The first node's address.
    pub address: IpAddr,
    /// How many nodes there are.
    pub nodes: u32,
    /// `registry=url`, for the kubelets.
    pub mirrors: &'a [String],
    /// This program, which further nodes' daemons are started through.
    pub keelson: &'a Path,
}

/// All components of the cluster.
pub fn all(facts: &Facts<'_>) -> Vec<Component> {
    let mut rows = vec![
        etcd(facts),
        apiserver(facts),
        controller_manager(facts),
        scheduler(facts),
        kubelet(facts, facts.layout, facts.address),
        proxy(facts, facts.layout),
    ];
    for number in 2..=facts.nodes {
        let node = facts.layout.of_node(number);
        let address = nodes::address(number).into();
        rows.extend(
            [kubelet(facts, &node, address), proxy(facts, &node)].map(|row| on(&node, row, facts)),
        );
    }
    rows
}

/// A daemon's row as one of a further node: started in its namespace, under a name with its number.
fn on(node: &Layout, row: Component, facts: &Facts<'_>) -> Component {
    let mut arguments = vec![
        format!("--name={}", node.name),
        "on-node".into(),
        format!("--node={}", node.node()),
        format!("--gateway={}", facts.address),
        "--".into(),
        row.program.display().to_string(),
    ];
    arguments.extend(row.arguments);
    Component {
        name: format!("{}-{}", row.name, node.node()),
        program: facts.keelson.into(),
        arguments,
        environment: row.environment,
    }
}

fn flag(name: &str, value: impl AsRef<Path>) -> String {
    format!("--{name}={}", value.as_ref().display())
}

fn component(name: &str, program: PathBuf, arguments: Vec<String>) -> Component {
    Component {
        name: name.into(),
        program,
        arguments,
        environment: Vec::new(),
    }
}

fn etcd(facts: &Facts<'_>) -> Component {
    let certificates = facts.certificates;
    let arguments = vec![
        "--name=keelson".into(),
        flag("data-dir", facts.layout.etcd()),
        "--listen-client-urls=https://127.0.0.1:2379".into(),
        "--advertise-client-urls=https://127.0.0.1:2379".into(),
        "--listen-peer-urls=https://127.0.0.1:2380".into(),
        "--initial-advertise-peer-urls=https://127.0.0.1:2380".into(),
        "--initial-cluster=keelson=https://127.0.0.1:2380".into(),
        "--client-cert-auth=true".into(),
        flag("trusted-ca-file", &certificates.etcd_authority),
        flag("cert-file", &certificates.etcd.certificate),
        flag("key-file", &certificates.etcd.key),
        "--peer-client-cert-auth=true".into(),
        flag("peer-trusted-ca-file", &certificates.etcd_authority),
        flag("peer-cert-file", &certificates.etcd.certificate),
        flag("peer-key-file", &certificates.etcd.key),
        "--quota-backend-bytes=8589934592".into(),
        "--snapshot-count=10000".into(),
    ];
    component("etcd", facts.programs.etcd.clone(), arguments)
}

fn apiserver(facts: &Facts<'_>) -> Component {
    let certificates = facts.certificates;
    let arguments = vec![
        format!("--advertise-address={}", facts.address),
        "--bind-address=0.0.0.0".into(),
        format!("--secure-port={API_PORT}"),
        "--etcd-servers=https://127.0.0.1:2379".into(),
        flag("etcd-cafile", &certificates.etcd_authority),
        flag("etcd-certfile", &certificates.apiserver_etcd.certificate),
        flag("etcd-keyfile", &certificates.apiserver_etcd.key),
        flag("tls-cert-file", &certificates.apiserver.certificate),
        flag("tls-private-key-file", &certificates.apiserver.key),
        flag("client-ca-file", &certificates.cluster_authority),
        flag(
            "kubelet-certificate-authority",
            &certificates.cluster_authority,
        ),
        flag(
            "kubelet-client-certificate",
            &certificates.apiserver_kubelet.certificate,
        ),
        flag("kubelet-client-key", &certificates.apiserver_kubelet.key),
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
        flag(
            "service-account-key-file",
            &certificates.service_account.public,
        ),
        flag(
            "service-account-signing-key-file",
            &certificates.service_account.private,
        ),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        flag(
            "requestheader-client-ca-file",
            &certificates.front_proxy_authority,
        ),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        flag(
            "proxy-client-cert-file",
            &certificates.front_proxy.certificate,
        ),
        flag("proxy-client-key-file", &certificates.front_proxy.key),
        "--allow-privileged=true".into(),
        flag(
            "encryption-provider-config",
            facts.layout.encryption_configuration(),
        ),
        "--encryption-provider-config-automatic-reload=true".into(),
    ];
    component(
        "kube-apiserver",
        facts.programs.ours.join("kube-apiserver"),
        arguments,
    )
}

fn controller_manager(facts: &Facts<'_>) -> Component {
    let kubeconfig = facts.layout.kubeconfig("kube-controller-manager");
    let certificates = facts.certificates;
    let arguments = vec![
        flag("kubeconfig", &kubeconfig),
        flag("authentication-kubeconfig", &kubeconfig),
        flag("authorization-kubeconfig", &kubeconfig),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=true".into(),
        flag(
            "leader-elect-identity-file",
            facts.layout.run().join("kube-controller-manager.identity"),
        ),
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={POD_RANGE}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--cluster-name={}", facts.layout.context()),
        flag("root-ca-file", &certificates.cluster_authority),
        flag(
            "service-account-private-key-file",
            &certificates.service_account.private,
        ),
        flag("cluster-signing-cert-file", &certificates.cluster_authority),
        flag(
            "cluster-signing-key-file",
            &certificates.cluster_authority_key,
        ),
        "--use-service-account-credentials=true".into(),
    ];
    component(
        "kube-controller-manager",
        facts.programs.ours.join("kube-controller-manager"),
        arguments,
    )
}

fn scheduler(facts: &Facts<'_>) -> Component {
    let kubeconfig = facts.layout.kubeconfig("kube-scheduler");
    let arguments = vec![
        flag(
            "config",
            facts.layout.configuration().join("kube-scheduler.yaml"),
        ),
        flag("authentication-kubeconfig", &kubeconfig),
        flag("authorization-kubeconfig", &kubeconfig),
        flag(
            "leader-elect-identity-file",
            facts.layout.run().join("kube-scheduler.identity"),
        ),
        "--bind-address=127.0.0.1".into(),
    ];
    component(
        "kube-scheduler",
        facts.programs.ours.join("kube-scheduler"),
        arguments,
    )
}

fn kubelet(facts: &Facts<'_>, layout: &Layout, address: IpAddr) -> Component {
    let mut arguments = vec![
        flag("config", layout.configuration().join("kubelet.yaml")),
        flag("kubeconfig", layout.kubeconfig("kubelet")),
        flag("root-dir", layout.kubelet()),
        format!("--hostname-override={}", layout.node_name()),
        format!("--node-ip={address}"),
        format!("--cgroup-root=/{}", layout.cgroup_root()),
        flag("keelson-image-root", layout.images()),
        flag("keelson-state-dir", layout.run().join("kubelet")),
        flag("keelson-container-root", layout.state().join("containers")),
        format!("--keelson-cluster={}", layout.name),
        flag("keelson-shim", facts.programs.ours.join("keelson-shim")),
        format!("--keelson-bridge={}", layout.bridge()),
        flag("keelson-container-logs-dir", layout.container_logs()),
    ];
    arguments.extend(
        facts
            .mirrors
            .iter()
            .map(|mirror| format!("--keelson-registry-mirror={mirror}")),
    );
    component("kubelet", facts.programs.ours.join("kubelet"), arguments)
}

fn proxy(facts: &Facts<'_>, layout: &Layout) -> Component {
    let arguments = vec![
        flag("config", layout.configuration().join("kube-proxy.yaml")),
        format!("--hostname-override={}", layout.node_name()),
    ];
    component(
        "kube-proxy",
        facts.programs.ours.join("kube-proxy"),
        arguments,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_order_of_start_and_hold_no_secrets() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::at("keelson", dir.path()).expect("layout");
        let address = IpAddr::from([192, 0, 2, 7]);
        let certificates = Certificates::ensure(&layout, "n", &[address]).expect("certificates");
        let programs = Programs {
            ours: "/usr/local/bin".into(),
            etcd: "/usr/bin/etcd".into(),
        };
        let rows = all(&Facts {
            layout: &layout,
            certificates: &certificates,
            programs: &programs,
            address,
            nodes: 2,
            mirrors: &["registry.example=http://192.0.2.7:5000".into()],
            keelson: Path::new("/usr/local/bin/keelson"),
        });
        let names: Vec<&str> = rows.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, [NAMES, &["kubelet-2", "kube-proxy-2"]].concat());
        assert!(
            rows.iter()
                .flat_map(|c| &c.arguments)
                .all(|a| !a.contains("PRIVATE"))
        );
        let second = &rows[NAMES.len()];
        for argument in [
            "on-node",
            "--node=2",
            "/usr/local/bin/kubelet",
            "--node-ip=198.51.100.11",
            "--keelson-registry-mirror=registry.example=http://192.0.2.7:5000",
        ] {
            assert!(second.arguments.iter().any(|a| a == argument), "{second:?}");
        }
    }
}
