//! port-forward: pairs of an error and a data stream for each connection that the client forwards.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::pipe::{Reader, Writer};
use crate::spdy::{self, headers};
use crate::upgrade::{self, Carrier, UpgradeError};
use crate::websocket::tunnel::Tunnel;

/// The sub-protocol over SPDY.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// SPDY laid into WebSocket messages.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// How long the second stream of a pair may take.
const PAIR_WITHIN: Duration = Duration::from_secs(30);
/// Most pairs of which one stream is still missing.
const MAX_HALF_OPEN: usize = 64;

/// One forwarded connection.
#[derive(Debug)]
pub struct Forward {
    /// Port in the pod.
    pub port: u16,
    /// From the client.
    pub reader: Reader,
    /// To the client.
    pub writer: Writer,
    error: Writer,
}

impl Forward {
    /// Says what went wrong; the client prints it.
    pub async fn fail(mut self, message: &str) {
        // A client that is gone needs no message.
        let _ = self.error.write_all(message.as_bytes()).await;
        let _ = self.error.shutdown().await;
    }

    /// Joins the connection with `io` until both sides are done.
    pub async fn join<I: AsyncRead + AsyncWrite + Unpin>(self, io: I) -> std::io::Result<()> {
        let Self {
            mut reader,
            mut writer,
            mut error,
            ..
        } = self;
        let (mut from, mut to) = tokio::io::split(io);
        let there = async {
            let copied = tokio::io::copy(&mut reader, &mut to).await;
            to.shutdown().await?;
            copied
        };
        let back = async {
            let copied = tokio::io::copy(&mut from, &mut writer).await;
            writer.shutdown().await?;
            copied
        };
        let (there, back) = tokio::join!(there, back);
        let result = there.and(back).map(|_| ());
        if let Err(problem) = &result {
            let text = format!("error forwarding port: {problem}");
            error.write_all(text.as_bytes()).await?;
        }
        error.shutdown().await?;
        result
    }
}

/// An accepted request: how to go on after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted(Carrier);

/// Accepts or refuses an upgrade request.
pub fn accept(headers: &HeaderMap) -> Result<(Response<Full<Bytes>>, Accepted), UpgradeError> {
    let carrier = upgrade::carrier(headers)?;
    let supported = match carrier {
        Carrier::Spdy => [SPDY_PROTOCOL],
        Carrier::WebSocket => [TUNNEL_PROTOCOL],
    };
    let protocol = upgrade::negotiate(headers, carrier, &supported)?;
    if carrier == Carrier::WebSocket && protocol.is_none() {
        return Err(UpgradeError::NoProtocol {
            offered: Vec::new(),
            supported: vec![TUNNEL_PROTOCOL.into()],
        });
    }
    let response = upgrade::accept(
        headers,
        carrier,
        Some(protocol.as_deref().unwrap_or(SPDY_PROTOCOL)),
    )?;
    Ok((response, Accepted(carrier)))
}

impl Accepted {
    /// Takes the upgraded connection.
    pub async fn serve<I>(self, io: I) -> PortForward
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = match self.0 {
            Carrier::Spdy => spdy::Connection::serve(io),
            Carrier::WebSocket => {
                spdy::Connection::serve(Tunnel::new(crate::websocket::serve(io).await))
            }
        };
        PortForward {
            connection,
            halves: HashMap::new(),
        }
    }
}

struct Half {
    port: u16,
    since: Instant,
    error: Option<Writer>,
    data: Option<(Reader, Writer)>,
}

/// A client's forwarded connections.
pub struct PortForward {
    connection: spdy::Connection,
    halves: HashMap<String, Half>,
}

impl PortForward {
    /// The next connection; `None` when the client is gone.
    pub async fn next(&mut self) -> Option<Forward> {
        loop {
            let stream = self.connection.accept().await?;
            let get = |name: &str| headers::get(&stream.headers, name).map(str::to_owned);
            let Some(port) = get("port")
                .and_then(|p| p.parse::<u16>().ok())
                .filter(|p| *p > 0)
            else {
                continue;
            };
            let kind = get("streamtype").unwrap_or_default();
            // The oldest clients send no request id: their data stream is the next after its error stream.
            let unnamed = if kind == "data" {
                stream.id.saturating_sub(2)
            } else {
                stream.id
            };
            let request = get("requestid").unwrap_or_else(|| unnamed.to_string());
            self.halves
                .retain(|_, half| half.since.elapsed() < PAIR_WITHIN);
            if self.halves.len() >= MAX_HALF_OPEN && !self.halves.contains_key(&request) {
                continue;
            }
            let half = self.halves.entry(request.clone()).or_insert_with(|| Half {
                port,
                since: Instant::now(),
                error: None,
                data: None,
            });
            match kind.as_str() {
                "error" => half.error = Some(stream.writer),
                "data" => half.data = Some((stream.reader, stream.writer)),
                _ => continue,
            }
            if let Half {
                port,
                error: Some(_),
                data: Some(_),
                ..
            } = half
            {
                let port = *port;
                if let Some(Half {
                    error: Some(error),
                    data: Some((reader, writer)),
                    ..
                }) = self.halves.remove(&request)
                {
                    return Some(Forward {
                        port,
                        reader,
                        writer,
                        error,
                    });
                }
            }
        }
    }
}
