//! The kubelet's end of a shim's socket: requests with their answers, and events.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_shim::{
    Envelope, Event, Failure, FailureKind, Message, Outcome, Request, SOCKET, Stream, wire,
};
use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecEnd {
    /// Exit code.
    pub code: i32,
    /// Killed because its time was up.
    pub timed_out: bool,
}

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// What the shim said.
    pub outcome: Outcome,
    /// Streams beside it.
    pub streams: Vec<(Stream, OwnedFd)>,
    /// The end of the exec that was asked for.
    pub end: Option<oneshot::Receiver<ExecEnd>>,
}

#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, oneshot::Sender<Result<Answer, Failure>>>,
    execs: HashMap<u64, oneshot::Sender<ExecEnd>>,
    closed: bool,
}

/// A connection to a shim.
pub struct Client {
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Mutex<Waiting>>,
    sending: tokio::sync::Mutex<()>,
    next: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Connects to the shim of the pod in `directory`. Its events go to `events`, which is closed when the shim is gone.
    pub fn connect(directory: &Path, events: mpsc::UnboundedSender<Event>) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` keeps its descriptor for as long as it lives, and the `AsyncFd` owns it.
        let socket = Arc::new(unsafe { AsyncFd::register(wire::dial(directory, SOCKET)?) }?);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&waiting), events));
        Ok(Self {
            socket,
            waiting,
            sending: tokio::sync::Mutex::new(()),
            next: AtomicU64::new(1),
            reader,
        })
    }

    /// Asks and waits for the answer.
    pub async fn call(&self, request: Request) -> Result<Answer, Failure> {
        let gone = || Failure::new(FailureKind::Other, "the pod's shim is gone");
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(gone());
            }
            waiting.replies.insert(id, sender);
        }
        let bytes = serde_json::to_vec(&Envelope { id, request }).map_err(|_| gone())?;
        if self.send(&bytes).await.is_err() {
            self.waiting.lock().replies.remove(&id);
            return Err(gone());
        }
        receiver.await.map_err(|_| gone())?
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _in_turn = self.sending.lock().await;
        loop {
            let mut ready = self.socket.writable().await?;
            match wire::send(self.socket.get_ref().as_fd(), bytes, &[]) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                other => return other.map_err(io::Error::from),
            }
        }
    }
}

/// Distributes what the shim sends until it is gone.
async fn read(
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Mutex<Waiting>>,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        let Ok(mut ready) = socket.readable().await else {
            break;
        };
        let packet = match wire::receive(socket.get_ref().as_fd()) {
            Ok(Some(packet)) => packet,
            Err(Errno::EAGAIN) => {
                ready.clear_ready();
                continue;
            }
            Ok(None) | Err(_) => break,
        };
        match serde_json::from_slice(&packet.bytes) {
            Ok(Message::Reply { id, outcome }) => reply(&waiting, id, outcome, packet.fds),
            Ok(Message::Event {
                event:
                    Event::ExecExited {
                        exec,
                        code,
                        timed_out,
                    },
            }) => {
                if let Some(sender) = waiting.lock().execs.remove(&exec) {
                    let _ = sender.send(ExecEnd { code, timed_out });
                }
            }
            Ok(Message::Event { event }) => {
                if events.send(event).is_err() {
                    break; // nobody listens any more: the runtime was dropped
                }
            }
            Err(error) => tracing::warn!(%error, "malformed message from a shim"),
        }
    }
    let mut waiting = waiting.lock();
    waiting.closed = true;
    // Whoever waits learns it by the dropped senders.
    waiting.replies.clear();
    waiting.execs.clear();
}

fn reply(waiting: &Mutex<Waiting>, id: u64, outcome: Outcome, fds: Vec<OwnedFd>) {
    let mut waiting = waiting.lock();
    let Some(sender) = waiting.replies.remove(&id) else {
        return;
    };
    let (streams, end) = match &outcome {
        Outcome::Streams { exec, streams } => {
            // Registered before the next message is read: the end may follow at once.
            let end = (*exec != 0).then(|| {
                let (sender, receiver) = oneshot::channel();
                waiting.execs.insert(*exec, sender);
                receiver
            });
            (streams.iter().copied().zip(fds).collect(), end)
        }
        _ => (Vec::new(), None),
    };
    let answer = match outcome {
        Outcome::Failed(failure) => Err(failure),
        outcome => Ok(Answer {
            outcome,
            streams,
            end,
        }),
    };
    let _ = sender.send(answer);
}
