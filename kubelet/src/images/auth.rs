//! Credentials of registries, from imagePullSecrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::objects::Objects;
use crate::runtime::RegistryAuth;

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// Credentials of one Secret (`.dockerconfigjson` or the older `.dockercfg`).
pub fn of_secret(secret: &Secret) -> Vec<RegistryAuth> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|d| d.get(key))
            .map(|b| b.0.as_slice())
    };
    let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(json), _) => serde_json::from_slice::<DockerConfig>(json).map(|c| c.auths),
        (None, Some(json)) => serde_json::from_slice(json),
        (None, None) => return Vec::new(),
    };
    // What can't be read is left out, as upstream does; its content is never logged.
    auths
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(registry, entry)| credentials(&registry, &entry))
        .collect()
}

fn credentials(registry: &str, entry: &Entry) -> Option<RegistryAuth> {
    let (username, password) = if entry.auth.is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        let text = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (user.to_owned(), password.to_owned())
    };
    let host = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = host
        .trim_end_matches('/')
        .trim_end_matches("/v1")
        .trim_end_matches("/v2");
    Some(RegistryAuth {
        registry: host.to_owned(),
        username,
        password,
    })
}

/// Credentials of a pod; secrets that are missing are left out, as upstream does.
pub async fn of_pod(objects: &Objects, pod: &Pod, uid: &str) -> Vec<RegistryAuth> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut all = Vec::new();
    for reference in pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten())
    {
        match objects.secrets.get(uid, namespace, &reference.name).await {
            Ok(secret) => all.extend(of_secret(&secret)),
            Err(error) => {
                tracing::warn!(%error, "unable to retrieve pull secret, the image pull may not succeed")
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_docker_config() {
        let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": STANDARD.encode("u:p:q")}, "r.example:5000": {"username": "a", "password": "b"}}});
        let secret: Secret = serde_json::from_value(
            json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}),
        )
        .unwrap();
        let auth = of_secret(&secret);
        assert_eq!(
            (auth[0].registry.as_str(), auth[0].password.as_str()),
            ("index.docker.io", "p:q")
        );
        assert_eq!(auth[1].username, "a");
        assert!(
            !format!("{auth:?}").contains("p:q"),
            "secrets stay out of logs"
        );
    }
}
