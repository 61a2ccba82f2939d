//! Starts upstream's API server and ours, each on an etcd of its own, with the same authorities, keys and flags.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use keelson_pki::{Authority, Identity, service_account};

use super::client::Client;

/// How long a server may take until it is ready.
const START: Duration = Duration::from_secs(90);

/// One server with its etcd.
#[derive(Debug)]
pub struct Side {
    /// `upstream` or `ours`.
    pub name: &'static str,
    /// The administrator's client.
    pub client: Client,
    /// A client without credentials.
    pub anonymous: Client,
    /// Where its etcd listens.
    pub etcd: String,
    children: Vec<Child>,
}

impl Side {
    /// The API server's process id; its etcd's comes before.
    pub fn server_pid(&self) -> Option<u32> {
        self.children.last().map(Child::id)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself; then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What both servers have in common.
#[derive(Debug)]
pub struct Ground {
    directory: tempfile::TempDir,
    ca: PathBuf,
    serving: (PathBuf, PathBuf),
    admin: (PathBuf, PathBuf),
    front: PathBuf,
    accounts: service_account::ServiceAccountKey,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

impl Ground {
    /// Makes authorities, certificates and keys.
    pub fn prepare() -> Result<Self> {
        keelson_daemon::install_crypto();
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let authority = Authority::ensure(directory.path(), "ca", "kubernetes")?;
        let front = Authority::ensure(directory.path(), "front-proxy-ca", "front-proxy")?;
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = Identity::server("kube-apiserver", &["localhost"], &[localhost]);
        let pairs = [
            ("server", server),
            (
                "admin",
                Identity::client("kubernetes-admin", &["system:masters"]),
            ),
        ];
        for (name, identity) in &pairs {
            let (certificate, key) = authority.issue(identity)?;
            std::fs::write(at(&format!("{name}.crt")), certificate)?;
            std::fs::write(at(&format!("{name}.key")), key)?;
        }
        Ok(Self {
            ca: authority.certificate_path().into(),
            front: front.certificate_path().into(),
            serving: (at("server.crt"), at("server.key")),
            admin: (at("admin.crt"), at("admin.key")),
            accounts: service_account::ensure(directory.path())?,
            directory,
        })
    }

    /// The authority that both servers' certificates come from.
    pub fn authority(&self) -> &Path {
        &self.ca
    }

    /// The administrator's certificate and key.
    pub fn administrator(&self) -> (&Path, &Path) {
        (&self.admin.0, &self.admin.1)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Result<Child> {
        let log = File::create(self.log(name))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// Starts one side and waits until it is ready.
    pub async fn start(
        &self,
        name: &'static str,
        program: &Path,
        etcd_program: &Path,
    ) -> Result<Side> {
        let (client_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let etcd = format!("http://127.0.0.1:{client_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let data = self.directory.path().join(format!("{name}-etcd"));
        let etcd_child = self.spawn(
            &format!("{name}-etcd"),
            Command::new(etcd_program).args([
                "--name=default",
                "--unsafe-no-fsync",
                &format!("--data-dir={}", data.display()),
                &format!("--listen-client-urls={etcd}"),
                &format!("--advertise-client-urls={etcd}"),
                &format!("--listen-peer-urls={peer}"),
                &format!("--initial-advertise-peer-urls={peer}"),
                &format!("--initial-cluster=default={peer}"),
            ]),
        )?;
        let mut children = vec![etcd_child];
        let shown = |path: &Path| path.display().to_string();
        let flags = [
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=192.0.2.10".into(),
            format!("--tls-cert-file={}", shown(&self.serving.0)),
            format!("--tls-private-key-file={}", shown(&self.serving.1)),
            format!("--client-ca-file={}", shown(&self.ca)),
            format!("--requestheader-client-ca-file={}", shown(&self.front)),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            format!(
                "--service-account-key-file={}",
                shown(&self.accounts.public)
            ),
            format!(
                "--service-account-signing-key-file={}",
                shown(&self.accounts.private)
            ),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            // Upstream's default, protobuf, makes null of empty lists.
            "--storage-media-type=application/json".into(),
            "--max-requests-inflight=3000".into(),
            "--max-mutating-requests-inflight=1000".into(),
        ];
        // Upstream may leave files behind where it was started.
        let mut command = Command::new(program);
        command.args(flags).current_dir(self.directory.path());
        children.push(self.spawn(name, &mut command)?);
        let mut side = Side {
            name,
            client: Client::new(port, &self.ca, Some((&self.admin.0, &self.admin.1)))?,
            anonymous: Client::new(port, &self.ca, None)?,
            etcd,
            children,
        };
        self.ready(&mut side).await?;
        Ok(side)
    }

    async fn ready(&self, side: &mut Side) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let answer = side.client.send("GET", "/readyz", &[], Vec::new()).await;
            let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
            if answer.is_ok_and(|a| a.code == 200) {
                let mut there = 0;
                for namespace in namespaces {
                    let path = format!("/api/v1/namespaces/{namespace}");
                    let answer = side.client.send("GET", &path, &[], Vec::new()).await?;
                    there += usize::from(answer.code == 200);
                }
                if there == namespaces.len() {
                    return Ok(());
                }
            }
            for child in &mut side.children {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "{} ended with {status}: {}",
                        side.name,
                        self.ends(side.name)
                    );
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "{} not ready after {} s: {}",
                    side.name,
                    START.as_secs(),
                    self.ends(side.name)
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The ends of a side's logs.
    fn ends(&self, name: &str) -> String {
        let mut text = String::new();
        for log in [name.to_owned(), format!("{name}-etcd")] {
            let content = std::fs::read_to_string(self.log(&log)).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let last = &lines[lines.len().saturating_sub(12)..];
            text.push_str(&format!("\n== {log}\n{}", last.join("\n")));
        }
        text
    }

    /// Keeps the logs for a look at them afterwards; says where.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}
