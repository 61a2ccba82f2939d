//! Filling secrets of the type `kubernetes.io/service-account-token`, and deleting those whose account is gone.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Client};

use super::sign::{SignError, Signer};
use super::{ACCOUNT, ACCOUNT_UID, annotation, belongs, secrets};
use crate::context::{Context, StartError};
use crate::controllers::Task;

const BY_ACCOUNT: &str = "serviceaccount";

/// Why a secret is tried again.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    /// The manager's own: no account of a controller may write secrets everywhere.
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    signer: Signer,
    root: Vec<u8>,
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::File {
        path: path.display().to_string(),
        source,
    })
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let options = &context.options;
    let Some(path) = &options.service_account_private_key_file else {
        return Err(StartError::Options(
            "--service-account-private-key-file is not given".into(),
        ));
    };
    let key = String::from_utf8_lossy(&read(path)?).into_owned();
    let signer = Signer::new(&key).map_err(|error| StartError::Options(error.to_string()))?;
    let root = match &options.root_ca_file {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    let queue: Arc<Queue<Key>> = Queue::new("serviceaccount_tokens_secret");
    let controller = Arc::new(Controller {
        client: context.informers.client().clone(),
        accounts: context.informers.get(),
        secrets: secrets(&context.informers),
        signer,
        root,
    });
    controller.secrets.index_by(BY_ACCOUNT, |secret| {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        vec![format!("{namespace}/{}", annotation(secret, ACCOUNT))]
    });
    let wake = queue.clone();
    controller.secrets.handle(move |event| {
        if let Some(secret) = event.object() {
            wake.add(Key::of(&**secret));
        }
    });
    let (wake, by_account) = (queue.clone(), controller.secrets.clone());
    controller.accounts.handle(move |event| {
        if let Event::Added(account) | Event::Deleted(account) = event {
            for secret in by_account.by_index(BY_ACCOUNT, &Key::of(&**account).to_string()) {
                wake.add(Key::of(&*secret));
            }
        }
    });
    let workers = context.options.workers.service_account_token;
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl Controller {
    fn lacks(&self, secret: &Secret) -> bool {
        let has = |name: &str| {
            secret
                .data
                .as_ref()
                .and_then(|data| data.get(name))
                .map(|value| value.0.as_slice())
                .unwrap_or_default()
        };
        has("token").is_empty()
            || has("namespace").is_empty()
            || (!self.root.is_empty() && has("ca.crt") != self.root)
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, MakeError> {
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Outcome::Done);
        };
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        let Some(account) = self.account(&secret).await? else {
            let params = write::delete_params(secret.metadata.uid.as_deref(), None);
            match api.delete(&key.name, &params).await {
                Err(error) if !write::is_not_found(&error) && !write::is_conflict(&error) => {
                    return Err(error.into());
                }
                _ => return Ok(Outcome::Done),
            }
        };
        if !self.lacks(&secret) {
            return Ok(Outcome::Done);
        }
        let Some(mut next) = api
            .get_opt(&key.name)
            .await?
            .filter(|live| self.lacks(live))
        else {
            return Ok(Outcome::Done);
        };
        let data = next.data.get_or_insert_default();
        if !self.root.is_empty() {
            data.insert("ca.crt".into(), ByteString(self.root.clone()));
        }
        data.insert("namespace".into(), ByteString(key.namespace.clone().into()));
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            let token = self.signer.sign(&account, &secret)?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        let annotations = next.metadata.annotations.get_or_insert_default();
        annotations.insert(
            ACCOUNT.into(),
            account.metadata.name.clone().unwrap_or_default(),
        );
        annotations.insert(
            ACCOUNT_UID.into(),
            account.metadata.uid.clone().unwrap_or_default(),
        );
        match api.replace(&key.name, &PostParams::default(), &next).await {
            // It changed meanwhile: its event brings it back.
            Err(error) if !write::is_conflict(&error) && !write::is_not_found(&error) => {
                Err(error.into())
            }
            _ => Ok(Outcome::Done),
        }
    }

    /// The secret's account; that it is gone is believed only if the API server says so too.
    async fn account(&self, secret: &Secret) -> Result<Option<ServiceAccount>, kube::Error> {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        let name = annotation(secret, ACCOUNT);
        if name.is_empty() {
            return Ok(None);
        }
        let cached = self.accounts.find(namespace, name);
        if let Some(account) = cached.filter(|account| belongs(secret, account)) {
            return Ok(Some((*account).clone()));
        }
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let live = api.get_opt(name).await?;
        Ok(live.filter(|account| belongs(secret, account)))
    }
}
