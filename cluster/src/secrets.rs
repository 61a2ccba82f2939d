//! `keelson secrets`: the keys with which the API server encrypts Secrets in etcd.
//!
//! The file is upstream's EncryptionConfiguration with `secretbox` in front and `identity` behind, so that what was stored
//! before there was a key stays readable. etcd is read, never written: rewriting is the API server's.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use keelson_storage::{EtcdConfig, EtcdStore, EtcdTls, ListOptions, Store};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::layout::Layout;
use crate::up;

const PREFIX: &str = "/registry/secrets/";
/// What rotated keys are tried with.
const PROBE: (&str, &str) = ("kube-system", "keelson-key-rotation");
/// How long the API server may take to see a new configuration; it looks every few seconds.
const RELOAD: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// A key's name and its bytes, base64.
type Key = (String, String);

/// Writes the configuration with a new key if there is none; an existing one is kept as it is.
pub fn ensure(layout: &Layout) -> Result<bool> {
    let path = layout.encryption_configuration();
    if path.exists() {
        return Ok(false);
    }
    write(layout, &[new_key()])?;
    Ok(true)
}

fn new_key() -> Key {
    let bytes: [u8; 32] = rand::random();
    let name = format!(
        "key-{}",
        jiff::Timestamp::now()
            .strftime("%Y%m%dT%H%M%S%3fZ")
            .to_string()
            .replace('.', "")
    );
    (name, STANDARD.encode(bytes))
}

/// The configuration with these keys, the first of which writes.
fn document(keys: &[Key]) -> Value {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(name, secret)| json!({"name": name, "secret": secret}))
        .collect();
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            "providers": [{"secretbox": {"keys": keys}}, {"identity": {}}],
        }],
    })
}

fn write(layout: &Layout, keys: &[Key]) -> Result<()> {
    let text = serde_norway::to_string(&document(keys))?;
    keelson_pki::file::write(&layout.encryption_configuration(), text.as_bytes(), 0o600)?;
    Ok(())
}

/// The keys of a configuration that `up` wrote.
fn keys(layout: &Layout) -> Result<Vec<Key>> {
    let path = layout.encryption_configuration();
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display()), "keelson up"))?;
    parse(&text).with_context(|| {
        format!(
            "{} is not as keelson writes it: change its keys by hand",
            path.display()
        )
    })
}

fn parse(text: &str) -> Result<Vec<Key>> {
    let found: Value = serde_norway::from_str(text)?;
    let list = found["resources"][0]["providers"][0]["secretbox"]["keys"]
        .as_array()
        .context("no secretbox provider in front")?;
    let keys: Vec<Key> = list
        .iter()
        .filter_map(|key| {
            let part = |name: &str| key[name].as_str().map(str::to_owned);
            Some((part("name")?, part("secret")?))
        })
        .collect();
    if keys.is_empty() || document(&keys) != found {
        bail!("it says more than one list of secretbox keys for Secrets");
    }
    Ok(keys)
}

async fn etcd(layout: &Layout) -> Result<EtcdStore> {
    let pki = layout.pki();
    let read = |name: &str| {
        let path = pki.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut config = EtcdConfig::new(vec!["https://127.0.0.1:2379".to_owned()]);
    config.tls = Some(EtcdTls {
        ca: read("etcd/ca.crt")?,
        certificate: read("apiserver-etcd-client.crt")?,
        key: read("apiserver-etcd-client.key")?,
    });
    Ok(EtcdStore::connect(config).await?)
}

/// Under what a stored value lies: a provider with a key's name, or in the open.
fn lies_under(value: &[u8]) -> String {
    let Some(rest) = value.strip_prefix(b"k8s:enc:") else {
        return "not encrypted".to_owned();
    };
    let head: Vec<&[u8]> = rest.splitn(4, |b| *b == b':').take(3).collect();
    match head[..] {
        [provider, _, key] => format!(
            "{}, key {}",
            String::from_utf8_lossy(provider),
            String::from_utf8_lossy(key)
        ),
        _ => "in an unknown form".to_owned(),
    }
}

async fn stored(etcd: &EtcdStore) -> Result<BTreeMap<String, u64>> {
    let listed = etcd.list(PREFIX, ListOptions::default()).await?;
    let mut counts = BTreeMap::new();
    for item in &listed.items {
        *counts.entry(lies_under(&item.value)).or_insert(0) += 1;
    }
    Ok(counts)
}

/// Prints the keys and what lies under each.
pub async fn status(layout: &Layout) -> Result<()> {
    let keys = keys(layout)?;
    let counts = stored(&etcd(layout).await?).await?;
    println!("Secrets are encrypted in etcd by secretbox (XSalsa20 and Poly1305).");
    for (at, (name, _)) in keys.iter().enumerate() {
        let role = if at == 0 { "writes" } else { "reads" };
        println!(" key {name} {role}");
    }
    for (under, count) in &counts {
        println!(" {count:>6} Secrets: {under}");
    }
    let current = format!("secretbox, key {}", keys[0].0);
    if counts.keys().any(|under| *under != current) {
        println!(
            "Not all lie under the key that writes. To write them all anew: keelson secrets rotate"
        );
    }
    Ok(())
}

/// Makes a new key, writes every Secret with it, and drops the old keys.
pub async fn rotate(layout: &Layout) -> Result<()> {
    let old = keys(layout)?;
    let etcd = etcd(layout).await?;
    let client = up::client(layout).await?;
    let new = new_key();
    let under = format!("secretbox, key {}", new.0);
    let both: Vec<Key> = std::iter::once(new.clone()).chain(old).collect();
    write(layout, &both)?;
    println!(
        " ✓ new key {} in {}",
        new.0,
        layout.encryption_configuration().display()
    );
    in_force(&client, &etcd, &under).await?;
    println!(" ✓ the API server writes with it");
    let written = rewrite(&client).await?;
    let counts = stored(&etcd).await?;
    if let Some((other, count)) = counts.iter().find(|(key, _)| **key != under) {
        return Err(Failure::new(
            format!("{count} Secrets still lie in etcd as {other}; the old keys stay"),
            "keelson secrets rotate",
        )
        .into());
    }
    println!(" ✓ {written} Secrets written anew");
    write(layout, &[new])?;
    println!(" ✓ old keys dropped");
    Ok(())
}

/// Waits until a Secret that is written lies under the new key.
async fn in_force(client: &Client, etcd: &EtcdStore, under: &str) -> Result<()> {
    let (namespace, name) = PROBE;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let probe = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Secret::default()
    };
    let started = tokio::time::Instant::now();
    let key = format!("{PREFIX}{namespace}/{name}");
    loop {
        remove(&api, name).await?;
        api.create(&PostParams::default(), &probe).await?;
        let stored = etcd.get(&key).await?;
        remove(&api, name).await?;
        if stored.is_some_and(|stored| lies_under(&stored.value) == under) {
            return Ok(());
        }
        if started.elapsed() > RELOAD {
            return Err(Failure::new(
                "the API server does not take the new encryption configuration",
                "look into the API server's log, then: keelson secrets rotate",
            )
            .into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove(api: &Api<Secret>, name: &str) -> Result<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Updates every Secret with what it is; the server stores it anew, since it lies under another key.
async fn rewrite(client: &Client) -> Result<usize> {
    let all: Api<Secret> = Api::all(client.clone());
    let mut written = 0;
    let mut page = ListParams::default().limit(500);
    loop {
        let list = all.list(&page).await?;
        for secret in list.items {
            let (Some(namespace), Some(name)) = (
                secret.metadata.namespace.clone(),
                secret.metadata.name.clone(),
            ) else {
                continue;
            };
            let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
            match api.replace(&name, &PostParams::default(), &secret).await {
                Ok(_) => written += 1,
                // Somebody else wrote or deleted it meanwhile: nothing is left to do.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("Secret {namespace}/{name}"));
                }
            }
        }
        match list.metadata.continue_ {
            Some(token) if !token.is_empty() => page = page.continue_token(&token),
            _ => return Ok(written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_private() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at("test", root.path()).unwrap();
        assert!(ensure(&layout).unwrap());
        let before = keys(&layout).unwrap();
        assert!(!ensure(&layout).unwrap());
        assert_eq!(keys(&layout).unwrap(), before);
        let mode = std::fs::metadata(layout.encryption_configuration())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(STANDARD.decode(&before[0].1).unwrap().len(), 32);
    }

    #[test]
    fn a_configuration_of_somebody_else_is_left_alone() {
        let ours = serde_norway::to_string(&document(&[new_key()])).unwrap();
        assert!(parse(&ours).is_ok());
        assert!(parse(&ours.replace("- secrets", "- secrets\n  - configmaps")).is_err());
        assert!(parse("resources: []").is_err());
    }

    #[test]
    fn values_say_what_they_lie_under() {
        assert_eq!(lies_under(b"k8s\0x"), "not encrypted");
        assert_eq!(
            lies_under(b"k8s:enc:secretbox:v1:key-1:\xff:"),
            "secretbox, key key-1"
        );
        assert_eq!(lies_under(b"k8s:enc:x"), "in an unknown form");
    }
}
