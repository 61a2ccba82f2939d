//! An issuer's keys: its discovery document and its JSON Web Key Set, fetched over TLS and kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::config::IssuerConfig;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longer documents are refused.
const LONGEST: usize = 1 << 20;
/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon keys may be asked for again: tokens with made-up key names must not make the server ask for each.
const PAUSE: Duration = Duration::from_secs(10);

/// An issuer.
pub struct Issuer {
    config: IssuerConfig,
    kept: Mutex<Option<Arc<JwkSet>>>,
    asked: tokio::sync::Mutex<Option<Instant>>,
}

/// The CAs of a PEM bundle.
pub fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("{e:?}"))?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        return Err("data does not contain any valid RSA or ECDSA certificates".to_owned());
    }
    Ok(roots)
}

impl Issuer {
    /// Nothing is fetched yet.
    pub fn new(config: IssuerConfig) -> Self {
        Issuer {
            config,
            kept: Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// The keys as they are known.
    pub fn keys(&self) -> Option<Arc<JwkSet>> {
        self.kept.lock().clone()
    }

    /// Fetches the keys again, but not too often; one at a time.
    pub async fn refresh(&self) -> Result<Option<Arc<JwkSet>>, String> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return Ok(self.keys());
        }
        *asked = Some(Instant::now());
        let fetched = tokio::time::timeout(PATIENCE, self.fetch())
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        let fetched = Arc::new(fetched);
        *self.kept.lock() = Some(fetched.clone());
        Ok(Some(fetched))
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let url = &self.config.url;
        let document_url = if self.config.discovery_url.is_empty() {
            format!("{}{WELL_KNOWN}", url.trim_end_matches('/'))
        } else {
            self.config.discovery_url.clone()
        };
        let document: Value = serde_json::from_slice(&self.get(&document_url).await?)
            .map_err(|e| format!("{document_url}: {e}"))?;
        if document["issuer"] != url.as_str() {
            return Err(format!(
                "oidc: issuer URL provided to client ({url:?}) did not match the issuer URL returned by provider ({:?})",
                document["issuer"].as_str().unwrap_or_default()
            ));
        }
        let keys_url = document["jwks_uri"]
            .as_str()
            .ok_or_else(|| format!("{document_url}: no jwks_uri"))?;
        let document: Value = serde_json::from_slice(&self.get(keys_url).await?)
            .map_err(|e| format!("{keys_url}: {e}"))?;
        // Keys of kinds that nobody here knows are not in the way of the others.
        let keys = document["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|key| serde_json::from_value(key.clone()).ok())
            .collect();
        Ok(JwkSet { keys })
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let failed = |e: String| format!("{url}: {e}");
        let uri: Uri = url.parse().map_err(|e| failed(format!("{e}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(failed("URL scheme must be https".to_owned()));
        }
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|e| failed(e.to_string()))?;
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => ServerName::IpAddress(ip.into()),
            Err(_) => ServerName::try_from(host).map_err(|e| failed(e.to_string()))?,
        };
        let stream = TlsConnector::from(Arc::new(self.tls()?))
            .connect(name, stream)
            .await
            .map_err(|e| failed(format!("tls: {e}")))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(e.to_string()))?;
        // What goes wrong with the connection shows in the answer.
        tokio::spawn(connection);
        let authority = uri.authority().map_or("", |a| a.as_str());
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver")
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| failed(e.to_string()))?;
        if !response.status().is_success() {
            return Err(failed(response.status().to_string()));
        }
        Limited::new(response.into_body(), LONGEST)
            .collect()
            .await
            .map(|body| body.to_bytes())
            .map_err(|e| failed(e.to_string()))
    }

    fn tls(&self) -> Result<rustls::ClientConfig, String> {
        let pem = if self.config.certificate_authority.is_empty() {
            std::fs::read_to_string(SYSTEM_CAS).map_err(|e| format!("{SYSTEM_CAS}: {e}"))?
        } else {
            self.config.certificate_authority.clone()
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        Ok(builder
            .with_root_certificates(roots(&pem)?)
            .with_no_client_auth())
    }
}
