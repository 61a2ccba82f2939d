//! Token secrets that were made for accounts by older clusters: those that nobody has used for a year are first declared invalid, and a year
//! later deleted. Looked at once a day.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use keelson_runtime::{Informer, Key, write};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Error, ResourceExt};
use serde_json::json;
use tracing::warn;

use super::{ACCOUNT, annotation, belongs, secrets};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod_index::Pods;

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const EVERY: Duration = Duration::from_secs(24 * 3600);

struct Controller {
    context: Context,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    pods: Pods,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Controller {
        accounts: context.informers.get(),
        secrets: secrets(&context.informers),
        pods: Pods::of(&context.informers),
        context,
    };
    Ok(run(Arc::new(controller)).boxed())
}

async fn run(controller: Arc<Controller>) {
    let stop = controller.context.stop.clone();
    let forever = async {
        controller.context.informers.synced().await;
        loop {
            if let Err(error) = controller.look().await {
                warn!(%error, "cannot clear away unused token secrets");
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    stop.run_until_cancelled(forever).await;
}

/// What becomes of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Invalidate,
    Delete,
}

fn label_date(secret: &Secret, name: &str) -> Option<Result<Date, jiff::Error>> {
    secret.labels().get(name).map(|text| text.parse::<Date>())
}

/// Decides about a secret that its account lists and no pod mounts.
fn fate(secret: &Secret, oldest: Date, oldest_made: Timestamp) -> Fate {
    let made = secret
        .creation_timestamp()
        .is_none_or(|time| time.0 >= oldest_made);
    if made || secret.metadata.deletion_timestamp.is_some() {
        return Fate::Keep;
    }
    match label_date(secret, LAST_USED) {
        Some(Ok(used)) if used < oldest => {}
        None => {}
        // Used lately, or nobody can say when.
        Some(_) => return Fate::Keep,
    }
    match label_date(secret, INVALID_SINCE) {
        Some(Ok(since)) if since >= oldest => Fate::Keep,
        Some(Ok(_)) => Fate::Delete,
        None | Some(Err(_)) => Fate::Invalidate,
    }
}

/// The names of the secrets that a pod uses.
fn mounted(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return vec![] };
    let volumes = spec.volumes.iter().flatten().flat_map(|volume| {
        let plain = volume
            .secret
            .iter()
            .filter_map(|source| source.secret_name.clone());
        let projected = volume
            .projected
            .iter()
            .flat_map(|source| source.sources.iter().flatten())
            .filter_map(|source| source.secret.as_ref().map(|secret| secret.name.clone()));
        plain.chain(projected).collect::<Vec<_>>()
    });
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let variables = containers.flat_map(|container| {
        let one = container.env.iter().flatten().filter_map(|variable| {
            let source = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some(source.name.clone())
        });
        let all = container
            .env_from
            .iter()
            .flatten()
            .filter_map(|source| source.secret_ref.as_ref().map(|secret| secret.name.clone()));
        one.chain(all).collect::<Vec<_>>()
    });
    let pulls = spec
        .image_pull_secrets
        .iter()
        .flatten()
        .map(|secret| secret.name.clone());
    volumes.chain(variables).chain(pulls).collect()
}

impl Controller {
    async fn look(&self) -> Result<(), Error> {
        let period = self
            .context
            .options
            .legacy_service_account_token_clean_up_period;
        let period = SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX);
        let at = now();
        let Some(tracked) = self.tracked_since().await? else {
            return Ok(());
        };
        let Ok(oldest_made) = at.checked_sub(period) else {
            return Ok(());
        };
        let oldest = oldest_made.to_zoned(TimeZone::UTC).date();
        if oldest < tracked {
            return Ok(());
        }
        for secret in self.secrets.list() {
            let fate = fate(&secret, oldest, oldest_made);
            if fate != Fate::Keep && self.is_unused(&secret) {
                self.carry_out(&secret, fate, at).await?;
            }
        }
        Ok(())
    }

    /// The first day of which it is certain that uses were written down from its beginning.
    async fn tracked_since(&self) -> Result<Option<Date>, Error> {
        let api = Api::<ConfigMap>::namespaced(self.context.client.clone(), "kube-system");
        let map = api.get_opt(TRACKING).await?;
        Ok(map
            .and_then(|map| map.data?.get("since")?.parse::<Date>().ok())
            .and_then(|day| day.tomorrow().ok()))
    }

    fn is_unused(&self, secret: &Secret) -> bool {
        let key = Key::of(secret);
        let listed = self
            .accounts
            .find(&key.namespace, annotation(secret, ACCOUNT))
            .is_some_and(|account| {
                belongs(secret, &account)
                    && account
                        .secrets
                        .iter()
                        .flatten()
                        .any(|reference| reference.name.as_deref() == Some(&key.name))
            });
        let used: BTreeSet<String> = self
            .pods
            .list_namespace(&key.namespace)
            .iter()
            .flat_map(|pod| mounted(pod))
            .collect();
        listed && !used.contains(&key.name)
    }

    async fn carry_out(&self, secret: &Secret, fate: Fate, at: Timestamp) -> Result<(), Error> {
        let key = Key::of(secret);
        let api = Api::<Secret>::namespaced(self.context.client.clone(), &key.namespace);
        if fate == Fate::Invalidate {
            let day = at.to_zoned(TimeZone::UTC).date().to_string();
            let patch =
                json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: day}}});
            return write::optional(write::patch_merge(&api, &key.name, &patch).await).map(drop);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: secret.metadata.resource_version.clone(),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Err(error) if !write::is_not_found(&error) && !write::is_conflict(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_invalidated_first_and_deleted_long_after() {
        let secret = |made: &str, labels: serde_json::Value| -> Secret {
            serde_json::from_value(
                json!({"metadata": {"name": "s", "creationTimestamp": made, "labels": labels}}),
            )
            .unwrap()
        };
        let (oldest, made): (Date, Timestamp) = (
            "2026-01-01".parse().unwrap(),
            "2026-01-01T00:00:00Z".parse().unwrap(),
        );
        let old = "2024-01-01T00:00:00Z";
        for (secret, want) in [
            (secret("2026-02-01T00:00:00Z", json!({})), Fate::Keep),
            (secret(old, json!({})), Fate::Invalidate),
            (secret(old, json!({LAST_USED: "2026-02-01"})), Fate::Keep),
            (secret(old, json!({LAST_USED: "nonsense"})), Fate::Keep),
            (
                secret(old, json!({LAST_USED: "2025-02-01"})),
                Fate::Invalidate,
            ),
            (
                secret(old, json!({INVALID_SINCE: "2026-01-02"})),
                Fate::Keep,
            ),
            (
                secret(old, json!({INVALID_SINCE: "2025-12-31"})),
                Fate::Delete,
            ),
        ] {
            assert_eq!(fate(&secret, oldest, made), want, "{secret:?}");
        }
    }
}
