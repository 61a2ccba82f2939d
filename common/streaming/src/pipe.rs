//! Readers and writers over bounded channels of byte chunks: the ends that a carrier's streams are seen by.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Chunks that a stream buffers before its peer has to wait.
pub const DEPTH: usize = 16;
/// Most bytes that a writer puts into one chunk.
pub const CHUNK: usize = 32 << 10;

/// What the peer sends on a stream, until it closes its side.
#[derive(Debug)]
pub struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Reader {
    /// A reader of what is sent to the channel.
    pub fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self {
            chunks,
            rest: Bytes::new(),
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.chunks.poll_recv(cx)) {
                Some(chunk) => self.rest = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// What a carrier is asked to send on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Stream or channel.
    pub stream: u32,
    /// Bytes; may be empty.
    pub data: Bytes,
    /// Nothing follows.
    pub last: bool,
}

/// Our side of a stream; closes it when shut down or dropped.
#[derive(Debug)]
pub struct Writer {
    stream: u32,
    sender: PollSender<Outgoing>,
    closed: bool,
}

impl Writer {
    /// A writer that sends through the carrier's queue.
    pub fn new(stream: u32, sender: mpsc::Sender<Outgoing>) -> Self {
        Self {
            stream,
            sender: PollSender::new(sender),
            closed: false,
        }
    }
}

fn gone<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed")
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(gone(())));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
        let count = buf.len().min(CHUNK);
        let outgoing = Outgoing {
            stream: self.stream,
            data: Bytes::copy_from_slice(&buf[..count]),
            last: false,
        };
        self.sender.send_item(outgoing).map_err(gone)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        if ready!(self.sender.poll_reserve(cx)).is_ok() {
            let outgoing = Outgoing {
                stream: self.stream,
                data: Bytes::new(),
                last: true,
            };
            // A carrier that is gone has closed the stream already.
            let _ = self.sender.send_item(outgoing);
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let Some(sender) = self.sender.get_ref().cloned() else {
            return;
        };
        let outgoing = Outgoing {
            stream: self.stream,
            data: Bytes::new(),
            last: true,
        };
        if let Err(mpsc::error::TrySendError::Full(outgoing)) = sender.try_send(outgoing)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { sender.send(outgoing).await });
        }
    }
}
