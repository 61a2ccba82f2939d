//! What the host is: CPUs, memory, disk, kernel, addresses. Reads files of the host; decides nothing.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// Facts that do not change while the kubelet runs, and the few that do.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Logical CPUs online.
    pub cpus: u64,
    /// Total memory in bytes.
    pub memory: u64,
    /// Swap in bytes.
    pub swap: u64,
    /// Size in bytes of the file system of the kubelet's root.
    pub disk: u64,
    /// Hugepage sizes and how many bytes of each: (`2Mi`, bytes).
    pub hugepages: Vec<(String, u64)>,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product uuid, or the machine id.
    pub system_uuid: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// Go's name of the architecture.
    pub architecture: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// Value in bytes of one line of a meminfo-like text.
pub fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.split(':').next() == Some(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Total and available bytes and inodes of the file system of `path`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Size in bytes.
    pub total: u64,
    /// Bytes that an unprivileged process could still use.
    pub available: u64,
    /// Bytes in use.
    pub used: u64,
    /// Inodes.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

/// statvfs of `path`.
pub fn fs_stats(path: &Path) -> std::io::Result<FsStats> {
    let stats = nix::sys::statvfs::statvfs(path)?;
    let unit = stats.fragment_size();
    Ok(FsStats {
        total: stats.blocks() * unit,
        available: stats.blocks_available() * unit,
        used: (stats.blocks() - stats.blocks_free()) * unit,
        inodes: stats.files(),
        inodes_free: stats.files_free(),
    })
}

fn hugepages() -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut pages: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count: u64 = read(e.path().join("nr_hugepages").to_str()?).parse().ok()?;
            Some((kib, kib * 1024 * count))
        })
        .collect();
    pages.sort_unstable();
    let name = |kib: u64| match kib {
        k if k % (1 << 20) == 0 => format!("{}Gi", k >> 20),
        k if k % (1 << 10) == 0 => format!("{}Mi", k >> 10),
        k => format!("{k}Ki"),
    };
    pages
        .into_iter()
        .map(|(kib, bytes)| (name(kib), bytes))
        .collect()
}

fn os_release(text: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches(['"', '\'']).to_owned())
}

impl Machine {
    /// Reads the host.
    pub fn read(root_dir: &Path) -> Self {
        let memory = read("/proc/meminfo");
        let release = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo(&memory, "MemTotal").unwrap_or_default(),
            swap: meminfo(&memory, "SwapTotal").unwrap_or_default(),
            disk: fs_stats(root_dir).map(|s| s.total).unwrap_or_default(),
            hugepages: hugepages(),
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os_release(&release).unwrap_or_else(|| "Linux".into()),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "powerpc64" => "ppc64le",
                other => other,
            }
            .to_owned(),
        }
    }
}

/// The host's name in lower case, as node names are made.
pub fn hostname() -> String {
    read("/proc/sys/kernel/hostname").to_lowercase()
}

/// The address the host would use to reach the outside; no packet is sent.
pub fn default_ip() -> Option<IpAddr> {
    let probe = |bind: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    };
    probe("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|| probe("[::]:0", "[2001:db8::1]:9"))
        .or_else(first_global_address)
}

fn first_global_address() -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses
        .filter_map(|a| a.address?.as_sockaddr_in().map(|s| IpAddr::from(s.ip())))
        .find(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The resolv.conf that pods with the node's DNS get: systemd-resolved's upstream list rather than its loopback stub.
pub fn resolv_conf(configured: Option<&str>) -> PathBuf {
    const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
    match configured {
        Some(path) => PathBuf::from(path),
        None => {
            let stub = read("/etc/resolv.conf")
                .lines()
                .filter_map(|l| l.trim().strip_prefix("nameserver"))
                .any(|a| a.trim() == "127.0.0.53");
            let path = if stub && Path::new(RESOLVED).exists() {
                RESOLVED
            } else {
                "/etc/resolv.conf"
            };
            PathBuf::from(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_host() {
        let machine = Machine::read(Path::new("/"));
        assert!(
            machine.cpus >= 1
                && machine.memory > 0
                && machine.disk > 0
                && !machine.kernel.is_empty()
        );
        assert_eq!(
            meminfo("MemTotal:  10 kB\nMemTotalX: 3 kB", "MemTotal"),
            Some(10240)
        );
        assert_eq!(
            os_release("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }
}
