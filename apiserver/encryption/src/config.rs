//! The configuration file: `apiserver.config.k8s.io/v1`, kind EncryptionConfiguration, read strictly and checked as upstream does.
//!
//! Secrets are never shown: neither in errors nor by `Debug`.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::field::{Error, ErrorList, Path, aggregate};
use serde::Deserialize;
use serde_json::json;

use crate::providers::GroupResource;

const MASKED: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
const NO_PROVIDER: &str = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error(
        "error while loading file: error reading encryption provider configuration file {path:?}: {source}"
    )]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("error while loading file: encryption provider configuration file {0:?} is empty")]
    Empty(String),
    /// It is no such configuration.
    #[error("error decoding encryption provider configuration: {0}")]
    Decode(String),
    /// Something in it is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A provider can't be built.
    #[error("error while building transformers: {0}")]
    Build(String),
}

/// What to encrypt, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EncryptionConfiguration {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// In the order in which they apply.
    #[serde(default)]
    pub resources: Vec<ResourceConfiguration>,
}

/// Providers for some resources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfiguration {
    /// `secrets`, `deployments.apps`, `*.`, `*.apps`, `*.*`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// The first one writes, all read.
    #[serde(default)]
    pub providers: Vec<ProviderConfiguration>,
}

/// One provider; exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfiguration {
    /// AES-GCM with random nonces.
    pub aesgcm: Option<Keys>,
    /// AES-CBC with PKCS#7 padding.
    pub aescbc: Option<Keys>,
    /// XSalsa20 and Poly1305.
    pub secretbox: Option<Keys>,
    /// Nothing.
    pub identity: Option<IdentityConfiguration>,
    /// A plugin behind a socket.
    pub kms: Option<KmsConfiguration>,
}

/// `identity` has no settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfiguration {}

/// Keys of a cipher; the first one writes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The keys.
    #[serde(default)]
    pub keys: Vec<Key>,
}

/// A key and its name, which stands in front of every value.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// The key, base64.
    #[serde(default)]
    pub secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl Key {
    /// The key's bytes; checked before.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.secret).ok()
    }
}

/// A KMS plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmsConfiguration {
    /// `v1` (the default, not supported) or `v2`.
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    /// The name, which stands in front of every value.
    #[serde(default)]
    pub name: String,
    /// Only for v1.
    pub cachesize: Option<i32>,
    /// `unix:///path`.
    #[serde(default)]
    pub endpoint: String,
    /// How long a call may take; 3 s.
    pub timeout: Option<String>,
}

impl KmsConfiguration {
    /// How long a call may take.
    pub fn timeout(&self) -> Option<Duration> {
        match &self.timeout {
            None => Some(Duration::from_secs(3)),
            Some(text) => duration(text),
        }
    }

    /// The socket's path.
    pub fn socket(&self) -> Option<&str> {
        let path = self.endpoint.strip_prefix("unix:")?;
        // `unix:///a` is a file, `unix:///@a` an abstract name.
        Some(path.strip_prefix("//").unwrap_or(path))
    }
}

/// A Go duration such as `3s` or `1m30s`; no sign.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0_f64;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ]
        .into_iter()
        .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * seconds;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

impl EncryptionConfiguration {
    /// Reads YAML or JSON and checks it. `reload` is whether the file is followed while the server runs.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let text = std::str::from_utf8(text).map_err(|e| ConfigError::Decode(e.to_string()))?;
        let mut config: EncryptionConfiguration =
            serde_norway::from_str(text).map_err(|e| ConfigError::Decode(e.to_string()))?;
        let known = ["apiserver.config.k8s.io/v1", "v1"];
        if config.kind != "EncryptionConfiguration" && config.kind != "EncryptionConfig"
            || !known.contains(&config.api_version.as_str())
        {
            return Err(ConfigError::Decode(format!(
                "no kind {:?} is registered for version {:?}",
                config.kind, config.api_version
            )));
        }
        for kms in config
            .resources
            .iter_mut()
            .flat_map(|r| r.providers.iter_mut())
            .filter_map(|p| p.kms.as_mut())
        {
            if kms.api_version.is_empty() {
                "v1".clone_into(&mut kms.api_version);
            }
        }
        let errors = validate(&config);
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid(aggregate(&errors)))
        }
    }
}

fn at_least_one(path: &Path<'_>) -> Error {
    Error::required(path, format!("at least one {path} is required"))
}

fn validate(config: &EncryptionConfiguration) -> ErrorList {
    let root = Path::new("resources");
    let mut errors = ErrorList::new();
    if config.resources.is_empty() {
        errors.push(at_least_one(&root));
    }
    let mut names = BTreeSet::new();
    for (i, resource) in config.resources.iter().enumerate() {
        let item = root.index(i);
        let (r, p) = (item.child("resources"), item.child("providers"));
        if resource.resources.is_empty() {
            errors.push(at_least_one(&r));
        }
        validate_overlap(&resource.resources, &r, &mut errors);
        for (j, name) in resource.resources.iter().enumerate() {
            if let Some(detail) = wrong_resource(name) {
                errors.push(Error::invalid(&r.index(j), name, detail));
            }
        }
        if resource.providers.is_empty() {
            errors.push(at_least_one(&p));
        }
        for (j, provider) in resource.providers.iter().enumerate() {
            validate_provider(provider, &p.index(j), &mut names, &mut errors);
        }
    }
    errors
}

fn validate_overlap(resources: &[String], path: &Path<'_>, errors: &mut ErrorList) {
    let parsed: Vec<GroupResource> = resources.iter().map(|r| GroupResource::parse(r)).collect();
    let (mut duplicate, mut overlap) = (false, false);
    for (i, a) in parsed.iter().enumerate() {
        for (j, b) in parsed.iter().enumerate() {
            if i == j {
                continue;
            }
            if a == b && !duplicate {
                duplicate = true;
                continue;
            }
            overlap |= a.is_everything()
                || (a.group == b.group && (a.resource == "*" || b.resource == "*"));
        }
    }
    if duplicate {
        let detail = "the same resource cannot be specified multiple times";
        errors.push(Error::invalid(path, resources, detail));
    }
    if overlap {
        errors.push(Error::invalid(path, resources, MASKED));
    }
}

fn wrong_resource(name: &str) -> Option<&'static str> {
    if name.to_lowercase() != name {
        return Some("resource name should not contain capital letters");
    }
    if name == "*" {
        return Some(
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        );
    }
    if matches!(
        name,
        "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations"
    ) {
        return Some("resources which do not have REST API/s cannot be encrypted");
    }
    let parsed = GroupResource::parse(name);
    match parsed.group.as_str() {
        "events.k8s.io" => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        "extensions" => {
            Some("'extensions' group has been removed and cannot be used for encryption")
        }
        "*" if parsed.resource != "*" => {
            Some("encrypting the same resource across groups is not supported")
        }
        _ => None,
    }
}

fn validate_provider(
    provider: &ProviderConfiguration,
    path: &Path<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut ErrorList,
) {
    let set = [
        ("kms", provider.kms.is_some()),
        ("aesgcm", provider.aesgcm.is_some()),
        ("aescbc", provider.aescbc.is_some()),
        ("secretbox", provider.secretbox.is_some()),
        ("identity", provider.identity.is_some()),
    ];
    let found: Vec<&str> = set.iter().filter(|(_, is)| *is).map(|(n, _)| *n).collect();
    match found.len() {
        0 => return errors.push(Error::invalid(path, json!({}), NO_PROVIDER)),
        1 => {}
        // The names alone: the value holds keys.
        _ => errors.push(Error::invalid(
            path,
            &found,
            "more than one provider specified in a single element, should split into different list elements",
        )),
    }
    const AES: &[usize] = &[16, 24, 32];
    if let Some(kms) = &provider.kms {
        validate_kms(kms, &path.child("kms"), names, errors);
        names.insert(kms.name.clone());
    } else if let Some(keys) = &provider.aesgcm {
        validate_keys(keys, &path.child("aesgcm"), AES, errors);
    } else if let Some(keys) = &provider.aescbc {
        validate_keys(keys, &path.child("aescbc"), AES, errors);
    } else if let Some(keys) = &provider.secretbox {
        validate_keys(keys, &path.child("secretbox"), &[32], errors);
    }
}

fn mandatory(path: &Path<'_>, field: &str, of: &str) -> Error {
    Error::required(path, format!("{field} is a mandatory field for a {of}"))
}

fn validate_keys(keys: &Keys, path: &Path<'_>, lengths: &[usize], errors: &mut ErrorList) {
    let path = path.child("keys");
    if keys.keys.is_empty() {
        errors.push(Error::required(&path, "at least one keys is required"));
    }
    for (i, key) in keys.keys.iter().enumerate() {
        let path = path.index(i);
        let secret = path.child("secret");
        if key.name.is_empty() {
            errors.push(mandatory(&path.child("name"), "name", "key"));
        }
        if key.secret.is_empty() {
            errors.push(mandatory(&secret, "secret", "key"));
            continue;
        }
        match key.bytes() {
            None => errors.push(Error::invalid(
                &secret,
                "REDACTED",
                "secrets must be base64 encoded",
            )),
            Some(bytes) if !lengths.contains(&bytes.len()) => {
                let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                let detail = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    bytes.len(),
                    lengths.join(" ")
                );
                errors.push(Error::invalid(&secret, "REDACTED", detail));
            }
            Some(_) => {}
        }
    }
}

fn validate_kms(
    kms: &KmsConfiguration,
    path: &Path<'_>,
    names: &BTreeSet<String>,
    errors: &mut ErrorList,
) {
    let at = path.child("name");
    if kms.name.is_empty() {
        errors.push(mandatory(&at, "name", "provider"));
    }
    if kms.api_version != "v1" && kms.name.contains(':') {
        let detail = format!(
            "invalid KMS provider name {}, must not contain ':'",
            kms.name
        );
        errors.push(Error::invalid(&at, &kms.name, detail));
    }
    if names.contains(&kms.name) {
        let detail = format!(
            "duplicate KMS provider name {}, names must be unique",
            kms.name
        );
        errors.push(Error::invalid(&at, &kms.name, detail));
    }
    if kms.timeout().is_none_or(|timeout| timeout.is_zero()) {
        let detail = "timeout should be a positive value";
        errors.push(Error::invalid(&path.child("timeout"), &kms.timeout, detail));
    }
    let at = path.child("endpoint");
    if kms.endpoint.is_empty() {
        let detail = "endpoint is a mandatory field for a kms";
        errors.push(Error::invalid(&at, "", detail));
    } else if kms.socket().is_none_or(str::is_empty) {
        let scheme = kms
            .endpoint
            .split_once(':')
            .map_or("", |(scheme, _)| scheme);
        let detail =
            format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.push(Error::invalid(&at, &kms.endpoint, detail));
    }
    let at = path.child("cachesize");
    match kms.cachesize {
        Some(size) if kms.api_version != "v1" => {
            errors.push(Error::invalid(
                &at,
                size,
                "cachesize is not supported in v2",
            ));
        }
        Some(0) => errors.push(Error::invalid(
            &at,
            0,
            "cachesize should be a positive value, or negative to disable",
        )),
        _ => {}
    }
    if !["v1", "v2"].contains(&kms.api_version.as_str()) {
        let detail =
            "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.push(Error::invalid(
            &path.child("apiVersion"),
            &kms.api_version,
            detail,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(resources: &str) -> String {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}\n"
        );
        match EncryptionConfiguration::parse(text.as_bytes()) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        let good = format!(
            "[{{resources: [secrets], providers: [{{aescbc: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]"
        );
        assert_eq!(error(&good), "");
        for (text, expected) in [
            (
                "[]",
                "resources: Required value: at least one resources is required",
            ),
            (
                "[{resources: ['*'], providers: [{identity: {}}]}]",
                "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            ),
            (
                "[{resources: [secrets, '*.'], providers: [{identity: {}}]}]",
                "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
            ),
            (
                "[{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: AAAA}]}}]}]",
                "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [16 24 32]",
            ),
            (
                "[{resources: [secrets], providers: [{kms: {apiVersion: v2, name: a, endpoint: 'http://x'}}]}]",
                "resources[0].providers[0].kms.endpoint: Invalid value: \"http://x\": unsupported scheme \"http\" for KMS provider, only unix is supported",
            ),
            (
                "[{resources: [secrets], providers: [{}]}]",
                "resources[0].providers[0]: Invalid value: {}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
            ),
        ] {
            assert_eq!(error(text), expected);
        }
        assert!(error("[{resources: [secrets], provider: []}]").contains("unknown field"));
    }

    #[test]
    fn keys_never_show() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}]}}]}]\n";
        let config = EncryptionConfiguration::parse(text.as_bytes()).unwrap();
        assert!(!format!("{config:?}").contains("MDEy"));
    }
}
