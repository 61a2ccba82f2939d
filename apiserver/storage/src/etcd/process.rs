//! A real etcd on loopback for tests, with its data in a temporary folder; killed when dropped.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::{EtcdConfig, EtcdStore, EtcdTls};
use crate::store::Store;

pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
    pub(crate) config: EtcdConfig,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

struct Pki {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn pki() -> Pki {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let leaf = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = usages;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    Pki {
        ca,
        // etcd's gateway calls its own server with the server's certificate.
        server: leaf(vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ]),
        client: leaf(vec![ExtendedKeyUsagePurpose::ClientAuth]),
    }
}

impl Etcd {
    /// Starts one; `None` (said loudly) where etcd isn't installed.
    pub(crate) async fn start(tls: bool) -> Option<Etcd> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("SKIPPED: needs etcd on PATH");
            return None;
        }
        // One provider for the process, as the daemons do it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let scheme = if tls { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut arguments = vec![
            format!("--data-dir={}", path("data")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=error".to_owned(),
        ];
        let mut config = EtcdConfig::new(vec![client]);
        if tls {
            let pki = pki();
            for (name, text) in [
                ("ca", &pki.ca),
                ("crt", &pki.server.0),
                ("key", &pki.server.1),
            ] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            arguments.extend([
                format!("--cert-file={}", path("crt")),
                format!("--key-file={}", path("key")),
                format!("--trusted-ca-file={}", path("ca")),
                "--client-cert-auth".to_owned(),
            ]);
            config.tls = Some(EtcdTls {
                ca: pki.ca.into_bytes(),
                certificate: pki.client.0.into_bytes(),
                key: pki.client.1.into_bytes(),
            });
        }
        let mut etcd = Etcd {
            folder,
            arguments,
            child: None,
            config,
        };
        etcd.run();
        let store = etcd.store().await;
        for _ in 0..20 {
            if store.current_revision().await.is_ok() {
                return Some(etcd);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd in {} did not start", etcd.folder.path().display());
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config.clone()).await.unwrap()
    }

    pub(crate) fn run(&mut self) {
        let child = Command::new("etcd")
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
    }

    /// SIGKILL; what was acknowledged is on disk.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
