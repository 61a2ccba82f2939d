//! The streams behind `kubectl exec`, `attach`, `cp` and `port-forward`, from the server's side of an upgraded connection.
//!
//! Two carriers, one face: WebSocket with the channel sub-protocols ([`websocket`]), and SPDY/3.1 ([`spdy`]), which
//! port-forward also tunnels through WebSocket messages. [`remote_command`] and [`port_forward`] negotiate one of them
//! from a request and hand out plain readers and writers. What is run or dialled is the caller's business.
//!
//! Everything from the peer is bounded: frames, header blocks, streams, messages and what is buffered. There is no
//! window bookkeeping: the client libraries in use have none either, so that a full buffer simply stops reading.

pub mod pipe;
pub mod port_forward;
pub mod remote_command;
pub mod spdy;
pub mod status;
pub mod upgrade;
pub mod websocket;

pub use port_forward::{Forward, PortForward};
pub use remote_command::{RemoteCommand, Size};
pub use status::Outcome;
