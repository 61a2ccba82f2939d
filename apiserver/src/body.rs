//! Bodies: the answer's (whole, sliced or streamed) and reading the request's within its limit.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use keelson_api::status::Status;

/// Upstream's bound on a request body.
pub const MAX_REQUEST_BODY: usize = 3 * 1024 * 1024;

/// A body that is longer than so many times its limit isn't read to its end.
const PATIENCE: usize = 4;

/// What can go wrong while a body is sent.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of byte chunks.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of an answer.
pub enum Body {
    /// Nothing.
    Empty,
    /// Slices that are sent one after the other; the length is known.
    Slices(VecDeque<Bytes>),
    /// Chunks as they come.
    Stream(ByteStream),
    /// A backend's body, passed on.
    Incoming(Incoming),
}

impl Body {
    /// A body that streams.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Body::Stream(Box::pin(stream))
    }

    /// Length, if known.
    pub fn len(&self) -> Option<usize> {
        match self {
            Body::Empty => Some(0),
            Body::Slices(slices) => Some(slices.iter().map(Bytes::len).sum()),
            Body::Stream(_) | Body::Incoming(_) => None,
        }
    }

    /// Whether the body is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Body::Empty
        } else {
            Body::Slices(VecDeque::from([bytes]))
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            Body::Slices(slices) => Poll::Ready(slices.pop_front().map(|b| Ok(Frame::data(b)))),
            Body::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|next| next.map(|r| r.map(Frame::data))),
            Body::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|next| next.map(|r| r.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Slices(slices) => slices.is_empty(),
            Body::Stream(_) => false,
            Body::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Incoming(incoming) => incoming.size_hint(),
            other => other
                .len()
                .map(|n| SizeHint::with_exact(n as u64))
                .unwrap_or_default(),
        }
    }
}

/// Reads a request body, answering 413 beyond `limit`. A body that is only somewhat too long is read to its end and
/// forgotten, so that the client gets to see the answer and not a broken connection.
pub async fn read_limited(mut body: Incoming, limit: usize) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    let mut seen = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|e| Status::bad_request(format!("unable to read the request body: {e}")))?;
        if let Ok(data) = frame.into_data() {
            seen = seen.saturating_add(data.len());
            if seen > limit.saturating_mul(PATIENCE) {
                break;
            }
            if seen > limit {
                whole = BytesMut::new();
            } else {
                whole.extend_from_slice(&data);
            }
        }
    }
    if seen > limit {
        return Err(Status::request_entity_too_large(format!(
            "limit is {limit}"
        )));
    }
    Ok(whole.freeze())
}
