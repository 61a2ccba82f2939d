//! Which certificate each part of a cluster gets: three authorities (etcd, cluster, front proxy), upstream's users and groups.

use std::net::IpAddr;
use std::path::PathBuf;

use keelson_pki::{Authority, Identity, Issued, PkiError, Usage, service_account};

use crate::layout::{API_SERVICE, DOMAIN, Layout};

/// Everything that was made or found.
#[derive(Debug)]
pub struct Certificates {
    /// The cluster's authority.
    pub cluster_authority: PathBuf,
    /// Its key, for the certificate signers.
    pub cluster_authority_key: PathBuf,
    /// PEM of the cluster's authority.
    pub cluster_authority_pem: String,
    /// etcd's authority.
    pub etcd_authority: PathBuf,
    /// etcd's own certificate.
    pub etcd: Issued,
    /// The API server as etcd's client.
    pub apiserver_etcd: Issued,
    /// The API server's serving certificate.
    pub apiserver: Issued,
    /// The API server as a kubelet's client.
    pub apiserver_kubelet: Issued,
    /// The front proxy's authority.
    pub front_proxy_authority: PathBuf,
    /// The API server as an aggregated server's client.
    pub front_proxy: Issued,
    /// The kubelet's serving certificate.
    pub kubelet_server: Issued,
    /// Clients with a kubeconfig: daemon's file name, certificate.
    pub clients: Vec<(&'static str, Issued)>,
    /// Service-account keys.
    pub service_account: service_account::ServiceAccountKey,
}

impl Certificates {
    /// Makes what is missing and keeps what is good.
    pub fn ensure(layout: &Layout, node: &str, addresses: &[IpAddr]) -> Result<Self, PkiError> {
        let pki = layout.pki();
        std::fs::create_dir_all(&pki)
            .and_then(|()| {
                std::fs::set_permissions(&pki, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            })
            .map_err(|source| PkiError::File {
                path: pki.clone(),
                source,
            })?;
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut serving: Vec<IpAddr> = vec![loopback, API_SERVICE.into()];
        serving.extend(addresses.iter().copied().filter(|a| *a != loopback));
        let cluster = Authority::ensure(&pki, "ca", "kubernetes")?;
        let etcd_pki = pki.join("etcd");
        let etcd = Authority::ensure(&etcd_pki, "ca", "etcd-ca")?;
        let front = Authority::ensure(&pki, "front-proxy-ca", "front-proxy-ca")?;

        let service = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &format!("kubernetes.default.svc.{DOMAIN}"),
            "localhost",
            node,
        ];
        let etcd_identity = Identity {
            usage: Usage::Both,
            ..Identity::server("etcd", &["localhost"], &[loopback])
        };
        let node_identity = Identity::server(&format!("system:node:{node}"), &[node], addresses);
        let client = |name: &str, identity: Identity| cluster.ensure_issued(&pki, name, &identity);
        let clients = vec![
            (
                "admin",
                client(
                    "admin",
                    Identity::client("kubernetes-admin", &["kubeadm:cluster-admins"]),
                )?,
            ),
            (
                "kube-controller-manager",
                client(
                    "kube-controller-manager",
                    Identity::client("system:kube-controller-manager", &[]),
                )?,
            ),
            (
                "kube-scheduler",
                client(
                    "kube-scheduler",
                    Identity::client("system:kube-scheduler", &[]),
                )?,
            ),
            (
                "kube-proxy",
                client("kube-proxy", Identity::client("system:kube-proxy", &[]))?,
            ),
            (
                "kubelet",
                client(
                    "kubelet",
                    Identity::client(&format!("system:node:{node}"), &["system:nodes"]),
                )?,
            ),
        ];
        Ok(Self {
            cluster_authority: cluster.certificate_path().into(),
            cluster_authority_key: pki.join("ca.key"),
            cluster_authority_pem: cluster.certificate_pem().into(),
            etcd_authority: etcd.certificate_path().into(),
            etcd: etcd.ensure_issued(&etcd_pki, "server", &etcd_identity)?,
            apiserver_etcd: etcd.ensure_issued(
                &pki,
                "apiserver-etcd-client",
                &Identity::client("kube-apiserver-etcd-client", &[]),
            )?,
            apiserver: cluster.ensure_issued(
                &pki,
                "apiserver",
                &Identity::server("kube-apiserver", &service, &serving),
            )?,
            apiserver_kubelet: cluster.ensure_issued(
                &pki,
                "apiserver-kubelet-client",
                &Identity::client("kube-apiserver-kubelet-client", &["kubeadm:cluster-admins"]),
            )?,
            front_proxy_authority: front.certificate_path().into(),
            front_proxy: front.ensure_issued(
                &pki,
                "front-proxy-client",
                &Identity::client("front-proxy-client", &[]),
            )?,
            kubelet_server: cluster.ensure_issued(&pki, "kubelet-server", &node_identity)?,
            clients,
            service_account: service_account::ensure(&pki)?,
        })
    }

    /// What a further node needs: the cluster's authority and its own kubelet's and proxy's certificates.
    pub fn ensure_node(node: &Layout, address: IpAddr) -> Result<NodeCertificates, PkiError> {
        let pki = node.pki();
        let cluster = Authority::ensure(&pki, "ca", "kubernetes")?;
        let (name, number) = (node.node_name(), node.node());
        let user = format!("system:node:{name}");
        let own = |file: String, identity| cluster.ensure_issued(&pki, &file, &identity);
        Ok(NodeCertificates {
            cluster_authority: cluster.certificate_path().into(),
            cluster_authority_pem: cluster.certificate_pem().into(),
            kubelet_server: own(
                format!("kubelet-server-{number}"),
                Identity::server(&user, &[&name], &[address]),
            )?,
            clients: vec![
                (
                    "kube-proxy",
                    own(
                        "kube-proxy".into(),
                        Identity::client("system:kube-proxy", &[]),
                    )?,
                ),
                (
                    "kubelet",
                    own(
                        format!("kubelet-{number}"),
                        Identity::client(&user, &["system:nodes"]),
                    )?,
                ),
            ],
        })
    }

    /// The first node's part of the cluster's.
    pub fn of_first_node(&self) -> NodeCertificates {
        NodeCertificates {
            cluster_authority: self.cluster_authority.clone(),
            cluster_authority_pem: self.cluster_authority_pem.clone(),
            kubelet_server: self.kubelet_server.clone(),
            clients: self
                .clients
                .iter()
                .filter(|(daemon, _)| matches!(*daemon, "kubelet" | "kube-proxy"))
                .cloned()
                .collect(),
        }
    }
}

/// What one node's daemons need.
#[derive(Debug)]
pub struct NodeCertificates {
    /// The cluster's authority.
    pub cluster_authority: PathBuf,
    /// PEM of it.
    pub cluster_authority_pem: String,
    /// The kubelet's serving certificate.
    pub kubelet_server: Issued,
    /// Clients with a kubeconfig: daemon's file name, certificate.
    pub clients: Vec<(&'static str, Issued)>,
}

/// Removes the certificates of a further node.
pub fn remove_node(node: &Layout) -> anyhow::Result<()> {
    for name in ["kubelet-server", "kubelet"] {
        for suffix in ["crt", "key"] {
            let file = node.pki().join(format!("{name}-{}.{suffix}", node.node()));
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(anyhow::Error::new(error)
                        .context(format!("cannot remove {}", file.display())));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_changes_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::at("keelson", dir.path()).expect("layout");
        let addresses = [IpAddr::from([192, 0, 2, 7])];
        let first = Certificates::ensure(&layout, "node-1", &addresses).expect("make");
        assert!(first.apiserver.renewed && first.clients.iter().all(|(_, issued)| issued.renewed));
        let second = Certificates::ensure(&layout, "node-1", &addresses).expect("keep");
        assert!(
            !second.apiserver.renewed
                && !second.etcd.renewed
                && second.clients.iter().all(|(_, issued)| !issued.renewed)
        );
        assert_eq!(first.cluster_authority_pem, second.cluster_authority_pem);
    }
}
