//! SPDY/3.1, as much as streams of remote commands need: frames, compressed headers, streams. Server side.

pub mod connection;
pub mod dictionary;
pub mod frame;
pub mod headers;

pub use connection::{Connection, Stream};
