//! A request on its way through the filters to its handler.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, Uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use keelson_api::status::Status;
use keelson_auth::User;

use crate::body::{self, MAX_REQUEST_BODY};
use crate::negotiate::{Negotiated, Offers, negotiate};
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::response::ApiResult;

/// What is known of the connection a request came by.
#[derive(Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// What its certificate proves.
    pub identity: keelson_auth::authenticate::Peer,
}

/// Warnings gathered while a request is served.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds warnings.
    pub fn extend(&self, warnings: impl IntoIterator<Item = String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(warnings);
    }

    /// Takes all of them.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request, with what the filters found out about it.
pub struct Request {
    /// HTTP method.
    pub method: Method,
    /// URI as sent.
    pub uri: Uri,
    /// Headers; credentials are taken out by authentication.
    pub headers: HeaderMap,
    /// Decoded query.
    pub query: Query,
    /// What it asks for.
    pub info: RequestInfo,
    /// Who asks; nobody before authentication.
    pub user: Arc<User>,
    /// Its connection.
    pub peer: Arc<Peer>,
    /// Identity in audit logs and the `Audit-ID` header.
    pub audit_id: String,
    /// Warnings for the client.
    pub warnings: Warnings,
    /// When it came.
    pub received: jiff::Timestamp,
    /// What is recorded of it.
    pub audit: crate::audit::Record,
    /// The body, until it is read.
    pub body: Option<Incoming>,
    /// The raw connection, should it be switched to another protocol.
    pub upgrade: Option<OnUpgrade>,
}

impl Request {
    /// Takes an HTTP request apart.
    pub fn new(request: hyper::Request<Incoming>, peer: Arc<Peer>) -> Self {
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let audit_id = parts
            .headers
            .get("audit-id")
            .and_then(|v| v.to_str().ok())
            .filter(|v| !v.is_empty())
            .map(|v| v.chars().take(64).collect())
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Request {
            upgrade: parts.extensions.remove::<OnUpgrade>(),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            query,
            info,
            user: Arc::default(),
            peer,
            audit_id,
            warnings: Warnings::default(),
            received: jiff::Timestamp::now(),
            audit: crate::audit::Record::default(),
            body: Some(body),
        }
    }

    /// What the answer will look like.
    pub fn negotiate(&self, offers: Offers) -> ApiResult<Negotiated> {
        negotiate(&self.headers, &self.query, offers)
    }

    /// Reads the whole body, 413 beyond upstream's limit.
    pub async fn read_body(&mut self) -> ApiResult<Bytes> {
        if self
            .headers
            .get(CONTENT_ENCODING)
            .is_some_and(|v| v != "identity")
        {
            return Err(Status::failure(
                415,
                "UnsupportedMediaType",
                "compressed request bodies are not supported",
            ));
        }
        match self.body.take() {
            Some(incoming) => body::read_limited(incoming, MAX_REQUEST_BODY).await,
            None => Ok(Bytes::new()),
        }
    }

    /// First value of a header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The client's User-Agent.
    pub fn user_agent(&self) -> &str {
        self.header("user-agent").unwrap_or_default()
    }
}
