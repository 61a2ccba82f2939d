//! The configuration files that `up` writes: upstream's kinds, so that a runbook written for upstream reads them.

use std::net::IpAddr;
use std::path::Path;

use keelson_pki::kubeconfig::Kubeconfig;
use keelson_pki::{PkiError, file};
use serde_json::{Value, json};

use crate::certificates::{Certificates, NodeCertificates};
use crate::layout::{API_PORT, DNS_SERVICE, DOMAIN, Layout, POD_RANGE};

/// Writes a file only when its content differs; returns whether it wrote.
pub fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> Result<bool, PkiError> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    file::write(path, content, mode)?;
    Ok(true)
}

fn yaml(path: &Path, document: &Value) -> Result<bool, PkiError> {
    let text = serde_norway::to_string(document).map_err(|e| PkiError::Malformed {
        path: path.into(),
        message: e.to_string(),
    })?;
    write_if_changed(path, text.as_bytes(), 0o600)
}

/// `https://<address>:6443` with brackets for IPv6.
pub fn server_url(address: IpAddr) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, API_PORT))
}

/// Writes every daemon's configuration and kubeconfig. Returns whether anything changed.
pub fn ensure(
    layout: &Layout,
    certificates: &Certificates,
    address: IpAddr,
) -> Result<bool, PkiError> {
    let mut changed = false;
    let server = server_url(address);
    let local = server_url(IpAddr::from([127, 0, 0, 1]));
    let context = layout.context();
    for (daemon, issued) in &certificates.clients {
        let user = if *daemon == "admin" {
            format!("{context}-admin")
        } else {
            (*daemon).to_owned()
        };
        let kubeconfig = Kubeconfig {
            cluster: &context,
            user: &user,
            server: if *daemon == "admin" { &server } else { &local },
            authority: &certificates.cluster_authority_pem,
            certificate: &issued.certificate,
            key: &issued.key,
        };
        let document = if *daemon == "admin" {
            kubeconfig.embedded()?
        } else {
            kubeconfig.by_reference()
        };
        changed |= yaml(&layout.kubeconfig(daemon), &document)?;
    }
    changed |= yaml(
        &layout.configuration().join("kube-scheduler.yaml"),
        &scheduler(layout),
    )?;
    changed |= ensure_daemons(layout, &certificates.of_first_node())?;
    Ok(changed)
}

/// Writes what the daemons of a further node need. `server` is the first node's address.
pub fn ensure_node(
    node: &Layout,
    certificates: &NodeCertificates,
    server: IpAddr,
) -> Result<bool, PkiError> {
    let mut changed = false;
    for (daemon, issued) in &certificates.clients {
        let kubeconfig = Kubeconfig {
            cluster: &node.context(),
            user: daemon,
            server: &server_url(server),
            authority: &certificates.cluster_authority_pem,
            certificate: &issued.certificate,
            key: &issued.key,
        };
        changed |= yaml(&node.kubeconfig(daemon), &kubeconfig.by_reference())?;
    }
    changed |= ensure_daemons(node, certificates)?;
    Ok(changed)
}

/// The configuration of a node's kubelet and proxy.
fn ensure_daemons(layout: &Layout, certificates: &NodeCertificates) -> Result<bool, PkiError> {
    let mut changed = yaml(
        &layout.configuration().join("kubelet.yaml"),
        &kubelet(layout, certificates),
    )?;
    changed |= yaml(
        &layout.configuration().join("kube-proxy.yaml"),
        &proxy(layout),
    )?;
    let manifests = layout.manifests();
    std::fs::create_dir_all(&manifests).map_err(|source| PkiError::File {
        path: manifests.clone(),
        source,
    })?;
    Ok(changed)
}

fn kubelet(layout: &Layout, certificates: &NodeCertificates) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "x509": {"clientCAFile": certificates.cluster_authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_SERVICE.to_string()],
        "clusterDomain": DOMAIN,
        // By amount: ten percent of a large disk, as by default, would keep pods off machines with much room left.
        "evictionHard": {
            "imagefs.available": "1Gi",
            "memory.available": "100Mi",
            "nodefs.available": "1Gi",
            "nodefs.inodesFree": "1%",
        },
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "podLogsDir": layout.pod_logs(),
        "seccompDefault": true,
        "staticPodPath": layout.manifests(),
        "tlsCertFile": certificates.kubelet_server.certificate,
        "tlsPrivateKeyFile": certificates.kubelet_server.key,
    })
}

fn proxy(layout: &Layout) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": layout.kubeconfig("kube-proxy")},
        "clusterCIDR": POD_RANGE,
        "mode": "nftables",
    })
}

fn scheduler(layout: &Layout) -> Value {
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": layout.kubeconfig("kube-scheduler")},
        "leaderElection": {"leaderElect": true},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_written_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::at("keelson", dir.path()).expect("layout");
        let address = IpAddr::from([192, 0, 2, 7]);
        let certificates = Certificates::ensure(&layout, "n", &[address]).expect("certificates");
        assert!(ensure(&layout, &certificates, address).expect("write"));
        assert!(!ensure(&layout, &certificates, address).expect("keep"));
        let text = std::fs::read_to_string(layout.admin_conf()).expect("read");
        assert!(text.contains("https://192.0.2.7:6443"), "{text}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(layout.admin_conf())
                .expect("stat")
                .permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}
