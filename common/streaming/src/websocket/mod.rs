//! WebSocket as a carrier: channels of a remote command ([`channels`]), a plain byte stream ([`tunnel`]), or one
//! that only the server sends ([`output`]).

pub mod channels;
pub mod output;
pub mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Most bytes of a message.
const MAX_MESSAGE: usize = 1 << 20;

/// The server's side of an upgraded connection.
pub async fn serve<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}
