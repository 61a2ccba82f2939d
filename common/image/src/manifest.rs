//! The parts of OCI and Docker manifests that a node needs: which layers, which configuration, which platform.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Points at a blob.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub(crate) media_type: String,
    /// `sha256:…`.
    pub(crate) digest: String,
    /// Bytes.
    #[serde(default)]
    pub(crate) size: u64,
    /// Which platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    /// Names, in an image layout.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The platform of an entry of an index.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Platform {
    /// Go's architecture name.
    #[serde(default)]
    pub(crate) architecture: String,
    /// Operating system.
    #[serde(default)]
    pub(crate) os: String,
    /// `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An image manifest or an index of several.
#[derive(Debug)]
pub(crate) enum Manifest {
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// Several, by platform.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    #[serde(default)]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Manifests are at most this large.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Configurations are at most this large.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Layers an image may have.
const MAX_LAYERS: usize = 500;

impl Manifest {
    /// Reads an OCI or Docker schema 2 manifest or index.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let raw: RawManifest = serde_json::from_slice(bytes)
            .map_err(|error| Error::Content(format!("malformed manifest: {error}")))?;
        if raw.schema_version == 1 {
            return Err(Error::Content(
                "unsupported manifest schema version 1".into(),
            ));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(entries), None, _) => Ok(Self::Index(entries)),
            (None, Some(config), Some(layers)) if layers.len() <= MAX_LAYERS => {
                for descriptor in layers.iter().chain([&config]) {
                    check_digest(&descriptor.digest)?;
                }
                Ok(Self::Image { config, layers })
            }
            (None, Some(_), Some(layers)) => Err(Error::Content(format!(
                "image has {} layers, more than {MAX_LAYERS}",
                layers.len()
            ))),
            _ => Err(Error::Content(
                "manifest is neither an image nor an index".into(),
            )),
        }
    }
}

/// Go's name for the architecture this was compiled for.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry for this machine.
pub(crate) fn select_platform(entries: &[Descriptor]) -> Result<&Descriptor> {
    let fits = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os == "linux"
                && platform.architecture == host_architecture()
                && matches!(platform.variant.as_deref(), None | Some("" | "v8" | "v1"))
        })
    };
    let chosen = entries.iter().find(fits).or(match entries {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    });
    let chosen = chosen.ok_or_else(|| {
        Error::Pull(format!(
            "no match for platform in manifest: linux/{}",
            host_architecture()
        ))
    })?;
    check_digest(&chosen.digest)?;
    Ok(chosen)
}

/// Refuses everything but `sha256:` and 64 hex digits: digests become file names.
pub(crate) fn check_digest(digest: &str) -> Result<&str> {
    match digest.strip_prefix("sha256:") {
        Some(hex)
            if hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) =>
        {
            Ok(hex)
        }
        _ => Err(Error::Content(format!("unsupported digest {digest:?}"))),
    }
}

/// The image's own wishes for its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeConfig {
    /// `user[:group]`, by name or number.
    #[serde(default, deserialize_with = "null_default")]
    pub user: String,
    /// `KEY=value`.
    #[serde(default, deserialize_with = "null_default")]
    pub env: Vec<String>,
    /// Entrypoint.
    #[serde(default, deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(default, deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(default, deserialize_with = "null_default")]
    pub working_dir: String,
    /// Signal that stops it.
    #[serde(default, deserialize_with = "null_default")]
    pub stop_signal: String,
    /// Volumes, by path.
    #[serde(default, deserialize_with = "null_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RootFs {
    /// Digests of the uncompressed layers.
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) diff_ids: Vec<String>,
}

/// An image configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct ImageConfig {
    /// Go's architecture name.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// The process.
    #[serde(default, deserialize_with = "null_default")]
    pub config: RuntimeConfig,
    pub(crate) rootfs: RootFs,
}

impl ImageConfig {
    /// Reads a configuration.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::Content(format!("malformed image configuration: {error}")))?;
        for id in &config.rootfs.diff_ids {
            check_digest(id)?;
        }
        Ok(config)
    }
}

/// Go writes `null` for an empty list.
fn null_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_by_platform() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": digest("a"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": digest("b"), "size": 1, "platform": {"os": "linux", "architecture": host_architecture()}},
            {"digest": digest("c"), "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}},
        ]});
        let Manifest::Index(entries) = Manifest::parse(index.to_string().as_bytes()).unwrap()
        else {
            panic!("not an index")
        };
        assert_eq!(select_platform(&entries).unwrap().digest, digest("b"));
        assert!(
            select_platform(&entries[..1])
                .unwrap_err()
                .to_string()
                .contains("no match for platform")
        );
    }

    #[test]
    fn digests_never_become_paths() {
        assert!(check_digest("sha256:../../etc/passwd").is_err());
        assert!(check_digest(&format!("sha512:{}", "a".repeat(64))).is_err());
        assert!(check_digest(&format!("sha256:{}", "A".repeat(64))).is_err());
    }

    #[test]
    fn nulls_of_go() {
        let config = ImageConfig::parse(
            br#"{"config":{"Cmd":null,"Env":["A=b"],"User":"1000"},"rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(config.config.user, "1000");
        assert!(config.config.cmd.is_empty());
    }
}
