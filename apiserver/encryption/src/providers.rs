//! The providers of a configuration, and which of them a resource's values go through.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ciphers::{AesCbc, AesGcm, SecretBox};
use crate::config::{
    ConfigError, EncryptionConfiguration, Keys, KmsConfiguration, ProviderConfiguration,
};
use crate::kms::Kms;
use crate::reload;
use crate::transform::{Identity, Prefixes, Result, Transformer};

/// A resource and its group, such as `secrets` or `deployments.apps`; either may be `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupResource {
    /// The group; empty for the core.
    pub group: String,
    /// The plural.
    pub resource: String,
}

impl GroupResource {
    /// From a group and a plural.
    pub fn new(group: &str, resource: &str) -> Self {
        GroupResource {
            group: group.to_owned(),
            resource: resource.to_owned(),
        }
    }

    /// From `resource.group`, or `resource` alone.
    pub fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        GroupResource::new(group, resource)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.group == "*" && self.resource == "*"
    }

    fn in_yaml(&self) -> String {
        match (self.group.as_str(), self.resource.as_str()) {
            ("", "*") => "*.".to_owned(),
            ("", resource) => resource.to_owned(),
            (group, resource) => format!("{resource}.{group}"),
        }
    }
}

/// Everything that one configuration asks for.
pub struct Providers {
    by_resource: HashMap<GroupResource, Arc<dyn Transformer>>,
    identity: Arc<dyn Transformer>,
    kms: Vec<Arc<Kms>>,
    /// Of the file's contents, so that a change is seen without keeping the keys twice.
    hash: Vec<u8>,
    /// Ends what the providers run in the background.
    _stop: DropGuard,
}

impl Providers {
    /// Nothing is encrypted, and nothing that is can be read.
    pub fn none() -> Self {
        Providers {
            by_resource: HashMap::new(),
            identity: Arc::new(Identity),
            kms: Vec::new(),
            hash: Vec::new(),
            _stop: CancellationToken::new().drop_guard(),
        }
    }

    /// Reads a file and builds its providers; KMS plugins are asked once, but need not answer.
    pub async fn load(path: &Path) -> std::result::Result<Self, ConfigError> {
        let text = read(path)?;
        let config = EncryptionConfiguration::parse(&text)?;
        let stop = CancellationToken::new();
        let mut lists: HashMap<GroupResource, Prefixes> = HashMap::new();
        let mut kms = Vec::new();
        for resource in &config.resources {
            let mut built = Prefixes::new("no matching prefix found");
            for provider in &resource.providers {
                add(provider, &mut built, &mut kms, &stop).await?;
            }
            for name in &resource.resources {
                let name = GroupResource::parse(name);
                for above in [
                    GroupResource::new(&name.group, "*"),
                    GroupResource::new("*", "*"),
                ] {
                    if lists.contains_key(&above) {
                        return Err(ConfigError::Build(format!(
                            "resource {:?} is masked by earlier rule {:?}",
                            name.in_yaml(),
                            above.in_yaml()
                        )));
                    }
                }
                lists
                    .entry(name)
                    .or_insert_with(|| Prefixes::new("no matching prefix found"))
                    .extend(&built);
            }
        }
        Ok(Providers {
            by_resource: lists
                .into_iter()
                .map(|(name, list)| (name, Arc::new(list) as Arc<dyn Transformer>))
                .collect(),
            identity: Arc::new(Identity),
            kms,
            hash: hash(&text),
            _stop: stop.drop_guard(),
        })
    }

    pub(crate) fn of(&self, resource: &GroupResource) -> &Arc<dyn Transformer> {
        if self.by_resource.is_empty() {
            return &self.identity;
        }
        self.by_resource
            .get(resource)
            .or_else(|| {
                let group = GroupResource::new(&resource.group, "*");
                self.by_resource.get(&group)
            })
            .or_else(|| self.by_resource.get(&GroupResource::new("*", "*")))
            .unwrap_or(&self.identity)
    }

    pub(crate) fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// Whether nothing is configured at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_resource.is_empty()
    }

    /// How long all plugins together may take to answer.
    pub(crate) fn patience(&self) -> Duration {
        self.kms.iter().map(|kms| kms.timeout()).sum::<Duration>() * 2
    }

    /// Whether there is a plugin.
    pub fn has_kms(&self) -> bool {
        !self.kms.is_empty()
    }

    /// What is wrong with the plugins, if anything.
    pub async fn check(&self) -> std::result::Result<(), String> {
        let mut errors = Vec::new();
        for (at, kms) in self.kms.iter().enumerate() {
            if let Err(error) = kms.check().await {
                errors.push(format!("kms-provider-{at}: {error}"));
            }
        }
        match &errors[..] {
            [] => Ok(()),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}

/// The contents of a file that isn't empty.
pub(crate) fn read(path: &Path) -> std::result::Result<Vec<u8>, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.display().to_string(),
        source,
    })?;
    if text.is_empty() {
        return Err(ConfigError::Empty(path.display().to_string()));
    }
    Ok(text)
}

pub(crate) fn hash(text: &[u8]) -> Vec<u8> {
    Sha256::digest(text).to_vec()
}

async fn add(
    provider: &ProviderConfiguration,
    list: &mut Prefixes,
    plugins: &mut Vec<Arc<Kms>>,
    stop: &CancellationToken,
) -> std::result::Result<(), ConfigError> {
    let failed = |e: crate::TransformError| ConfigError::Build(e.to_string());
    if let Some(config) = &provider.kms {
        let kms = kms(config, stop).await?;
        plugins.push(kms.clone());
        list.push(format!("k8s:enc:kms:v2:{}:", config.name), kms);
    } else if let Some(config) = &provider.aesgcm {
        let keys = keyed(config, "AES", |k| Ok(Arc::new(AesGcm::new(k)?))).map_err(failed)?;
        list.push("k8s:enc:aesgcm:v1:", keys);
    } else if let Some(config) = &provider.aescbc {
        let keys = keyed(config, "AES", |k| Ok(Arc::new(AesCbc::new(k)?))).map_err(failed)?;
        list.push("k8s:enc:aescbc:v1:", keys);
    } else if let Some(config) = &provider.secretbox {
        let keys =
            keyed(config, "Secretbox", |k| Ok(Arc::new(SecretBox::new(k)?))).map_err(failed)?;
        list.push("k8s:enc:secretbox:v1:", keys);
    } else if provider.identity.is_some() {
        list.push("", Arc::new(Identity));
    }
    Ok(())
}

async fn kms(
    config: &KmsConfiguration,
    stop: &CancellationToken,
) -> std::result::Result<Arc<Kms>, ConfigError> {
    if config.api_version != "v2" {
        return Err(ConfigError::Build(
            "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.".to_owned(),
        ));
    }
    let (Some(socket), Some(timeout)) = (config.socket(), config.timeout()) else {
        return Err(ConfigError::Build(format!(
            "could not configure KMSv2-Plugin's probe {:?}",
            config.name
        )));
    };
    Ok(Kms::start(&config.name, Path::new(socket), timeout, stop.clone()).await)
}

/// A cipher's keys, told apart by their names.
fn keyed(
    config: &Keys,
    what: &str,
    build: impl Fn(&[u8]) -> Result<Arc<dyn Transformer>>,
) -> Result<Arc<dyn Transformer>> {
    let mut keys = Prefixes::new(if what == "AES" {
        "no matching key was found for the provided AES transformer"
    } else {
        "no matching key was found for the provided Secretbox transformer"
    });
    for key in &config.keys {
        let bytes = key.bytes().unwrap_or_default();
        keys.push(format!("{}:", key.name), build(&bytes)?);
    }
    Ok(Arc::new(keys))
}

/// The providers in force. Cheap to clone.
#[derive(Clone)]
pub struct Encryption {
    current: Arc<ArcSwap<Providers>>,
    changes: watch::Sender<u64>,
    file: Option<PathBuf>,
    reloads: bool,
}

impl Encryption {
    /// Nothing is encrypted.
    pub fn none() -> Self {
        Encryption::holding(Providers::none(), None, false)
    }

    /// As the file says; with `reloads`, whatever it says later.
    pub async fn load(path: &Path, reloads: bool) -> std::result::Result<Self, ConfigError> {
        let providers = Providers::load(path).await?;
        Ok(Encryption::holding(
            providers,
            Some(path.to_owned()),
            reloads,
        ))
    }

    fn holding(providers: Providers, file: Option<PathBuf>, reloads: bool) -> Self {
        Encryption {
            current: Arc::new(ArcSwap::from_pointee(providers)),
            changes: watch::Sender::new(0),
            file,
            reloads,
        }
    }

    /// Follows the file, where that was asked for.
    pub async fn follow(&self, stop: CancellationToken) {
        if let Some(path) = self.file.clone().filter(|_| self.reloads) {
            reload::follow(self.clone(), path, stop).await;
        }
    }

    /// The providers in force.
    pub fn current(&self) -> Arc<Providers> {
        self.current.load_full()
    }

    pub(crate) fn guard(&self) -> arc_swap::Guard<Arc<Providers>> {
        self.current.load()
    }

    pub(crate) fn replace(&self, providers: Providers) {
        // What still uses the old providers holds them; their background ends with the last.
        self.current.store(Arc::new(providers));
        self.changes.send_modify(|n| *n += 1);
    }

    /// Wakes whenever other providers are in force.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether `/healthz/kms-providers` is there.
    pub fn has_health_check(&self) -> bool {
        self.reloads || self.current().has_kms()
    }
}
