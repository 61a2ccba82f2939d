//! The `channel.k8s.io` sub-protocols: the first byte of a message says which stream the rest belongs to.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::pipe::Outgoing;

/// Channel by which v5 clients close another one.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Binary messages.
    Binary,
    /// Text messages: a digit, then base64.
    Base64,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Incoming {
    Data(u8, Bytes),
    Close(u8),
    Nothing,
}

fn read(message: Message, encoding: Encoding, closes: bool) -> Option<Incoming> {
    let bytes: Bytes = match (message, encoding) {
        (Message::Binary(bytes), _) => bytes,
        (Message::Text(text), Encoding::Base64) => {
            let text = text.as_str();
            let channel = text
                .as_bytes()
                .first()?
                .checked_sub(b'0')
                .filter(|c| *c < 10)?;
            let data = STANDARD.decode(text.get(1..)?).ok()?;
            return Some(Incoming::Data(channel, data.into()));
        }
        (Message::Text(text), Encoding::Binary) => Bytes::copy_from_slice(text.as_bytes()),
        (Message::Close(_), _) => return None,
        _ => return Some(Incoming::Nothing),
    };
    match (bytes.first(), bytes.get(1)) {
        (Some(&CLOSE), Some(channel)) if closes => Some(Incoming::Close(*channel)),
        (Some(channel), _) => Some(Incoming::Data(*channel, bytes.slice(1..))),
        (None, _) => Some(Incoming::Nothing),
    }
}

/// Hands messages to their channels until the peer closes.
pub(crate) async fn read_loop<I: AsyncRead + AsyncWrite + Unpin>(
    mut messages: SplitStream<WebSocketStream<I>>,
    mut inputs: HashMap<u8, mpsc::Sender<Bytes>>,
    encoding: Encoding,
    closes: bool,
) {
    while let Some(Ok(message)) = messages.next().await {
        match read(message, encoding, closes) {
            Some(Incoming::Data(channel, data)) => {
                let Some(input) = inputs.get(&channel) else {
                    continue;
                };
                if !data.is_empty() && input.send(data).await.is_err() {
                    inputs.remove(&channel);
                }
            }
            Some(Incoming::Close(channel)) => {
                inputs.remove(&channel);
            }
            Some(Incoming::Nothing) => {}
            None => return,
        }
    }
}

fn write(outgoing: &Outgoing, encoding: Encoding) -> Message {
    let channel = u8::try_from(outgoing.stream).unwrap_or(0);
    match encoding {
        Encoding::Binary => {
            let mut bytes = Vec::with_capacity(outgoing.data.len() + 1);
            bytes.push(channel);
            bytes.extend_from_slice(&outgoing.data);
            Message::Binary(bytes.into())
        }
        Encoding::Base64 => {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(&outgoing.data, &mut text);
            Message::Text(text.into())
        }
    }
}

/// Sends what the channels' writers have until all of them are closed, then closes the connection.
pub(crate) async fn write_loop<I: AsyncRead + AsyncWrite + Unpin>(
    mut messages: SplitSink<WebSocketStream<I>, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    encoding: Encoding,
    mut open: usize,
) {
    while open > 0 {
        let Some(next) = outgoing.recv().await else {
            break;
        };
        if next.last {
            open -= 1;
        }
        // The end of a channel is not told: it ends with the connection. An empty message is a sign of life.
        if !next.last && messages.send(write(&next, encoding)).await.is_err() {
            return;
        }
    }
    // Clients take any other code, or none, for a broken session. The peer may have gone already.
    let end = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = messages.send(Message::Close(Some(end))).await;
    let _ = messages.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_encodings() {
        let binary = |b: &[u8]| {
            read(
                Message::Binary(Bytes::copy_from_slice(b)),
                Encoding::Binary,
                true,
            )
        };
        assert_eq!(
            binary(&[0, b'x']),
            Some(Incoming::Data(0, Bytes::from_static(b"x")))
        );
        assert_eq!(binary(&[255, 0]), Some(Incoming::Close(0)));
        assert_eq!(binary(&[]), Some(Incoming::Nothing));
        let text = |t: &str| read(Message::Text(t.into()), Encoding::Base64, false);
        assert_eq!(
            text("0aGk="),
            Some(Incoming::Data(0, Bytes::from_static(b"hi")))
        );
        assert_eq!(text("0!"), None);
        let out = Outgoing {
            stream: 1,
            data: Bytes::from_static(b"hi"),
            last: false,
        };
        assert_eq!(write(&out, Encoding::Base64), Message::Text("1aGk=".into()));
        assert_eq!(
            write(&out, Encoding::Binary),
            Message::Binary(Bytes::from_static(b"\x01hi"))
        );
    }
}
