//! Puts a server together: cache, keys, authenticators, authorizers, admission, health.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use keelson_admission::{Chain, Environment};
use keelson_auth::authenticate::x509::X509Error;
use keelson_auth::node::NodeAuthorizer;
use keelson_auth::rbac::Index;
use keelson_auth::service_account::{Issuer, KeyError, Keys, TokenRequests};
use keelson_auth::{Answer, Attributes, Authorizer, Decision, Lookup, Rules, Union, User};
use keelson_daemon::tls::TlsError;
use keelson_encryption::{ConfigError, EncryptedStore, Encryption};
use keelson_registry::kinds;
use keelson_storage::{Cache, CacheOptions, Store};
use tokio_util::sync::CancellationToken;

use crate::addresses::{self, Addresses};
use crate::aggregation::{self, Aggregation};
use crate::audit::log::Log;
use crate::audit::policy::Policy;
use crate::audit::webhook::Webhook;
use crate::audit::{Auditor, Sink};
use crate::authentication;
use crate::discovery::Documents;
use crate::fairness::{self, Fairness};
use crate::feeds::{self, Feed};
use crate::filters::Limits;
use crate::following::Followed;
use crate::health::{Groups, Health};
use crate::lookup::{Objects, Writes};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::proxying::Backends;
use crate::resources::Resources;
use crate::server::{Server, Steps};
use crate::webhook_client::WebhookClient;

/// How long the store may take to answer a health check.
const STORE_CHECK: Duration = Duration::from_secs(2);

/// How long a webhook of a kubeconfig may take to answer.
pub(crate) const WEBHOOK_PATIENCE: Duration = Duration::from_secs(30);
/// How often values that can't be read are tried again.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(10);

/// Why a server can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A CA of client certificates is no use.
    #[error("client certificates: {0}")]
    Authentication(#[from] X509Error),
    /// A key of service accounts is no use.
    #[error("service account keys: {0}")]
    Keys(#[from] KeyError),
    /// A certificate towards kubelets is no use.
    #[error("certificates towards kubelets and aggregated servers: {0}")]
    Backends(#[from] TlsError),
    /// The encryption configuration is no use.
    #[error("--encryption-provider-config: {0}")]
    Encryption(#[from] ConfigError),
    /// Auditing can't be set up.
    #[error("{0}")]
    Audit(String),
    /// A source of identities is no use.
    #[error("{0}")]
    Identities(String),
    /// An admission plugin doesn't exist.
    #[error("admission: {0}")]
    Admission(String),
}

/// Builds the server over a store and waits until its cache and its authorizers have seen everything stored.
pub async fn assemble(
    options: Options,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> Result<Arc<Server>, AssembleError> {
    let resources = Arc::new(Resources::storing(
        &options.etcd_prefix,
        options.store_protobuf,
    ));
    let encryption = match &options.encryption {
        Some((file, follow)) => Encryption::load(file, *follow).await?,
        None => Encryption::none(),
    };
    let store: Arc<dyn Store> = Arc::new(EncryptedStore::new(
        store,
        encryption.clone(),
        resources.classifier(&options.etcd_prefix),
    ));
    let cache = Cache::start(
        store.clone(),
        CacheOptions::default(),
        resources.cache_config(),
    );
    let objects: Arc<dyn Lookup> = Arc::new(Objects::new(
        resources.clone(),
        store.clone(),
        cache.clone(),
    ));

    let issuer = Arc::new(Issuer {
        issuers: options.service_account_issuers.clone(),
        keys: Arc::new(keys(&options)?),
    });
    let authenticator = authentication::chain(&options, &issuer, &objects, &stop)?;
    let token_requests = TokenRequests {
        issuer: issuer.clone(),
        audiences: options.api_audiences.clone(),
        max_expiration: options
            .max_token_expiration
            .map(|d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
        extend_expiration: options.extend_token_expiration,
    };

    let rbac = Arc::new(Index::new());
    let node = Arc::new(NodeAuthorizer::new());
    let authorizer = authorizer(&options.authorization_modes, &rbac, &node);
    let admission = Chain::new(&options.enable_admission, &options.disable_admission)
        .map_err(|e| AssembleError::Admission(e.to_string()))?;
    let environment = Environment {
        lookup: objects.clone(),
        writer: Arc::new(Writes::new(resources.clone(), store.clone())),
        authorizer: authorizer.clone(),
    };
    let address_store = Arc::new(addresses::Writes::new(
        resources.clone(),
        store.clone(),
        &options.etcd_prefix,
    ));
    let addresses = Addresses::new(&options, address_store, objects.clone());
    let limits = Limits::new(
        options.max_requests_inflight,
        options.max_mutating_requests_inflight,
    );
    let mut health = health(&store, &cache, &stop);
    if encryption.has_health_check() {
        check_encryption(&mut health, &encryption);
    }
    follow_encryption(&encryption, &cache, &stop);
    let steps = Steps {
        rbac: health.add_step("poststarthook/rbac/bootstrap-roles", Groups::All),
        priority_classes: health.add_step(
            "poststarthook/scheduling/bootstrap-system-priority-classes",
            Groups::All,
        ),
        registration: health.add_step("autoregister-completion", Groups::All),
        system_objects: health.add_step("poststarthook/bootstrap-controller", Groups::All),
    };
    let auditor = auditor(&options, &stop)?;
    let server = Arc::new(Server {
        documents: ArcSwap::from_pointee(Documents::new(
            None,
            &resources.all(),
            &[],
            &[],
            &options,
        )),
        aggregation: Aggregation::new(&options)?,
        fairness: Fairness::new(&options),
        backends: Backends::new(&options)?,
        health,
        steps,
        metrics: Metrics::new(|group, resource| {
            kinds::ALL
                .iter()
                .any(|k| k.group == group && k.plural == resource)
        }),
        addresses,
        limits,
        options,
        resources,
        store,
        cache,
        lookup: objects,
        auditor,
        authenticator,
        authorizer,
        rbac: rbac.clone(),
        issuer,
        token_requests,
        admission,
        environment,
        stop,
    });
    authentication::follow_cas(&server)?;
    server.cache.ready().await;
    feed(&server, rbac, node).await;
    aggregation::start(&server).await;
    fairness::start(&server).await;
    crate::custom::start(&server).await;
    Ok(server)
}

fn auditor(
    options: &Options,
    stop: &CancellationToken,
) -> Result<Option<Arc<Auditor>>, AssembleError> {
    let Some(policy) = &options.audit.policy else {
        return Ok(None);
    };
    let failed = |flag: &str, why: String| AssembleError::Audit(format!("--{flag}: {why}"));
    let policy =
        Followed::start(policy, stop, Policy::parse).map_err(|e| failed("audit-policy-file", e))?;
    let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
    if let Some(log) = &options.audit.log {
        let log = Log::open(log.clone()).map_err(|e| failed("audit-log-path", e.to_string()))?;
        sinks.push(Arc::new(log));
    }
    if let Some((file, batch)) = &options.audit.webhook {
        let client = WebhookClient::load(file, WEBHOOK_PATIENCE)
            .map_err(|e| failed("audit-webhook-config-file", e))?;
        let webhook = Webhook::start(Arc::new(client), batch.clone(), stop.clone());
        sinks.push(Arc::new(webhook));
    }
    Ok((!sinks.is_empty()).then(|| Arc::new(Auditor { policy, sinks })))
}

fn check_encryption(health: &mut Health, encryption: &Encryption) {
    let encryption = encryption.clone();
    health.add(
        "kms-providers",
        Groups::All,
        Arc::new(move || {
            let providers = encryption.current();
            Box::pin(async move { providers.check().await })
        }),
    );
}

/// Follows the configuration's file, and reads again what could not be decrypted when that may have changed.
fn follow_encryption(encryption: &Encryption, cache: &Cache, stop: &CancellationToken) {
    let (following, stopped) = (encryption.clone(), stop.clone());
    tokio::spawn(async move { following.follow(stopped).await });
    let (mut changes, cache, stop) = (encryption.changes(), cache.clone(), stop.clone());
    tokio::spawn(async move {
        loop {
            let again = tokio::time::sleep(UNREADABLE_AGAIN);
            tokio::select! {
                () = stop.cancelled() => return,
                // Fails only if the sender is gone with the server.
                changed = changes.changed() => if changed.is_err() { return },
                () = again => {}
            }
            if cache.has_unreadable() {
                cache.retry_unreadable().await;
            }
        }
    });
}

/// Lets the authorizers see everything stored, and follow it from then on.
async fn feed(server: &Arc<Server>, rbac: Arc<Index>, node: Arc<NodeAuthorizer>) {
    let node_graph = node.clone();
    feeds::start(
        server,
        vec![
            Feed::new(
                &[
                    "roles.rbac.authorization.k8s.io",
                    "clusterroles.rbac.authorization.k8s.io",
                ],
                rbac.clone(),
            ),
            Feed::new(
                &[
                    "rolebindings.rbac.authorization.k8s.io",
                    "clusterrolebindings.rbac.authorization.k8s.io",
                ],
                rbac,
            ),
            Feed::new(
                &[
                    "pods",
                    "persistentvolumes",
                    "volumeattachments.storage.k8s.io",
                    "resourceslices.resource.k8s.io",
                ],
                Arc::new(feeds::NodeGraph(node_graph)),
            ),
        ],
    )
    .await;
}

fn keys(options: &Options) -> Result<Keys, KeyError> {
    let mut keys = Keys::new();
    keys.set_signing(&options.service_account_signing_key)?;
    for pem in &options.service_account_keys {
        keys.add_verifying(pem)?;
    }
    Ok(keys)
}

fn authorizer(
    modes: &[String],
    rbac: &Arc<Index>,
    node: &Arc<NodeAuthorizer>,
) -> Arc<dyn Authorizer> {
    let chain = modes
        .iter()
        .map(|mode| -> Arc<dyn Authorizer> {
            match mode.as_str() {
                "Node" => node.clone(),
                "RBAC" => rbac.clone(),
                "AlwaysAllow" => Arc::new(Always(Decision::Allow)),
                _ => Arc::new(Always(Decision::NoOpinion)),
            }
        })
        .collect();
    Arc::new(Union::new(chain))
}

/// `AlwaysAllow` and `AlwaysDeny`.
struct Always(Decision);

impl Authorizer for Always {
    fn authorize(&self, _: &Attributes) -> Answer {
        Answer {
            decision: self.0,
            reason: if self.0 == Decision::Allow {
                String::new()
            } else {
                "Everything is forbidden.".to_owned()
            },
        }
    }

    fn rules(&self, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

fn health(store: &Arc<dyn Store>, cache: &Cache, stop: &CancellationToken) -> Health {
    let mut health = Health::default();
    health.add("ping", Groups::All, Arc::new(|| Box::pin(async { Ok(()) })));
    let checked = store.clone();
    health.add(
        "etcd",
        Groups::All,
        Arc::new(move || {
            let store = checked.clone();
            Box::pin(async move {
                match tokio::time::timeout(STORE_CHECK, store.current_revision()).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(e)) => Err(e.to_string()),
                    Err(_) => Err("no answer in time".to_owned()),
                }
            })
        }),
    );
    let cache = cache.clone();
    health.add(
        "informer-sync",
        Groups::Ready,
        Arc::new(move || {
            let ready = cache.is_ready();
            Box::pin(async move {
                if ready {
                    Ok(())
                } else {
                    Err("the watch cache is not filled yet".to_owned())
                }
            })
        }),
    );
    let stop = stop.clone();
    health.add(
        "shutdown",
        Groups::Ready,
        Arc::new(move || {
            let stopping = stop.is_cancelled();
            Box::pin(async move {
                if stopping {
                    Err("process is shutting down".to_owned())
                } else {
                    Ok(())
                }
            })
        }),
    );
    health
}
