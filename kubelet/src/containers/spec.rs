//! OCI's `config.json` for a container: process, mounts, namespaces, cgroup, and everything that confines it.
//!
//! Users are resolved later, by the shim, which sees the root filesystem.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keelson_image::RuntimeConfig;
use serde_json::{Map, Value, json};

use super::cgroup::{Hierarchies, weight};
use super::host::all_capabilities;
use super::seccomp;
use crate::runtime::{ContainerSpec, Mount, Propagation, Resources, Seccomp};

/// What every container may do, unless told otherwise.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Hidden from containers.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];

/// Where cgroups show.
const CGROUP: &str = "/sys/fs/cgroup";

/// Read-only in containers.
const READ_ONLY: [&str; 6] = [
    CGROUP,
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where the process lives.
pub struct Surroundings<'a> {
    /// Environment and command of the image.
    pub image: &'a RuntimeConfig,
    /// Empty directory for the root filesystem.
    pub root: &'a Path,
    /// The container's cgroup, relative to the hierarchies' roots.
    pub cgroup: &'a str,
    /// The host's hierarchies.
    pub hierarchies: &'a Hierarchies,
    /// The pod's /dev/shm.
    pub shm: &'a Path,
    /// The pod's /etc/hostname; /etc/hosts and /etc/resolv.conf come as mounts.
    pub hostname: &'a Path,
    /// The hostname itself.
    pub host: &'a str,
    /// The PID namespace to join: `Some("")` for one of its own, `None` for the node's.
    pub pid_namespace: Option<String>,
    /// Capabilities that this machine's root has (without `CAP_`).
    pub possible: &'a BTreeSet<String>,
    /// The lowest OOM score that can be set here.
    pub lowest_oom_score: i32,
}

/// Builds `config.json`.
pub fn build(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Value, String> {
    let capabilities = capabilities(spec, around.possible)?;
    let list: Vec<String> = capabilities
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": 0, "gid": 0},
        "args": arguments(spec, around.image)?,
        "env": environment(spec, around),
        "cwd": working_directory(spec, around.image),
        "capabilities": {"bounding": list, "effective": list, "permitted": list, "inheritable": [], "ambient": []},
    });
    // libcontainer takes `false` for a wish to load seccomp late, when the right to do so is gone.
    if spec.security.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(score) = spec.resources.oom_score_adj {
        process["oomScoreAdj"] = json!(score.max(around.lowest_oom_score));
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": around.root, "readonly": spec.security.read_only_root},
        "mounts": mounts(spec, around),
        "linux": linux(spec, around, &capabilities)?,
        "annotations": {
            "io.kubernetes.container.name": spec.container.name,
            "io.kubernetes.pod.name": spec.pod.name,
            "io.kubernetes.pod.namespace": spec.pod.namespace,
            "io.kubernetes.pod.uid": spec.pod.uid,
        },
    }))
}

/// The pod's command replaces the image's entrypoint and drops its arguments; the pod's arguments replace the image's.
fn arguments(spec: &ContainerSpec, image: &RuntimeConfig) -> Result<Vec<String>, String> {
    let mut arguments = if spec.command.is_empty() {
        image.entrypoint.clone()
    } else {
        spec.command.clone()
    };
    if !spec.args.is_empty() {
        arguments.extend(spec.args.iter().cloned());
    } else if spec.command.is_empty() {
        arguments.extend(image.cmd.iter().cloned());
    }
    if arguments.is_empty() {
        Err("no command specified".to_owned())
    } else {
        Ok(arguments)
    }
}

/// The image's variables, then the pod's in their place or after them.
fn environment(spec: &ContainerSpec, around: &Surroundings<'_>) -> Vec<String> {
    let mut environment: Vec<(String, String)> = Vec::new();
    let mut set =
        |name: &str, value: &str| match environment.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => environment.push((name.to_owned(), value.to_owned())),
        };
    set(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    set("HOSTNAME", around.host);
    if spec.tty {
        set("TERM", "xterm");
    }
    for entry in &around.image.env {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &spec.env {
        set(name, value);
    }
    environment
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn working_directory(spec: &ContainerSpec, image: &RuntimeConfig) -> String {
    let wanted = spec
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(&image.working_dir);
    if wanted.starts_with('/') {
        wanted.to_owned()
    } else {
        format!("/{wanted}")
    }
}

fn capabilities(
    spec: &ContainerSpec,
    possible: &BTreeSet<String>,
) -> Result<BTreeSet<String>, String> {
    let security = &spec.security;
    let plain = |name: &String| {
        name.to_ascii_uppercase()
            .trim_start_matches("CAP_")
            .to_owned()
    };
    let mut set: BTreeSet<String> = if security.privileged {
        all_capabilities()
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    } else {
        DEFAULT_CAPABILITIES
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    };
    let (add, drop): (Vec<String>, Vec<String>) = (
        security.add_capabilities.iter().map(plain).collect(),
        security.drop_capabilities.iter().map(plain).collect(),
    );
    for name in add.iter().chain(&drop).filter(|name| *name != "ALL") {
        if !all_capabilities().contains(&name.as_str()) {
            return Err(format!("unknown capability \"CAP_{name}\""));
        }
    }
    // "ALL" is a beginning: single names given beside it go further.
    if add.iter().any(|name| name == "ALL") {
        set = all_capabilities()
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
    }
    if drop.iter().any(|name| name == "ALL") {
        set.clear();
    }
    set.extend(add.iter().filter(|name| *name != "ALL").cloned());
    for name in &drop {
        set.remove(name);
    }
    set.retain(|name| possible.contains(name));
    Ok(set)
}

fn linux(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    capabilities: &BTreeSet<String>,
) -> Result<Value, String> {
    let security = &spec.security;
    // Network, IPC and UTS are the shim's own: what it starts inherits them.
    let mut namespaces = vec![json!({"type": "mount"})];
    if around.hierarchies.unified() && !security.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    match around.pid_namespace.as_deref() {
        None => {}
        Some("") => namespaces.push(json!({"type": "pid"})),
        Some(path) => namespaces.push(json!({"type": "pid", "path": path})),
    }
    let shared = spec
        .mounts
        .iter()
        .any(|mount| mount.propagation == Propagation::Bidirectional);
    let mut linux = json!({
        "cgroupsPath": format!("/{}", around.cgroup),
        "namespaces": namespaces,
        "resources": resources(spec, around.hierarchies.unified()),
        "rootfsPropagation": if shared { "shared" } else { "slave" },
        "devices": devices(spec),
    });
    if !security.privileged && !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let profile = match &security.seccomp {
        _ if security.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(seccomp::default_profile(capabilities)),
        Seccomp::Localhost(path) => Some(seccomp::from_file(path, capabilities)?),
    };
    if let Some(profile) = profile {
        linux["seccomp"] = profile;
    }
    Ok(linux)
}

/// Limits as OCI has them.
fn resources(spec: &ContainerSpec, unified: bool) -> Value {
    let Resources {
        cpu_shares,
        cpu_quota,
        cpu_period,
        memory_limit,
        pids_limit,
        ..
    } = spec.resources;
    let mut cpu = Map::new();
    if let Some(shares) = cpu_shares {
        cpu.insert("shares".into(), json!(shares));
    }
    if let Some(quota) = cpu_quota {
        cpu.insert("quota".into(), json!(quota));
    }
    if let Some(period) = cpu_period {
        cpu.insert("period".into(), json!(period));
    }
    let mut resources = json!({"devices": device_rules(spec), "cpu": cpu});
    if let Some(limit) = memory_limit {
        resources["memory"] = json!({"limit": limit});
    }
    if let Some(limit) = pids_limit {
        resources["pids"] = json!({"limit": limit});
    }
    if unified {
        // As upstream: the whole container dies of an OOM kill, not one of its processes.
        let mut files = Map::from_iter([("memory.oom.group".to_owned(), json!("1"))]);
        if let Some(shares) = cpu_shares {
            files.insert("cpu.weight".into(), json!(weight(shares).to_string()));
        }
        resources["unified"] = Value::Object(files);
    }
    resources
}

fn device_rules(spec: &ContainerSpec) -> Value {
    if spec.security.privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, pts
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
        (136, -1),
    ] {
        let mut rule = json!({"allow": true, "type": "c", "access": "rwm", "major": major});
        if minor >= 0 {
            rule["minor"] = json!(minor);
        }
        rules.push(rule);
    }
    for device in &spec.devices {
        if let Some(node) = node(&device.host_path) {
            rules.push(
                json!({"allow": true, "type": node.kind, "major": node.major, "minor": node.minor,
                              "access": device.permissions}),
            );
        }
    }
    json!(rules)
}

struct Node {
    kind: &'static str,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

fn node(path: &Path) -> Option<Node> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let metadata = std::fs::metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    let device = metadata.rdev();
    Some(Node {
        kind,
        major: nix::sys::stat::major(device),
        minor: nix::sys::stat::minor(device),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn devices(spec: &ContainerSpec) -> Value {
    let mut wanted: Vec<(PathBuf, PathBuf)> = spec
        .devices
        .iter()
        .map(|device| (device.host_path.clone(), device.container_path.clone()))
        .collect();
    if spec.security.privileged {
        wanted.extend(
            host_devices(Path::new("/dev"))
                .into_iter()
                .map(|path| (path.clone(), path)),
        );
    }
    let mut seen = BTreeSet::new();
    let devices = wanted
        .into_iter()
        .filter(|(_, path)| seen.insert(path.clone()))
        .filter_map(|(host, path)| {
            let node = node(&host)?;
            Some(
                json!({"path": path, "type": node.kind, "major": node.major, "minor": node.minor,
                    "fileMode": node.mode, "uid": node.uid, "gid": node.gid}),
            )
        });
    Value::Array(devices.collect())
}

/// The host's device nodes, without terminals and what the container has of its own.
fn host_devices(directory: &Path) -> Vec<PathBuf> {
    const OWN: [&str; 12] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "console",
        "ptmx",
        "stdin",
        "stdout",
        "stderr",
    ];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if OWN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(host_devices(&path)),
            Ok(kind) if !kind.is_symlink() && node(&path).is_some() => found.push(path),
            _ => {}
        }
    }
    found
}

fn mounts(spec: &ContainerSpec, around: &Surroundings<'_>) -> Value {
    let privileged = spec.security.privileged;
    let writable = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", writable]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": around.shm, "options": ["rbind", "rprivate", "rw"]}),
    ];
    mounts.extend(cgroup_mounts(around, writable));
    let given = |path: &str| {
        spec.mounts
            .iter()
            .any(|mount| mount.container_path == Path::new(path))
    };
    if !given("/etc/hostname") {
        let mut hostname = vec!["rbind", "rprivate"];
        hostname.push(if spec.security.read_only_root {
            "ro"
        } else {
            "rw"
        });
        mounts.push(json!({"destination": "/etc/hostname", "type": "bind", "source": around.hostname, "options": hostname}));
    }
    // A mount over a parent would hide one below it: parents first. The pod's own replace ours.
    let mut wanted: Vec<&Mount> = spec.mounts.iter().collect();
    wanted.sort_by_key(|mount| mount.container_path.components().count());
    mounts.retain(|ours| {
        !wanted
            .iter()
            .any(|mount| ours["destination"] == json!(mount.container_path))
    });
    mounts.extend(wanted.into_iter().map(bind));
    Value::Array(mounts)
}

/// /sys/fs/cgroup with the container's own cgroup. libcontainer would mount version 1's writable, and a container could
/// raise its limits: each hierarchy is bound read-only instead, and [`READ_ONLY`] does the directory that they are in.
fn cgroup_mounts(around: &Surroundings<'_>, writable: &str) -> Vec<Value> {
    if around.hierarchies.unified() {
        return vec![
            json!({"destination": CGROUP, "type": "cgroup", "source": "cgroup",
                           "options": ["nosuid", "noexec", "nodev", "relatime", writable]}),
        ];
    }
    let mut mounts = vec![
        json!({"destination": CGROUP, "type": "tmpfs", "source": "tmpfs",
                                 "options": ["nosuid", "noexec", "nodev", "mode=755"]}),
    ];
    let access = if writable == "ro" { "rro" } else { "rw" };
    mounts.extend(around.hierarchies.views(around.cgroup).into_iter().map(|(name, directory)| {
        json!({"destination": format!("{CGROUP}/{name}"), "type": "bind", "source": directory,
               "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", access]})
    }));
    mounts
}

fn bind(mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (mount.read_only, mount.propagation) {
        // Recursion over mounts that still come and go is not to be had.
        (true, Propagation::None) => "rro",
        (true, _) => "ro",
        (false, _) => "rw",
    };
    json!({"destination": mount.container_path, "type": "bind", "source": mount.host_path,
           "options": ["rbind", propagation, access]})
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
