//! The cgroups of pods: made with limits, read for usage, emptied and removed. cgroup v2, and v1 where the host has that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runtime::{Resources, Usage};

/// Where cgroup hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The host's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// Version 1: a directory for each set of controllers.
    V1(Vec<Hierarchy>),
    /// Version 2: one for all.
    V2,
}

/// A hierarchy of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

impl Hierarchies {
    /// Looks at the mounts.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::from_mounts(&fs::read_to_string(
            "/proc/self/mountinfo",
        )?))
    }

    fn from_mounts(mountinfo: &str) -> Self {
        let mut found = Vec::new();
        for line in mountinfo.lines() {
            // `… <root> <mount point> <options> … - <type> <source> <super options>`
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
                continue;
            };
            if !mount.starts_with(MOUNT) {
                continue;
            }
            if let (Some("cgroup"), Some(options)) = (right.next(), right.nth(1)) {
                const KNOWN: [&str; 12] = [
                    "cpu",
                    "cpuacct",
                    "cpuset",
                    "memory",
                    "pids",
                    "devices",
                    "freezer",
                    "blkio",
                    "hugetlb",
                    "net_cls",
                    "net_prio",
                    "perf_event",
                ];
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| KNOWN.contains(option))
                    .map(str::to_owned)
                    .collect();
                if !controllers.is_empty() {
                    found.push(Hierarchy {
                        controllers,
                        mount: mount.into(),
                    });
                }
            }
        }
        if found.iter().any(|hierarchy| hierarchy.has("memory")) {
            Self::V1(found)
        } else {
            Self::V2
        }
    }

    /// Whether there is one hierarchy for all controllers.
    pub fn unified(&self) -> bool {
        *self == Self::V2
    }

    /// The cgroup's directory in every hierarchy.
    pub fn directories(&self, cgroup: &str) -> Vec<PathBuf> {
        match self {
            Self::V1(hierarchies) => hierarchies
                .iter()
                .map(|hierarchy| hierarchy.mount.join(cgroup))
                .collect(),
            Self::V2 => vec![Path::new(MOUNT).join(cgroup)],
        }
    }

    /// Name and directory of the cgroup in each hierarchy of version 1, as a container sees them below /sys/fs/cgroup.
    pub fn views(&self, cgroup: &str) -> Vec<(String, PathBuf)> {
        match self {
            Self::V1(hierarchies) => hierarchies
                .iter()
                .filter_map(|hierarchy| {
                    let name = hierarchy.mount.file_name()?.to_str()?.to_owned();
                    Some((name, hierarchy.mount.join(cgroup)))
                })
                .collect(),
            Self::V2 => Vec::new(),
        }
    }

    fn directory(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        match self {
            Self::V1(hierarchies) => hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(controller))
                .map(|found| found.mount.join(cgroup)),
            Self::V2 => Some(Path::new(MOUNT).join(cgroup)),
        }
    }

    /// The file that counts the cgroup's kills for want of memory.
    pub fn oom_file(&self, cgroup: &str) -> Option<PathBuf> {
        let name = if self.unified() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.directory("memory", cgroup)
            .map(|directory| directory.join(name))
    }

    /// Makes a cgroup and its parents, and sets its limits.
    pub fn create(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        let mut path = String::new();
        for part in cgroup.split('/') {
            if self.unified() {
                delegate(&Path::new(MOUNT).join(&path))?;
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
            for directory in self.directories(&path) {
                match fs::create_dir(&directory) {
                    Ok(()) => inherit_cpuset(&directory)?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(at(error, &directory)),
                }
            }
        }
        self.set(cgroup, resources)
    }

    /// Sets limits.
    pub fn set(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        for (controller, file, value) in self.settings(resources) {
            if let Some(directory) = self.directory(controller, cgroup) {
                let path = directory.join(file);
                match fs::write(&path, &value) {
                    // A kernel without the controller cannot bound it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() => {
                    }
                    other => other.map_err(|error| at(error, &path))?,
                }
            }
        }
        Ok(())
    }

    /// Controller, file and value of each limit that is set.
    fn settings(&self, resources: &Resources) -> Vec<(&'static str, &'static str, String)> {
        let mut settings = Vec::new();
        let unlimited = |value: i64, word: &str| {
            if value < 0 {
                word.to_owned()
            } else {
                value.to_string()
            }
        };
        if self.unified() {
            if let Some(shares) = resources.cpu_shares {
                settings.push(("cpu", "cpu.weight", weight(shares).to_string()));
            }
            if let Some(quota) = resources.cpu_quota {
                let period = resources.cpu_period.unwrap_or(100_000);
                settings.push((
                    "cpu",
                    "cpu.max",
                    format!("{} {period}", unlimited(quota, "max")),
                ));
            }
            if let Some(limit) = resources.memory_limit {
                settings.push(("memory", "memory.max", unlimited(limit, "max")));
            }
            if let Some(limit) = resources.pids_limit {
                settings.push(("pids", "pids.max", unlimited(limit, "max")));
            }
        } else {
            if let Some(shares) = resources.cpu_shares {
                settings.push(("cpu", "cpu.shares", shares.to_string()));
            }
            if let Some(period) = resources.cpu_period {
                settings.push(("cpu", "cpu.cfs_period_us", period.to_string()));
            }
            if let Some(quota) = resources.cpu_quota {
                settings.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
            }
            if let Some(limit) = resources.memory_limit {
                settings.push(("memory", "memory.limit_in_bytes", limit.to_string()));
            }
            if let Some(limit) = resources.pids_limit {
                settings.push(("pids", "pids.max", unlimited(limit, "max")));
            }
        }
        settings
    }

    /// Moves a process in.
    pub fn join(&self, cgroup: &str, pid: i32) -> io::Result<()> {
        for directory in self.directories(cgroup) {
            let path = directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(|error| at(error, &path))?;
        }
        Ok(())
    }

    /// Kills every process in the cgroup and below it; returns how many there were.
    pub fn kill(&self, cgroup: &str) -> io::Result<usize> {
        let mut killed = std::collections::BTreeSet::new();
        for directory in self.directories(cgroup) {
            for directory in tree(&directory)? {
                let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                for pid in pids
                    .lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|pid| *pid > 1)
                {
                    if killed.insert(pid) {
                        let _ = nix::sys::signal::kill(
                            nix::unistd::Pid::from_raw(pid),
                            nix::sys::signal::SIGKILL,
                        );
                    }
                }
            }
        }
        Ok(killed.len())
    }

    /// Kills what is in the cgroup and removes it with everything below.
    pub async fn remove(&self, cgroup: &str) -> io::Result<()> {
        let mut last = Ok(());
        // The kernel lets a cgroup go only some time after its last process.
        for attempt in 0..50_u64 {
            last = self.try_remove(cgroup);
            if last.is_ok() {
                return Ok(());
            }
            self.kill(cgroup)?;
            tokio::time::sleep(Duration::from_millis(5 * (attempt + 1).min(20))).await;
        }
        last
    }

    fn try_remove(&self, cgroup: &str) -> io::Result<()> {
        for directory in self.directories(cgroup) {
            for directory in tree(&directory)?.iter().rev() {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(at(error, directory));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What a cgroup uses.
    pub fn usage(&self, cgroup: &str) -> io::Result<Usage> {
        let read = |controller: &str, file: &str| -> io::Result<String> {
            let directory = self
                .directory(controller, cgroup)
                .ok_or(io::ErrorKind::NotFound)?;
            fs::read_to_string(directory.join(file))
        };
        let number =
            |text: io::Result<String>| text.ok().and_then(|text| text.trim().parse::<u64>().ok());
        let stat = read("memory", "memory.stat")?;
        let field = |name: &str| {
            let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(key, _)| *key == name)
                .and_then(|(_, value)| value.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        let unified = self.unified();
        let (cpu_nanos, memory_usage) = if unified {
            let cpu = read("cpu", "cpu.stat")?;
            let micros = cpu
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<u64>().ok());
            (
                micros.unwrap_or(0) * 1000,
                number(read("memory", "memory.current")).unwrap_or(0),
            )
        } else {
            let usage = number(read("memory", "memory.usage_in_bytes")).unwrap_or(0);
            (number(read("cpuacct", "cpuacct.usage")).unwrap_or(0), usage)
        };
        // Version 1 counts children in the `total_` fields only.
        let name = |v2: &'static str, v1: &'static str| field(if unified { v2 } else { v1 });
        Ok(Usage {
            cpu_nanos,
            memory_usage,
            memory_working_set: memory_usage
                .saturating_sub(name("inactive_file", "total_inactive_file")),
            memory_rss: name("anon", "total_rss"),
            page_faults: name("pgfault", "total_pgfault"),
            major_page_faults: name("pgmajfault", "total_pgmajfault"),
            pids: number(read("pids", "pids.current")).unwrap_or(0),
        })
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|found| found == controller)
    }
}

/// cpu.weight (1 to 10000) for cpu.shares (2 to 262144), by the formula that OCI runtimes share.
pub fn weight(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Hands every controller of version 2 down to a cgroup's children.
fn delegate(directory: &Path) -> io::Result<()> {
    let available = fs::read_to_string(directory.join("cgroup.controllers"))
        .map_err(|error| at(error, directory))?;
    let path = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).map_err(|error| at(error, &path))?;
    for controller in available
        .split_whitespace()
        .filter(|name| !enabled.split_whitespace().any(|on| on == *name))
    {
        // One by one: a controller that can't be delegated does not take the others with it.
        if let Err(error) = fs::write(&path, format!("+{controller}")) {
            tracing::debug!(%error, controller, path = %path.display(), "controller is not delegated");
        }
    }
    Ok(())
}

/// A new cpuset of version 1 has no processors, and so no room for processes.
fn inherit_cpuset(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty())
            && let Ok(inherited) = fs::read_to_string(parent.join(file))
            && !directory.join("cgroup.controllers").exists()
        {
            fs::write(&own, inherited.trim()).map_err(|error| at(error, &own))?;
        }
    }
    Ok(())
}

/// A directory and all below, parents first.
fn tree(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if root.is_dir() {
        found.push(root.to_owned());
    }
    let mut next = 0;
    while next < found.len() {
        let entries = match fs::read_dir(&found[next]) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                next += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

fn at(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
36 31 0:28 / /var/lib/x/cpu rw - cgroup cgroup rw,cpu
";

    #[test]
    fn hierarchies_by_mounts() {
        let v1 = Hierarchies::from_mounts(V1);
        assert_eq!(
            v1.directories("a/b"),
            [
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a/b"),
                PathBuf::from("/sys/fs/cgroup/memory/a/b")
            ]
        );
        assert_eq!(
            v1.oom_file("a"),
            Some("/sys/fs/cgroup/memory/a/memory.oom_control".into())
        );
        let v2 = Hierarchies::from_mounts("31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(v2.unified());
        assert_eq!(
            v2.oom_file("a"),
            Some("/sys/fs/cgroup/a/memory.events".into())
        );
    }

    #[test]
    fn limits_in_both_tongues() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(-1),
            oom_score_adj: None,
        };
        let values = |hierarchies: &Hierarchies| -> Vec<String> {
            hierarchies
                .settings(&resources)
                .into_iter()
                .map(|(_, file, value)| format!("{file}={value}"))
                .collect()
        };
        assert_eq!(
            values(&Hierarchies::V2),
            [
                "cpu.weight=39",
                "cpu.max=max 100000",
                "memory.max=67108864",
                "pids.max=max"
            ]
        );
        assert_eq!(
            values(&Hierarchies::from_mounts(V1)),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=67108864",
                "pids.max=max"
            ]
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
