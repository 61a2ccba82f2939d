//! What this machine allows, and a door into a pod's network.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// The kernel's order.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability there is, in the kernel's order, without `CAP_`.
pub fn all_capabilities() -> &'static [&'static str] {
    &CAPABILITIES
}

/// Capabilities that this process has, without `CAP_`.
pub fn capabilities() -> io::Result<BTreeSet<String>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("no CapPrm in /proc/self/status"))?;
    Ok(CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect())
}

/// The lowest OOM score that containers can be given here: without CAP_SYS_RESOURCE none can go below our own.
pub fn lowest_oom_score(capabilities: &BTreeSet<String>) -> i32 {
    if capabilities.contains("SYS_RESOURCE") {
        return -1000;
    }
    tracing::warn!(
        "no CAP_SYS_RESOURCE: OOM scores of containers can't be lowered and resource limits not raised"
    );
    std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|score| score.trim().parse().ok())
        .unwrap_or(0)
}

/// 64 random hex digits.
pub fn random_id() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut id, byte| {
            use std::fmt::Write as _;
            let _ = write!(id, "{byte:02x}");
            id
        })
}

/// Connects to a port on the loopback inside a network namespace, from a thread that enters it.
pub async fn dial(netns: PathBuf, port: u16) -> io::Result<tokio::net::TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own, thrown away: one of the runtime's must never be left in another namespace.
    std::thread::Builder::new()
        .name("dial".into())
        .stack_size(128 << 10)
        .spawn(move || {
            let connect = || -> io::Result<std::net::TcpStream> {
                setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
                let limit = Duration::from_secs(10);
                let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                std::net::TcpStream::connect_timeout(&v4, limit).or_else(|error| {
                    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                    std::net::TcpStream::connect_timeout(&v6, limit).map_err(|_| error)
                })
            };
            let _ = sender.send(connect());
        })?;
    let stream = receiver.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}
