//! Pulls images from registries: mirrors, credentials, platforms, and blobs that are checked while they arrive.
//!
//! The protocol itself is oci-client's. Errors are worded as containerd words them, since they end in a pod's status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::error::{At, Error, Result};
use crate::index::Image;
use crate::layer::hex_digest;
use crate::manifest::{
    Descriptor, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, check_digest, select_platform,
};
use crate::reference::Name;
use crate::store::{Incoming, Store, chain_ids, digest_of};

/// Manifests that are asked for.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Layers that are fetched at once.
const PARALLEL: usize = 3;
/// A registry that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Credentials for a registry (or a path below one).
#[derive(Clone)]
pub struct Credentials {
    /// Registry host, with an optional path prefix, as Docker's configuration has it.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Where registries are really asked.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Host → endpoints (`https://mirror.example/path`, `http://127.0.0.1:5000`), tried in order before the host itself.
    /// Endpoints of `*` are asked instead of every host that has none of its own.
    pub mirrors: BTreeMap<String, Vec<String>>,
}

/// One place to ask.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    /// Goes before the repository.
    prefix: String,
    plain: bool,
}

impl Endpoint {
    fn parse(text: &str) -> Self {
        let (plain, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (is_loopback(text), text),
        };
        let (host, prefix) = rest
            .trim_end_matches('/')
            .split_once('/')
            .unwrap_or((rest.trim_end_matches('/'), ""));
        Self {
            host: host.to_owned(),
            prefix: prefix.trim_end_matches("/v2").trim_matches('/').to_owned(),
            plain,
        }
    }

    fn reference(&self, name: &Name, digest: Option<&str>) -> Reference {
        let repository = match self.prefix.as_str() {
            "" => name.repository().to_owned(),
            prefix => format!("{prefix}/{}", name.repository()),
        };
        match digest.or(name.digest()) {
            Some(digest) => {
                Reference::with_digest(self.host.clone(), repository, digest.to_owned())
            }
            None => Reference::with_tag(
                self.host.clone(),
                repository,
                name.tag().unwrap_or("latest").to_owned(),
            ),
        }
    }

    fn client(&self) -> Client {
        let protocol = if self.plain {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        // HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment are the HTTP library's own defaults.
        Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(Duration::from_secs(30)),
            read_timeout: Some(SILENCE),
            user_agent: concat!("keelson/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
    }
}

/// Loopback registries speak plain HTTP, as with Docker and containerd.
fn is_loopback(host: &str) -> bool {
    let name = host.split('/').next().unwrap_or(host);
    let name = name.rsplit_once(':').map_or(name, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    name == "localhost"
        || name == "[::1]"
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Mirrors first, then the registry itself.
fn endpoints(registries: &Registries, name: &Name) -> Vec<Endpoint> {
    let parse = |mirrors: &Vec<String>| mirrors.iter().map(|m| Endpoint::parse(m)).collect();
    let own: Option<Vec<Endpoint>> = registries.mirrors.get(name.registry()).map(parse);
    if let (None, Some(all)) = (&own, registries.mirrors.get("*")) {
        return parse(all);
    }
    let mut endpoints = own.unwrap_or_default();
    endpoints.push(Endpoint::parse(name.registry()));
    endpoints
}

/// The credentials that fit an image, the most specific first; then none at all.
fn attempts(name: &Name, credentials: &[Credentials]) -> Vec<RegistryAuth> {
    let wanted = name.familiar();
    let mut fitting: Vec<(usize, &Credentials)> = credentials
        .iter()
        .filter_map(|credentials| {
            let registry = credentials.registry.as_str();
            let registry = registry
                .strip_prefix("https://")
                .or(registry.strip_prefix("http://"))
                .unwrap_or(registry);
            let registry = registry
                .trim_end_matches('/')
                .trim_end_matches("/v1")
                .trim_end_matches("/v2");
            let registry = match registry.strip_prefix("index.docker.io") {
                Some(rest) => format!("docker.io{rest}"),
                None => registry.to_owned(),
            };
            covers(&registry, &wanted).then_some((registry.len(), credentials))
        })
        .collect();
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    let basic = |credentials: &Credentials| {
        RegistryAuth::Basic(credentials.username.clone(), credentials.password.clone())
    };
    let mut attempts: Vec<RegistryAuth> = fitting
        .into_iter()
        .map(|(_, credentials)| basic(credentials))
        .collect();
    if attempts.is_empty() {
        attempts.push(RegistryAuth::Anonymous);
    }
    attempts
}

/// Whether a pattern of Docker's configuration (`*.example.com/team`) covers `host/path`.
fn covers(pattern: &str, wanted: &str) -> bool {
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (wanted_host, wanted_path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let (labels, wanted_labels): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), wanted_host.split('.').collect());
    let same_host = labels.len() == wanted_labels.len()
        && labels
            .iter()
            .zip(&wanted_labels)
            .all(|(label, wanted)| match label.split_once('*') {
                None => label == wanted,
                Some((before, after)) => {
                    wanted.len() >= before.len() + after.len()
                        && wanted.starts_with(before)
                        && wanted.ends_with(after)
                }
            });
    same_host
        && (path.is_empty()
            || wanted_path == path
            || wanted_path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/')))
}

pub(crate) async fn pull(store: &Store, name: &Name, credentials: &[Credentials]) -> Result<Image> {
    let mut last = None;
    for endpoint in endpoints(store.registries(), name) {
        let mirror = endpoint.host != name.registry();
        // A mirror is another registry: it gets only credentials of its own.
        let own = Name::parse(&format!("{}/{}", endpoint.host, name.repository()))
            .ok()
            .filter(|_| mirror);
        for authentication in attempts(own.as_ref().unwrap_or(name), credentials) {
            match pull_from(store, name, &endpoint, &authentication).await {
                Ok(image) => return Ok(image),
                Err(Failure::Registry(error)) => last = Some(describe(name, &error)),
                Err(Failure::Store(error)) => return Err(error),
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::Pull(format!("failed to pull image \"{name}\""))))
}

/// Another endpoint may do better than a registry that fails; ours fails everywhere alike.
enum Failure {
    Registry(Box<OciDistributionError>),
    Store(Error),
}

impl From<OciDistributionError> for Failure {
    fn from(error: OciDistributionError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

async fn pull_from(
    store: &Store,
    name: &Name,
    endpoint: &Endpoint,
    authentication: &RegistryAuth,
) -> std::result::Result<Image, Failure> {
    let client = endpoint.client();
    let top = endpoint.reference(name, None);
    let (bytes, digest) = client
        .pull_manifest_raw(&top, authentication, &MANIFESTS)
        .await?;
    let mut manifest = parse(&bytes, &digest)?;
    let mut reference = top;
    for _ in 0..4 {
        let Manifest::Index(entries) = &manifest else {
            break;
        };
        let chosen = select_platform(entries)?.digest.clone();
        reference = endpoint.reference(name, Some(&chosen));
        let (bytes, found) = client
            .pull_manifest_raw(&reference, authentication, &MANIFESTS)
            .await?;
        manifest = parse(&bytes, &found)?;
    }
    let Manifest::Image { config, layers } = manifest else {
        return Err(Error::Content("indexes are nested too deeply".into()).into());
    };
    let work = store.work_directory()?;
    let config_path = work.path().join("config");
    fetch(&client, &reference, &config, MAX_CONFIG, &config_path).await?;
    let config = std::fs::read(&config_path).at(&config_path)?;
    let chain = chain_ids(&ImageConfig::parse(&config)?.rootfs.diff_ids);
    let limit = store.limits().blob;
    let fetches = layers.iter().enumerate().map(|(position, layer)| {
        let known = chain.get(position).is_some_and(|id| store.has_layer(id));
        let path: PathBuf = work.path().join(position.to_string());
        let (client, reference) = (&client, &reference);
        async move {
            if known {
                return Ok(None);
            }
            fetch(client, reference, layer, limit, &path).await?;
            Ok::<_, Failure>(Some(path))
        }
    });
    // Collected first: the iterator's borrows would otherwise have to outlive every await.
    let fetches: Vec<_> = fetches.collect();
    let blobs = futures::stream::iter(fetches)
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let incoming = Incoming {
        tags: name
            .digest()
            .is_none()
            .then(|| name.tagged())
            .flatten()
            .into_iter()
            .collect(),
        digests: vec![name.with_digest(&digest)],
        config,
        blobs,
    };
    Ok(store.put(incoming).await?)
}

fn parse(bytes: &[u8], digest: &str) -> Result<Manifest> {
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(Error::TooLarge {
            what: "the manifest".into(),
            limit: MAX_MANIFEST,
        });
    }
    check_digest(digest)?;
    match digest_of(bytes) {
        found if found == digest => Manifest::parse(bytes),
        found => Err(Error::Content(format!(
            "manifest {digest} has digest {found}"
        ))),
    }
}

/// Fetches a blob into a file: exactly as long as promised, with the digest promised.
async fn fetch(
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    limit: u64,
    path: &Path,
) -> std::result::Result<(), Failure> {
    if blob.size > limit {
        return Err(Error::TooLarge {
            what: format!("blob {}", blob.digest),
            limit,
        }
        .into());
    }
    let mut stream = client
        .pull_blob_stream(reference, blob.digest.as_str())
        .await?
        .stream;
    let mut file = tokio::fs::File::create(path).await.at(path)?;
    let mut hash = Sha256::new();
    let mut length = 0_u64;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(OciDistributionError::IoError)?;
        length += chunk.len() as u64;
        if length > blob.size {
            return Err(Error::Content(format!(
                "blob {} is longer than its {} bytes",
                blob.digest, blob.size
            ))
            .into());
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.at(path)?;
    }
    file.flush().await.at(path)?;
    let found = hex_digest(hash);
    if length != blob.size || found != blob.digest {
        return Err(Error::Content(format!(
            "failed commit on ref {:?}: unexpected commit digest {found}, expected {:?}",
            blob.digest, blob.digest
        ))
        .into());
    }
    Ok(())
}

/// A registry's failure in containerd's words.
fn describe(name: &Name, error: &OciDistributionError) -> Error {
    let pull = |reason: String| {
        Error::Pull(format!(
            "failed to pull and unpack image \"{name}\": {reason}"
        ))
    };
    let resolve = |reason: &str| pull(format!("failed to resolve reference \"{name}\": {reason}"));
    const DENIED: &str =
        "pull access denied, repository does not exist or may require authorization";
    match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => resolve(&format!(
            "{DENIED}: authorization failed: no basic auth credentials"
        )),
        OciDistributionError::ImageManifestNotFoundError(_) => {
            resolve(&format!("{name}: not found"))
        }
        OciDistributionError::ServerError { code: 404, .. } => {
            resolve(&format!("{name}: not found"))
        }
        OciDistributionError::ServerError { code, url, .. } => resolve(&format!(
            "unexpected status from GET request to {url}: {code}"
        )),
        OciDistributionError::RegistryError { envelope, url } => {
            let has = |wanted: &[OciErrorCode]| {
                envelope
                    .errors
                    .iter()
                    .any(|error| wanted.contains(&error.code))
            };
            if has(&[
                OciErrorCode::ManifestUnknown,
                OciErrorCode::NotFound,
                OciErrorCode::NameUnknown,
            ]) {
                resolve(&format!("{name}: not found"))
            } else if has(&[OciErrorCode::Denied, OciErrorCode::Unauthorized]) {
                resolve(&format!(
                    "{DENIED}: server message: insufficient_scope: authorization failed"
                ))
            } else {
                let messages: Vec<&str> = envelope
                    .errors
                    .iter()
                    .map(|error| error.message.as_str())
                    .collect();
                resolve(&format!(
                    "unexpected answer from {url}: {}",
                    messages.join("; ")
                ))
            }
        }
        OciDistributionError::RequestError(error) => {
            // The library's own text stops before the cause.
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                reason = format!("{reason}: {cause}");
                source = cause.source();
            }
            resolve(&format!("failed to do request: {reason}"))
        }
        other => pull(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn mirrors_go_first() {
        let registries = Registries {
            mirrors: [(
                "docker.io".to_owned(),
                vec!["http://m:5000/hub/v2".to_owned(), "https://n".to_owned()],
            )]
            .into(),
        };
        let found = endpoints(&registries, &name("busybox:1"));
        assert_eq!(
            found[0],
            Endpoint {
                host: "m:5000".into(),
                prefix: "hub".into(),
                plain: true
            }
        );
        assert_eq!(
            found[0].reference(&name("busybox:1"), None).whole(),
            "m:5000/hub/library/busybox:1"
        );
        assert_eq!(
            (found[1].plain, found[2].host.as_str(), found[2].plain),
            (false, "docker.io", false)
        );
        assert!(endpoints(&registries, &name("localhost:5000/x"))[0].plain);
        assert!(!endpoints(&registries, &name("localhost.example/x"))[0].plain);
        let instead = Registries {
            mirrors: [("*".to_owned(), vec!["http://m:5000".to_owned()])].into(),
        };
        let found = endpoints(&instead, &name("quay.io/a/b:1"));
        assert_eq!((found.len(), found[0].host.as_str()), (1, "m:5000"));
    }

    #[test]
    fn credentials_by_registry_and_path() {
        let credentials = |registry: &str| Credentials {
            registry: registry.into(),
            username: registry.into(),
            password: "p".into(),
        };
        let all = [
            credentials("https://index.docker.io/v1/"),
            credentials("r.example"),
            credentials("r.example/team"),
            credentials("*.wild.example"),
        ];
        let users = |image: &str| -> Vec<String> {
            let attempts = attempts(&name(image), &all).into_iter();
            attempts
                .map(|auth| match auth {
                    RegistryAuth::Basic(user, _) => user,
                    _ => "nobody".into(),
                })
                .collect()
        };
        assert_eq!(users("busybox"), ["https://index.docker.io/v1/"]);
        assert_eq!(users("r.example/team/x"), ["r.example/team", "r.example"]);
        assert_eq!(users("r.example/teamster/x"), ["r.example"]);
        assert_eq!(users("a.wild.example/x"), ["*.wild.example"]);
        assert_eq!(users("a.b.wild.example/x"), ["nobody"]);
        assert!(!format!("{:?}", all[0]).contains("\"p\""));
    }
}
