//! `log` over WebSocket: the kubelet is asked as ever, and what it answers goes to the client in messages.

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, header};
use http_body_util::BodyStream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keelson_api::status::Status;
use keelson_streaming::upgrade::{self, Carrier};
use keelson_streaming::websocket::output;

use crate::body::{Body, BodyError};
use crate::request::Request;
use crate::response::{ApiResult, Response};

/// A client that waits for its connection to be switched.
#[derive(Debug)]
pub struct LogSocket {
    client: OnUpgrade,
    headers: HeaderMap,
    protocol: Option<String>,
}

impl LogSocket {
    /// What the request asks for, if it asks for a WebSocket; the request then asks for none any more.
    pub fn of(request: &mut Request) -> ApiResult<Option<Self>> {
        if upgrade::carrier(&request.headers) != Ok(Carrier::WebSocket) {
            return Ok(None);
        }
        let headers = request.headers.clone();
        let protocol = upgrade::negotiate(&headers, Carrier::WebSocket, output::PROTOCOLS)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let Some(client) = request.upgrade.take() else {
            return Err(Status::bad_request("the connection cannot be upgraded"));
        };
        for name in [
            header::UPGRADE,
            header::CONNECTION,
            header::SEC_WEBSOCKET_KEY,
            header::SEC_WEBSOCKET_VERSION,
            header::SEC_WEBSOCKET_PROTOCOL,
            header::SEC_WEBSOCKET_EXTENSIONS,
        ] {
            request.headers.remove(name);
        }
        Ok(Some(Self {
            client,
            headers,
            protocol,
        }))
    }

    /// Switches protocols and sends the kubelet's answer as it comes.
    pub fn answer(self, log: Body) -> ApiResult<Response> {
        let protocol = self.protocol;
        let accepted = upgrade::accept(&self.headers, Carrier::WebSocket, protocol.as_deref())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let client = self.client;
        tokio::spawn(async move {
            let chunks = BodyStream::new(log).filter_map(|frame| async {
                match frame {
                    Ok(frame) => frame.into_data().ok().map(Ok::<Bytes, BodyError>),
                    Err(error) => Some(Err(error)),
                }
            });
            let sent = match client.await {
                Ok(io) => {
                    let chunks = std::pin::pin!(chunks);
                    output::send(TokioIo::new(io), protocol.as_deref(), chunks)
                        .await
                        .map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = sent {
                tracing::debug!(error, "a log's WebSocket ended");
            }
        });
        let (parts, _) = accepted.into_parts();
        Ok(http::Response::from_parts(parts, Body::Empty))
    }
}
