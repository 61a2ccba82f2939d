//! The network namespace of a cluster that is not the default one: its own loopback and one interface as the node's.
//!
//! Namespaces are bind mounts below `/run/netns`, as iproute2 makes them, so that `ip netns exec` finds them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// The node's address inside such a namespace (TEST-NET-2: never routed).
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

const DIRECTORY: &str = "/run/netns";

/// Path of a named namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Whether it exists.
pub fn exists(name: &str) -> bool {
    nix::sys::statfs::statfs(&path(name))
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Makes an empty namespace with loopback up. Returns whether it was missing.
pub fn make(name: &str) -> Result<bool> {
    let missing = !exists(name);
    if missing {
        std::fs::create_dir_all(DIRECTORY).context("cannot make /run/netns")?;
        let target = path(name);
        File::create(&target).with_context(|| format!("cannot make {}", target.display()))?;
        in_new_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        })?
        .context("cannot make a network namespace")?;
    }
    ip(Some(name), "link set lo up")?;
    Ok(missing)
}

/// Makes the namespace of a cluster's first node, with the node's interface; returns the node's address.
pub fn ensure(name: &str) -> Result<IpAddr> {
    make(name)?;
    // A cable to nowhere: not every kernel has the dummy driver, and a cable has a carrier.
    ip(Some(name), "link add node0 type veth peer name node1")?;
    ip(Some(name), "link set node1 up")?;
    ip(
        Some(name),
        &format!("address replace {NODE_ADDRESS}/24 dev node0"),
    )?;
    ip(Some(name), "link set node0 up")?;
    ip(
        Some(name),
        &format!("route replace default dev node0 src {NODE_ADDRESS}"),
    )?;
    Ok(NODE_ADDRESS.into())
}

/// Runs `ip` (arguments split at spaces) in a namespace, or in the caller's. What is there already is fine.
///
/// rtnetlink would need an async connection in the other namespace for a few messages; iproute2 is a prerequisite anyway.
pub fn ip(namespace: Option<&str>, arguments: &str) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    let output = command
        .args(arguments.split(' '))
        .output()
        .context("cannot run ip: apt-get install iproute2")?;
    let message = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !message.contains("File exists") {
        anyhow::bail!("ip {arguments}: {}", message.trim());
    }
    Ok(())
}

/// Removes the namespace. Fine if it is gone.
pub fn remove(name: &str) -> Result<()> {
    let target = path(name);
    if exists(name) {
        umount2(&target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    match std::fs::remove_file(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", target.display()))
        }
        _ => Ok(()),
    }
}

/// Moves the calling thread into the namespace: for single-threaded moments only (before a runtime starts, or between fork and exec).
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(path(name)).with_context(|| format!("no network namespace {name}"))?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter network namespace {name}"))
}

/// Namespaces belong to threads: what changes one runs on a thread that ends with it.
fn in_new_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    std::thread::spawn(work)
        .join()
        .map_err(|_| anyhow::anyhow!("the namespace thread failed"))
}
