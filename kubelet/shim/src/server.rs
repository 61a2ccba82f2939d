//! The shim's loop: one poll(2) over the socket, the signals, the clients, the streams and the starts under way. It wakes
//! for events and for deadlines of execs, never to look.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use keelson_shim::{Envelope, Event, Failure, FailureKind, Message, Outcome, SOCKET, wire};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    socket, sockopt,
};
use nix::unistd::Pid;

use crate::container::Container;
use crate::jobs::{ExecJob, Launch};
use crate::streams::Interest;

/// Messages kept for a client that does not read; past that it is cut off and connects anew.
const MAX_QUEUE: usize = 4096;

/// A client.
pub struct Connection {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub(crate) subscribed: bool,
}

/// What a descriptor in the poll set belongs to.
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Launch(u64),
    Stream(String, Interest),
}

/// The shim.
pub struct Server {
    listener: OwnedFd,
    signals: SignalFd,
    socket_path: PathBuf,
    next: u64,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) launches: BTreeMap<u64, Launch>,
    pub(crate) execs: BTreeMap<u64, ExecJob>,
    /// Children that ended before their start was over.
    pub(crate) early: HashMap<i32, i32>,
    pub(crate) pause: Option<Pid>,
    pub(crate) stopping: Option<Vec<(u64, u64)>>,
}

impl Server {
    /// Opens the socket.
    pub fn bind(directory: &Path) -> Result<Self, String> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ] {
            set.add(signal);
        }
        set.thread_block().map_err(|errno| errno.to_string())?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|errno| format!("signalfd: {errno}"))?;
        let socket_path = directory.join(SOCKET);
        let _ = std::fs::remove_file(&socket_path);
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
            // By a short relative name, as socket paths are bounded.
            nix::unistd::chdir(directory)?;
            let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
            let bound = bind(listener.as_raw_fd(), &UnixAddr::new(SOCKET)?);
            nix::sys::stat::umask(mask);
            nix::unistd::chdir("/")?;
            bound?;
            listen(&listener, Backlog::new(64)?)?;
            Ok(listener)
        };
        let listener = open().map_err(|errno| format!("{}: {errno}", socket_path.display()))?;
        Ok(Self {
            listener,
            signals,
            socket_path,
            next: 1,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            launches: BTreeMap::new(),
            execs: BTreeMap::new(),
            early: HashMap::new(),
            pause: None,
            stopping: None,
        })
    }

    /// The pause process of a shared PID namespace.
    pub fn set_pause(&mut self, pid: Pid) {
        self.pause = Some(pid);
    }

    /// Serves until stopped.
    pub fn run(&mut self) {
        while !self.stopped() {
            let ready = self.wait();
            // Signals last: a child's reports come before its end.
            let mut children = false;
            for (source, flags) in ready {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => children = true,
                    Source::Connection(number) => self.serve(number, flags),
                    Source::Launch(number) => self.launch_ready(number),
                    Source::Stream(container, interest) => {
                        let hung_up = flags.intersects(
                            PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL,
                        );
                        if let Some(container) = self.containers.get_mut(&container) {
                            container.streams.ready(interest, hung_up);
                        }
                    }
                }
            }
            if children {
                self.drain_signals();
            }
            self.expire();
        }
        let _ = std::fs::remove_file(&self.socket_path);
    }

    fn wait(&mut self) -> Vec<(Source, PollFlags)> {
        let mut fds = Vec::new();
        let mut sources = Vec::new();
        let mut add = |fd, flags, source| {
            fds.push(PollFd::new(fd, flags));
            sources.push(source);
        };
        add(self.listener.as_fd(), PollFlags::POLLIN, Source::Listener);
        add(self.signals.as_fd(), PollFlags::POLLIN, Source::Signals);
        for (number, connection) in &self.connections {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !connection.queue.is_empty());
            add(
                connection.socket.as_fd(),
                flags,
                Source::Connection(*number),
            );
        }
        for (number, launch) in &self.launches {
            add(
                launch.channel.as_fd(),
                PollFlags::POLLIN,
                Source::Launch(*number),
            );
        }
        for (name, container) in &self.containers {
            for (fd, interest, write) in container.streams.interests() {
                let flags = match interest {
                    Interest::Output(_) | Interest::ClientStdin(_) => PollFlags::POLLIN,
                    _ if write => PollFlags::POLLOUT,
                    _ => PollFlags::empty(),
                };
                add(fd, flags, Source::Stream(name.clone(), interest));
            }
        }
        let timeout = match self.next_deadline() {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline
                    .saturating_duration_since(Instant::now())
                    .as_millis()
                    + 1;
                PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX))
                    .unwrap_or(PollTimeout::MAX)
            }
        };
        if poll(&mut fds, timeout).is_err() {
            return Vec::new(); // interrupted
        }
        let flags: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        sources
            .into_iter()
            .zip(flags)
            .filter(|(_, flags)| !flags.is_empty())
            .collect()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let execs = self.execs.values().filter_map(|exec| exec.deadline);
        execs
            .chain(self.launches.values().map(|launch| launch.deadline))
            .min()
    }

    /// A number for a connection, a start or an exec.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(raw) = accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: accept4 has just made this descriptor for us.
            let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(raw) };
            let allowed = getsockopt(&socket, sockopt::PeerCredentials)
                .is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw());
            if allowed && self.connections.len() < 256 {
                let number = self.number();
                self.connections.insert(
                    number,
                    Connection {
                        socket,
                        queue: VecDeque::new(),
                        subscribed: false,
                    },
                );
            }
        }
    }

    fn serve(&mut self, number: u64, flags: PollFlags) {
        if flags.contains(PollFlags::POLLOUT) {
            self.flush(number);
        }
        if !flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        match wire::receive(connection.socket.as_fd()) {
            Ok(Some(packet)) => match serde_json::from_slice::<Envelope>(&packet.bytes) {
                Ok(envelope) => self.handle(number, envelope),
                Err(error) => {
                    let failure =
                        Failure::new(FailureKind::Other, format!("malformed request: {error}"));
                    self.reply(number, 0, Outcome::Failed(failure), Vec::new());
                }
            },
            Err(Errno::EAGAIN) => {}
            Ok(None) | Err(_) => drop(self.connections.remove(&number)),
        }
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, connection: u64, id: u64, outcome: Outcome, fds: Vec<OwnedFd>) {
        self.send(connection, &Message::Reply { id, outcome }, fds);
    }

    /// Tells one client.
    pub(crate) fn send(&mut self, number: u64, message: &Message, fds: Vec<OwnedFd>) {
        let (Some(connection), Ok(bytes)) = (
            self.connections.get_mut(&number),
            serde_json::to_vec(message),
        ) else {
            return;
        };
        connection.queue.push_back((bytes, fds));
        self.flush(number);
    }

    /// Tells everybody who wants to know.
    pub(crate) fn announce(&mut self, event: &Event) {
        let numbers: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.subscribed)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.send(
                number,
                &Message::Event {
                    event: event.clone(),
                },
                Vec::new(),
            );
        }
    }

    fn flush(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        while let Some((bytes, fds)) = connection.queue.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match wire::send(connection.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(connection.queue.pop_front()),
                Err(Errno::EAGAIN | Errno::ENOBUFS) if connection.queue.len() < MAX_QUEUE => return,
                Err(_) => {
                    self.connections.remove(&number);
                    return;
                }
            }
        }
    }

    fn drain_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGTERM, SIGINT and SIGHUP are ignored: only the kubelet, by the socket, ends a pod.
            if signal.ssi_signo == libc::SIGCHLD.unsigned_abs() {
                self.reap();
            }
        }
    }
}
