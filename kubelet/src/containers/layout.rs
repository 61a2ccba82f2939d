//! The runtime's files: what is written where, so that a restarted kubelet finds everything again.
//!
//! ```text
//! <state>/pods/<uid>/sandbox.json                the sandbox, written when it is complete
//! <state>/pods/<uid>/shim.json, shim.sock        the shim's configuration and socket
//! <state>/pods/<uid>/shm                         the pod's /dev/shm
//! <state>/pods/<uid>/containers/<name>_<n>/      bundle: container.json, config.json, state.json (by the shim), rootfs
//! <containers>/<id>/{upper,work}                 writable layer
//! ```

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keelson_shim::{RECORD, Record, Start};
use serde::{Deserialize, Serialize};

use crate::runtime::{ContainerRef, ContainerState, ContainerStatus, PodRef};

/// What `sandbox.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxFile {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// uid of the pod.
    pub uid: String,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The shim.
    pub shim_pid: i32,
    /// The pod has the node's network.
    pub host_network: bool,
    /// The pod has the node's processes.
    pub host_pid: bool,
    /// The pod has the node's IPC.
    pub host_ipc: bool,
    /// The containers share one PID namespace, held by a pause process.
    pub shared_pid: bool,
    /// The pod's cgroup, relative to the hierarchies' roots.
    pub cgroup: String,
    /// Where logs go.
    pub log_directory: PathBuf,
    /// It was told to stop.
    pub stopped: bool,
}

impl SandboxFile {
    /// Whose it is.
    pub fn pod(&self) -> PodRef {
        PodRef {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What `container.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerFile {
    /// 64 hex digits.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// Which start.
    pub attempt: u32,
    /// Image as written.
    pub image: String,
    /// `repository@sha256:…`, or the id.
    pub image_ref: String,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    /// Signal that stops it.
    pub stop_signal: i32,
    /// What the shim is asked.
    pub start: Start,
    /// The container's cgroup, relative to the hierarchies' roots.
    pub cgroup: String,
}

/// Paths of the runtime.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
    containers: PathBuf,
}

impl Layout {
    /// Makes the directories, for root only.
    pub fn new(state: &Path, containers: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        for path in [&state.join("pods"), containers] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)?;
        }
        Ok(Self {
            state: state.to_owned(),
            containers: containers.to_owned(),
        })
    }

    /// The pods' directories.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// A pod's directory. Uids are checked where they come in: see [`file_name`].
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// A container's bundle.
    pub fn bundle(&self, container: &ContainerRef) -> PathBuf {
        self.pod(&container.pod_uid)
            .join("containers")
            .join(shim_id(container))
    }

    /// A container's writable layer.
    pub fn writable(&self, id: &str) -> PathBuf {
        self.containers.join(id)
    }

    /// All writable layers.
    pub fn writable_root(&self) -> &Path {
        &self.containers
    }

    /// uids of the pods that have a directory.
    pub fn pod_uids(&self) -> io::Result<Vec<String>> {
        names(&self.pods())
    }

    /// Reads a pod's sandbox.
    pub fn read_sandbox(&self, uid: &str) -> io::Result<Option<SandboxFile>> {
        read_json(&self.pod(uid).join("sandbox.json"))
    }

    /// Writes a pod's sandbox.
    pub fn write_sandbox(&self, file: &SandboxFile) -> io::Result<()> {
        write_json(&self.pod(&file.uid).join("sandbox.json"), file)
    }

    /// Reads a container.
    pub fn read_container(&self, container: &ContainerRef) -> io::Result<Option<ContainerFile>> {
        read_json(&self.bundle(container).join("container.json"))
    }

    /// Writes a container.
    pub fn write_container(
        &self,
        container: &ContainerRef,
        file: &ContainerFile,
    ) -> io::Result<()> {
        write_json(&self.bundle(container).join("container.json"), file)
    }

    /// What the shim recorded of a container.
    pub fn read_record(&self, container: &ContainerRef) -> io::Result<Record> {
        Ok(read_json(&self.bundle(container).join(RECORD))?.unwrap_or_default())
    }

    /// Records in the shim's stead, once it is dead.
    pub fn write_record(&self, container: &ContainerRef, record: &Record) -> io::Result<()> {
        write_json(&self.bundle(container).join(RECORD), record)
    }

    /// The containers of a pod.
    pub fn containers(&self, uid: &str) -> io::Result<Vec<ContainerFile>> {
        let directory = self.pod(uid).join("containers");
        let mut found = Vec::new();
        for name in names(&directory)? {
            // A bundle without the file was left by a crash in the middle of its making.
            if let Some(file) = read_json(&directory.join(name).join("container.json"))? {
                found.push(file);
            }
        }
        Ok(found)
    }

    /// A container's status by its files.
    pub fn status(&self, uid: &str, file: &ContainerFile) -> io::Result<ContainerStatus> {
        let container = ContainerRef {
            pod_uid: uid.to_owned(),
            name: file.name.clone(),
            attempt: file.attempt,
        };
        let state = state_of(&self.read_record(&container)?);
        Ok(ContainerStatus {
            container,
            id: format!("keelson://{}", file.id),
            image: file.image.clone(),
            image_id: file.image_ref.clone(),
            state,
            log_path: file.start.log.clone(),
        })
    }
}

fn state_of(record: &Record) -> ContainerState {
    let time = |text: &String| text.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
    let started_at = record.started_at.as_ref().map(time);
    match (&record.exit, record.pid, started_at) {
        (Some(exit), _, started_at) => ContainerState::Exited {
            exit_code: exit.code,
            oom_killed: exit.oom_killed,
            started_at,
            finished_at: time(&exit.finished_at),
            message: exit.message.clone(),
        },
        (None, Some(pid), Some(started_at)) => ContainerState::Running { pid, started_at },
        _ => ContainerState::Created,
    }
}

/// The shim's name for a container.
pub fn shim_id(container: &ContainerRef) -> String {
    format!("{}_{}", container.name, container.attempt)
}

/// The name and the attempt in [`shim_id`].
pub fn parse_shim_id(uid: &str, id: &str) -> Option<ContainerRef> {
    let (name, attempt) = id.rsplit_once('_')?;
    Some(ContainerRef {
        pod_uid: uid.to_owned(),
        name: name.to_owned(),
        attempt: attempt.parse().ok()?,
    })
}

/// Whether text that becomes a file name is harmless.
pub fn file_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", path.display()),
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A reader sees the old file or the new one.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, serde_json::to_vec(value)?)?;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use keelson_shim::Exit;

    use super::*;

    #[test]
    fn states_by_record() {
        assert_eq!(state_of(&Record::default()), ContainerState::Created);
        let mut record = Record {
            pid: Some(7),
            started_at: Some("2026-01-01T00:00:00.000000001Z".into()),
            exit: None,
        };
        assert!(matches!(
            state_of(&record),
            ContainerState::Running { pid: 7, .. }
        ));
        record.exit = Some(Exit {
            code: 3,
            oom_killed: true,
            finished_at: "2026-01-01T00:00:01Z".into(),
            message: String::new(),
        });
        assert!(matches!(
            state_of(&record),
            ContainerState::Exited {
                exit_code: 3,
                oom_killed: true,
                ..
            }
        ));
    }

    #[test]
    fn names_that_become_files() {
        for (name, good) in [
            ("a-b.c_1", true),
            ("", false),
            ("..", false),
            (".x", false),
            ("a/b", false),
            ("a\0", false),
        ] {
            assert_eq!(file_name(name), good, "{name:?}");
        }
        let container = ContainerRef {
            pod_uid: "u".into(),
            name: "a_b".into(),
            attempt: 3,
        };
        assert_eq!(parse_shim_id("u", &shim_id(&container)), Some(container));
    }
}
