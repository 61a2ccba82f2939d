//! One direction only: what a body gives becomes messages, as for `log` to clients that cannot read a stream.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages of bytes.
pub const BINARY: &str = "binary.k8s.io";
/// Messages of text, the bytes in base64.
pub const BASE64: &str = "base64.binary.k8s.io";
/// Both; a client that offers none gets bytes.
pub const PROTOCOLS: &[&str] = &[BINARY, BASE64];

/// Sends every chunk as a message, then closes. The first message is empty: it says that the stream has begun.
pub async fn send<I, S, E>(io: I, protocol: Option<&str>, mut chunks: S) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut socket = super::serve(io).await;
    let message = |chunk: Bytes| {
        if protocol == Some(BASE64) {
            Message::text(STANDARD.encode(&chunk))
        } else {
            Message::binary(chunk)
        }
    };
    socket.send(message(Bytes::new())).await?;
    loop {
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(Ok(chunk)) => socket.send(message(chunk)).await?,
                Some(Err(_)) | None => break,
            },
            // What the client says is of no interest, but that it goes away is.
            said = socket.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    socket.close(None).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    async fn received(protocol: Option<&'static str>) -> Vec<Message> {
        let (client, server) = tokio::io::duplex(4096);
        let chunks = futures::stream::iter([
            Ok::<_, std::io::Error>(Bytes::from_static(b"one\n")),
            Ok(Bytes::from_static(b"two\n")),
        ]);
        let sending = tokio::spawn(send(server, protocol, chunks));
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let messages = client.filter_map(|m| async { m.ok() }).collect().await;
        // The client has answered the close, or gone: either ends it.
        let _ = sending.await.expect("no panic");
        messages
    }

    #[tokio::test]
    async fn chunks_become_messages_and_the_end_a_close() {
        let messages = received(Some(BINARY)).await;
        assert_eq!(messages[0], Message::binary(Bytes::new()));
        assert_eq!(messages[1], Message::binary(Bytes::from_static(b"one\n")));
        assert_eq!(messages[2], Message::binary(Bytes::from_static(b"two\n")));
        assert!(matches!(messages[3], Message::Close(_)), "{messages:?}");
        let messages = received(Some(BASE64)).await;
        assert_eq!(messages[1], Message::text("b25lCg=="));
    }
}
