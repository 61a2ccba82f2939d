//! Sends requests to one server over kept connections, as the administrator.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keelson_daemon::tls::{self, ReloadingKey};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status code; 0 where there was no answer.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, or why there is none.
    pub body: Bytes,
}

impl Client {
    /// A client with a certificate (or none: anonymous) for the server on a port of loopback.
    pub fn new(port: u16, ca: &Path, certificate: Option<(&Path, &Path)>) -> Result<Self> {
        let key = certificate
            .map(|(certificate, key)| ReloadingKey::load(certificate, key))
            .transpose()?;
        let config = tls::client_config(tls::roots(ca)?, key);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .build();
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Ok(Self {
            base: format!("https://127.0.0.1:{port}"),
            pool,
        })
    }

    /// Scheme, host and port of the server.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("user-agent", "diff/1.0");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .with_context(|| format!("not a request: {method} {path}"))?;
        let whole = async {
            let (parts, body) = self.pool.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                code: parts.status.as_u16(),
                headers: parts.headers,
                body,
            })
        };
        tokio::time::timeout(PATIENCE, whole)
            .await
            .with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
    }

    /// GET of a JSON document, which must be there.
    pub async fn document(&self, path: &str, accept: &str) -> Result<serde_json::Value> {
        let headers = [("accept".to_owned(), accept.to_owned())];
        let answer = self.send("GET", path, &headers, Vec::new()).await?;
        anyhow::ensure!(answer.code == 200, "GET {path}: {}", answer.code);
        Ok(serde_json::from_slice(&answer.body)?)
    }
}
