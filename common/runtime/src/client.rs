//! Clients of the API server: from a kubeconfig or from within the cluster.
//!
//! Every request but a watch gets its answer within a minute or fails, and a client whose certificate or kubeconfig files
//! change on disk takes the new ones up without a restart. Tokens in files are read again by kube itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::BoxError;
use tracing::{info, warn};

use crate::transport;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig can't be read or makes no sense.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KubeconfigError,
    },
    /// There is no kubeconfig, and this is no pod either.
    #[error("no --kubeconfig given and not running in a cluster: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// The user agent is no valid header value.
    #[error("user agent {0:?} is not a valid header value")]
    UserAgent(String),
    /// The certificates or keys are of no use.
    #[error("cannot make a client: {0}")]
    Build(#[source] Box<kube::Error>),
}

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take, unless the request is a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the files behind a client are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The configuration of a kubeconfig file, with the timeouts and user agent that all daemons use.
pub async fn config_from_kubeconfig(path: &Path, user_agent: &str) -> Result<Config, Error> {
    let wrong = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(wrong)?;
    dress(&mut config, user_agent)?;
    Ok(config)
}

/// The configuration of a pod's service account.
pub fn config_in_cluster(user_agent: &str) -> Result<Config, Error> {
    let mut config = Config::incluster()?;
    dress(&mut config, user_agent)?;
    Ok(config)
}

fn dress(config: &mut Config, user_agent: &str) -> Result<(), Error> {
    let agent =
        HeaderValue::from_str(user_agent).map_err(|_| Error::UserAgent(user_agent.to_owned()))?;
    config.headers.push((http::header::USER_AGENT, agent));
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    Ok(())
}

/// A client from a configuration, with the answer timeout.
pub fn from_config(config: Config) -> Result<Client, Error> {
    let namespace = config.default_namespace.clone();
    let inner = build(config)?;
    Ok(Client::new(
        tower::service_fn(move |request| {
            let inner = inner.clone();
            async move { send(inner, request).await }
        }),
        namespace,
    ))
}

fn build(config: Config) -> Result<Client, Error> {
    keelson_daemon::install_crypto();
    transport::client(config).map_err(|error| Error::Build(Box::new(error)))
}

/// A client from a kubeconfig file that follows changes of the files it names.
pub async fn from_kubeconfig(path: impl AsRef<Path>, user_agent: &str) -> Result<Client, Error> {
    let path = path.as_ref();
    let config = config_from_kubeconfig(path, user_agent).await?;
    let namespace = config.default_namespace.clone();
    let source = Arc::new(Source {
        files: files_of(path),
        path: path.to_owned(),
        user_agent: user_agent.to_owned(),
        current: ArcSwap::from_pointee(build(config)?),
        looked: Mutex::new(Look {
            at: Instant::now(),
            stamps: Vec::new(),
        }),
    });
    source.looked.lock().stamps = source.stamps();
    Ok(Client::new(
        tower::service_fn(move |request| {
            let source = source.clone();
            async move {
                source.refresh().await;
                send((**source.current.load()).clone(), request).await
            }
        }),
        namespace,
    ))
}

/// A client from the service account of the pod that this process runs in.
pub fn in_cluster(user_agent: &str) -> Result<Client, Error> {
    from_config(config_in_cluster(user_agent)?)
}

/// A client from a kubeconfig where there is one, else from the pod's service account.
pub async fn from_kubeconfig_or_cluster(
    path: Option<&Path>,
    user_agent: &str,
) -> Result<Client, Error> {
    match path {
        Some(path) => from_kubeconfig(path, user_agent).await,
        None => in_cluster(user_agent),
    }
}

async fn send(client: Client, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    if transport::is_watch(&request) {
        return Ok(client.send(request).await?);
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!(
            "no answer from the API server within {} s",
            ANSWER_TIMEOUT.as_secs()
        )
        .into()),
    }
}

struct Look {
    at: Instant,
    stamps: Vec<Option<SystemTime>>,
}

struct Source {
    path: PathBuf,
    files: Vec<PathBuf>,
    user_agent: String,
    current: ArcSwap<Client>,
    looked: Mutex<Look>,
}

impl Source {
    fn stamps(&self) -> Vec<Option<SystemTime>> {
        self.files
            .iter()
            .map(|file| {
                std::fs::metadata(file)
                    .and_then(|meta| meta.modified())
                    .ok()
            })
            .collect()
    }

    /// Builds the client anew if the files behind it changed. A client that can't be built leaves the present one.
    async fn refresh(&self) {
        {
            let mut looked = self.looked.lock();
            if looked.at.elapsed() < LOOK_EVERY {
                return;
            }
            looked.at = Instant::now();
            let stamps = self.stamps();
            if looked.stamps == stamps {
                return;
            }
            looked.stamps = stamps;
        }
        let rebuilt = match config_from_kubeconfig(&self.path, &self.user_agent).await {
            Ok(config) => build(config),
            Err(error) => Err(error),
        };
        match rebuilt {
            Ok(client) => {
                info!(kubeconfig = %self.path.display(), "credentials changed on disk; using the new ones");
                self.current.store(Arc::new(client));
            }
            Err(error) => {
                warn!(kubeconfig = %self.path.display(), %error, "credentials changed on disk but cannot be used");
                // A half-written file: look again next time, whatever its stamp says.
                self.looked.lock().stamps.clear();
            }
        }
    }
}

/// The kubeconfig and the certificate files it names.
fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let Ok(kubeconfig) = Kubeconfig::read_from(path) else {
        return files;
    };
    for named in &kubeconfig.auth_infos {
        if let Some(auth) = &named.auth_info {
            files.extend(auth.client_certificate.iter().map(PathBuf::from));
            files.extend(auth.client_key.iter().map(PathBuf::from));
        }
    }
    for named in &kubeconfig.clusters {
        if let Some(cluster) = &named.cluster {
            files.extend(cluster.certificate_authority.iter().map(PathBuf::from));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
        users: [{name: u, user: {tokenFile: token}}]\n\
        contexts: [{name: c, context: {cluster: c, user: u, namespace: team}}]\n";

    #[tokio::test]
    async fn a_kubeconfig_gives_server_namespace_and_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        std::fs::write(dir.path().join("token"), "t").unwrap();
        let config = config_from_kubeconfig(&path, "kube-test/v1.36")
            .await
            .unwrap();
        assert_eq!(config.cluster_url.port_u16(), Some(1));
        assert_eq!(config.default_namespace, "team");
        assert!(
            config
                .headers
                .iter()
                .any(|(_, value)| value == "kube-test/v1.36")
        );
        assert_eq!(
            from_kubeconfig(&path, "x")
                .await
                .unwrap()
                .default_namespace(),
            "team"
        );
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = from_kubeconfig("/nonexistent/kubeconfig", "x")
            .await
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("/nonexistent/kubeconfig"),
            "{error}"
        );
    }
}
