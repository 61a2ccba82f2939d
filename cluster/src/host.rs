//! What a cluster leaves on the host beside files: processes in its cgroups, mounts, interfaces, tables; and how to take it away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::Layout;

/// Kills every process in the cluster's cgroups (containers and shims) and removes the cgroups.
pub fn remove_cgroups(layout: &Layout) -> Result<()> {
    let roots = cgroup_roots(&layout.cgroup_root());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = false;
        for root in &roots {
            for pid in processes(root) {
                left = true;
                // It may have ended since.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if !left || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for root in &roots {
        remove_tree(root).with_context(|| format!("cannot remove cgroup {}", root.display()))?;
    }
    Ok(())
}

/// The folders of a root cgroup in every hierarchy (one in cgroup v2).
fn cgroup_roots(name: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup").join(name)];
    for entry in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_type().is_ok_and(|t| t.is_dir()) && entry.file_name() != name {
            roots.push(entry.path().join(name));
        }
    }
    roots.retain(|root| root.join("cgroup.procs").exists());
    roots
}

fn processes(cgroup: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .filter(|&pid| pid > 0)
        .collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(processes(&entry.path()));
        }
    }
    pids
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A cgroup stays busy for a moment after its last process was reaped.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::remove_dir(cgroup) {
            Err(error)
                if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

/// Unmounts everything below these folders, the deepest first.
pub fn unmount_below(folders: &[PathBuf]) -> Result<()> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    for target in mounts_below(&table, folders) {
        umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    Ok(())
}

/// Mount points at or below `folders`, in the order to unmount them.
fn mounts_below(mountinfo: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut targets: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|target| folders.iter().any(|folder| target.starts_with(folder)))
        .collect();
    targets.reverse();
    targets
}

/// mountinfo writes space, tab, newline and backslash as octal escapes.
fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Deletes our bridge (with the host ends of the pods' cables) and our nftables tables from the cluster's network namespace.
pub fn remove_network(layout: &Layout) -> Result<()> {
    if let Some(name) = layout.netns() {
        // Interfaces and rules end with their namespace.
        return crate::netns::remove(&name);
    }
    for entry in std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let master = std::fs::read_link(entry.path().join("master")).ok();
        let ours = master.is_some_and(|m| m.file_name().is_some_and(|f| f == layout.bridge()));
        if ours || name == layout.bridge() {
            run("ip", &["link", "delete", &name])?;
        }
    }
    for line in run("nft", &["list", "tables"])?.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(family), Some(table)) = (words.next(), words.next())
            && (table.starts_with("keelson-"))
        {
            run("nft", &["delete", "table", family, table])?;
        }
    }
    Ok(())
}

/// Removes network namespaces of pods that the kubelet named.
pub fn remove_pod_namespaces(prefix: &str) -> Result<()> {
    for entry in std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            crate::netns::remove(&name)?;
        }
    }
    Ok(())
}

/// Runs nft on a script.
pub fn nft(script: &str) -> Result<()> {
    use std::io::Write;
    let mut child = std::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        anyhow::bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a program that takes something away; that it has gone already is fine.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // Gone since it was listed: the kernel removes both ends of a cable at once.
        if !message.contains("Cannot find device") && !message.contains("No such file") {
            anyhow::bail!("{program} {}: {message}", arguments.join(" "));
        }
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeper_mounts_come_first_and_others_stay() {
        let table = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /var/lib/keelson/a\\040b rw - tmpfs t rw\n3 2 0:3 / /var/lib/keelson/a\\040b/c rw - overlay o rw\n4 1 0:4 / /var/lib/keelsonx rw - tmpfs t rw\n";
        let found = mounts_below(table, &["/var/lib/keelson".into()]);
        assert_eq!(
            found,
            [
                PathBuf::from("/var/lib/keelson/a b/c"),
                PathBuf::from("/var/lib/keelson/a b")
            ]
        );
    }
}
