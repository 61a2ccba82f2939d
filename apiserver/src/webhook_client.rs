//! A client of the webhooks that kubeconfig files name: audit, token review, access review.
//!
//! Certificates and tokens that the kubeconfig refers to are read at each connection, so that rotated ones are taken.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer answers are refused.
const LONGEST_ANSWER: usize = 4 << 20;
/// Where the system's CAs are, for kubeconfigs that name none.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    user: String,
}

/// One webhook.
pub struct WebhookClient {
    cluster: Cluster,
    user: User,
    folder: PathBuf,
    host: String,
    port: u16,
    path: String,
    is_tls: bool,
    timeout: Duration,
}

impl WebhookClient {
    /// Reads a kubeconfig.
    pub fn load(file: &Path, timeout: Duration) -> Result<Self, String> {
        let text = std::fs::read(file)
            .map_err(|e| format!("cannot read kubeconfig {}: {e}", file.display()))?;
        let config: Kubeconfig = serde_norway::from_slice(&text)
            .map_err(|e| format!("{} is no kubeconfig: {e}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        Self::new(&config, folder, timeout).map_err(|e| format!("{}: {e}", file.display()))
    }

    fn new(config: &Kubeconfig, folder: PathBuf, timeout: Duration) -> Result<Self, String> {
        let context = config
            .contexts
            .iter()
            .find(|c| c.name == config.current_context)
            .ok_or("current-context names no context")?;
        let cluster = config
            .clusters
            .iter()
            .find(|c| c.name == context.value.cluster)
            .ok_or("the context names no cluster")?
            .value
            .clone();
        let user = config
            .users
            .iter()
            .find(|u| u.name == context.value.user)
            .map(|u| u.value.clone())
            .unwrap_or_default();
        let uri: Uri = cluster
            .server
            .parse()
            .map_err(|e| format!("server {:?}: {e}", cluster.server))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("server {:?} is no http(s) URL", cluster.server)),
        };
        if cluster.insecure_skip_tls_verify {
            return Err("insecure-skip-tls-verify is not supported: name a CA".to_owned());
        }
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(WebhookClient {
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            cluster,
            user,
            folder,
            host,
            is_tls,
            timeout,
        })
    }

    /// Posts a document and reads the answer.
    pub async fn post(&self, document: &Value) -> Result<Value, String> {
        let body = Bytes::from(document.to_string());
        let answered = tokio::time::timeout(self.timeout, self.exchange(body)).await;
        answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }

    async fn exchange(&self, body: Bytes) -> Result<Value, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| format!("dial tcp {}:{}: {e}", self.host, self.port))?;
        if !self.is_tls {
            return self.send(TokioIo::new(stream), body).await;
        }
        let name = self.cluster.tls_server_name.as_ref().unwrap_or(&self.host);
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ServerName::IpAddress(ip.into()),
            Err(_) => ServerName::try_from(name.clone()).map_err(|e| e.to_string())?,
        };
        let stream = TlsConnector::from(Arc::new(self.tls()?))
            .connect(name, stream)
            .await
            .map_err(|e| format!("tls: {e}"))?;
        self.send(TokioIo::new(stream), body).await
    }

    async fn send<S>(&self, stream: S, body: Bytes) -> Result<Value, String>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let text = |e: hyper::Error| e.to_string();
        let (mut sender, connection) = http1::handshake(stream).await.map_err(text)?;
        // What goes wrong with the connection shows in the answer.
        tokio::spawn(connection);
        let mut request = Request::post(&self.path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver");
        if let Some(value) = self.authorization()? {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if !status.is_success() {
            return Err(format!("the server answered {}", status.as_u16()));
        }
        if status == StatusCode::NO_CONTENT || body.is_empty() {
            return Ok(Value::Null);
        }
        // What an audit webhook says beside its status is of no concern to anybody.
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    fn authorization(&self) -> Result<Option<String>, String> {
        if let Some(file) = &self.user.token_file {
            let token = std::fs::read_to_string(self.folder.join(file))
                .map_err(|e| format!("tokenFile: {e}"))?;
            return Ok(Some(format!("Bearer {}", token.trim())));
        }
        if let Some(token) = &self.user.token {
            return Ok(Some(format!("Bearer {token}")));
        }
        Ok(self.user.username.as_ref().map(|name| {
            let password = self.user.password.as_deref().unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
        }))
    }

    /// A file's contents, or the data that stand in its place.
    fn part(
        &self,
        what: &str,
        file: Option<&PathBuf>,
        data: Option<&String>,
    ) -> Result<Option<Vec<u8>>, String> {
        if let Some(data) = data {
            return STANDARD
                .decode(data)
                .map(Some)
                .map_err(|e| format!("{what}-data: {e}"));
        }
        file.map(|f| std::fs::read(self.folder.join(f)).map_err(|e| format!("{what}: {e}")))
            .transpose()
    }

    fn tls(&self) -> Result<rustls::ClientConfig, String> {
        let cluster = &self.cluster;
        let ca = self.part(
            "certificate-authority",
            cluster.certificate_authority.as_ref(),
            cluster.certificate_authority_data.as_ref(),
        )?;
        let ca = match ca {
            Some(pem) => pem,
            None => std::fs::read(SYSTEM_CAS).map_err(|e| format!("{SYSTEM_CAS}: {e}"))?,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            let certificate = certificate.map_err(|e| format!("certificate-authority: {e:?}"))?;
            roots
                .add(certificate)
                .map_err(|e| format!("certificate-authority: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let user = &self.user;
        let certificate = self.part(
            "client-certificate",
            user.client_certificate.as_ref(),
            user.client_certificate_data.as_ref(),
        )?;
        let key = self.part(
            "client-key",
            user.client_key.as_ref(),
            user.client_key_data.as_ref(),
        )?;
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("client-certificate: {e:?}"))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("client-key: {e:?}"))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| e.to_string())
    }
}
