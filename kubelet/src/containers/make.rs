//! Making and removing containers: bundle, specification, hold on the image; the process is the shim's to start.

use std::path::PathBuf;

use keelson_shim::{Overlay, Request, Start, User};
use nix::mount::{MntFlags, umount2};

use super::images::image_ref;
use super::layout::{ContainerFile, SandboxFile, shim_id, write_json};
use super::runtime::{KeelsonRuntime, remove_tree};
use super::sandbox::{Sandbox, other, refused};
use super::spec::{self, Surroundings};
use super::{host, signal};
use crate::runtime::{
    ContainerRef, ContainerSpec, ContainerState, ContainerStatus, Result, RuntimeError,
};

impl KeelsonRuntime {
    fn start_request(
        &self,
        spec: &ContainerSpec,
        sandbox: &SandboxFile,
        id: &str,
        image: &keelson_image::Image,
        user: String,
    ) -> Start {
        let inner = &self.inner;
        let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
        let security = &spec.security;
        let cgroup = format!("{}/{id}", sandbox.cgroup);
        let writable = inner.layout.writable(id);
        Start {
            container: shim_id(&spec.container),
            bundle: inner.layout.bundle(&spec.container),
            overlay: Overlay {
                base: inner.images.root().to_owned(),
                lower: inner.images.lower_directories(image),
                upper: writable.join("upper"),
                work: writable.join("work"),
            },
            user: User {
                image_user: user,
                uid: number(security.run_as_user),
                gid: number(security.run_as_group),
                groups: security
                    .supplemental_groups
                    .iter()
                    .filter_map(|group| u32::try_from(*group).ok())
                    .collect(),
                strict_groups: security.strict_groups,
                non_root: security.run_as_non_root,
            },
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            log: sandbox.log_directory.join(&spec.log_path),
            shared_mounts: spec
                .mounts
                .iter()
                .any(|mount| mount.propagation == crate::runtime::Propagation::Bidirectional),
            foreign_pid_namespace: sandbox.host_pid
                || sandbox.shared_pid
                || spec.target_container.is_some(),
            cgroups: inner.hierarchies.directories(&cgroup),
            oom_file: inner.hierarchies.oom_file(&cgroup),
        }
    }

    pub(super) async fn pid_namespace(
        &self,
        spec: &ContainerSpec,
        sandbox: &Sandbox,
    ) -> Result<Option<String>> {
        if let Some(target) = &spec.target_container {
            let file = self.container_file(target)?;
            let status = self
                .inner
                .layout
                .status(&target.pod_uid, &file)
                .map_err(other)?;
            return match status.state {
                ContainerState::Running { pid, .. } => Ok(Some(format!("/proc/{pid}/ns/pid"))),
                _ => Err(RuntimeError::Create(format!(
                    "target container {:?} is not running",
                    target.name
                ))),
            };
        }
        let file = sandbox.file();
        if file.host_pid {
            return Ok(None);
        }
        if !file.shared_pid {
            return Ok(Some(String::new()));
        }
        let pause = sandbox.pause_pid().await.map_err(refused)?;
        let pause = pause
            .ok_or_else(|| RuntimeError::Create("the pod's shared PID namespace is gone".into()))?;
        Ok(Some(format!("/proc/{pause}/ns/pid")))
    }

    pub(super) async fn make_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus> {
        let inner = &self.inner;
        let sandbox = self.get(&spec.container.pod_uid)?;
        let created = |error: &dyn std::fmt::Display| RuntimeError::Create(error.to_string());
        let file = sandbox.file();
        let image = inner
            .images
            .find(&spec.image_id)?
            .ok_or_else(|| RuntimeError::NotFound(format!("image {:?}", spec.image_id)))?;
        let config = inner.images.config(&image.id)?.config;
        let stop_signal = spec
            .stop_signal
            .as_deref()
            .or(Some(config.stop_signal.as_str()))
            .filter(|name| !name.is_empty());
        let stop_signal = match stop_signal {
            None => nix::libc::SIGTERM,
            Some(name) => signal::parse(name)
                .ok_or_else(|| created(&format!("invalid stop signal {name:?}")))?,
        };
        let id = host::random_id();
        let bundle = inner.layout.bundle(&spec.container);
        std::fs::create_dir_all(bundle.join("rootfs")).map_err(|error| created(&error))?;
        let start = self.start_request(spec, &file, &id, &image, config.user.clone());
        let pod = inner.layout.pod(&file.uid);
        let host =
            std::fs::read_to_string(pod.join("hostname")).map_err(|error| created(&error))?;
        let around = Surroundings {
            image: &config,
            root: &bundle.join("rootfs"),
            cgroup: &format!("{}/{id}", file.cgroup),
            hierarchies: &inner.hierarchies,
            shm: &if file.host_ipc {
                PathBuf::from("/dev/shm")
            } else {
                pod.join("shm")
            },
            hostname: &pod.join("hostname"),
            host: host.trim(),
            pid_namespace: self.pid_namespace(spec, &sandbox).await?,
            possible: &inner.possible,
            lowest_oom_score: inner.lowest_oom_score,
        };
        let json = spec::build(spec, &around).map_err(|message| created(&message))?;
        for mount in &spec.mounts {
            if !mount.host_path.exists() {
                let path = mount.host_path.display();
                return Err(created(&format!(
                    "failed to generate container spec: stat {path}: no such file or directory"
                )));
            }
        }
        write_json(&bundle.join("config.json"), &json).map_err(|error| created(&error))?;
        inner.images.hold(&image.id, &id, &bundle)?;
        let container = ContainerFile {
            id,
            name: spec.container.name.clone(),
            attempt: spec.container.attempt,
            image: spec.image.clone(),
            image_ref: image_ref(&image, &spec.image),
            image_id: image.id,
            stop_signal,
            cgroup: around.cgroup.to_owned(),
            start,
        };
        inner
            .layout
            .write_container(&spec.container, &container)
            .map_err(|error| created(&error))?;
        inner.layout.status(&file.uid, &container).map_err(other)
    }

    pub(super) async fn clear_container(
        &self,
        container: &ContainerRef,
        file: &ContainerFile,
    ) -> Result<()> {
        let inner = &self.inner;
        if let Some(sandbox) = self
            .find(&container.pod_uid)
            .filter(|sandbox| sandbox.alive())
        {
            sandbox
                .call(Request::Delete {
                    container: shim_id(container),
                })
                .await
                .map_err(refused)?;
        }
        inner
            .hierarchies
            .remove(&file.cgroup)
            .await
            .map_err(other)?;
        inner.images.release(&file.image_id, &file.id)?;
        let bundle = inner.layout.bundle(container);
        // Mounted on the host only for a container with bidirectional mounts.
        let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
        let writable = inner.layout.writable(&file.id);
        tokio::task::spawn_blocking(move || {
            // The bundle last: what names the writable layer goes after it.
            remove_tree(&writable).and_then(|()| remove_tree(&bundle))
        })
        .await
        .map_err(other)?
        .map_err(other)
    }
}
