//! Frames on the wire: eight bytes of head, then at most [`MAX_FRAME`] bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a frame that is taken from the peer.
pub const MAX_FRAME: usize = 1 << 20;

const VERSION: u16 = 3;
/// Last frame of a stream's side.
pub const FLAG_FIN: u8 = 1;

/// A frame, its headers still packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Stream id; odd from clients.
        id: u32,
        /// [`FLAG_FIN`] and others.
        flags: u8,
        /// Packed headers.
        block: Bytes,
    },
    /// Answers it.
    SynReply {
        /// Stream id.
        id: u32,
        /// Flags.
        flags: u8,
        /// Packed headers.
        block: Bytes,
    },
    /// Ends a stream at once.
    RstStream {
        /// Stream id.
        id: u32,
        /// Why.
        code: u32,
    },
    /// Wants to be sent back.
    Ping(u32),
    /// Nothing new is taken.
    GoAway {
        /// Last stream taken.
        last: u32,
        /// Why.
        code: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Stream id.
        id: u32,
        /// Flags.
        flags: u8,
        /// Packed headers.
        block: Bytes,
    },
    /// Bytes of a stream.
    Data {
        /// Stream id.
        id: u32,
        /// Flags.
        flags: u8,
        /// Bytes.
        data: Bytes,
    },
    /// SETTINGS, WINDOW_UPDATE, and what is not known: read over.
    Ignored,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Longer than is taken.
    #[error("frame of {0} bytes is too large")]
    TooLarge(usize),
    /// Another version, or too short for what it says it is.
    #[error("malformed frame")]
    Malformed,
}

/// Reads a frame; `None` at the end of the connection.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; 8];
    match io.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let (flags, length) = (
        head[4],
        usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]),
    );
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge(length));
    }
    let mut body = BytesMut::zeroed(length);
    io.read_exact(&mut body).await?;
    let body = body.freeze();
    if first & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data {
            id: first,
            flags,
            data: body,
        }));
    }
    let version = u16::try_from(first >> 16 & 0x7fff).unwrap_or(0);
    if version != VERSION {
        return Err(FrameError::Malformed);
    }
    control(u16::try_from(first & 0xffff).unwrap_or(0), flags, body).map(Some)
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
    let needed = match kind {
        1 => 10,
        2 | 6 | 8 => 4,
        3 | 7 => 8,
        _ => 0,
    };
    if body.len() < needed {
        return Err(FrameError::Malformed);
    }
    Ok(match kind {
        1 => {
            let id = body.get_u32() & 0x7fff_ffff;
            // Associated stream, priority, slot: nothing here needs them.
            body.advance(6);
            Frame::SynStream {
                id,
                flags,
                block: body,
            }
        }
        2 => Frame::SynReply {
            id: body.get_u32() & 0x7fff_ffff,
            flags,
            block: body,
        },
        3 => Frame::RstStream {
            id: body.get_u32() & 0x7fff_ffff,
            code: body.get_u32(),
        },
        6 => Frame::Ping(body.get_u32()),
        7 => Frame::GoAway {
            last: body.get_u32(),
            code: body.get_u32(),
        },
        8 => Frame::Headers {
            id: body.get_u32() & 0x7fff_ffff,
            flags,
            block: body,
        },
        _ => Frame::Ignored,
    })
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let head = |out: &mut BytesMut, kind: u16, flags: u8, length: usize| {
            out.put_u16(0x8000 | VERSION);
            out.put_u16(kind);
            out.put_u8(flags);
            out.put_uint(length as u64, 3);
        };
        match self {
            Self::SynStream { id, flags, block } => {
                head(out, 1, *flags, 10 + block.len());
                out.put_u32(*id);
                out.put_slice(&[0; 6]);
                out.put_slice(block);
            }
            Self::SynReply { id, flags, block } => {
                head(out, 2, *flags, 4 + block.len());
                out.put_u32(*id);
                out.put_slice(block);
            }
            Self::Headers { id, flags, block } => {
                head(out, 8, *flags, 4 + block.len());
                out.put_u32(*id);
                out.put_slice(block);
            }
            Self::RstStream { id, code } => {
                head(out, 3, 0, 8);
                out.put_u32(*id);
                out.put_u32(*code);
            }
            Self::Ping(id) => {
                head(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Self::GoAway { last, code } => {
                head(out, 7, 0, 8);
                out.put_u32(*last);
                out.put_u32(*code);
            }
            Self::Data { id, flags, data } => {
                out.put_u32(*id);
                out.put_u8(*flags);
                out.put_uint(data.len() as u64, 3);
                out.put_slice(data);
            }
            Self::Ignored => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_round() {
        let block = Bytes::from_static(b"block");
        let frames = [
            Frame::SynStream {
                id: 1,
                flags: 0,
                block: block.clone(),
            },
            Frame::SynReply {
                id: 1,
                flags: FLAG_FIN,
                block,
            },
            Frame::Data {
                id: 3,
                flags: FLAG_FIN,
                data: Bytes::from_static(b"x"),
            },
            Frame::RstStream { id: 3, code: 5 },
            Frame::Ping(7),
            Frame::GoAway { last: 9, code: 0 },
        ];
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|f| f.encode(&mut bytes));
        let mut io = bytes.as_ref();
        for frame in &frames {
            assert_eq!(read(&mut io).await.unwrap().as_ref(), Some(frame));
        }
        assert!(read(&mut io).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn bad_frames_are_errors() {
        let large = [0, 0, 0, 1, 0, 0xff, 0xff, 0xff];
        assert!(matches!(
            read(&mut large.as_ref()).await,
            Err(FrameError::TooLarge(_))
        ));
        let short = [0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0];
        assert!(matches!(
            read(&mut short.as_ref()).await,
            Err(FrameError::Malformed)
        ));
        let version = [0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 0];
        assert!(matches!(
            read(&mut version.as_ref()).await,
            Err(FrameError::Malformed)
        ));
    }
}
