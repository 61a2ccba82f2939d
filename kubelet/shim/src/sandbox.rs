//! The pod's namespaces. The shim itself lives in the pod's network, IPC and UTS namespaces: what it starts inherits
//! them, they are reached through `/proc/<shim>/ns`, and they end with their last process.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use keelson_shim::Sandbox;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;

use crate::process::{self, Report, check};

/// Enters new namespaces as the pod wants them.
pub fn enter(sandbox: &Sandbox) -> Result<(), String> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, sandbox.new_network);
    flags.set(CloneFlags::CLONE_NEWIPC, sandbox.new_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, sandbox.hostname.is_some());
    unshare(flags).map_err(|errno| format!("unshare: {errno}"))?;
    if let Some(hostname) = &sandbox.hostname {
        // SAFETY: the pointer and the length are those of a live string.
        check(unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) })
            .map_err(|error| format!("set hostname {hostname}: {error}"))?;
    }
    if sandbox.new_network {
        loopback_up().map_err(|error| format!("loopback: {error}"))?;
    }
    for (name, value) in &sandbox.sysctls {
        let path = sysctl_path(name).ok_or_else(|| format!("invalid sysctl {name:?}"))?;
        // With no namespace of its own, the pod would change the host.
        let kept = if name.replace('/', ".").starts_with("net.") {
            sandbox.new_network
        } else {
            sandbox.new_ipc
        };
        if !kept {
            return Err(format!(
                "sysctl {name:?} is not allowed with the host's namespace"
            ));
        }
        std::fs::write(&path, value)
            .map_err(|error| format!("set sysctl {name}={value}: {error}"))?;
    }
    Ok(())
}

/// The file of a namespaced sysctl; dots may separate, or slashes where a name holds a dot.
fn sysctl_path(name: &str) -> Option<PathBuf> {
    let first_slash = name.find('/').unwrap_or(usize::MAX);
    let first_dot = name.find('.').unwrap_or(usize::MAX);
    let relative: String = if first_slash < first_dot {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    let namespaced = relative.starts_with("net/")
        || relative.starts_with("kernel/shm")
        || relative.starts_with("kernel/msg")
        || relative == "kernel/sem"
        || relative.starts_with("fs/mqueue/");
    let clean = relative
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    (namespaced && clean).then(|| Path::new("/proc/sys").join(relative))
}

fn loopback_up() -> std::io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })
}

/// Starts the first process of a PID namespace that the pod's containers share: it reaps what is orphaned there.
pub fn pause(sandbox: &Sandbox, empty: &Path) -> Result<Pid, String> {
    let (ours, theirs) = process::channel().map_err(|errno| errno.to_string())?;
    process::fork_with(|| {
        let result = hold(sandbox, empty, theirs.as_fd());
        if let Err(message) = result {
            Report::Failed(message).send(theirs.as_fd(), &[]);
        }
        0
    })
    .map_err(|errno| format!("fork: {errno}"))?;
    drop(theirs);
    let packet = keelson_shim::wire::receive(ours.as_fd()).map_err(|errno| errno.to_string())?;
    match packet.and_then(|packet| serde_json::from_slice(&packet.bytes).ok()) {
        Some(Report::Pid(pid)) => Ok(Pid::from_raw(pid)),
        Some(Report::Failed(message)) => Err(format!("pause process: {message}")),
        _ => Err("pause process did not start".to_owned()),
    }
}

fn hold(
    sandbox: &Sandbox,
    empty: &Path,
    channel: std::os::fd::BorrowedFd<'_>,
) -> Result<(), String> {
    for cgroup in &sandbox.pause_cgroups {
        let file = cgroup.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| format!("unshare: {errno}"))?;
    let pid = process::clone_sibling(|| wait_for_ever(empty))
        .map_err(|errno| format!("clone: {errno}"))?;
    Report::Pid(pid.as_raw()).send(channel, &[]);
    Ok(())
}

/// Runs as pid 1 of the shared namespace: without rights, files or descriptors, as the containers can see it.
fn wait_for_ever(empty: &Path) -> i32 {
    let jail = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            None::<&str>,
        )?;
        mount(
            Some(empty),
            empty,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        nix::unistd::chdir(empty)?;
        nix::unistd::pivot_root(".", ".")?;
        nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
        let (gid, uid) = (
            nix::unistd::Gid::from_raw(65535),
            nix::unistd::Uid::from_raw(65535),
        );
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)
    };
    if jail().is_err() {
        return 1;
    }
    process::reset_signals();
    // SAFETY: plain prctl and close_range; the pause process uses no descriptor. It dies with its shim.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::close_range(0, u32::MAX, 0);
    }
    loop {
        // SAFETY: waits for any child; there is nothing to write to.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            wait_for_orphans();
        }
    }
}

/// Sleeps until something was orphaned into this namespace.
fn wait_for_orphans() {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGCHLD);
    let _ = set.thread_block();
    // A child may have come between waitpid and the block.
    // SAFETY: as above.
    if unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } < 0 {
        let _ = set.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_sysctls() {
        for (name, path) in [
            (
                "net.ipv4.ip_local_port_range",
                Some("/proc/sys/net/ipv4/ip_local_port_range"),
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ),
            ("kernel.shmmax", Some("/proc/sys/kernel/shmmax")),
            ("kernel.core_pattern", None),
            ("vm.swappiness", None),
            ("net/../kernel/core_pattern", None),
            ("", None),
        ] {
            assert_eq!(sysctl_path(name), path.map(PathBuf::from), "{name}");
        }
    }
}
