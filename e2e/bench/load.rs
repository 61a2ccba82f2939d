//! What sends the requests: connections as client-go has them (HTTP/2, one for all requests of a client), bodies in JSON or protobuf.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keelson_daemon::tls::{self, ReloadingKey};
use keelson_e2e::diff::servers::{Ground, Side};
use keelson_schema::builtin::Schema;
use keelson_schema::protobuf;
use serde_json::Value;

/// How objects travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Json, Self::Protobuf];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Protobuf => "protobuf",
        }
    }

    /// An object of core/v1 as a body.
    pub fn body(self, object: &Value) -> Result<Bytes> {
        Ok(match self {
            Self::Json => serde_json::to_vec(object)?.into(),
            Self::Protobuf => {
                let kind = object["kind"].as_str().unwrap_or_default();
                let ty = Schema::builtin().kind("", "v1", kind);
                ensure!(ty.is_some(), "no type of kind {kind}");
                ty.map(|ty| protobuf::encode(object, ty))
                    .unwrap_or_default()
                    .into()
            }
        })
    }
}

type Connections = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes clients of one server.
pub struct Load {
    base: String,
    config: rustls::ClientConfig,
}

/// One client: one connection.
#[derive(Clone)]
pub struct Client {
    base: String,
    pool: Connections,
}

impl Load {
    /// For the administrator of a server.
    pub fn new(ground: &Ground, side: &Side) -> Result<Self> {
        let (certificate, key) = ground.administrator();
        let key = ReloadingKey::load(certificate, key)?;
        Ok(Self {
            base: side.client.base().to_owned(),
            config: tls::client_config(tls::roots(ground.authority())?, Some(key)),
        })
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // As Go's clients: a request's parts don't wait for one another.
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.config.clone())
            .https_only()
            .enable_http2()
            .wrap_connector(http);
        Client {
            base: self.base.clone(),
            pool: Pool::builder(TokioExecutor::new())
                .http2_only(true)
                .http2_initial_stream_window_size(4 << 20)
                .http2_initial_connection_window_size(8 << 20)
                .build(connector),
        }
    }
}

impl Client {
    /// Sends a request; the answer's body is not read yet.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        encoding: Encoding,
        gzip: bool,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("user-agent", "bench/1.0")
            .header("accept", encoding.media_type())
            .header("content-type", encoding.media_type());
        if gzip {
            request = request.header("accept-encoding", "gzip");
        }
        let answer = self.pool.request(request.body(Full::new(body))?).await?;
        Ok(answer)
    }

    /// Sends a request that must succeed and reads the answer to its end; returns the body's length.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        encoding: Encoding,
        gzip: bool,
        body: Bytes,
    ) -> Result<usize> {
        let answer = self.open(method, path, encoding, gzip, body).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(status.is_success(), "{method} {path}: {status}");
        Ok(length)
    }
}
