//! Runs a further process in a running container.
//!
//! Not with libcontainer's tenant builder: it drops the seccomp filter of the container and leaves zombies. A helper
//! joins the container's cgroups and namespaces and clones the process as the shim's child; the process takes the
//! container's user, groups, capabilities, no_new_privs and seccomp from its config.json.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    Capabilities, Linux, LinuxNamespaceType, LinuxSeccomp, Process, Spec,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, chdir, setgroups, setresgid, setresuid, setsid};

use crate::launch::ChildIo;
use crate::lookup::words;
use crate::process::{self, Report, check};

/// What to run where.
pub struct Plan {
    /// The container's first process.
    pub init: i32,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The container's cgroup directories.
    pub cgroups: Vec<PathBuf>,
    /// Command.
    pub args: Vec<String>,
    /// Streams; `None` for a terminal.
    pub io: Option<ChildIo>,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
}

/// Forks the helper. Reports come over the returned channel; its end means that the program runs.
pub fn launch(plan: Plan) -> nix::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = process::channel()?;
    let helper = process::fork_with(|| {
        let result = join(plan, theirs.as_fd());
        if let Err(message) = &result {
            Report::Failed(message.clone()).send(theirs.as_fd(), &[]);
        }
        i32::from(result.is_err())
    })?;
    Ok((helper, ours))
}

fn join(plan: Plan, channel: BorrowedFd<'_>) -> Result<(), String> {
    // Nobody in the container may look into this process while it still holds the host's things.
    // SAFETY: plain prctl.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    let path = plan.bundle.join("config.json");
    let spec = Spec::load(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| "config.json has no process".to_owned())?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| "config.json has no linux section".to_owned())?;
    let init = pidfd(plan.init).map_err(|errno| format!("container's process: {errno}"))?;
    if let Some(score) = process.oom_score_adj() {
        // Only ever as the container itself could set it; refused lowering was reported when the container started.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    for cgroup in &plan.cgroups {
        let file = cgroup.join("cgroup.procs");
        match std::fs::write(&file, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("join {}: {error}", file.display()));
            }
            _ => {}
        }
    }
    setns(&init, namespaces(linux)).map_err(|errno| format!("join namespaces: {errno}"))?;
    let child = process::clone_sibling(|| {
        let result = become_program(&plan, process, linux.seccomp().as_ref(), channel);
        if let Err(message) = &result {
            Report::Failed(message.clone()).send(channel, &[]);
        }
        126
    })
    .map_err(|errno| format!("clone: {errno}"))?;
    Report::Pid(child.as_raw()).send(channel, &[]);
    Ok(())
}

fn pidfd(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain syscall; the result is checked before it becomes a descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// The container's own namespaces. Those of the pod (network, IPC, UTS) the shim is in already.
fn namespaces(linux: &Linux) -> CloneFlags {
    let mut flags = CloneFlags::empty();
    for namespace in linux.namespaces().iter().flatten() {
        flags |= match namespace.typ() {
            LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
            LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
            LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
            LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
            LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
            _ => CloneFlags::empty(),
        };
    }
    flags
}

fn become_program(
    plan: &Plan,
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
    channel: BorrowedFd<'_>,
) -> Result<(), String> {
    setsid().map_err(|errno| format!("setsid: {errno}"))?;
    let user = process.user();
    let uid = Uid::from_raw(user.uid());
    match &plan.io {
        Some(io) => {
            for (fd, number) in [(&io.stdin, 0), (&io.stdout, 1), (&io.stderr, 2)] {
                process::install(fd.as_fd(), number)
                    .map_err(|error| format!("streams: {error}"))?;
            }
        }
        None => terminal(uid, plan.size, channel).map_err(|error| format!("terminal: {error}"))?,
    }
    // The filter may be loaded without no_new_privs only while there is CAP_SYS_ADMIN.
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        // SAFETY: plain prctl.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
            .map_err(|error| error.to_string())?;
    }
    // As root, since the user may lack the rights; once more as the user, since root may (network filesystems).
    let entered = chdir(process.cwd());
    if !no_new_privileges {
        load(seccomp)?;
    }
    let capabilities = process.capabilities().as_ref();
    let bounding = capabilities
        .and_then(|set| set.bounding().as_ref())
        .map_or(0, mask);
    drop_bounding(bounding).map_err(|error| format!("capabilities: {error}"))?;
    // SAFETY: plain prctl.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })
        .map_err(|error| error.to_string())?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let gid = Gid::from_raw(user.gid());
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|errno| format!("set user: {errno}"))?;
    // SAFETY: plain prctl.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0) })
        .map_err(|error| error.to_string())?;
    set_capabilities(capabilities.map_or([0; 4], |set| {
        [
            set.effective(),
            set.permitted(),
            set.inheritable(),
            set.ambient(),
        ]
        .map(|list| list.as_ref().map_or(0, mask))
    }))
    .map_err(|error| format!("capabilities: {error}"))?;
    if entered.is_err() {
        let cwd = process.cwd().display();
        chdir(process.cwd()).map_err(|errno| {
            format!(
                "chdir to cwd ({cwd:?}) set in config.json failed: {}",
                words(errno)
            )
        })?;
    }
    verify_directory()?;
    if no_new_privileges {
        load(seccomp)?;
    }
    let environment = process.env().clone().unwrap_or_default();
    match process::exec(&plan.args, &environment) {
        Ok(never) => match never {},
        Err(message) => Err(message),
    }
}

/// Makes a terminal in the container's own devpts, takes it as the controlling one and sends its master to the shim.
fn terminal(uid: Uid, size: Option<(u16, u16)>, channel: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int. It fails where the file is no terminal's master.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })?;
    // SAFETY: TIOCGPTPEER returns a descriptor of the very terminal, whatever the container mounted on /dev/pts.
    let slave = Errno::result(unsafe {
        libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    nix::unistd::fchown(&slave, Some(uid), None)?;
    if let Some((rows, columns)) = size {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize.
        Errno::result(unsafe {
            libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
        })?;
    }
    // SAFETY: plain ioctl on our own session.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    for number in 0..3 {
        process::install(slave.as_fd(), number)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    }
    Report::Terminal.send(channel, &[master.as_fd()]);
    Ok(())
}

fn load(seccomp: Option<&LinuxSeccomp>) -> Result<(), String> {
    match seccomp {
        Some(profile) => libcontainer::seccomp::initialize_seccomp(profile)
            .map(drop)
            .map_err(|error| format!("seccomp: {error}")),
        None => Ok(()),
    }
}

/// The working directory must be inside the container, not reached by a leaked descriptor.
fn verify_directory() -> Result<(), String> {
    match std::env::current_dir() {
        Ok(path)
            if path.is_absolute()
                && !path.starts_with("(unreachable)")
                && Path::new("/").exists() =>
        {
            Ok(())
        }
        _ => {
            Err("current working directory is outside of container mount namespace root".to_owned())
        }
    }
}

fn mask(list: &Capabilities) -> u64 {
    list.iter().fold(0, |mask, capability| {
        mask | 1 << number(&capability.to_string())
    })
}

/// The kernel's number of a capability; 63, which no kernel has, where the name is unknown.
fn number(name: &str) -> u32 {
    const NAMES: [&str; 41] = [
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
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|at| u32::try_from(at).ok())
        .unwrap_or(63)
}

fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in 0..63_u32 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: plain prctl.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(()); // past the last one this kernel knows
            }
            return Err(error);
        }
    }
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Effective, permitted, inheritable, ambient.
fn set_capabilities([effective, permitted, inheritable, ambient]: [u64; 4]) -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut had = [CapabilityHalf::default(), CapabilityHalf::default()];
    // SAFETY: header and data have the layout that version 3 of the call wants.
    check(unsafe { libc::syscall(libc::SYS_capget, &header, had.as_mut_ptr()) })?;
    // What the kernel does not know, or this machine's root does not have, can't be set.
    let possible = u64::from(had[0].permitted) | u64::from(had[1].permitted) << 32;
    let half = |shift: u32| CapabilityHalf {
        effective: ((effective & possible) >> shift) as u32,
        permitted: ((permitted & possible) >> shift) as u32,
        inheritable: ((inheritable & possible) >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) })?;
    // SAFETY: plain prctl.
    check(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })?;
    for capability in (0..63_u32).filter(|number| ambient & possible & (1 << number) != 0) {
        // SAFETY: plain prctl.
        check(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                capability,
                0,
                0,
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn capability_numbers() {
        assert_eq!(
            (
                number("CAP_CHOWN"),
                number("SYS_ADMIN"),
                number("CAP_CHECKPOINT_RESTORE")
            ),
            (0, 21, 40)
        );
        assert_eq!(number("NO_SUCH"), 63);
    }
}
