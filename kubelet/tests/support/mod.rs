//! A runtime in directories and cgroups of its own, with a busybox image that the test assembles.

#![allow(dead_code)] // each test uses its part

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kubelet::containers::{Config, KeelsonRuntime};
use kubelet::runtime::{
    ContainerRef, ContainerSpec, ContainerState, ContainerStatus, ExecRequest, Namespaces, PodRef,
    Resources, Runtime, SandboxSpec, Security, Session,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

/// Says so and returns true where the test can't run.
pub fn skipped() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return true;
    }
    if busybox().is_none() {
        eprintln!("SKIPPED: needs busybox-static");
        return true;
    }
    false
}

fn busybox() -> Option<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
}

/// The shim beside the test's own program, built if it is missing.
pub fn shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().unwrap().parent().unwrap();
    let shim = directory.join("keelson-shim");
    static BUILD: std::sync::Once = std::sync::Once::new();
    BUILD.call_once(|| {
        if !shim.exists() {
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            build
                .args(["build", "-p", "keelson-shim"])
                .current_dir(env!("CARGO_MANIFEST_DIR"));
            if directory.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "the shim does not build");
        }
    });
    shim
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An OCI layout tar of busybox with its applets.
pub fn busybox_image(path: &Path, name: &str) {
    let program = std::fs::read(busybox().unwrap()).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, data: &[u8], link: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        layer.append_data(&mut header, path, data).unwrap();
    };
    for directory in ["bin/", "etc/", "proc/", "sys/", "dev/", "root/"] {
        add(directory, tar::EntryType::Directory, b"", "", 0o755);
    }
    add("tmp/", tar::EntryType::Directory, b"", "", 0o1777);
    add("bin/busybox", tar::EntryType::Regular, &program, "", 0o755);
    for applet in [
        "sh", "sleep", "echo", "cat", "id", "ls", "env", "true", "false", "stty", "tty", "head",
        "yes", "dd", "mknod", "mount", "ip", "nc", "ping", "wget", "hostname", "grep", "ps",
        "kill", "trap", "touch", "wc", "readlink", "httpd", "unshare", "seq", "stat", "df",
    ] {
        add(
            &format!("bin/{applet}"),
            tar::EntryType::Symlink,
            b"",
            "busybox",
            0o777,
        );
    }
    add(
        "etc/passwd",
        tar::EntryType::Regular,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/tmp:/bin/sh\n",
        "",
        0o644,
    );
    add(
        "etc/group",
        tar::EntryType::Regular,
        b"root:x:0:\nwheel:x:10:root,web\nweb:x:1001:\n",
        "",
        0o644,
    );
    add(
        "etc/plain",
        tar::EntryType::Regular,
        b"not a program",
        "",
        0o644,
    );
    let layer = layer.into_inner().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Env": ["PATH=/bin", "IMAGE=yes"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", hex(config.as_bytes())), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", hex(&layer)), "size": layer.len()}],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", hex(manifest.as_bytes())),
            "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": name}}],
    })
    .to_string();
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |path: String, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, data).unwrap();
    };
    add("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json".into(), index.as_bytes());
    for blob in [manifest.as_bytes(), config.as_bytes(), &layer] {
        add(format!("blobs/sha256/{}", hex(blob)), blob);
    }
    archive.finish().unwrap();
}

/// Runs a test in a network namespace of its own, on a runtime whose threads are all in it.
pub fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if skipped() {
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(240), test()).await })
            .unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A runtime of one test.
pub struct Host {
    pub directory: tempfile::TempDir,
    pub config: Config,
    pub runtime: KeelsonRuntime,
    pub image: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Host {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            state_dir: directory.path().join("run"),
            container_root: directory.path().join("containers"),
            image_root: directory.path().join("images"),
            cni_config_dir: directory.path().join("cni"),
            cgroup_root: format!("keelson-test-{}-{number}", std::process::id()),
            shim: shim(),
            ..Config::new("test-node")
        };
        let runtime = KeelsonRuntime::start(config.clone()).await.unwrap();
        runtime.set_pod_ranges(&["10.99.0.0/24".parse().unwrap()]);
        let archive = directory.path().join("busybox.tar");
        busybox_image(&archive, "test/busybox:1");
        let images = runtime.images().import(&archive, None).await.unwrap();
        let image = images[0].id.clone();
        Self {
            directory,
            config,
            runtime,
            image,
        }
    }

    /// Replaces the runtime by a fresh one over the same directories, as a restarted kubelet has it.
    pub async fn restart(&mut self) {
        self.runtime = KeelsonRuntime::start(self.config.clone()).await.unwrap();
        self.runtime
            .set_pod_ranges(&["10.99.0.0/24".parse().unwrap()]);
    }

    pub fn pod(&self, name: &str) -> SandboxSpec {
        SandboxSpec {
            pod: PodRef {
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                name: name.into(),
            },
            hostname: name.into(),
            namespaces: Namespaces::default(),
            sysctls: Default::default(),
            port_mappings: vec![],
            cgroup: format!("burstable/poduid-{name}"),
            resources: Resources::default(),
            log_directory: self.directory.path().join("logs").join(name),
        }
    }

    pub fn container(&self, pod: &SandboxSpec, name: &str, command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            container: ContainerRef {
                pod_uid: pod.pod.uid.clone(),
                name: name.into(),
                attempt: 0,
            },
            pod: pod.pod.clone(),
            image_id: self.image.clone(),
            image: "test/busybox:1".into(),
            command: command.iter().map(|text| (*text).to_owned()).collect(),
            args: vec![],
            working_dir: None,
            env: vec![],
            mounts: vec![],
            devices: vec![],
            resources: Resources::default(),
            security: Security::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
            log_path: format!("{name}/0.log").into(),
            target_container: None,
            stop_signal: None,
        }
    }

    /// Creates and starts.
    pub async fn start(&self, spec: &ContainerSpec) -> ContainerStatus {
        self.runtime.create_container(spec).await.unwrap();
        self.runtime.start_container(&spec.container).await.unwrap()
    }

    pub async fn status(&self, container: &ContainerRef) -> ContainerStatus {
        let sandbox = self
            .runtime
            .sandbox(&container.pod_uid)
            .await
            .unwrap()
            .unwrap();
        sandbox
            .containers
            .into_iter()
            .find(|found| found.container == *container)
            .unwrap()
    }

    /// Waits for the end; exit code and whether it was an OOM kill.
    pub async fn wait(&self, container: &ContainerRef) -> (i32, bool) {
        let mut events = self.runtime.events();
        for _ in 0..600 {
            if let ContainerState::Exited {
                exit_code,
                oom_killed,
                ..
            } = self.status(container).await.state
            {
                return (exit_code, oom_killed);
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        }
        panic!("{container:?} does not end");
    }

    /// The log's lines without their times.
    pub fn log(&self, spec: &ContainerSpec) -> Vec<String> {
        let path = self
            .directory
            .path()
            .join("logs")
            .join(&spec.pod.name)
            .join(&spec.log_path);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// Runs a command: exit code, stdout, stderr.
    pub async fn exec(&self, container: &ContainerRef, command: &[&str]) -> (i32, String, String) {
        let request = ExecRequest {
            command: command.iter().map(|text| (*text).to_owned()).collect(),
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let session = self.runtime.exec(container, &request).await.unwrap();
        finish(session).await
    }

    /// Removes everything and checks that nothing is left.
    pub async fn close(self) {
        for sandbox in self.runtime.list().await.unwrap() {
            self.runtime.remove_sandbox(&sandbox.pod.uid).await.unwrap();
        }
        assert!(
            std::fs::read_dir(self.directory.path().join("containers"))
                .unwrap()
                .next()
                .is_none(),
            "writable layers are left"
        );
        assert!(
            std::fs::read_dir(self.directory.path().join("run/pods"))
                .unwrap()
                .next()
                .is_none(),
            "pods are left"
        );
        remove_cgroups(&self.config.cgroup_root);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.directory.path().to_str().unwrap()),
            "mounts are left"
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // After a failed test: nothing may be left either.
        if std::thread::panicking() {
            kill_cgroups(&self.config.cgroup_root);
            for line in std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap_or_default()
                .lines()
            {
                let point = line.split(' ').nth(4).unwrap_or("");
                if point.starts_with(self.directory.path().to_str().unwrap_or("/nowhere")) {
                    let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
                }
            }
            remove_cgroups(&self.config.cgroup_root);
        }
    }
}

fn cgroup_directories(root: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let top = Path::new("/sys/fs/cgroup");
    let mut roots = vec![top.join(root)];
    roots.extend(
        std::fs::read_dir(top)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join(root)),
    );
    for root in roots {
        let mut stack = vec![root];
        while let Some(directory) = stack.pop() {
            if directory.is_dir() {
                stack.extend(
                    std::fs::read_dir(&directory)
                        .into_iter()
                        .flatten()
                        .flatten()
                        .map(|entry| entry.path())
                        .filter(|path| path.is_dir()),
                );
                found.push(directory);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

fn kill_cgroups(root: &str) {
    for directory in cgroup_directories(root) {
        for pid in std::fs::read_to_string(directory.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            if let Ok(pid) = pid.parse() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::SIGKILL,
                );
            }
        }
    }
}

fn remove_cgroups(root: &str) {
    for _ in 0..100 {
        for directory in cgroup_directories(root) {
            let _ = std::fs::remove_dir(directory);
        }
        if cgroup_directories(root).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("cgroups are left: {:?}", cgroup_directories(root));
}

/// Reads a pipe to its end.
pub async fn read_all(fd: Option<OwnedFd>) -> String {
    let Some(fd) = fd else { return String::new() };
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).unwrap();
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Exit code, stdout, stderr.
pub async fn finish(session: Session) -> (i32, String, String) {
    drop(session.stdin);
    let (stdout, stderr, code) = tokio::time::timeout(Duration::from_secs(30), async {
        tokio::join!(
            read_all(session.stdout),
            read_all(session.stderr),
            session.exit
        )
    })
    .await
    .unwrap();
    (code.unwrap(), stdout, stderr)
}
