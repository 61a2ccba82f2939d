//! Rolling a Deployment over, and waiting for its end.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long a rollout may take under fire.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The Deployments of the default namespace.
pub fn deployments(client: &Client) -> Api<Deployment> {
    Api::namespaced(client.clone(), "default")
}

/// Merges a patch into a Deployment, again while the API server is away: the same patch twice changes nothing.
pub async fn patch(client: &Client, name: &str, patch: &Value) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let answer = deployments(client)
            .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        match answer {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => bail!("cannot patch {name}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What `kubectl rollout restart` writes.
pub async fn restart(client: &Client, name: &str, mark: &str) -> Result<()> {
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": mark});
    let template = json!({"metadata": {"annotations": annotations}});
    patch(client, name, &json!({"spec": {"template": template}})).await
}

/// Waits as `kubectl rollout status` does, and on until the old pods are no longer counted.
pub async fn finished(client: &Client, name: &str) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let state = match deployments(client).get(name).await {
            Ok(deployment) if is_finished(&deployment) => return Ok(()),
            Ok(deployment) => format!("{:?}", deployment.status),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            bail!(
                "the rollout of {name} did not end within {} s: {state}",
                TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_finished(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|s| s.replicas)
        .unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas == Some(wanted)
        && status.replicas == Some(wanted)
        && status.available_replicas == Some(wanted)
}
