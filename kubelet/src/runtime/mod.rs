//! The container runtime as the kubelet sees it: what CRI is upstream, in one trait without gRPC.
//!
//! Here are only the words that the pod workers and the runtime share. The real runtime (shims, overlayfs, bridge
//! network, image store) is in [`crate::containers`]; a fake for tests is in `fake.rs` beside this file. What a pod
//! should look like is decided elsewhere (`crate::pods`); this trait only does what it is told.

#[cfg(test)]
pub mod fake;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Which pod a sandbox belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// `metadata.uid`: the identity of the sandbox.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Which container of a pod: the pod's uid, the container's name, and how often it was started before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerRef {
    /// `metadata.uid` of the pod.
    pub pod_uid: String,
    /// `name` of the container, init container or ephemeral container.
    pub name: String,
    /// 0 for the first start; `restartCount` otherwise.
    pub attempt: u32,
}

/// Namespace choices of the pod's spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostPID`.
    pub host_pid: bool,
    /// `spec.hostIPC`.
    pub host_ipc: bool,
    /// `spec.shareProcessNamespace`.
    pub share_pid: bool,
}

/// One `hostPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// Port on the node.
    pub host_port: u16,
    /// `hostIP`, or every address.
    pub host_ip: Option<IpAddr>,
    /// Port in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// CPU, memory and process limits, already in cgroup terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// cgroup v1 cpu.shares; the runtime converts to cgroup v2 weight.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds per period.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// Process limit.
    pub pids_limit: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// What a sandbox (one shim, the pod's namespaces, its network) is made from.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Whose it is.
    pub pod: PodRef,
    /// Hostname inside; the node's with `host_network`.
    pub hostname: String,
    /// Namespace choices.
    pub namespaces: Namespaces,
    /// Pod-level sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// hostPorts.
    pub port_mappings: Vec<PortMapping>,
    /// cgroup of the pod, below the kubelet's root, e.g. `burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the pod's cgroup.
    pub resources: Resources,
    /// `/var/log/pods/<ns>_<name>_<uid>`: where the shim writes CRI-format logs.
    pub log_directory: PathBuf,
}

/// Mount propagation as the API names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// `None` (private).
    #[default]
    None,
    /// `HostToContainer` (rslave).
    HostToContainer,
    /// `Bidirectional` (rshared).
    Bidirectional,
}

/// A bind mount into the container.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Source on the host.
    pub host_path: PathBuf,
    /// Target in the container.
    pub container_path: PathBuf,
    /// Read-only (recursively where the kernel can).
    pub read_only: bool,
    /// `mountPropagation`.
    pub propagation: Propagation,
}

/// A device of the host given to the container.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// `rwm`.
    pub permissions: String,
}

/// `securityContext`, resolved from pod and container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Security {
    /// All devices, all capabilities, no masks, no seccomp.
    pub privileged: bool,
    /// User, or the image's.
    pub run_as_user: Option<i64>,
    /// Group, or the image's.
    pub run_as_group: Option<i64>,
    /// Refuse uid 0 (also when it comes from the image).
    pub run_as_non_root: bool,
    /// `supplementalGroups` and `fsGroup`.
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`: no groups from the image's /etc/group.
    pub strict_groups: bool,
    /// Capabilities added, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped, without `CAP_`.
    pub drop_capabilities: Vec<String>,
    /// `readOnlyRootFilesystem`.
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// Which seccomp profile.
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

/// `seccompProfile`.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Seccomp {
    /// The runtime's default profile.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A profile file on the node.
    Localhost(PathBuf),
}

/// What a container is made from.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Which.
    pub container: ContainerRef,
    /// Whose.
    pub pod: PodRef,
    /// The image as resolved by [`Images::status`] or [`Images::pull`]: its id.
    pub image_id: String,
    /// `spec.containers[].image`, as written.
    pub image: String,
    /// `command` after `$(VAR)` expansion; empty = the image's entrypoint.
    pub command: Vec<String>,
    /// `args` after expansion; empty with an empty command = the image's cmd.
    pub args: Vec<String>,
    /// Working directory, or the image's.
    pub working_dir: Option<String>,
    /// Environment, in order; the image's own comes before it.
    pub env: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// cgroup limits.
    pub resources: Resources,
    /// Security.
    pub security: Security,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    /// Give it a pty.
    pub tty: bool,
    /// Log file, relative to the sandbox's log directory: `<container>/<attempt>.log`.
    pub log_path: PathBuf,
    /// Share the pid namespace of this container (ephemeral containers with a target).
    pub target_container: Option<ContainerRef>,
    /// `lifecycle.stopSignal`, or the image's, or SIGTERM.
    pub stop_signal: Option<String>,
}

/// Life of a container.
#[derive(Debug, Clone, PartialEq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Host pid of its init.
        pid: i32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// Exit code; 128 + n for a signal n.
        exit_code: i32,
        /// Killed by the kernel for want of memory.
        oom_killed: bool,
        /// When it was started; `None` when it never was.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// Why it could not start (`StartError`), otherwise empty.
        message: String,
    },
}

/// A container as found.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    /// Which.
    pub container: ContainerRef,
    /// Id in the form `keelson://<64 hex digits>`.
    pub id: String,
    /// Image as written.
    pub image: String,
    /// Image id (`<repository>@sha256:…` where known).
    pub image_id: String,
    /// State.
    pub state: ContainerState,
    /// Log file on the host.
    pub log_path: PathBuf,
}

/// A sandbox as found.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxStatus {
    /// Whose.
    pub pod: PodRef,
    /// Pod addresses; empty with hostNetwork.
    pub ips: Vec<IpAddr>,
    /// False once the shim is gone or the sandbox is stopping.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Path of the network namespace (`/run/netns/…` or `/proc/<pid>/ns/net`).
    pub netns: Option<PathBuf>,
    /// All containers, of every attempt that was not removed.
    pub containers: Vec<ContainerStatus>,
}

/// What the runtime tells unasked. After a lagged channel, call [`Runtime::list`].
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeEvent {
    /// Something about a container of this pod changed (started, exited, OOM).
    ContainerChanged(ContainerRef),
    /// The sandbox's shim died.
    SandboxDied(PodRef),
}

/// An exec or attach under way. File descriptors are the container's ends' counterparts.
#[derive(Debug)]
pub struct Session {
    /// Write end of stdin.
    pub stdin: Option<OwnedFd>,
    /// Read end of stdout (with a tty: the pty master, for reading and writing).
    pub stdout: Option<OwnedFd>,
    /// Read end of stderr.
    pub stderr: Option<OwnedFd>,
    /// The pty master when `tty`, for resizing.
    pub pty: Option<OwnedFd>,
    /// Resolves to the exit code. For attach: resolves when the container ends.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
}

/// What exec is asked.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Command, not through a shell.
    pub command: Vec<String>,
    /// Wire stdin.
    pub stdin: bool,
    /// Wire stdout.
    pub stdout: bool,
    /// Wire stderr (never with a tty).
    pub stderr: bool,
    /// Give it a pty.
    pub tty: bool,
    /// Rows and columns of the pty at its start.
    pub size: Option<(u16, u16)>,
    /// Kill it after that long (probes and hooks).
    pub timeout: Option<Duration>,
}

/// CPU and memory of one container, from its cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Cumulative CPU in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory usage in bytes.
    pub memory_usage: u64,
    /// Memory usage minus inactive file cache.
    pub memory_working_set: u64,
    /// Anonymous memory.
    pub memory_rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Processes.
    pub pids: u64,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// `repository:tag` names.
    pub tags: Vec<String>,
    /// `repository@sha256:…` names.
    pub digests: Vec<String>,
    /// Unpacked size in bytes.
    pub size: u64,
    /// Numeric user of the image's configuration, if it is a number.
    pub uid: Option<i64>,
    /// User name of the image's configuration, if it is a name.
    pub user: Option<String>,
}

/// Credentials of one registry, from imagePullSecrets.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// Registry host (and path prefix) the credentials are for.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// What can go wrong, in the words that end in container status reasons.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{0} not found")]
    NotFound(String),
    /// The image reference is malformed (`InvalidImageName`).
    #[error("couldn't parse image name {image:?}: {message}")]
    InvalidImageName {
        /// As written.
        image: String,
        /// Why.
        message: String,
    },
    /// Pulling failed (`ErrImagePull`).
    #[error("{0}")]
    Pull(String),
    /// The registry could not be reached (`RegistryUnavailable`).
    #[error("{0}")]
    RegistryUnavailable(String),
    /// The container could not be made (`CreateContainerError`).
    #[error("{0}")]
    Create(String),
    /// The container was made but its process could not be started (`RunContainerError` / `StartError`, exit code 128).
    #[error("{0}")]
    Start(String),
    /// The sandbox could not be made (`FailedCreatePodSandBox`).
    #[error("{0}")]
    Sandbox(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Result of a runtime call.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Sandboxes and containers. Every call is idempotent: repeating one after a crash ends in the same state.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes (or finds) the sandbox: shim, namespaces, cgroup, network. On return it has its addresses.
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus>;
    /// Kills what is left in it, takes the network down and ends the shim. Fine if it is gone.
    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()>;
    /// Removes its state from disk (not its logs). Fine if it is gone.
    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()>;
    /// All sandboxes with their containers; after a restart of the kubelet this finds what outlived it.
    async fn list(&self) -> Result<Vec<SandboxStatus>>;
    /// One sandbox.
    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>>;
    /// Makes the rootfs and the container without starting its process.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus>;
    /// Starts it.
    async fn start_container(&self, container: &ContainerRef) -> Result<ContainerStatus>;
    /// Sends the stop signal, waits for at most `grace`, then kills. Returns when it has ended.
    async fn stop_container(&self, container: &ContainerRef, grace: Duration) -> Result<()>;
    /// Removes an ended container and its rootfs (not its log).
    async fn remove_container(&self, container: &ContainerRef) -> Result<()>;
    /// Changes limits in place.
    async fn update_resources(&self, container: &ContainerRef, resources: &Resources)
    -> Result<()>;
    /// Changes the limits of the pod's own cgroup. Fine if there is none.
    async fn update_pod_resources(&self, pod_uid: &str, resources: &Resources) -> Result<()>;
    /// Runs a command in a running container.
    async fn exec(&self, container: &ContainerRef, request: &ExecRequest) -> Result<Session>;
    /// Attaches to the container's own streams.
    async fn attach(
        &self,
        container: &ContainerRef,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session>;
    /// Connects to a TCP port inside the pod's network namespace, for port-forward and probes.
    async fn dial(&self, pod_uid: &str, port: u16) -> Result<tokio::net::TcpStream>;
    /// Makes the shim reopen the container's log file after it was rotated.
    async fn reopen_log(&self, container: &ContainerRef) -> Result<()>;
    /// Usage of a container.
    async fn usage(&self, container: &ContainerRef) -> Result<Usage>;
    /// Bytes of a container's writable layer.
    async fn disk_usage(&self, container: &ContainerRef) -> Result<u64>;
    /// Usage of the pod's cgroup.
    async fn pod_usage(&self, pod_uid: &str) -> Result<Usage>;
    /// Changes from now on.
    fn events(&self) -> tokio::sync::broadcast::Receiver<RuntimeEvent>;
}

/// The image store.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image this reference names locally (short names normalised to `docker.io/library/…`).
    async fn status(&self, reference: &str) -> Result<Option<Image>>;
    /// Pulls it; returns what it resolved to.
    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image>;
    /// All images.
    async fn list(&self) -> Result<Vec<Image>>;
    /// Removes an image; fails while a container uses it.
    async fn remove(&self, id: &str) -> Result<()>;
    /// Mounts the image read-only at `target` (image volumes).
    async fn mount(&self, id: &str, target: &std::path::Path) -> Result<()>;
}

/// Both halves, as the kubelet carries them around.
#[derive(Clone)]
pub struct ContainerRuntime {
    /// Sandboxes and containers.
    pub runtime: Arc<dyn Runtime>,
    /// Images.
    pub images: Arc<dyn Images>,
}
