//! exec and attach: standard streams, terminal sizes and an outcome, over whichever carrier the client asked for.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Response};
use http_body_util::Full;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::pipe::{DEPTH, Outgoing, Reader, Writer};
use crate::spdy;
use crate::status::Outcome;
use crate::upgrade::{self, Carrier, UpgradeError};
use crate::websocket::channels::{self, Encoding};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long a SPDY client may take to open its streams.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of what is not yet a terminal size.
const MAX_SIZE_TEXT: usize = 4 << 10;

/// Sub-protocols over SPDY, the newest first.
pub const SPDY_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// Sub-protocols over WebSocket.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// What the request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// stdin.
    pub stdin: bool,
    /// stdout.
    pub stdout: bool,
    /// stderr.
    pub stderr: bool,
    /// A terminal: sizes are sent, stderr is not apart.
    pub tty: bool,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of a session.
#[derive(Debug)]
pub struct RemoteCommand {
    /// What the client types.
    pub stdin: Option<Reader>,
    /// To the client.
    pub stdout: Option<Writer>,
    /// To the client.
    pub stderr: Option<Writer>,
    /// Sizes of the client's terminal.
    pub resize: Option<mpsc::Receiver<Size>>,
    /// For the outcome.
    pub end: End,
}

/// Ends a session with its outcome.
#[derive(Debug)]
pub struct End {
    error: Writer,
    as_status: bool,
    carrier: Option<spdy::Connection>,
    /// Our sides of streams that only the client writes to: their end would end the client's.
    held: Vec<Writer>,
    done: Option<tokio::task::JoinHandle<()>>,
    /// Cancelled when the client is gone.
    pub gone: tokio_util::sync::CancellationToken,
}

impl End {
    /// Says how it came out and waits until that is sent. Writers must have been dropped or shut down before.
    pub async fn finish(mut self, outcome: &Outcome) {
        let text = if self.as_status {
            outcome.status().to_string()
        } else {
            outcome.text()
        };
        // A client that is gone needs no outcome.
        let _ = self.error.write_all(text.as_bytes()).await;
        let _ = self.error.shutdown().await;
        self.held.clear();
        if let Some(connection) = &self.carrier {
            connection.drain().await;
        }
        if let Some(done) = self.done.take() {
            let _ = tokio::time::timeout(Duration::from_secs(10), done).await;
        }
    }
}

/// An accepted request: how to go on after the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    carrier: Carrier,
    protocol: String,
    wanted: Wanted,
}

/// Accepts or refuses an upgrade request.
pub fn accept(
    headers: &HeaderMap,
    wanted: Wanted,
) -> Result<(Response<Full<Bytes>>, Accepted), UpgradeError> {
    let carrier = upgrade::carrier(headers)?;
    let supported = match carrier {
        Carrier::Spdy => SPDY_PROTOCOLS,
        Carrier::WebSocket => WEBSOCKET_PROTOCOLS,
    };
    let protocol = upgrade::negotiate(headers, carrier, supported)?;
    let response = upgrade::accept(headers, carrier, protocol.as_deref())?;
    Ok((
        response,
        Accepted {
            carrier,
            protocol: protocol.unwrap_or_default(),
            wanted,
        },
    ))
}

/// Why there is no session after the upgrade.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionError {
    /// The client did not open its streams in time.
    #[error("timed out waiting for client to create streams")]
    Timeout,
    /// The connection ended first.
    #[error("the client closed the connection")]
    Closed,
    /// A stream that nobody knows.
    #[error("invalid stream type {0:?}")]
    BadStream(String),
}

impl Accepted {
    /// Takes the upgraded connection and waits for the streams.
    pub async fn serve<I>(self, io: I) -> Result<RemoteCommand, SessionError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.carrier {
            Carrier::WebSocket => Ok(self.websocket(io).await),
            Carrier::Spdy => tokio::time::timeout(STREAMS_WITHIN, self.spdy(io))
                .await
                .unwrap_or(Err(SessionError::Timeout)),
        }
    }

    async fn websocket<I>(self, io: I) -> RemoteCommand
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let encoding = if self.protocol.contains("base64") {
            Encoding::Base64
        } else {
            Encoding::Binary
        };
        let closes = self.protocol.starts_with("v5");
        let as_status = self.protocol.starts_with("v4") || closes;
        let wanted = self.wanted;
        let (sink, stream) = crate::websocket::serve(io).await.split();
        let mut inputs = HashMap::new();
        let mut input = |channel: u8, there: bool| {
            there.then(|| {
                let (sender, receiver) = mpsc::channel(DEPTH);
                inputs.insert(channel, sender);
                Reader::new(receiver)
            })
        };
        let stdin = input(STDIN, wanted.stdin);
        let sizes = input(RESIZE, wanted.tty);
        let (out, outgoing) = mpsc::channel(DEPTH);
        let writer =
            |channel: u8, there: bool| there.then(|| Writer::new(u32::from(channel), out.clone()));
        let stdout = writer(STDOUT, wanted.stdout);
        let stderr = writer(STDERR, wanted.stderr && !wanted.tty);
        let error = Writer::new(u32::from(ERROR), out.clone());
        let open = 1 + usize::from(stdout.is_some()) + usize::from(stderr.is_some());
        // The first message tells the client that the session stands.
        let first = if stdout.is_some() {
            STDOUT
        } else if stderr.is_some() {
            STDERR
        } else {
            ERROR
        };
        let _ = out.try_send(Outgoing {
            stream: u32::from(first),
            data: Bytes::new(),
            last: false,
        });
        drop(out);
        let gone = tokio_util::sync::CancellationToken::new();
        let over = gone.clone();
        let reading = tokio::spawn(async move {
            channels::read_loop(stream, inputs, encoding, closes).await;
            over.cancel();
        });
        let done = tokio::spawn(async move {
            channels::write_loop(sink, outgoing, encoding, open).await;
            reading.abort();
        });
        let resize = sizes.map(read_sizes);
        RemoteCommand {
            stdin,
            stdout,
            stderr,
            resize,
            end: End {
                error,
                as_status,
                carrier: None,
                held: Vec::new(),
                done: Some(done),
                gone,
            },
        }
    }

    async fn spdy<I>(self, io: I) -> Result<RemoteCommand, SessionError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let version: u8 = match self.protocol.as_bytes() {
            [b'v', digit, ..] => digit.wrapping_sub(b'0'),
            _ => 1,
        };
        let wanted = self.wanted;
        let sizes_wanted = wanted.tty && version >= 3;
        let stderr_wanted = wanted.stderr && !wanted.tty;
        let mut missing = 1 + [wanted.stdin, wanted.stdout, stderr_wanted, sizes_wanted]
            .iter()
            .filter(|w| **w)
            .count();
        let mut connection = spdy::Connection::serve(io);
        let (mut error, mut stdin, mut stdout, mut stderr, mut resize) =
            (None, None, None, None, None);
        while missing > 0 {
            let stream = connection.accept().await.ok_or(SessionError::Closed)?;
            let kind = spdy::headers::get(&stream.headers, "streamtype")
                .unwrap_or_default()
                .to_owned();
            let fresh = match kind.as_str() {
                "error" => error.replace(stream.writer).is_none(),
                "stdin" if wanted.stdin => stdin.replace((stream.reader, stream.writer)).is_none(),
                "stdout" if wanted.stdout => stdout.replace(stream.writer).is_none(),
                "stderr" if stderr_wanted => stderr.replace(stream.writer).is_none(),
                "resize" if sizes_wanted => {
                    resize.replace((stream.reader, stream.writer)).is_none()
                }
                _ => return Err(SessionError::BadStream(kind)),
            };
            missing -= usize::from(fresh);
        }
        let error = error.ok_or(SessionError::Closed)?;
        let mut held = Vec::new();
        let mut keep = |(reader, writer)| {
            held.push(writer);
            reader
        };
        let stdin = stdin.map(&mut keep);
        let resize = resize.map(&mut keep).map(read_sizes);
        let gone = connection.gone();
        let end = End {
            error,
            as_status: version >= 4,
            carrier: Some(connection),
            held,
            done: None,
            gone,
        };
        Ok(RemoteCommand {
            stdin,
            stdout,
            stderr,
            resize,
            end,
        })
    }
}

/// Terminal sizes out of a stream of JSON objects.
fn read_sizes(mut reader: Reader) -> mpsc::Receiver<Size> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut text = Vec::new();
        let mut chunk = [0; 512];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            text.extend_from_slice(&chunk[..count]);
            let mut parsed = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
            let mut sizes = Vec::new();
            while let Some(Ok(size)) = parsed.next() {
                sizes.push(size);
            }
            let used = parsed.byte_offset();
            text.drain(..used);
            if text.len() > MAX_SIZE_TEXT {
                return;
            }
            for size in sizes {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}
