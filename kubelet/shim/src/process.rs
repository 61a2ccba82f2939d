//! The last steps of a process before it becomes the container's program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork};

use crate::lookup;

/// What a process on its way to the container's program tells the shim. The end of the channel means it got there.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum Report {
    /// Host pid of the process.
    Pid(i32),
    /// The master of its terminal is beside this message.
    Terminal,
    /// A cause on the way to a failure.
    Detail(String),
    /// It failed, in words.
    Failed(String),
}

impl Report {
    /// Sends it; the shim notices a broken channel by itself.
    pub fn send(&self, channel: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) {
        if let Ok(bytes) = serde_json::to_vec(self) {
            let _ = keelson_shim::wire::send(channel, &bytes, fds);
        }
    }
}

/// A channel for [`Report`]s: the shim's end and the child's.
pub fn channel() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Forks; the child runs `work` and exits.
pub fn fork_with(work: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: the shim is single-threaded, so the child may do whatever the parent could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(70);
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Forks a sibling: a child of the caller's parent. `flags` beside are those of clone(2).
pub fn clone_sibling(work: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: clone(2) without CLONE_VM and with a null stack is fork(2); the caller is single-threaded.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) };
    match Errno::result(result)? {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(70);
            // SAFETY: as above.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(-1))),
    }
}

/// Undoes what the shim did to its signals: the container's program starts with defaults.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: setting the default disposition is always sound; unusable numbers only return an error.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Becomes the program. Returns only an error, in words.
pub fn exec(arguments: &[String], environment: &[String]) -> Result<Infallible, String> {
    let first = arguments
        .first()
        .ok_or_else(|| "no command specified".to_owned())?;
    let path = lookup::program(first, environment)?;
    let list = |items: &[String]| {
        items
            .iter()
            .map(lookup::c_string)
            .collect::<Result<Vec<CString>, String>>()
    };
    let (arguments, environment) = (list(arguments)?, list(environment)?);
    reset_signals();
    // SAFETY: plain prctl; the container's first process dies with its shim, which alone can wait for it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    close_on_exec(3);
    match nix::unistd::execve(&path, &arguments, &environment) {
        Ok(never) => match never {},
        Err(Errno::ENOENT) => Err(format!(
            "exec {}: no such file or directory",
            path.to_string_lossy()
        )),
        Err(errno) => Err(format!(
            "exec {}: {}",
            path.to_string_lossy(),
            lookup::words(errno)
        )),
    }
}

/// Marks every descriptor from `first` on to be closed by exec: nothing of the host leaks into the container.
pub fn close_on_exec(first: u32) {
    // SAFETY: only sets flags on this process's descriptors.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// The last OS error as a result.
pub fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets or clears `O_NONBLOCK`.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop)
}

/// Makes `fd` the descriptor `number` (0, 1 or 2) of this process.
pub fn install(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: dup2 on descriptors this process owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
}
