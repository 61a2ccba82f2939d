//! Making and ending sandboxes: directory, cgroup, shim, network.

use std::path::Path;

use keelson_shim::{Request, SANDBOX};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::layout::{SandboxFile, write_json};
use super::network::Attachment;
use super::runtime::{KeelsonRuntime, SHIMS, netns};
use super::sandbox::{bury, other};
use crate::runtime::{Resources, Result, RuntimeError, SandboxSpec};

impl KeelsonRuntime {
    /// Makes the sandbox's directory, cgroup, shim and network.
    pub(super) async fn make_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxFile> {
        let inner = &self.inner;
        let uid = &spec.pod.uid;
        let failed = |error: std::io::Error| RuntimeError::Sandbox(error.to_string());
        let directory = inner.layout.pod(uid);
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join("containers"))
            .map_err(failed)?;
        std::fs::write(directory.join("hostname"), format!("{}\n", spec.hostname))
            .map_err(failed)?;
        let cgroup = self.pod_cgroup(&spec.cgroup);
        inner
            .hierarchies
            .create(&cgroup, &spec.resources)
            .map_err(failed)?;
        let namespaces = spec.namespaces;
        // A leaf: version 2 has no processes beside child cgroups.
        let pause = format!("{cgroup}/pause");
        if namespaces.share_pid {
            inner
                .hierarchies
                .create(&pause, &Resources::default())
                .map_err(failed)?;
        }
        if !namespaces.host_ipc {
            shared_memory(&directory.join("shm")).map_err(failed)?;
        }
        let sandbox = keelson_shim::Sandbox {
            hostname: (!namespaces.host_network).then(|| spec.hostname.clone()),
            new_network: !namespaces.host_network,
            new_ipc: !namespaces.host_ipc,
            shared_pid: namespaces.share_pid,
            sysctls: sysctls(spec),
            pause_cgroups: inner.hierarchies.directories(&pause),
        };
        write_json(&directory.join(SANDBOX), &sandbox).map_err(failed)?;
        let shims = format!("{}/{SHIMS}", inner.config.cgroup_root);
        let join = |pid| {
            if let Err(error) = inner.hierarchies.join(&shims, pid) {
                tracing::warn!(%error, "a shim stays in the kubelet's cgroup");
            }
        };
        let shim_pid = inner
            .program
            .spawn(&directory, join)
            .await
            .map_err(failed)?;
        let file = SandboxFile {
            namespace: spec.pod.namespace.clone(),
            name: spec.pod.name.clone(),
            uid: uid.clone(),
            ips: Vec::new(),
            created_at: jiff::Timestamp::now(),
            shim_pid,
            host_network: namespaces.host_network,
            host_pid: namespaces.host_pid,
            host_ipc: namespaces.host_ipc,
            shared_pid: namespaces.share_pid,
            cgroup,
            log_directory: spec.log_directory.clone(),
            stopped: false,
        };
        Ok(file)
    }

    /// Gives the sandbox its addresses.
    pub(super) async fn attach_network(
        &self,
        spec: &SandboxSpec,
        file: &mut SandboxFile,
    ) -> Result<()> {
        if file.host_network {
            return Ok(());
        }
        let attachment = Attachment {
            uid: file.uid.clone(),
            namespace: file.namespace.clone(),
            name: file.name.clone(),
            netns: netns(file.shim_pid),
            ports: spec.port_mappings.clone(),
        };
        let attached = self.inner.network.attach(&attachment).await;
        file.ips = attached.map_err(|error| {
            RuntimeError::Sandbox(format!(
                "failed to setup network for sandbox of pod {}: {error}",
                file.uid
            ))
        })?;
        Ok(())
    }

    /// Makes all of a sandbox; written last, as only a complete one counts after a crash.
    pub(super) async fn make_all(&self, spec: &SandboxSpec) -> Result<SandboxFile> {
        let mut file = self.make_sandbox(spec).await?;
        self.attach_network(spec, &mut file).await?;
        self.inner
            .layout
            .write_sandbox(&file)
            .map_err(|error| RuntimeError::Sandbox(error.to_string()))?;
        Ok(file)
    }

    /// Ends a sandbox; the caller holds its lock.
    pub(super) async fn end_sandbox(&self, pod_uid: &str) -> Result<()> {
        let inner = &self.inner;
        let file = match self.find(pod_uid) {
            Some(sandbox) => {
                let file = sandbox.update(|file| file.stopped = true);
                inner.layout.write_sandbox(&file).map_err(other)?;
                if sandbox.alive() {
                    // An error means that it is gone, which is what we want.
                    let _ = sandbox.call(Request::Stop).await;
                }
                file
            }
            None => match inner.layout.read_sandbox(pod_uid).map_err(other)? {
                Some(file) => file,
                None => return Ok(()),
            },
        };
        bury(&inner.layout, &inner.hierarchies, &file).map_err(other)?;
        if !file.host_network {
            inner.network.detach(pod_uid).await.map_err(other)?;
        }
        Ok(())
    }

    /// Ends whatever is there of a half-made sandbox. What an earlier one of the pod left stays known.
    pub(super) async fn discard(&self, uid: &str, previous: Option<SandboxFile>) {
        let directory = self.inner.layout.pod(uid);
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        if let Ok(client) = super::client::Client::connect(&directory, events)
            && let Err(failure) = client.call(Request::Stop).await
        {
            tracing::debug!(uid, %failure, "stop of a half-made sandbox");
        }
        if let Err(error) = self.inner.network.detach(uid).await {
            tracing::warn!(uid, %error, "cannot take down the network of a half-made sandbox");
        }
        let _ = umount2(&directory.join("shm"), MntFlags::MNT_DETACH);
        if let Some(mut file) = previous {
            file.stopped = true;
            file.ips.clear();
            if let Err(error) = self.inner.layout.write_sandbox(&file) {
                tracing::warn!(uid, %error, "cannot keep the record of a stopped sandbox");
            }
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            tracing::warn!(uid, %error, "cannot remove a half-made sandbox");
        }
    }
}

/// The pod's sysctls; unprivileged ports and pings are free inside a pod's own network, as CRI runtimes have it.
fn sysctls(spec: &SandboxSpec) -> Vec<(String, String)> {
    let mut sysctls: Vec<(String, String)> = Vec::new();
    if !spec.namespaces.host_network {
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ] {
            sysctls.push((name.to_owned(), value.to_owned()));
        }
    }
    for (name, value) in &spec.sysctls {
        sysctls.retain(|(known, _)| known.replace('/', ".") != name.replace('/', "."));
        sysctls.push((name.clone(), value.clone()));
    }
    sysctls
}

/// The pod's /dev/shm: 64 MiB, as CRI runtimes have it.
fn shared_memory(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = std::fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .any(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|point| Path::new(point) == path)
        });
    if !mounted {
        mount(
            Some("shm"),
            path,
            Some("tmpfs"),
            flags,
            Some("mode=1777,size=67108864"),
        )?;
    }
    Ok(())
}
