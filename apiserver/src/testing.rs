//! A whole server on a memory store behind real TLS, and a small client for it: for this crate's tests and for those of daemons
//! that want an API server in their process.
//!
//! Authentication, RBAC and admission are on, as in every cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Parser;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keelson_daemon::tls::{self, ReloadingKey};
use keelson_pki::{Authority, Identity};
use keelson_storage::{MemoryStore, Store};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::assemble::assemble;
use crate::flags::Flags;
use crate::options::Options;
use crate::server::Server;
use crate::{serving, startup};

/// What a test does when something is wrong: it fails, saying what.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A running server.
pub struct TestServer {
    /// Its insides.
    pub server: Arc<Server>,
    /// Where it listens.
    pub address: SocketAddr,
    authority: Authority,
    directory: tempfile::TempDir,
    port_closed: CancellationToken,
}

impl TestServer {
    /// Starts a server on a store of its own.
    pub async fn start() -> Outcome<Self> {
        Self::start_on(Arc::new(MemoryStore::new()), &[]).await
    }

    /// Starts a server on a store, with more flags.
    pub async fn start_on(store: Arc<dyn Store>, more: &[&str]) -> Outcome<Self> {
        keelson_daemon::install_crypto();
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let authority = Authority::ensure(directory.path(), "ca", "kubernetes")?;
        let (certificate, key) = authority.issue(&Identity::server(
            "kube-apiserver",
            &["localhost"],
            &[localhost],
        ))?;
        std::fs::write(at("server.crt"), certificate)?;
        std::fs::write(at("server.key"), key)?;
        let accounts = keelson_pki::service_account::ensure(directory.path())?;

        let text = |path: &Path| path.display().to_string();
        let mut line = vec![
            "kube-apiserver".to_owned(),
            "--etcd-servers=http://unused.invalid:2379".to_owned(),
            "--advertise-address=192.0.2.10".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!(
                "--service-account-signing-key-file={}",
                text(&accounts.private)
            ),
            format!("--service-account-key-file={}", text(&accounts.public)),
            format!("--client-ca-file={}", text(authority.certificate_path())),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
        ];
        line.extend(more.iter().map(|m| (*m).to_owned()));
        let options = Options::read(&Flags::try_parse_from(line)?)?;

        let server = assemble(options, store, CancellationToken::new()).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let roots = tls::roots(authority.certificate_path())?;
        let config = serving::tls::server_config(
            ReloadingKey::load(&at("server.crt"), &at("server.key"))?,
            &roots,
        )?;
        let port_closed = CancellationToken::new();
        tokio::spawn(serving::serve(
            server.clone(),
            listener,
            Arc::new(arc_swap::ArcSwap::from_pointee(config)),
            port_closed.clone(),
            Duration::from_secs(1),
        ));
        startup::run(&server).await;
        Ok(TestServer {
            server,
            address,
            authority,
            directory,
            port_closed,
        })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// A client with a certificate of this name and these groups.
    pub fn client(&self, name: &str, groups: &[&str]) -> Outcome<Client> {
        let (certificate_path, key_path) = self.issue(name, groups)?;
        self.with(Some(ReloadingKey::load(&certificate_path, &key_path)?))
    }

    /// The text of a kubeconfig for daemons that run in the test's process; it lasts as long as the server.
    pub fn kubeconfig(&self, name: &str, groups: &[&str]) -> Outcome<String> {
        let (certificate, key) = self.issue(name, groups)?;
        let cluster = serde_json::json!({
            "server": format!("https://{}", self.address),
            "certificate-authority": self.authority.certificate_path(),
        });
        let user = serde_json::json!({"client-certificate": certificate, "client-key": key});
        Ok(serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string())
    }

    /// Issues a client certificate into files.
    fn issue(&self, name: &str, groups: &[&str]) -> Outcome<(PathBuf, PathBuf)> {
        let (certificate, key) = self.authority.issue(&Identity::client(name, groups))?;
        let file = |kind: &str| {
            self.directory
                .path()
                .join(format!("client-{}.{kind}", uuid::Uuid::new_v4()))
        };
        let (certificate_path, key_path) = (file("crt"), file("key"));
        std::fs::write(&certificate_path, certificate)?;
        std::fs::write(&key_path, key)?;
        Ok((certificate_path, key_path))
    }

    /// A client that may do everything.
    pub fn admin(&self) -> Outcome<Client> {
        self.client("admin", &["system:masters"])
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Outcome<Client> {
        self.with(None)
    }

    fn with(&self, key: Option<Arc<ReloadingKey>>) -> Outcome<Client> {
        let roots = tls::roots(self.authority.certificate_path())?;
        Ok(Client {
            address: self.address,
            tls: Arc::new(tls::client_config(roots, key)),
        })
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.server.stop.cancel();
        self.port_closed.cancel();
    }
}

/// Sends requests, each by a connection of its own.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    /// Sends a request; the headers are `name: value`.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Outcome<http::Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // What goes wrong with the connection shows in the answer.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("user-agent", "test/1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(sender
            .send_request(request.body(Full::new(body.into()))?)
            .await?)
    }

    /// Begins a POST whose body never comes; the server works on it until the connection is dropped.
    pub async fn hold(&self, path: &str) -> Outcome<impl Sized + use<>> {
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = TlsConnector::from(self.tls.clone())
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Outcome<Answer> {
        let (parts, body) = self.send(method, path, headers, body).await?.into_parts();
        Ok(Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Outcome<Answer> {
        self.call(Method::GET, path, &[], "").await
    }

    /// POST of an object.
    pub async fn post(&self, path: &str, object: &Value) -> Outcome<Answer> {
        self.call(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            object.to_string(),
        )
        .await
    }

    /// PUT of an object.
    pub async fn put(&self, path: &str, object: &Value) -> Outcome<Answer> {
        self.call(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            object.to_string(),
        )
        .await
    }

    /// PATCH of a media type.
    pub async fn patch(&self, path: &str, media_type: &str, patch: &Value) -> Outcome<Answer> {
        self.call(
            Method::PATCH,
            path,
            &[("content-type", media_type)],
            patch.to_string(),
        )
        .await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Outcome<Answer> {
        self.call(Method::DELETE, path, &[], "").await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Outcome<Events> {
        let body = self.send(Method::GET, path, &[], "").await?.into_body();
        Ok(Events {
            body,
            read: BytesMut::new(),
        })
    }
}

/// The events of a watch.
pub struct Events {
    body: Incoming,
    read: BytesMut,
}

impl Events {
    /// The next event; `None` at the end, or if none comes for a while.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line = self.read.split_to(end + 1);
                return serde_json::from_slice(&line).ok();
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .ok()??
                .ok()?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}
