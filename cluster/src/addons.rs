//! Add-ons that `up` applies: the rendered charts, by server-side apply, so that a second run changes nothing.

use anyhow::{Context, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::discovery::Discovery;
use kube::{Api, Client};
use serde::Deserialize;

/// The cluster DNS: `charts/dns`, rendered with its default values.
pub const DNS: &str = include_str!("../../charts/dns/rendered.yaml");
/// Rules that the node's own identities need beyond upstream's bootstrap policy.
const MANAGER: &str = "keelson";

/// The objects of a YAML stream.
pub fn objects(yaml: &str) -> Result<Vec<DynamicObject>> {
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| {
            Option::<DynamicObject>::deserialize(document).context("not a Kubernetes object")
        })
        .filter_map(Result::transpose)
        .collect()
}

/// The API of an object's kind, in its namespace.
pub async fn api_of(
    client: &Client,
    discovery: &Discovery,
    object: &DynamicObject,
) -> Result<Api<DynamicObject>> {
    let types = object
        .types
        .as_ref()
        .context("an object without apiVersion and kind")?;
    let gvk = kube::core::GroupVersionKind::try_from(types)?;
    let (resource, capabilities) = discovery
        .resolve_gvk(&gvk)
        .with_context(|| format!("the server has no {}", types.kind))?;
    Ok(match capabilities.scope {
        kube::discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
        kube::discovery::Scope::Namespaced => Api::namespaced_with(
            client.clone(),
            object.metadata.namespace.as_deref().unwrap_or("default"),
            &resource,
        ),
    })
}

/// Applies a YAML stream. Returns whether the server's objects changed.
pub async fn apply(client: &Client, yaml: &str) -> Result<bool> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .context("discovery")?;
    let mut changed = false;
    for object in objects(yaml)? {
        let api = api_of(client, &discovery, &object).await?;
        let name = object
            .metadata
            .name
            .clone()
            .context("an object without a name")?;
        let before = api
            .get_opt(&name)
            .await?
            .and_then(|o| o.metadata.resource_version);
        let after = api
            .patch(
                &name,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(&object),
            )
            .await
            .with_context(|| format!("cannot apply {name}"))?;
        changed |= before != after.metadata.resource_version;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rendered_chart_is_a_stream_of_objects() {
        let objects = objects(DNS).expect("parse");
        let kinds: Vec<&str> = objects
            .iter()
            .filter_map(|o| o.types.as_ref())
            .map(|t| t.kind.as_str())
            .collect();
        for kind in [
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Service",
            "Deployment",
        ] {
            assert!(kinds.contains(&kind), "{kinds:?}");
        }
    }
}
