//! Messages, and the files that both sides read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the shim's socket in the pod's directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the [`Sandbox`] file in the pod's directory.
pub const SANDBOX: &str = "shim.json";
/// Name of the [`Record`] file in a container's bundle.
pub const RECORD: &str = "state.json";

/// What a shim is started with: the pod's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Hostname, when the pod has a UTS namespace of its own.
    pub hostname: Option<String>,
    /// Make a network namespace.
    pub new_network: bool,
    /// Make an IPC namespace.
    pub new_ipc: bool,
    /// Make one PID namespace for all containers, held by a pause process.
    pub shared_pid: bool,
    /// Pod-level sysctls, set in the new namespaces.
    pub sysctls: Vec<(String, String)>,
    /// cgroup directories that the pause process joins.
    pub pause_cgroups: Vec<PathBuf>,
}

/// A request with a number that its reply carries.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the client.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you?
    State,
    /// Makes the rootfs and starts the container's process; answered once it was exec'd.
    Start(Box<Start>),
    /// Sends a signal.
    Kill {
        /// Container id.
        container: String,
        /// Signal number.
        signal: i32,
        /// To every process of the container, not only to its first.
        all: bool,
    },
    /// Forgets an ended container.
    Delete {
        /// Container id.
        container: String,
    },
    /// Runs a command in a container.
    Exec(Box<Exec>),
    /// Attaches to a container's streams.
    Attach {
        /// Container id.
        container: String,
        /// Give a write end for stdin.
        stdin: bool,
        /// Give a read end for stdout.
        stdout: bool,
        /// Give a read end for stderr.
        stderr: bool,
    },
    /// Sets the size of a container's terminal.
    Resize {
        /// Container id.
        container: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Opens the log file anew.
    ReopenLog {
        /// Container id.
        container: String,
    },
    /// Kills everything and ends the shim; answered when all processes are gone.
    Stop,
    /// Sends events on this connection from now on.
    Subscribe,
}

/// Where a container's root filesystem comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overlay {
    /// Directory that relative lower directories are relative to.
    pub base: PathBuf,
    /// Lower directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// overlayfs's work directory.
    pub work: PathBuf,
}

/// Who the process runs as, before the image's files are asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct User {
    /// `user[:group]` by name or number, from the image.
    pub image_user: String,
    /// `runAsUser`.
    pub uid: Option<u32>,
    /// `runAsGroup`.
    pub gid: Option<u32>,
    /// Groups beside those of the image's /etc/group.
    pub groups: Vec<u32>,
    /// No groups from the image's /etc/group.
    pub strict_groups: bool,
    /// Refuse uid 0.
    pub non_root: bool,
}

/// A container to start. The bundle holds `config.json`, an empty `rootfs` directory and, later, the [`Record`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// Container id: a file name.
    pub container: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Root filesystem.
    pub overlay: Overlay,
    /// Who it runs as.
    pub user: User,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin when the first attach ends.
    pub stdin_once: bool,
    /// Log file.
    pub log: PathBuf,
    /// Mounts of the container show on the host (`Bidirectional`).
    pub shared_mounts: bool,
    /// The container has no PID namespace of its own: its processes outlive its first.
    pub foreign_pid_namespace: bool,
    /// The container's cgroup in every hierarchy, existing or to be made by libcontainer.
    pub cgroups: Vec<PathBuf>,
    /// File that counts kills for want of memory.
    pub oom_file: Option<PathBuf>,
}

/// A command to run in a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Container id.
    pub container: String,
    /// Command.
    pub args: Vec<String>,
    /// Wire stdin.
    pub stdin: bool,
    /// Wire stdout.
    pub stdout: bool,
    /// Wire stderr.
    pub stderr: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at its start.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    /// Kill it after so many milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What the shim sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// Answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// How it went.
        outcome: Outcome,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// How a request went.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// The shim.
    State {
        /// Its pid.
        pid: i32,
        /// The pause process, with a shared PID namespace.
        pause_pid: Option<i32>,
        /// Running containers with their first process.
        running: Vec<(String, i32)>,
    },
    /// Started; or an exec under way, its number and its streams (in `streams` order beside the message).
    Streams {
        /// Number of the exec; 0 for attach.
        exec: u64,
        /// What the descriptors are: `stdin`, `stdout`, `stderr`, `pty`.
        streams: Vec<Stream>,
    },
    /// Refused or failed.
    Failed(Failure),
}

/// What a descriptor beside a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Write end of stdin.
    Stdin,
    /// Read end of stdout.
    Stdout,
    /// Read end of stderr.
    Stderr,
    /// Master of the terminal.
    Pty,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
}

impl Failure {
    /// A failure in words.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No such container, or it isn't running.
    NotFound,
    /// It exists already.
    Exists,
    /// The process could not be started.
    Start,
    /// Anything else.
    Other,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container's first process was started.
    Started {
        /// Container id.
        container: String,
    },
    /// A container's first process ended; its [`Record`] says how.
    Exited {
        /// Container id.
        container: String,
    },
    /// An exec of this connection ended.
    ExecExited {
        /// Its number.
        exec: u64,
        /// Exit code; 128 + n for a signal n.
        code: i32,
        /// Killed because its time was up.
        timed_out: bool,
    },
}

/// What is known of a container, in its bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Host pid of its first process, once started.
    pub pid: Option<i32>,
    /// When, in RFC 3339.
    pub started_at: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + n for a signal n; 128 when it could not be started.
    pub code: i32,
    /// The kernel killed it for want of memory.
    pub oom_killed: bool,
    /// When, in RFC 3339.
    pub finished_at: String,
    /// Why it could not be started.
    pub message: String,
}
