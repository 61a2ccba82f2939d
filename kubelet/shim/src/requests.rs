//! What each request does.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use keelson_shim::{Envelope, Exec, Failure, FailureKind, Outcome, Record, Request, Start, Stream};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::container::Container;
use crate::exec;
use crate::jobs::{Kind, Launch};
use crate::launch::{self, ChildIo};
use crate::log::Log;
use crate::server::Server;
use crate::streams::Streams;

type Answer = Result<Option<(Outcome, Vec<OwnedFd>)>, Failure>;

fn done() -> Answer {
    Ok(Some((Outcome::Done, Vec::new())))
}

fn other(message: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Other, message.to_string())
}

impl Server {
    /// Does what a client asks; some answers come later.
    pub(crate) fn handle(&mut self, connection: u64, envelope: Envelope) {
        let id = envelope.id;
        match self.answer(connection, id, envelope.request) {
            Ok(None) => {}
            Ok(Some((outcome, fds))) => self.reply(connection, id, outcome, fds),
            Err(failure) => self.reply(connection, id, Outcome::Failed(failure), Vec::new()),
        }
    }

    fn answer(&mut self, connection: u64, id: u64, request: Request) -> Answer {
        match request {
            Request::State => Ok(Some((self.state(), Vec::new()))),
            Request::Start(start) => self.start(connection, id, *start),
            Request::Kill {
                container,
                signal,
                all,
            } => {
                let container = self.container(&container)?;
                if all {
                    container.kill_all(signal);
                }
                if let Some(pid) = container.running() {
                    // SAFETY: plain kill(2) on a child that was not reaped.
                    unsafe { libc::kill(pid, signal) };
                }
                done()
            }
            Request::Delete { container } => {
                if self
                    .containers
                    .get(&container)
                    .is_some_and(|container| container.record.exit.is_none())
                {
                    return Err(other(format!("container {container} is running")));
                }
                self.containers.remove(&container);
                done()
            }
            Request::Exec(exec) => self.exec(connection, id, *exec),
            Request::Attach {
                container,
                stdin,
                stdout,
                stderr,
            } => self.attach(&container, stdin, stdout, stderr),
            Request::Resize {
                container,
                width,
                height,
            } => {
                let container = self.container(&container)?;
                if let Some(master) = container.streams.master() {
                    let size = libc::winsize {
                        ws_row: height,
                        ws_col: width,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    // SAFETY: TIOCSWINSZ reads one winsize.
                    unsafe {
                        libc::ioctl(
                            std::os::fd::AsRawFd::as_raw_fd(master),
                            libc::TIOCSWINSZ,
                            &size,
                        )
                    };
                }
                done()
            }
            Request::ReopenLog { container } => {
                self.container(&container)?
                    .streams
                    .reopen_log()
                    .map_err(other)?;
                done()
            }
            Request::Stop => {
                self.stop(connection, id);
                Ok(None)
            }
            Request::Subscribe => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.subscribed = true;
                }
                done()
            }
        }
    }

    fn container(&mut self, name: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(name).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("container {name} not found"))
        })
    }

    fn state(&self) -> Outcome {
        let running = self
            .containers
            .iter()
            .filter_map(|(name, container)| Some((name.clone(), container.running()?)))
            .collect();
        Outcome::State {
            pid: nix::unistd::getpid().as_raw(),
            pause_pid: self.pause.map(nix::unistd::Pid::as_raw),
            running,
        }
    }

    fn start(&mut self, connection: u64, id: u64, start: Start) -> Answer {
        if self.stopping.is_some() {
            return Err(other("the sandbox is stopping"));
        }
        if self.containers.contains_key(&start.container) {
            return Err(Failure::new(
                FailureKind::Exists,
                format!("container {} exists", start.container),
            ));
        }
        let log = Log::open(&start.log)
            .map_err(|error| other(format!("{}: {error}", start.log.display())))?;
        let (streams, io) = if start.tty {
            (Streams::empty(log), None)
        } else {
            let (stdin, ours) = match start.stdin {
                true => pipe2(OFlag::O_CLOEXEC)
                    .map(|(reader, writer)| (reader, Some(writer)))
                    .map_err(other)?,
                false => (null(false)?, None),
            };
            let (our_stdout, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(other)?;
            let (our_stderr, stderr) = pipe2(OFlag::O_CLOEXEC).map_err(other)?;
            let streams = Streams::pipes(log, ours, our_stdout, our_stderr, start.stdin_once)
                .map_err(other)?;
            (
                streams,
                Some(ChildIo {
                    stdin,
                    stdout,
                    stderr,
                }),
            )
        };
        let forked = launch::launch(&start, io).map_err(|errno| other(format!("fork: {errno}")))?;
        let number = self.number();
        self.launches.insert(
            number,
            Launch::new(Kind::Init(start.container.clone()), forked, connection, id),
        );
        self.containers.insert(
            start.container.clone(),
            Container {
                start,
                record: Record::default(),
                streams,
            },
        );
        Ok(None)
    }

    fn exec(&mut self, connection: u64, id: u64, request: Exec) -> Answer {
        let container = self.container(&request.container)?;
        let init = container.running().ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("container {} is not running", request.container),
            )
        })?;
        let (bundle, cgroups) = (
            container.start.bundle.clone(),
            container.start.cgroups.clone(),
        );
        let mut streams = Vec::new();
        let io = if request.tty {
            None
        } else {
            let stdin = if request.stdin {
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(other)?;
                streams.push((Stream::Stdin, writer));
                reader
            } else {
                null(false)?
            };
            let mut output = |wanted: bool, stream: Stream| {
                if !wanted {
                    return null(true);
                }
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(other)?;
                streams.push((stream, reader));
                Ok(writer)
            };
            let stdout = output(request.stdout, Stream::Stdout)?;
            let stderr = output(request.stderr, Stream::Stderr)?;
            Some(ChildIo {
                stdin,
                stdout,
                stderr,
            })
        };
        let plan = exec::Plan {
            init,
            bundle,
            cgroups,
            args: request.args,
            io,
            size: request.size,
        };
        let forked = exec::launch(plan).map_err(|errno| other(format!("fork: {errno}")))?;
        let timeout = request.timeout_ms.map(Duration::from_millis);
        let number = self.number();
        self.launches.insert(
            number,
            Launch::new(Kind::Exec { streams, timeout }, forked, connection, id),
        );
        Ok(None)
    }

    fn attach(&mut self, name: &str, stdin: bool, stdout: bool, stderr: bool) -> Answer {
        let container = self.container(name)?;
        if container.running().is_none() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("container {name} is not running"),
            ));
        }
        let ends = container
            .streams
            .attach(stdin, stdout, stderr)
            .map_err(other)?;
        let mut streams = Vec::new();
        let mut fds = Vec::new();
        for (stream, fd) in [Stream::Stdin, Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(ends)
        {
            if let Some(fd) = fd {
                streams.push(stream);
                fds.push(fd);
            }
        }
        if let Some(master) = container.streams.master() {
            streams.push(Stream::Pty);
            fds.push(master.try_clone().map_err(other)?);
        }
        Ok(Some((Outcome::Streams { exec: 0, streams }, fds)))
    }

    fn stop(&mut self, connection: u64, id: u64) {
        self.stopping.get_or_insert_default().push((connection, id));
        for launch in self.launches.values() {
            launch.kill();
        }
        for container in self.containers.values() {
            container.kill_all(libc::SIGKILL);
            if let Some(pid) = container.running() {
                // SAFETY: plain kill(2) on a child that was not reaped.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        if let Some(pause) = self.pause {
            // SAFETY: as above.
            unsafe { libc::kill(pause.as_raw(), libc::SIGKILL) };
        }
    }

    /// Whether everything that was to stop has ended; then whoever asked is told.
    pub(crate) fn stopped(&mut self) -> bool {
        if self.stopping.is_none() || !self.launches.is_empty() || self.pause.is_some() {
            return false;
        }
        if self
            .containers
            .values()
            .any(|container| container.running().is_some())
        {
            return false;
        }
        for (connection, id) in self.stopping.take().unwrap_or_default() {
            self.reply(connection, id, Outcome::Done, Vec::new());
        }
        true
    }
}

/// /dev/null, for reading or writing.
fn null(write: bool) -> Result<OwnedFd, Failure> {
    File::options()
        .read(!write)
        .write(write)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(other)
}
