//! What is under way in a shim: starts of containers and execs, from their reports to their ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use keelson_shim::{Event, Failure, FailureKind, Message, Outcome, Stream, wire};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::Report;
use crate::server::Server;

/// A start that takes longer than this has hung.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A start under way.
pub struct Launch {
    /// Reports come here.
    pub channel: OwnedFd,
    /// When it counts as hung.
    pub deadline: Instant,
    helper: Pid,
    kind: Kind,
    connection: u64,
    request: u64,
    pid: Option<i32>,
    failed: Option<String>,
    detail: Option<String>,
    terminal: Option<OwnedFd>,
}

/// What is being started.
pub enum Kind {
    /// A container's first process.
    Init(String),
    /// An exec.
    Exec {
        /// The client's ends of its streams.
        streams: Vec<(Stream, OwnedFd)>,
        /// Time it may take.
        timeout: Option<Duration>,
    },
}

impl Launch {
    /// A start whose helper was just forked.
    pub fn new(
        kind: Kind,
        (helper, channel): (Pid, OwnedFd),
        connection: u64,
        request: u64,
    ) -> Self {
        Self {
            channel,
            deadline: Instant::now() + START_TIMEOUT,
            helper,
            kind,
            connection,
            request,
            pid: None,
            failed: None,
            detail: None,
            terminal: None,
        }
    }

    /// Kills what it has made so far.
    pub fn kill(&self) {
        for pid in [Some(self.helper.as_raw()), self.pid].into_iter().flatten() {
            // SAFETY: plain kill(2) on children that were not reaped: reaping ends a start.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// An exec under way.
pub struct ExecJob {
    connection: u64,
    pid: i32,
    timed_out: bool,
    /// When it is killed.
    pub deadline: Option<Instant>,
}

impl Server {
    /// A start reported something, or its channel ended.
    pub(crate) fn launch_ready(&mut self, number: u64) {
        let Some(launch) = self.launches.get_mut(&number) else {
            return;
        };
        crate::process::set_nonblocking(launch.channel.as_fd(), true).unwrap_or_default();
        loop {
            let mut packet = match wire::receive(launch.channel.as_fd()) {
                Ok(Some(packet)) => packet,
                Err(Errno::EAGAIN) => return,
                Ok(None) | Err(_) => break,
            };
            match serde_json::from_slice(&packet.bytes) {
                Ok(Report::Pid(pid)) => launch.pid = Some(pid),
                Ok(Report::Terminal) => launch.terminal = packet.fds.pop(),
                // The first cause is the deepest, and the program's own failure goes before what follows from it.
                Ok(Report::Detail(text)) => drop(launch.detail.get_or_insert(text)),
                Ok(Report::Failed(text)) => drop(launch.failed.get_or_insert(text)),
                Err(_) => {}
            }
        }
        if let Some(launch) = self.launches.remove(&number) {
            self.finish_launch(launch);
        }
    }

    fn finish_launch(&mut self, launch: Launch) {
        let failure = match (&launch.failed, launch.pid) {
            (None, Some(_)) => None,
            (Some(message), _) => {
                let detail = launch.detail.as_ref().filter(|detail| {
                    !message.starts_with("exec") && !detail.contains(message.as_str())
                });
                Some(
                    detail.map_or_else(|| message.clone(), |detail| format!("{message}: {detail}")),
                )
            }
            (None, None) => Some(
                launch
                    .detail
                    .clone()
                    .unwrap_or_else(|| "the start was interrupted".to_owned()),
            ),
        };
        match launch.kind {
            Kind::Init(ref name) => {
                let name = name.clone();
                self.finish_init(&name, launch, failure);
            }
            Kind::Exec { .. } => self.finish_exec(launch, failure),
        }
        if self.launches.is_empty() {
            self.early.clear();
        }
    }

    fn finish_init(&mut self, name: &str, launch: Launch, failure: Option<String>) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        let outcome = match (failure, launch.pid) {
            (None, Some(pid)) => {
                container.started(pid);
                if let Some(terminal) = launch.terminal
                    && let Err(errno) = container.streams.set_terminal(
                        terminal,
                        container.start.stdin,
                        container.start.stdin_once,
                    )
                {
                    eprintln!("terminal of {name}: {errno}");
                }
                Outcome::Done
            }
            (failure, _) => {
                launch.kill();
                let message = format!(
                    "OCI runtime create failed: unable to start container process: error during container init: {}: unknown",
                    failure.unwrap_or_default()
                );
                container.streams.end(false);
                container.exited(128, message.clone());
                Outcome::Failed(Failure::new(FailureKind::Start, message))
            }
        };
        let started = matches!(outcome, Outcome::Done);
        self.reply(launch.connection, launch.request, outcome, Vec::new());
        let event = if started {
            Event::Started {
                container: name.to_owned(),
            }
        } else {
            Event::Exited {
                container: name.to_owned(),
            }
        };
        self.announce(&event);
        if started && let Some(code) = launch.pid.and_then(|pid| self.early.remove(&pid)) {
            self.container_ended(name, code);
        }
    }

    fn finish_exec(&mut self, mut launch: Launch, failure: Option<String>) {
        let (connection, request) = (launch.connection, launch.request);
        if let Some(message) = failure {
            launch.kill();
            let message = format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {message}: unknown"
            );
            return self.reply(
                connection,
                request,
                Outcome::Failed(Failure::new(FailureKind::Start, message)),
                Vec::new(),
            );
        }
        let (Some(pid), Kind::Exec { streams, timeout }) = (launch.pid, &mut launch.kind) else {
            return;
        };
        let mut streams = std::mem::take(streams);
        streams.extend(
            launch
                .terminal
                .take()
                .map(|terminal| (Stream::Pty, terminal)),
        );
        let exec = self.number();
        let (kinds, fds) = streams.into_iter().unzip();
        self.reply(
            connection,
            request,
            Outcome::Streams {
                exec,
                streams: kinds,
            },
            fds,
        );
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.execs.insert(
            exec,
            ExecJob {
                connection,
                pid,
                timed_out: false,
                deadline,
            },
        );
        if let Some(code) = self.early.remove(&pid) {
            self.exec_ended(exec, code);
        }
    }

    /// Takes the ends of all children that ended, known or not.
    pub(crate) fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL))
            {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.child_ended(pid, code);
        }
    }

    fn child_ended(&mut self, pid: i32, code: i32) {
        let container = self
            .containers
            .iter()
            .find(|(_, container)| container.running() == Some(pid))
            .map(|(name, _)| name.clone());
        if let Some(name) = container {
            self.container_ended(&name, code);
        } else if let Some(exec) = self
            .execs
            .iter()
            .find(|(_, exec)| exec.pid == pid)
            .map(|(number, _)| *number)
        {
            self.exec_ended(exec, code);
        } else if self.pause.is_some_and(|pause| pause.as_raw() == pid) {
            self.pause = None;
        } else if !self.launches.is_empty() {
            self.early.insert(pid, code);
        }
    }

    fn container_ended(&mut self, name: &str, code: i32) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        container.streams.end(container.start.foreign_pid_namespace);
        container.exited(code, String::new());
        self.announce(&Event::Exited {
            container: name.to_owned(),
        });
    }

    fn exec_ended(&mut self, number: u64, code: i32) {
        if let Some(exec) = self.execs.remove(&number) {
            let event = Event::ExecExited {
                exec: number,
                code,
                timed_out: exec.timed_out,
            };
            self.send(exec.connection, &Message::Event { event }, Vec::new());
        }
    }

    /// Kills what took too long.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        for exec in self
            .execs
            .values_mut()
            .filter(|exec| exec.deadline.is_some_and(|deadline| deadline <= now))
        {
            exec.deadline = None;
            exec.timed_out = true;
            // SAFETY: plain kill(2) on a child that was not reaped, and on its session's process group.
            unsafe {
                libc::kill(-exec.pid, libc::SIGKILL);
                libc::kill(exec.pid, libc::SIGKILL);
            }
        }
        let hung: Vec<u64> = self
            .launches
            .iter()
            .filter(|(_, launch)| launch.deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in hung {
            if let Some(mut launch) = self.launches.remove(&number) {
                launch.kill();
                launch.failed.get_or_insert_with(|| "timed out".to_owned());
                self.finish_launch(launch);
            }
        }
    }
}
