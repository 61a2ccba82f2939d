//! A container's streams: from its pipes or terminal to the log and to whoever is attached, and from them to its stdin.
//!
//! Nothing here ever waits for a client: what a client does not take is kept up to a bound, then the client is dropped.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};

use crate::log::{Log, Splitter};
use crate::process::set_nonblocking;

/// Bytes kept for a slow client.
const CLIENT_BUFFER: usize = 1 << 20;
/// Bytes of stdin kept for a slow container.
const STDIN_BUFFER: usize = 64 << 10;
/// Bytes read at once.
const CHUNK: usize = 32 << 10;

/// A write end for someone who may be slow.
struct Sink {
    fd: OwnedFd,
    queue: VecDeque<u8>,
}

impl Sink {
    fn push(&mut self, data: &[u8]) -> bool {
        self.queue.extend(data);
        self.flush() && self.queue.len() <= CLIENT_BUFFER
    }

    /// Writes what goes; false when the other end is gone.
    fn flush(&mut self) -> bool {
        while !self.queue.is_empty() {
            match write(&self.fd, self.queue.as_slices().0) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Someone attached.
struct Client {
    number: u64,
    stdin: Option<OwnedFd>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

/// One output of the container.
struct Output {
    fd: OwnedFd,
    splitter: Splitter,
}

/// What to poll and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Output 0 (stdout or terminal) or 1 (stderr) has something.
    Output(usize),
    /// The container's stdin takes something.
    Stdin,
    /// A client's stdin has something.
    ClientStdin(u64),
    /// A client's output takes something, or the client is gone.
    ClientOutput(u64),
}

/// The streams of one container.
pub struct Streams {
    outputs: [Option<Output>; 2],
    stdin: Option<OwnedFd>,
    pending: VecDeque<u8>,
    closing: bool,
    stdin_once: bool,
    master: Option<OwnedFd>,
    clients: Vec<Client>,
    next: u64,
    log: Log,
}

impl Streams {
    /// For a container with pipes: the shim's ends.
    pub fn pipes(
        log: Log,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        stdin_once: bool,
    ) -> nix::Result<Self> {
        for fd in [Some(&stdout), Some(&stderr), stdin.as_ref()]
            .into_iter()
            .flatten()
        {
            set_nonblocking(fd.as_fd(), true)?;
        }
        let output = |fd, name| {
            Some(Output {
                fd,
                splitter: Splitter::new(name),
            })
        };
        let outputs = [output(stdout, "stdout"), output(stderr, "stderr")];
        Ok(Self {
            outputs,
            stdin,
            stdin_once,
            ..Self::empty(log)
        })
    }

    /// For a container with a terminal, which arrives later.
    pub fn empty(log: Log) -> Self {
        Self {
            outputs: [None, None],
            stdin: None,
            pending: VecDeque::new(),
            closing: false,
            stdin_once: false,
            master: None,
            clients: Vec::new(),
            next: 1,
            log,
        }
    }

    /// The terminal arrived.
    pub fn set_terminal(
        &mut self,
        master: OwnedFd,
        stdin: bool,
        stdin_once: bool,
    ) -> nix::Result<()> {
        set_nonblocking(master.as_fd(), true)?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::EMFILE);
        self.outputs[0] = Some(Output {
            fd: copy(&master)?,
            splitter: Splitter::new("stdout"),
        });
        self.stdin = if stdin { Some(copy(&master)?) } else { None };
        self.stdin_once = stdin_once;
        self.master = Some(master);
        Ok(())
    }

    /// The terminal's master.
    pub fn master(&self) -> Option<&OwnedFd> {
        self.master.as_ref()
    }

    /// Opens the log anew.
    pub fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.reopen()
    }

    /// What to poll, with poll(2)'s events.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Interest, bool)> {
        let outputs = self
            .outputs
            .iter()
            .enumerate()
            .filter_map(|(number, output)| {
                output
                    .as_ref()
                    .map(|output| (output.fd.as_fd(), Interest::Output(number), false))
            });
        let stdin = self
            .stdin
            .iter()
            .filter(|_| !self.pending.is_empty())
            .map(|fd| (fd.as_fd(), Interest::Stdin, true));
        let room = self.pending.len() < STDIN_BUFFER;
        let clients = self.clients.iter().flat_map(move |client| {
            let stdin = client
                .stdin
                .iter()
                .filter(move |_| room)
                .map(|fd| (fd.as_fd(), Interest::ClientStdin(client.number), false));
            let outputs = [&client.stdout, &client.stderr]
                .into_iter()
                .flatten()
                .map(|sink| {
                    (
                        sink.fd.as_fd(),
                        Interest::ClientOutput(client.number),
                        !sink.queue.is_empty(),
                    )
                });
            stdin.chain(outputs)
        });
        outputs.chain(stdin).chain(clients)
    }

    /// Something polled is ready.
    pub fn ready(&mut self, interest: Interest, hung_up: bool) {
        match interest {
            Interest::Output(number) => drop(self.pump(number)),
            Interest::Stdin => self.flush_stdin(),
            Interest::ClientStdin(number) => self.read_client(number),
            Interest::ClientOutput(number) => {
                let gone =
                    |sink: &mut Option<Sink>| sink.as_mut().is_some_and(|sink| !sink.flush());
                if let Some(client) = self
                    .clients
                    .iter_mut()
                    .find(|client| client.number == number)
                {
                    let (stdout, stderr) = (gone(&mut client.stdout), gone(&mut client.stderr));
                    if hung_up || stdout || stderr {
                        self.drop_client(number);
                    }
                }
            }
        }
    }

    /// Reads one chunk of an output; false when there was nothing.
    fn pump(&mut self, number: usize) -> bool {
        let Some(output) = &mut self.outputs[number] else {
            return false;
        };
        let mut buffer = [0_u8; CHUNK];
        match read(&output.fd, &mut buffer) {
            Ok(length) if length > 0 => {
                output.splitter.feed(&buffer[..length], &mut self.log);
                self.broadcast(number, &buffer[..length]);
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            // The end; a terminal says EIO when its last user is gone.
            Ok(_) | Err(_) => {
                output.splitter.finish(&mut self.log);
                self.outputs[number] = None;
                for client in &mut self.clients {
                    let sink = if number == 0 {
                        &mut client.stdout
                    } else {
                        &mut client.stderr
                    };
                    if sink.as_ref().is_some_and(|sink| sink.queue.is_empty()) {
                        *sink = None;
                    }
                }
                false
            }
        }
    }

    fn broadcast(&mut self, number: usize, data: &[u8]) {
        let mut gone = Vec::new();
        for client in &mut self.clients {
            let sink = if number == 0 {
                &mut client.stdout
            } else {
                &mut client.stderr
            };
            if sink.as_mut().is_some_and(|sink| !sink.push(data)) {
                gone.push(client.number);
            }
        }
        for number in gone {
            self.drop_client(number);
        }
    }

    /// The container's first process ended: take what is left in the pipes, then let everybody go.
    pub fn end(&mut self, keep_reading: bool) {
        for number in 0..2 {
            // A process that lives on outside of the container's own PID namespace may write for ever.
            for _ in 0..64 {
                if !self.pump(number) {
                    break;
                }
            }
        }
        if !keep_reading {
            for number in 0..2 {
                if let Some(mut output) = self.outputs[number].take() {
                    output.splitter.finish(&mut self.log);
                }
            }
        }
        self.stdin = None;
        self.master = None;
        self.pending.clear();
        // Clients see the end once they have taken what is kept for them.
        for client in &mut self.clients {
            client.stdin = None;
            for sink in [&mut client.stdout, &mut client.stderr] {
                if sink
                    .as_mut()
                    .is_some_and(|sink| !sink.flush() || sink.queue.is_empty())
                {
                    *sink = None;
                }
            }
        }
        self.clients
            .retain(|client| client.stdout.is_some() || client.stderr.is_some());
    }

    /// Attaches someone; returns their ends.
    pub fn attach(
        &mut self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> nix::Result<[Option<OwnedFd>; 3]> {
        let mut client = Client {
            number: self.next,
            stdin: None,
            stdout: None,
            stderr: None,
        };
        self.next += 1;
        let mut theirs = [None, None, None];
        if stdin && self.stdin.is_some() {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(reader.as_fd(), true)?;
            client.stdin = Some(reader);
            theirs[0] = Some(writer);
        }
        for (wanted, number) in [(stdout, 0), (stderr && self.master.is_none(), 1)] {
            if wanted {
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
                set_nonblocking(writer.as_fd(), true)?;
                let sink = Some(Sink {
                    fd: writer,
                    queue: VecDeque::new(),
                });
                if number == 0 {
                    client.stdout = sink
                } else {
                    client.stderr = sink
                }
                theirs[number + 1] = Some(reader);
            }
        }
        self.clients.push(client);
        Ok(theirs)
    }

    fn read_client(&mut self, number: u64) {
        let Some(client) = self
            .clients
            .iter_mut()
            .find(|client| client.number == number)
        else {
            return;
        };
        let Some(fd) = &client.stdin else { return };
        let mut buffer = [0_u8; CHUNK];
        match read(fd, &mut buffer) {
            Ok(length) if length > 0 => {
                self.pending.extend(&buffer[..length]);
                self.flush_stdin();
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) | Err(_) => {
                client.stdin = None;
                self.stdin_ended();
            }
        }
    }

    /// A client closed its stdin (or went away with it open).
    fn stdin_ended(&mut self) {
        if self.stdin_once {
            self.closing = true;
            self.flush_stdin();
        }
    }

    fn flush_stdin(&mut self) {
        while let Some(fd) = &self.stdin
            && !self.pending.is_empty()
        {
            match write(fd, self.pending.as_slices().0) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.stdin = None;
                    self.pending.clear();
                }
            }
        }
        if self.closing && self.pending.is_empty() {
            if let Some(master) = &self.master {
                // End of file, as typed on a terminal.
                let _ = write(master, &[4]);
            }
            self.stdin = None;
        }
    }

    fn drop_client(&mut self, number: u64) {
        if let Some(at) = self
            .clients
            .iter()
            .position(|client| client.number == number)
            && self.clients.swap_remove(at).stdin.is_some()
        {
            self.stdin_ended();
        }
    }
}
