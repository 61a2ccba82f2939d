//! Keeps the daemons alive where systemd is not PID 1: one process a cluster, one thread a daemon.
//!
//! A daemon runs in a session of its own and survives its supervisor; a new supervisor finds it by its pid file (pid and start time,
//! so that a pid that was used again is not mistaken) and waits for it through a pidfd.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::components::{Component, NAMES};
use crate::layout::Layout;

/// How long a daemon may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);
/// Delay before the second restart in a row; doubled up to [`BACKOFF_MOST`].
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
/// The longest delay between restarts.
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A daemon that ran this long starts its backoff afresh.
const BACKOFF_RESET: Duration = Duration::from_secs(30);
/// A log that grows past this is moved to `<name>.log.1`.
const LOG_MOST: u64 = 64 << 20;

/// File of a component's pid.
pub fn pid_file(layout: &Layout, name: &str) -> PathBuf {
    layout.run().join(format!("{name}.pid"))
}

/// A process as named by a pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its pid.
    pub pid: i32,
    started: u64,
}

impl Running {
    /// The process that the file names, if it still is that process.
    pub fn find(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let found = Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        };
        (start_time(found.pid) == Some(found.started)).then_some(found)
    }

    fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            started: start_time(pid)?,
        })
    }

    fn record(self, file: &Path) -> Result<()> {
        keelson_pki::file::write(
            file,
            format!("{} {}\n", self.pid, self.started).as_bytes(),
            0o644,
        )?;
        Ok(())
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal, unless the process has gone.
    pub fn signal(self, signal: Signal) {
        if self.alive() {
            // It may end between the look and the signal; that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended, at most that long.
    pub fn wait(self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else {
            return true;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        else {
            return !self.alive();
        };
        while self.alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let milliseconds = u16::try_from(left.as_millis().min(1000)).unwrap_or(1000);
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            if matches!(poll(&mut fds, PollTimeout::from(milliseconds)), Ok(n) if n > 0) {
                return true;
            }
        }
        true
    }
}

/// Start time of a process in clock ticks since boot: field 22 of its stat. `None` for a zombie, which runs no more.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn components_file(layout: &Layout) -> PathBuf {
    layout.run().join("components.json")
}

/// The names of the cluster's daemons, in the order of start.
pub fn names(layout: &Layout) -> Vec<String> {
    let components: Option<Vec<Component>> = std::fs::read(components_file(layout))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    match components {
        Some(components) => components.into_iter().map(|c| c.name).collect(),
        None => NAMES.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// What the running supervisor was started with, if one runs.
pub fn running(layout: &Layout) -> Option<Running> {
    Running::find(&pid_file(layout, "supervisor"))
}

/// Starts the supervisor of these components, detached, in the cluster's network namespace.
/// Returns false when it runs already with the same components.
pub fn start(layout: &Layout, components: &[Component]) -> Result<bool> {
    std::fs::create_dir_all(layout.run()).context("cannot make the run folder")?;
    std::fs::create_dir_all(layout.logs()).context("cannot make the log folder")?;
    let wanted = serde_json::to_vec_pretty(components)?;
    let unchanged = std::fs::read(components_file(layout)).is_ok_and(|old| old == wanted);
    if let Some(supervisor) = running(layout) {
        if unchanged {
            return Ok(false);
        }
        stop(layout)?;
        debug_assert!(!supervisor.alive(), "stop waits for the supervisor");
    }
    keelson_pki::file::write(&components_file(layout), &wanted, 0o600)?;
    let log = open_log(&layout.logs().join("keelson.log"))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .args(["--name", &layout.name, "supervise"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let netns = layout.netns();
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid, and open and setns by `enter`.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            match &netns {
                Some(name) => crate::netns::enter(name).map_err(std::io::Error::other),
                None => Ok(()),
            }
        });
    }
    let child = command.spawn().context("cannot start the supervisor")?;
    let started = Running::of(i32::try_from(child.id())?)
        .context("the supervisor ended at once; see keelson.log in the log folder")?;
    started.record(&pid_file(layout, "supervisor"))?;
    Ok(true)
}

/// Stops the supervisor and with it, in the opposite order of their start, the daemons.
pub fn stop(layout: &Layout) -> Result<()> {
    if let Some(supervisor) = running(layout) {
        supervisor.signal(Signal::SIGTERM);
        if !supervisor.wait(GRACE * 3) {
            supervisor.signal(Signal::SIGKILL);
            supervisor.wait(Duration::from_secs(5));
        }
    }
    // What a killed supervisor left.
    for name in names(layout).iter().rev() {
        let file = pid_file(layout, name);
        if let Some(process) = Running::find(&file) {
            end(process);
        }
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_file(pid_file(layout, "supervisor"));
    Ok(())
}

fn end(process: Running) {
    process.signal(Signal::SIGTERM);
    if !process.wait(GRACE) {
        process.signal(Signal::SIGKILL);
        process.wait(Duration::from_secs(5));
    }
}

/// The supervisor itself: runs until SIGTERM.
pub fn supervise(layout: &Layout) -> Result<()> {
    let lock = File::create(layout.run().join("supervisor.lock"))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another supervisor runs for this cluster")
    };
    let components: Vec<Component> = serde_json::from_slice(
        &std::fs::read(components_file(layout)).context("no components; run: keelson up")?,
    )?;
    // Every thread started from here on inherits the mask, so that `wait` below is the only receiver.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stopping = Arc::new(AtomicBool::new(false));
    for component in components.clone() {
        let (layout, stopping) = (layout.clone(), stopping.clone());
        std::thread::spawn(move || keep_alive(&layout, &component, &stopping));
    }
    signals.wait()?;
    stopping.store(true, Ordering::SeqCst);
    for component in components.iter().rev() {
        let file = pid_file(layout, &component.name);
        if let Some(process) = Running::find(&file) {
            end(process);
        }
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

fn keep_alive(layout: &Layout, component: &Component, stopping: &AtomicBool) {
    let file = pid_file(layout, &component.name);
    let log = layout.logs().join(format!("{}.log", component.name));
    let mut backoff = BACKOFF_LEAST;
    if let Some(process) = Running::find(&file) {
        while !process.wait(Duration::from_secs(60)) {
            rotate(&log);
        }
    }
    while !stopping.load(Ordering::SeqCst) {
        let started = Instant::now();
        match spawn(component, &log) {
            Ok(mut child) => {
                let process = i32::try_from(child.id()).ok().and_then(Running::of);
                if let Some(process) = process {
                    if let Err(error) = process.record(&file) {
                        eprintln!("{}: cannot write its pid file: {error:#}", component.name);
                    }
                    while !process.wait(Duration::from_secs(60)) {
                        rotate(&log);
                    }
                }
                match child.wait() {
                    Ok(status) if !stopping.load(Ordering::SeqCst) => {
                        eprintln!("{} ended: {status}", component.name)
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("{}: {error}", component.name),
                }
            }
            Err(error) => eprintln!("{}: {error:#}", component.name),
        }
        if started.elapsed() > BACKOFF_RESET {
            backoff = BACKOFF_LEAST;
        }
        std::thread::sleep(backoff);
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

fn spawn(component: &Component, log: &Path) -> Result<std::process::Child> {
    let output = open_log(log)?;
    let mut command = Command::new(&component.program);
    command
        .args(&component.arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        // For the allocator, which starts before a daemon can say that it does without huge pages.
        .env("MIMALLOC_ALLOW_THP", "0")
        .envs(component.environment.iter().map(|(k, v)| (k, v)))
        .envs(
            ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "RUST_LOG"]
                .iter()
                .filter_map(|k| std::env::var(k).ok().map(|v| (*k, v))),
        )
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: setsid and sigprocmask are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            SigSet::all().thread_unblock()?;
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {}", component.program.display()))
}

fn open_log(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Moves a log that has grown too large aside by copying, since the daemon keeps its file open (in append mode).
fn rotate(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_MOST)
        && let Err(error) = std::fs::copy(log, log.with_extension("log.1"))
            .and_then(|_| OpenOptions::new().write(true).truncate(true).open(log))
    {
        eprintln!("cannot rotate {}: {error}", log.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_used_again_is_not_mistaken() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("x.pid");
        let own = Running::of(std::process::id().cast_signed()).expect("self");
        own.record(&file).expect("record");
        assert_eq!(Running::find(&file), Some(own));
        std::fs::write(&file, format!("{} {}\n", own.pid, own.started + 1)).expect("write");
        assert_eq!(Running::find(&file), None);
    }

    #[test]
    fn waiting_ends_with_the_process() {
        let mut child = Command::new("sleep").arg("0.1").spawn().expect("spawn");
        let process = Running::of(child.id().cast_signed()).expect("running");
        assert!(!process.wait(Duration::from_millis(1)));
        assert!(process.wait(Duration::from_secs(5)));
        child.wait().expect("reap");
    }
}
