//! `keelson check`: what a host must have, looked at before anything is started; each finding names the command that mends it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::failure::{EXIT_PREFLIGHT, Failure};
use crate::layout::{API_PORT, Layout};
use crate::{supervisor, systemd};

/// One thing that is looked at.
#[derive(Debug)]
pub struct Finding {
    /// What.
    pub title: &'static str,
    /// What is wrong with it, if anything.
    pub failure: Option<Failure>,
}

/// Bytes that must be free for state: a full disk fails in worse ways later.
const FREE_BYTES: u64 = 1 << 30;

/// Looks at everything.
pub fn all(layout: &Layout) -> Vec<Finding> {
    let finding = |title, failure| Finding { title, failure };
    let mut findings = vec![
        finding("root", root()),
        finding("programs", programs()),
        finding("kernel: overlayfs", filesystem("overlay")),
        finding("kernel: cgroups", cgroups()),
        finding("kernel: nftables", nftables()),
        finding("free disk", disk(layout)),
    ];
    if layout.is_default() {
        findings.push(finding("ports", ports(layout)));
    }
    findings
}

/// The first thing that is wrong.
pub fn first_failure(layout: &Layout) -> Option<Failure> {
    all(layout).into_iter().find_map(|f| f.failure)
}

fn failure(what: impl Into<String>, mend: impl Into<String>) -> Option<Failure> {
    Some(Failure::new(what, mend).exit(EXIT_PREFLIGHT))
}

fn root() -> Option<Failure> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    failure(
        "not root: namespaces, cgroups and nftables need it",
        format!("sudo {}", std::env::args().collect::<Vec<_>>().join(" ")),
    )
}

/// Where a program is on the PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|p| p.is_file())
}

fn programs() -> Option<Failure> {
    let needed = [
        ("etcd", "etcd-server"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .collect();
    if missing.is_empty() {
        return None;
    }
    let names = missing
        .iter()
        .map(|(program, _)| *program)
        .collect::<Vec<_>>()
        .join(", ");
    let packages = missing
        .iter()
        .map(|(_, package)| *package)
        .collect::<Vec<_>>()
        .join(" ");
    failure(
        format!("missing on the PATH: {names}"),
        format!("apt-get install --no-install-recommends {packages}"),
    )
}

fn filesystem(name: &str) -> Option<Failure> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == name)
    {
        return None;
    }
    failure(
        format!("the kernel has no {name} filesystem"),
        format!("modprobe {name}"),
    )
}

fn cgroups() -> Option<Failure> {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has = |controller: &str| {
        unified.split_whitespace().any(|c| c == controller)
            || Path::new("/sys/fs/cgroup")
                .join(controller)
                .join("cgroup.procs")
                .exists()
    };
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|c| !has(c))
        .collect();
    if missing.is_empty() {
        return None;
    }
    failure(
        format!("no cgroup controller for {}", missing.join(", ")),
        "mount -t cgroup2 none /sys/fs/cgroup (and boot without cgroup_disable)",
    )
}

fn nftables() -> Option<Failure> {
    find_program("nft")?;
    let output = std::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
        .ok()?;
    if output.status.success() {
        return None;
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    failure(
        format!("nftables does not work: {message}"),
        "modprobe nf_tables",
    )
}

fn disk(layout: &Layout) -> Option<Failure> {
    let state = layout.state();
    let folder = state.ancestors().find(|p| p.exists())?;
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free >= FREE_BYTES {
        return None;
    }
    failure(
        format!(
            "{} MB are free on the filesystem of {}; {} MB are needed",
            free >> 20,
            state.display(),
            FREE_BYTES >> 20
        ),
        format!("df -h {}", folder.display()),
    )
}

fn ports(layout: &Layout) -> Option<Failure> {
    // Our own daemons hold them while the cluster runs.
    if supervisor::running(layout).is_some()
        || (systemd::in_charge(layout) && layout.admin_conf().exists())
    {
        return None;
    }
    let wanted = [
        ("etcd", Ipv4Addr::LOCALHOST, 2379),
        ("etcd", Ipv4Addr::LOCALHOST, 2380),
        ("kube-apiserver", Ipv4Addr::UNSPECIFIED, API_PORT),
        ("kube-controller-manager", Ipv4Addr::LOCALHOST, 10257),
        ("kube-scheduler", Ipv4Addr::LOCALHOST, 10259),
        ("kubelet", Ipv4Addr::UNSPECIFIED, 10250),
        ("kubelet", Ipv4Addr::LOCALHOST, 10248),
        ("kube-proxy", Ipv4Addr::UNSPECIFIED, 10256),
    ];
    let taken = wanted.iter().find(|(_, address, port)| matches!(TcpListener::bind((*address, *port)), Err(e) if e.kind() == std::io::ErrorKind::AddrInUse));
    let (daemon, _, port) = taken?;
    failure(
        format!("port {port}, which {daemon} needs, is taken"),
        format!("ss -ltnp 'sport = :{port}'"),
    )
}

/// Prints the findings; fails with the first failure.
pub fn run(layout: &Layout) -> Result<(), Failure> {
    let mut first = None;
    for finding in all(layout) {
        match finding.failure {
            None => println!(" ✓ {}", finding.title),
            Some(failure) => {
                println!(
                    " ✗ {}: {}\n   mend: {}",
                    finding.title, failure.what, failure.mend
                );
                first = first.or(Some(failure));
            }
        }
    }
    first.map_or(Ok(()), Err)
}
