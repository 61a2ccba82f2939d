//! ServiceAccount: every pod runs as a service account that exists, and finds a token for it where clients look.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_auth::{Lookup, LookupError, Status};
use keelson_registry::access::{Access, items_mut};
use rand::RngExt;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::pod;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "ServiceAccount";
const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little: the odd number tells the API server that this is a token for old clients too.
const TOKEN_SECONDS: i64 = 3607;
const ENFORCE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
/// Upstream's alphabet for generated names: no vowels, nothing that looks like another letter.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The plugin.
#[derive(Debug, Default)]
pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.concerns("", "pods")
            && request.object.is_some()
            && match request.operation {
                Operation::Create => request.subresource.is_empty(),
                Operation::Update => request.subresource == "ephemeralcontainers",
                _ => false,
            }
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        if request.operation != Operation::Create
            || request.object.as_ref().is_some_and(pod::is_mirror)
        {
            return self.validate(request, environment).await;
        }
        if request.text("/spec/serviceAccountName").is_empty()
            && let Some(pod) = request.object.as_mut()
        {
            pod["spec"]["serviceAccountName"] = json!(DEFAULT);
            // The old alias is kept equal by conversion, which ran before.
            pod["spec"]["serviceAccount"] = json!(DEFAULT);
        }
        let account = account_of(request, environment.lookup.as_ref()).await?;
        if let Some(pod) = request.object.as_mut() {
            if wants_token(&account, pod) {
                mount_token(pod);
            }
            if pod.is_blank("spec.imagePullSecrets") && !account.is_blank("imagePullSecrets") {
                let secrets: Vec<Value> = account
                    .items("imagePullSecrets")
                    .iter()
                    .map(|s| json!({"name": s["name"]}))
                    .collect();
                pod["spec"]["imagePullSecrets"] = json!(secrets);
            }
        }
        self.validate(request, environment).await
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let Some(pod) = request.object.as_ref() else {
            return Ok(());
        };
        let creating = request.operation == Operation::Create;
        if creating && pod::is_mirror(pod) {
            return mirror(pod).map_err(|why| request.forbidden(why));
        }
        if request.text("/spec/serviceAccountName").is_empty() {
            let name = pod.text("metadata.name");
            return Err(request.forbidden(format!(
                "no service account specified for pod {}/{name}",
                request.namespace
            )));
        }
        let account = account_of(request, environment.lookup.as_ref()).await?;
        let enforced = pod::annotation(&account, ENFORCE_SECRETS);
        if enforced.is_some_and(|v| matches!(v, "1" | "t" | "T" | "TRUE" | "true" | "True")) {
            let lists: &[(&str, &str)] = if creating {
                &[
                    ("initContainers", "init container"),
                    ("containers", "container"),
                ]
            } else {
                &[("ephemeralContainers", "ephemeral container")]
            };
            limit_secrets(&account, pod, lists, creating).map_err(|why| request.forbidden(why))?;
        }
        Ok(())
    }
}

/// Static pods are made by their node, outside of anybody's rights: their mirrors must not open anything to it.
fn mirror(pod: &Value) -> Result<(), &'static str> {
    let spec = pod.part("spec");
    if !spec.is_blank("serviceAccountName") {
        return Err("a mirror pod may not reference service accounts");
    }
    if pod::names_secret(spec) {
        return Err("a mirror pod may not reference secrets");
    }
    let mut sources = spec
        .items("volumes")
        .iter()
        .flat_map(|v| v.items("projected.sources"));
    if sources.any(|s| s.has("serviceAccountToken")) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

async fn account_of(request: &Request, lookup: &dyn Lookup) -> Result<Arc<Value>, Status> {
    let (namespace, name) = (&request.namespace, request.text("/spec/serviceAccountName"));
    let refuse = |why: String| {
        request.forbidden(format!(
            "error looking up service account {namespace}/{name}: {why}"
        ))
    };
    match find_account(lookup, namespace, name).await {
        Ok(Some(account)) => Ok(account),
        Ok(None) => Err(refuse(format!("serviceaccount {name:?} not found"))),
        Err(error) => Err(refuse(error.to_string())),
    }
}

async fn find_account(
    lookup: &dyn Lookup,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, LookupError> {
    if let Some(account) = lookup.get("serviceaccounts", namespace, name) {
        return Ok(Some(account));
    }
    // A controller makes the account `default` a moment after its namespace: worth a little patience.
    let attempts = if name == DEFAULT { 10 } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            let wait = rand::rng().random_range(100..200);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        if let Some(account) = lookup.live("serviceaccounts", namespace, name).await? {
            return Ok(Some(account));
        }
    }
    Ok(None)
}

/// The pod's word goes before the account's; neither means yes.
fn wants_token(account: &Value, pod: &Value) -> bool {
    pod.part("spec.automountServiceAccountToken")
        .as_bool()
        .or_else(|| account.part("automountServiceAccountToken").as_bool())
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let existing = pod
        .items("spec.volumes")
        .iter()
        .map(|v| v.text("name"))
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut needed = false;
    for list in ["spec.initContainers", "spec.containers"] {
        for container in items_mut(pod, list) {
            if container
                .items("volumeMounts")
                .iter()
                .all(|m| m.text("mountPath") != MOUNT_PATH)
            {
                crate::edit::extend(&mut container["volumeMounts"], vec![mount.clone()]);
                needed = true;
            }
        }
    }
    if needed && existing.is_none() {
        let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        crate::edit::extend(&mut pod["spec"]["volumes"], vec![volume]);
    }
}

fn suffix() -> String {
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Accounts may allow only the secrets that they list.
fn limit_secrets(
    account: &Value,
    pod: &Value,
    lists: &[(&str, &str)],
    whole_pod: bool,
) -> Result<(), String> {
    let name = account.text("metadata.name");
    let listed =
        |list: &str, secret: &str| account.items(list).iter().any(|s| s.text("name") == secret);
    let spec = pod.part("spec");
    if whole_pod {
        for volume in spec.items("volumes").iter().filter(|v| v.has("secret")) {
            let secret = volume.text("secret.secretName");
            if !listed("secrets", secret) {
                return Err(format!(
                    "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
                ));
            }
        }
    }
    for (list, word) in lists {
        for container in spec.items(list) {
            let title = container.text("name");
            for env in container
                .items("env")
                .iter()
                .filter(|e| e.has("valueFrom.secretKeyRef"))
            {
                let secret = env.text("valueFrom.secretKeyRef.name");
                if !listed("secrets", secret) {
                    return Err(format!(
                        "{word} {title} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service \
                         account {name} does not reference that secret",
                        env.text("name")
                    ));
                }
            }
            for from in container
                .items("envFrom")
                .iter()
                .filter(|e| e.has("secretRef"))
            {
                let secret = from.text("secretRef.name");
                if !listed("secrets", secret) {
                    return Err(format!(
                        "{word} {title} with envFrom referencing secret.secretName=\"{secret}\" is not allowed because service \
                         account {name} does not reference that secret"
                    ));
                }
            }
        }
    }
    if whole_pod {
        for (i, secret) in spec
            .items("imagePullSecrets")
            .iter()
            .map(|s| s.text("name"))
            .enumerate()
        {
            if !listed("imagePullSecrets", secret) {
                return Err(format!(
                    "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not reference that \
                     imagePullSecret"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{admit, create};

    fn account(more: Value) -> (&'static str, Value) {
        let mut account = json!({"metadata": {"namespace": "ns", "name": "default"}});
        if let (Some(to), Some(from)) = (account.as_object_mut(), more.as_object()) {
            to.extend(from.clone());
        }
        ("serviceaccounts", account)
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": MOUNT_PATH}]}]}})
    }

    #[tokio::test]
    async fn pods_get_the_default_account_and_its_token() {
        let mut request = create("", "pods", pod());
        let account = account(json!({"imagePullSecrets": [{"name": "pull"}]}));
        admit(&ServiceAccount, &mut request, &[account])
            .await
            .unwrap();
        let spec = &request.object.unwrap()["spec"];
        assert_eq!(
            (&spec["serviceAccountName"], &spec["imagePullSecrets"]),
            (&json!("default"), &json!([{"name": "pull"}]))
        );
        let volume = &spec["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert_eq!(name.len(), VOLUME_PREFIX.len() + 5);
        assert_eq!(
            volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3607
        );
        assert_eq!(
            spec["containers"][0]["volumeMounts"][0],
            json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH})
        );
        // A container that mounts something of its own there is left alone.
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn tokens_can_be_declined() {
        for (account_says, pod_says, mounted) in [
            (Some(false), None, false),
            (Some(false), Some(true), true),
            (None, Some(false), false),
        ] {
            let account = account(
                account_says.map_or(json!({}), |s| json!({"automountServiceAccountToken": s})),
            );
            let mut pod = pod();
            if let Some(says) = pod_says {
                pod["spec"]["automountServiceAccountToken"] = json!(says);
            }
            let mut request = create("", "pods", pod);
            admit(&ServiceAccount, &mut request, &[account])
                .await
                .unwrap();
            assert_eq!(request.object.unwrap()["spec"].has("volumes"), mounted);
        }
    }

    #[tokio::test]
    async fn unknown_accounts_are_refused() {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = json!("none");
        let mut request = create("", "pods", pod);
        let refused = admit(&ServiceAccount, &mut request, &[]).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found"
        );
    }

    #[tokio::test]
    async fn mirror_pods_stay_as_they_are_and_refer_to_nothing() {
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        let mut request = create("", "pods", mirror.clone());
        admit(&ServiceAccount, &mut request, &[]).await.unwrap();
        assert!(request.object.unwrap()["spec"].is_blank("serviceAccountName"));
        mirror["spec"]["volumes"] = json!([{"secret": {"secretName": "x"}}]);
        let mut request = create("", "pods", mirror);
        assert!(
            admit(&ServiceAccount, &mut request, &[])
                .await
                .unwrap_err()
                .message
                .ends_with("a mirror pod may not reference secrets")
        );
    }

    #[tokio::test]
    async fn enforced_secrets_are_limited_to_the_listed() {
        let mut account = account(json!({"secrets": [{"name": "mine"}]}));
        account.1["metadata"]["annotations"] = json!({ENFORCE_SECRETS: "true"});
        let mut pod = pod();
        pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "mine"}}]);
        let mut request = create("", "pods", pod.clone());
        admit(
            &ServiceAccount,
            &mut request,
            std::slice::from_ref(&account),
        )
        .await
        .unwrap();
        pod["spec"]["volumes"][0]["secret"]["secretName"] = json!("other");
        let mut request = create("", "pods", pod);
        assert_eq!(
            admit(&ServiceAccount, &mut request, &[account])
                .await
                .unwrap_err()
                .code,
            403
        );
    }

    fn enforcing() -> (&'static str, Value) {
        let mut account = account(json!({"secrets": [{"name": "mine"}]}));
        account.1["metadata"]["annotations"] = json!({ENFORCE_SECRETS: "true"});
        account
    }

    /// `envFrom` was forgotten in one kind of container or another.
    #[tokio::test]
    async fn cve_2024_3177_env_from_is_limited_in_all_containers() {
        for list in ["containers", "initContainers"] {
            for (secret, allowed) in [("mine", true), ("other", false)] {
                let mut pod = pod();
                pod["spec"][list] =
                    json!([{"name": "x", "envFrom": [{"secretRef": {"name": secret}}]}]);
                let mut request = create("", "pods", pod);
                let done = admit(&ServiceAccount, &mut request, &[enforcing()]).await;
                assert_eq!(done.is_ok(), allowed, "{list} {secret}");
            }
        }
    }

    /// Ephemeral containers were added to a pod without the check.
    #[tokio::test]
    async fn cve_2023_2728_ephemeral_containers_are_limited_too() {
        for source in [
            json!({"name": "e", "envFrom": [{"secretRef": {"name": "other"}}]}),
            json!({"name": "e", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "k"}}}]}),
        ] {
            let mut pod = pod();
            pod["spec"]["serviceAccountName"] = json!("default");
            pod["spec"]["ephemeralContainers"] = json!([source]);
            let mut request = create("", "pods", pod);
            request.operation = Operation::Update;
            request.subresource = "ephemeralcontainers".into();
            assert!(ServiceAccount.handles(&request));
            let refused = admit(&ServiceAccount, &mut request, &[enforcing()]).await;
            assert_eq!(refused.unwrap_err().code, 403);
        }
    }
}
