//! A connection of many streams: one task reads frames, one writes them, streams are ends of channels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, FLAG_FIN, Frame};
use super::headers::{Decoder, Encoder, Headers};
use crate::pipe::{DEPTH, Outgoing, Reader, Writer};

/// Most streams open at once.
const MAX_STREAMS: usize = 1024;

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// Headers it was opened with.
    pub headers: Headers,
    /// What the peer sends.
    pub reader: Reader,
    /// What we send.
    pub writer: Writer,
}

/// A connection; dropping it ends it.
#[derive(Debug)]
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    drained: Arc<tokio::sync::Notify>,
    open: Arc<AtomicUsize>,
    gone: CancellationToken,
    _stop: DropGuard,
}

/// What the writing task is asked for, beside data.
enum Control {
    Reply(u32),
    Reset(u32, u32),
    Pong(u32),
}

/// Counts our open sides, so that closing can wait for the last bytes.
type Writers = Arc<Mutex<HashMap<u32, ()>>>;

impl Connection {
    /// Serves a connection.
    pub fn serve<I>(io: I) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let stop = CancellationToken::new();
        let (opened, streams) = mpsc::channel(DEPTH);
        let (data, data_out) = mpsc::channel(DEPTH);
        let (control, control_out) = mpsc::channel(DEPTH * 4);
        let drained = Arc::new(tokio::sync::Notify::new());
        let open = Arc::new(AtomicUsize::new(0));
        let ours: Writers = Arc::default();
        let loops = (stop.clone(), stop.clone());
        let (count, told) = (open.clone(), drained.clone());
        let writers = ours.clone();
        tokio::spawn(async move {
            let work = write_loop(write, control_out, data_out, &count, &told, &writers);
            // An error here means that the peer is gone, which the reading task sees too.
            let _ = loops.0.run_until_cancelled(work).await;
            loops.0.cancel();
            told.notify_waiters();
            told.notify_one();
        });
        let count = open.clone();
        let gone = CancellationToken::new();
        let ended = gone.clone().drop_guard();
        tokio::spawn(async move {
            let _ended = ended;
            let reading = ReadLoop {
                opened,
                data,
                control,
                count,
                ours,
                inputs: HashMap::new(),
                decoder: Decoder::default(),
            };
            if let Some(Err(error)) = loops.1.run_until_cancelled(reading.run(read)).await {
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        Self {
            streams,
            drained,
            open,
            gone,
            _stop: stop.drop_guard(),
        }
    }

    /// The next stream the peer opens; `None` when the connection is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Cancelled when the peer is gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Waits until all our sides are closed and sent, or the connection is over.
    pub async fn drain(&self) {
        loop {
            let notified = self.drained.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            tokio::select! {
                () = notified => {}
                () = self.gone.cancelled() => return,
                () = tokio::time::sleep(std::time::Duration::from_secs(10)) => return,
            }
        }
    }
}

struct ReadLoop {
    opened: mpsc::Sender<Stream>,
    data: mpsc::Sender<Outgoing>,
    control: mpsc::Sender<Control>,
    count: Arc<AtomicUsize>,
    ours: Writers,
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    decoder: Decoder,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    #[error("{0}")]
    Headers(#[from] super::headers::HeaderError),
    #[error("the writing side is gone")]
    Closed,
}

impl ReadLoop {
    async fn run<I: AsyncRead>(mut self, io: ReadHalf<I>) -> Result<(), ReadError> {
        let mut io = tokio::io::BufReader::with_capacity(32 << 10, io);
        while let Some(frame) = frame::read(&mut io).await? {
            match frame {
                Frame::SynStream { id, flags, block } => self.open(id, flags, &block).await?,
                Frame::Data { id, flags, data } => self.take(id, flags, data).await?,
                Frame::RstStream { id, .. } => {
                    self.inputs.remove(&id);
                }
                Frame::Headers { block, .. } | Frame::SynReply { block, .. } => {
                    // Unpacked all the same: the context must follow.
                    self.decoder.decode(&block)?;
                }
                // Odd ids are the peer's own, ours would be even; we send none.
                Frame::Ping(id) if id % 2 == 1 => self.tell(Control::Pong(id)).await?,
                Frame::GoAway { .. } => {
                    if self.count.load(Ordering::Acquire) == 0 {
                        return Ok(());
                    }
                }
                Frame::Ping(_) | Frame::Ignored => {}
            }
        }
        Ok(())
    }

    async fn tell(&self, control: Control) -> Result<(), ReadError> {
        self.control
            .send(control)
            .await
            .map_err(|_| ReadError::Closed)
    }

    async fn open(&mut self, id: u32, flags: u8, block: &[u8]) -> Result<(), ReadError> {
        let headers = self.decoder.decode(block)?;
        let known = self
            .ours
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&id);
        if id.is_multiple_of(2) || known {
            // PROTOCOL_ERROR.
            return self.tell(Control::Reset(id, 1)).await;
        }
        if self.count.load(Ordering::Acquire) >= MAX_STREAMS {
            // REFUSED_STREAM.
            return self.tell(Control::Reset(id, 3)).await;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        self.ours
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, ());
        self.tell(Control::Reply(id)).await?;
        let (input, output) = mpsc::channel(DEPTH);
        if flags & FLAG_FIN == 0 {
            self.inputs.insert(id, input);
        }
        let stream = Stream {
            id,
            headers,
            reader: Reader::new(output),
            writer: Writer::new(id, self.data.clone()),
        };
        // Refused by nobody listening: the stream is dropped, which closes our side.
        let _ = self.opened.send(stream).await;
        Ok(())
    }

    async fn take(&mut self, id: u32, flags: u8, data: Bytes) -> Result<(), ReadError> {
        let Some(input) = self.inputs.get(&id) else {
            return Ok(());
        };
        // A reader that is gone wants no more: the rest is thrown away.
        if !data.is_empty() && input.send(data).await.is_err() {
            self.inputs.remove(&id);
            return Ok(());
        }
        if flags & FLAG_FIN != 0 {
            self.inputs.remove(&id);
        }
        Ok(())
    }
}

async fn write_loop<I: AsyncWrite>(
    mut io: WriteHalf<I>,
    mut control: mpsc::Receiver<Control>,
    mut data: mpsc::Receiver<Outgoing>,
    open: &AtomicUsize,
    drained: &tokio::sync::Notify,
    ours: &Writers,
) -> std::io::Result<()> {
    let mut encoder = Encoder::new().map_err(std::io::Error::other)?;
    let mut buffer = BytesMut::new();
    loop {
        let mut closed = None;
        tokio::select! {
            // Replies go before data: a stream is answered before anything is sent on it.
            biased;
            Some(control) = control.recv() => match control {
                Control::Reply(id) => {
                    let block = Bytes::from(encoder.encode(&[]).map_err(std::io::Error::other)?);
                    Frame::SynReply { id, flags: 0, block }.encode(&mut buffer);
                }
                Control::Reset(id, code) => Frame::RstStream { id, code }.encode(&mut buffer),
                Control::Pong(id) => Frame::Ping(id).encode(&mut buffer),
            },
            Some(outgoing) = data.recv() => {
                let flags = if outgoing.last { FLAG_FIN } else { 0 };
                if outgoing.last {
                    closed = Some(outgoing.stream);
                }
                Frame::Data { id: outgoing.stream, flags, data: outgoing.data }.encode(&mut buffer);
            }
            else => return io.shutdown().await,
        }
        io.write_all(&buffer).await?;
        buffer.clear();
        if let Some(id) = closed
            && ours
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id)
                .is_some()
        {
            io.flush().await?;
            if open.fetch_sub(1, Ordering::AcqRel) == 1 {
                drained.notify_waiters();
                drained.notify_one();
            }
        }
        if data.is_empty() && control.is_empty() {
            io.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn streams_both_ways() {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let mut connection = Connection::serve(ours);
        let (mut from, mut to) = tokio::io::split(theirs);
        let mut encoder = Encoder::new().unwrap();
        let mut bytes = BytesMut::new();
        let block = encoder
            .encode(&[("streamtype".into(), "data".into())])
            .unwrap()
            .into();
        Frame::SynStream {
            id: 1,
            flags: 0,
            block,
        }
        .encode(&mut bytes);
        Frame::Data {
            id: 1,
            flags: FLAG_FIN,
            data: Bytes::from_static(b"hello"),
        }
        .encode(&mut bytes);
        Frame::Ping(5).encode(&mut bytes);
        to.write_all(&bytes).await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(
            super::super::headers::get(&stream.headers, "streamType"),
            Some("data")
        );
        let mut text = String::new();
        stream.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        stream.writer.write_all(b"world").await.unwrap();
        stream.writer.shutdown().await.unwrap();
        connection.drain().await;
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(frame::read(&mut from).await.unwrap().unwrap());
        }
        assert!(matches!(seen[0], Frame::SynReply { id: 1, .. }), "{seen:?}");
        assert!(seen.contains(&Frame::Ping(5)));
        assert!(seen.contains(&Frame::Data {
            id: 1,
            flags: 0,
            data: Bytes::from_static(b"world")
        }));
        assert!(seen.contains(&Frame::Data {
            id: 1,
            flags: FLAG_FIN,
            data: Bytes::new()
        }));
    }

    #[tokio::test]
    async fn too_many_streams_are_refused() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut connection = Connection::serve(ours);
        let (mut from, mut to) = tokio::io::split(theirs);
        let accept = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(stream) = connection.accept().await {
                kept.push(stream);
            }
            kept.len()
        });
        let mut encoder = Encoder::new().unwrap();
        let mut bytes = BytesMut::new();
        for n in 0..=MAX_STREAMS as u32 {
            let block = encoder.encode(&[]).unwrap().into();
            Frame::SynStream {
                id: n * 2 + 1,
                flags: 0,
                block,
            }
            .encode(&mut bytes);
        }
        to.write_all(&bytes).await.unwrap();
        let mut refused = 0;
        for _ in 0..=MAX_STREAMS {
            if let Frame::RstStream { code: 3, .. } = frame::read(&mut from).await.unwrap().unwrap()
            {
                refused += 1;
            }
        }
        drop((from, to));
        assert_eq!((refused, accept.await.unwrap()), (1, MAX_STREAMS));
    }
}
