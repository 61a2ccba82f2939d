//! The guide's example (its sections 4 and 9, to the letter), created as `kubectl apply` creates objects.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::PostParams;
use kube::discovery::Discovery;
use kube::{Api, Client};

use crate::addons;

/// Section 4: the ConfigMap and the Secret.
pub const SECTION_4: &str = include_str!("../../charts/example/guide/section-4.yaml");
/// Section 9: the Deployment and its Service.
pub const SECTION_9: &str = include_str!("../../charts/example/guide/section-9.yaml");

/// Creates what is missing of the example, with the annotation that `kubectl apply` would leave, so that a later
/// `kubectl apply -f` of the same file finds its own work. Objects that exist are the user's and left alone.
pub async fn create(client: &Client) -> Result<bool> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .context("discovery")?;
    let mut changed = false;
    for mut object in [SECTION_4, SECTION_9]
        .into_iter()
        .map(addons::objects)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
    {
        let api = addons::api_of(client, &discovery, &object).await?;
        let name = object
            .metadata
            .name
            .clone()
            .context("an object without a name")?;
        if api.get_opt(&name).await?.is_some() {
            continue;
        }
        let mut applied = serde_json::to_value(&object)?;
        applied["metadata"]["annotations"] = serde_json::json!({});
        applied["metadata"]["namespace"] = serde_json::json!("default");
        let applied = format!("{applied}\n");
        object.metadata.annotations.get_or_insert_default().insert(
            "kubectl.kubernetes.io/last-applied-configuration".into(),
            applied,
        );
        let parameters = PostParams {
            field_manager: Some("kubectl-client-side-apply".into()),
            ..PostParams::default()
        };
        api.create(&parameters, &object)
            .await
            .with_context(|| format!("cannot create {name}"))?;
        changed = true;
    }
    Ok(changed)
}

/// Waits until the Deployment has all its replicas available.
pub async fn wait_available(client: &Client, timeout: Duration) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let deployment = api.get("api").await.context("the example's Deployment")?;
        let wanted = deployment
            .spec
            .as_ref()
            .and_then(|s| s.replicas)
            .unwrap_or(1);
        let available = deployment
            .status
            .as_ref()
            .and_then(|s| s.available_replicas)
            .unwrap_or(0);
        if available >= wanted {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "{available} of {wanted} replicas are available after {} s; look at: kubectl describe pods -l app=api",
                timeout.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_say_what_the_guide_says() {
        let names: Vec<(String, String)> = [SECTION_4, SECTION_9]
            .into_iter()
            .flat_map(|yaml| addons::objects(yaml).expect("parse"))
            .map(|o| (o.types.expect("types").kind, o.metadata.name.expect("name")))
            .collect();
        let expected = [
            ("ConfigMap", "app-config"),
            ("Secret", "app-secrets"),
            ("Deployment", "api"),
            ("Service", "api-service"),
        ];
        assert_eq!(names, expected.map(|(k, n)| (k.to_owned(), n.to_owned())));
    }
}
