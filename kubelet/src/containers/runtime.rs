//! The runtime itself: [`Runtime`] over shims, layouts, cgroups and the network.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_image::{Limits, Registries, Store};
use keelson_shim::{Exec, Request, Stream};
use nix::mount::{MntFlags, umount2};
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};

use super::cgroup::Hierarchies;
use super::config::Config;
use super::host;
use super::layout::{ContainerFile, Layout, SandboxFile, file_name, shim_id};
use super::network::Network;
use super::sandbox::{Sandbox, bury, other, refused};
use super::spawn::Program;
use crate::runtime::{
    ContainerRef, ContainerSpec, ContainerState, ContainerStatus, ExecRequest, Resources, Result,
    Runtime, RuntimeError, RuntimeEvent, SandboxSpec, SandboxStatus, Session, Usage,
};

/// cgroup of the shims themselves, beside the pods'.
pub(super) const SHIMS: &str = "shims";
/// cgroup of the pods.
const PODS: &str = "kubepods";

/// Containers by shims, libcontainer, overlayfs and a bridge.
#[derive(Clone)]
pub struct KeelsonRuntime {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) hierarchies: Hierarchies,
    pub(super) images: Store,
    pub(super) program: Program,
    pub(super) network: Network,
    pub(super) possible: BTreeSet<String>,
    pub(super) lowest_oom_score: i32,
    pub(super) sandboxes: Mutex<HashMap<String, Arc<Sandbox>>>,
    /// One change of a pod's sandbox at a time.
    pub(super) locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) events: broadcast::Sender<RuntimeEvent>,
}

impl KeelsonRuntime {
    /// Opens the directories and finds the sandboxes that outlived the last kubelet.
    pub async fn start(config: Config) -> Result<Self> {
        let registries = Registries {
            mirrors: config.mirrors.clone(),
        };
        let images = Store::with(&config.image_root, registries, Limits::default())?;
        let layout = Layout::new(&config.state_dir, &config.container_root).map_err(other)?;
        let hierarchies = Hierarchies::detect().map_err(other)?;
        let program = Program::load(&config.shim)
            .map_err(|error| RuntimeError::Other(format!("{}: {error}", config.shim.display())))?;
        let possible = host::capabilities().map_err(other)?;
        let lowest_oom_score = host::lowest_oom_score(&possible);
        for cgroup in [SHIMS, PODS] {
            hierarchies
                .create(
                    &format!("{}/{cgroup}", config.cgroup_root),
                    &Resources::default(),
                )
                .map_err(other)?;
        }
        let network = Network::new(&config);
        let (events, _) = broadcast::channel(1024);
        let inner = Inner {
            config,
            layout,
            hierarchies,
            images,
            program,
            network,
            possible,
            lowest_oom_score,
            sandboxes: Mutex::default(),
            locks: Mutex::default(),
            events,
        };
        let runtime = Self {
            inner: Arc::new(inner),
        };
        runtime.recover().await?;
        Ok(runtime)
    }

    /// The image store.
    pub fn images(&self) -> &Store {
        &self.inner.images
    }

    /// The node's pod ranges (`spec.podCIDRs`). Until there is one, pods with a network of their own can't run.
    pub fn set_pod_ranges(&self, ranges: &[ipnet::IpNet]) -> bool {
        self.inner.network.set_range(ranges)
    }

    /// Whether pods can get a network.
    pub fn network_ready(&self) -> bool {
        self.inner.network.ready()
    }

    /// Connects to living shims, and ends what dead ones left.
    async fn recover(&self) -> Result<()> {
        let inner = &self.inner;
        let mut writable = BTreeSet::new();
        for uid in inner.layout.pod_uids().map_err(other)? {
            let Some(file) = inner.layout.read_sandbox(&uid).map_err(other)? else {
                // A crash in the middle of making it: nobody knows of it.
                self.discard(&uid, None).await;
                continue;
            };
            for container in inner.layout.containers(&uid).map_err(other)? {
                writable.insert(container.id);
            }
            match self.connect(file.clone()).await {
                Ok(sandbox) => drop(inner.sandboxes.lock().insert(uid, sandbox)),
                Err(error) => {
                    tracing::info!(pod = %file.name, %error, "a pod's shim is gone");
                    bury(&inner.layout, &inner.hierarchies, &file).map_err(other)?;
                }
            }
        }
        let uids = inner
            .layout
            .pod_uids()
            .map_err(other)?
            .into_iter()
            .collect();
        inner.network.keep_only(&uids).await.map_err(other)?;
        for entry in std::fs::read_dir(inner.layout.writable_root())
            .map_err(other)?
            .flatten()
        {
            if !writable.contains(entry.file_name().to_string_lossy().as_ref()) {
                std::fs::remove_dir_all(entry.path()).map_err(other)?;
            }
        }
        Ok(())
    }

    pub(super) async fn connect(&self, file: SandboxFile) -> std::io::Result<Arc<Sandbox>> {
        let inner = &self.inner;
        Sandbox::connect(
            inner.layout.clone(),
            inner.hierarchies.clone(),
            file,
            inner.events.clone(),
        )
        .await
    }

    fn lock_of(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.inner.locks.lock().entry(uid.to_owned()).or_default())
    }

    pub(super) fn find(&self, uid: &str) -> Option<Arc<Sandbox>> {
        self.inner.sandboxes.lock().get(uid).cloned()
    }

    pub(super) fn get(&self, uid: &str) -> Result<Arc<Sandbox>> {
        self.find(uid)
            .ok_or_else(|| RuntimeError::NotFound(format!("sandbox of pod {uid}")))
    }

    pub(super) fn container_file(&self, container: &ContainerRef) -> Result<ContainerFile> {
        let missing = || RuntimeError::NotFound(format!("container {}", container.name));
        if !file_name(&container.pod_uid) || !file_name(&container.name) {
            return Err(missing());
        }
        self.inner
            .layout
            .read_container(container)
            .map_err(other)?
            .ok_or_else(missing)
    }

    pub(super) fn pod_cgroup(&self, below: &str) -> String {
        format!("{}/{PODS}/{below}", self.inner.config.cgroup_root)
    }

    fn status_of(&self, file: &SandboxFile) -> Result<SandboxStatus> {
        let sandbox = self.find(&file.uid);
        let ready = sandbox.as_ref().is_some_and(|sandbox| sandbox.ready());
        let containers = self.inner.layout.containers(&file.uid).map_err(other)?;
        let containers = containers
            .iter()
            .map(|container| self.inner.layout.status(&file.uid, container))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(other)?;
        Ok(SandboxStatus {
            pod: file.pod(),
            ips: file.ips.clone(),
            ready,
            created_at: file.created_at,
            netns: (ready && !file.host_network).then(|| netns(file.shim_pid)),
            containers,
        })
    }
}

pub(super) fn netns(shim: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{shim}/ns/net"))
}

pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(std::io::Error::new(
            error.kind(),
            format!("{}: {error}", path.display()),
        )),
        _ => Ok(()),
    }
}

fn session(streams: Vec<(Stream, OwnedFd)>, exit: oneshot::Receiver<i32>) -> Result<Session> {
    let mut session = Session {
        stdin: None,
        stdout: None,
        stderr: None,
        pty: None,
        exit,
    };
    for (stream, fd) in streams {
        match stream {
            Stream::Stdin => session.stdin = Some(fd),
            Stream::Stdout => session.stdout = Some(fd),
            Stream::Stderr => session.stderr = Some(fd),
            Stream::Pty => session.pty = Some(fd),
        }
    }
    Ok(session)
}

#[async_trait]
impl Runtime for KeelsonRuntime {
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus> {
        let uid = &spec.pod.uid;
        if !file_name(uid) || spec.cgroup.split('/').any(|part| !file_name(part)) {
            return Err(RuntimeError::Sandbox(format!("invalid pod uid {uid:?}")));
        }
        let lock = self.lock_of(uid);
        let _guard = lock.lock().await;
        if let Some(sandbox) = self.find(uid).filter(|sandbox| sandbox.ready()) {
            return self.status_of(&sandbox.file());
        }
        let previous = self.inner.layout.read_sandbox(uid).map_err(other)?;
        // One whose shim died, or that was stopped: its containers stay known, but it gets a new shim and network.
        self.end_sandbox(uid).await?;
        self.inner.sandboxes.lock().remove(uid);
        let file = match self.make_all(spec).await {
            Ok(file) => file,
            Err(error) => {
                self.discard(uid, previous).await;
                return Err(error);
            }
        };
        let sandbox = self
            .connect(file.clone())
            .await
            .map_err(|error| RuntimeError::Sandbox(error.to_string()))?;
        self.inner.sandboxes.lock().insert(uid.clone(), sandbox);
        self.status_of(&file)
    }

    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()> {
        let lock = self.lock_of(pod_uid);
        let _guard = lock.lock().await;
        self.end_sandbox(pod_uid).await
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()> {
        if !file_name(pod_uid) {
            return Ok(());
        }
        self.stop_sandbox(pod_uid).await?;
        let lock = self.lock_of(pod_uid);
        let guard = lock.lock().await;
        let inner = &self.inner;
        inner.sandboxes.lock().remove(pod_uid);
        for file in inner.layout.containers(pod_uid).map_err(other)? {
            let container = ContainerRef {
                pod_uid: pod_uid.to_owned(),
                name: file.name.clone(),
                attempt: file.attempt,
            };
            self.clear_container(&container, &file).await?;
        }
        if let Some(file) = inner.layout.read_sandbox(pod_uid).map_err(other)? {
            inner
                .hierarchies
                .remove(&file.cgroup)
                .await
                .map_err(other)?;
        }
        let directory = inner.layout.pod(pod_uid);
        let _ = umount2(&directory.join("shm"), MntFlags::MNT_DETACH);
        remove_tree(&directory).map_err(other)?;
        drop(guard);
        inner.locks.lock().remove(pod_uid);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        let mut found = Vec::new();
        for uid in self.inner.layout.pod_uids().map_err(other)? {
            found.extend(self.sandbox(&uid).await?);
        }
        Ok(found)
    }

    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>> {
        if !file_name(pod_uid) {
            return Ok(None);
        }
        let file = match self.find(pod_uid) {
            Some(sandbox) => Some(sandbox.file()),
            None => self.inner.layout.read_sandbox(pod_uid).map_err(other)?,
        };
        file.map(|file| self.status_of(&file)).transpose()
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus> {
        if !file_name(&spec.container.name) {
            return Err(RuntimeError::Create(format!(
                "invalid container name {:?}",
                spec.container.name
            )));
        }
        let lock = self.lock_of(&spec.container.pod_uid);
        let _guard = lock.lock().await;
        if let Some(file) = self
            .inner
            .layout
            .read_container(&spec.container)
            .map_err(other)?
        {
            return self
                .inner
                .layout
                .status(&spec.container.pod_uid, &file)
                .map_err(other);
        }
        self.make_container(spec).await
    }

    async fn start_container(&self, container: &ContainerRef) -> Result<ContainerStatus> {
        let sandbox = self.get(&container.pod_uid)?;
        let file = self.container_file(container)?;
        let status = self
            .inner
            .layout
            .status(&container.pod_uid, &file)
            .map_err(other)?;
        if status.state != ContainerState::Created {
            return Ok(status);
        }
        sandbox
            .call(Request::Start(Box::new(file.start.clone())))
            .await
            .map_err(refused)?;
        self.inner
            .layout
            .status(&container.pod_uid, &file)
            .map_err(other)
    }

    async fn stop_container(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let file = match self.container_file(container) {
            Ok(file) => file,
            Err(RuntimeError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(sandbox) = self.find(&container.pod_uid) else {
            return Ok(());
        };
        let kill = |signal, all| Request::Kill {
            container: shim_id(container),
            signal,
            all,
        };
        let status = self
            .inner
            .layout
            .status(&container.pod_uid, &file)
            .map_err(other)?;
        if !matches!(status.state, ContainerState::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            sandbox
                .call(kill(file.stop_signal, false))
                .await
                .map_err(refused)?;
            if sandbox
                .wait_for_end(&self.inner.layout, container, Some(grace))
                .await?
            {
                return Ok(());
            }
        }
        sandbox
            .call(kill(nix::libc::SIGKILL, true))
            .await
            .map_err(refused)?;
        // The kernel does not fail to kill; a process in uninterruptible sleep only takes its time.
        sandbox
            .wait_for_end(&self.inner.layout, container, None)
            .await
            .map(drop)
    }

    async fn remove_container(&self, container: &ContainerRef) -> Result<()> {
        let lock = self.lock_of(&container.pod_uid);
        let _guard = lock.lock().await;
        match self.container_file(container) {
            Ok(file) => self.clear_container(container, &file).await,
            Err(RuntimeError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn update_resources(
        &self,
        container: &ContainerRef,
        resources: &Resources,
    ) -> Result<()> {
        let file = self.container_file(container)?;
        self.inner
            .hierarchies
            .set(&file.cgroup, resources)
            .map_err(other)
    }

    async fn update_pod_resources(&self, pod_uid: &str, resources: &Resources) -> Result<()> {
        let Some(sandbox) = self.find(pod_uid) else {
            return Ok(());
        };
        let cgroup = sandbox.file().cgroup;
        self.inner
            .hierarchies
            .set(&cgroup, resources)
            .map_err(other)
    }

    async fn exec(&self, container: &ContainerRef, request: &ExecRequest) -> Result<Session> {
        self.container_file(container)?;
        let exec = Exec {
            container: shim_id(container),
            args: request.command.clone(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr && !request.tty,
            tty: request.tty,
            size: request.size,
            timeout_ms: request
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        let answer = self
            .get(&container.pod_uid)?
            .call(Request::Exec(Box::new(exec)))
            .await
            .map_err(refused)?;
        let (sender, exit) = oneshot::channel();
        if let Some(end) = answer.end {
            tokio::spawn(async move {
                if let Ok(end) = end.await {
                    let _ = sender.send(end.code);
                }
            });
        }
        let mut session = session(answer.streams, exit)?;
        if let Some(pty) = &session.pty {
            session.stdout = Some(pty.try_clone().map_err(other)?);
            if request.stdin {
                session.stdin = Some(pty.try_clone().map_err(other)?);
            }
        }
        Ok(session)
    }

    async fn attach(
        &self,
        container: &ContainerRef,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session> {
        let file = self.container_file(container)?;
        let sandbox = self.get(&container.pod_uid)?;
        let request = Request::Attach {
            container: shim_id(container),
            stdin,
            stdout,
            stderr,
        };
        let answer = sandbox.call(request).await.map_err(refused)?;
        let (sender, exit) = oneshot::channel();
        let (layout, container) = (self.inner.layout.clone(), container.clone());
        tokio::spawn(async move {
            if sandbox
                .wait_for_end(&layout, &container, None)
                .await
                .is_ok()
                && let Ok(status) = layout.status(&container.pod_uid, &file)
                && let ContainerState::Exited { exit_code, .. } = status.state
            {
                let _ = sender.send(exit_code);
            }
        });
        session(answer.streams, exit)
    }

    async fn dial(&self, pod_uid: &str, port: u16) -> Result<tokio::net::TcpStream> {
        let file = self.get(pod_uid)?.file();
        host::dial(netns(file.shim_pid), port)
            .await
            .map_err(|error| RuntimeError::Other(format!("dial tcp4 127.0.0.1:{port}: {error}")))
    }

    async fn reopen_log(&self, container: &ContainerRef) -> Result<()> {
        let request = Request::ReopenLog {
            container: shim_id(container),
        };
        self.get(&container.pod_uid)?
            .call(request)
            .await
            .map(drop)
            .map_err(refused)
    }

    async fn usage(&self, container: &ContainerRef) -> Result<Usage> {
        let file = self.container_file(container)?;
        self.inner
            .hierarchies
            .usage(&file.cgroup)
            .map_err(|_| RuntimeError::NotFound(format!("cgroup of container {}", container.name)))
    }

    async fn disk_usage(&self, container: &ContainerRef) -> Result<u64> {
        let file = self.container_file(container)?;
        let layer = self.inner.layout.writable(&file.id);
        tokio::task::spawn_blocking(move || crate::eviction::local::size(&layer))
            .await
            .map_err(|error| RuntimeError::Other(error.to_string()))
    }

    async fn pod_usage(&self, pod_uid: &str) -> Result<Usage> {
        let file = self.get(pod_uid)?.file();
        self.inner
            .hierarchies
            .usage(&file.cgroup)
            .map_err(|_| RuntimeError::NotFound(format!("cgroup of pod {pod_uid}")))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }
}
