//! `configMap`: the keys of a ConfigMap as files.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Volume};

use super::atomic::{self, File, Payload};
use super::{Request, VolumeError, VolumeType, Volumes};
use crate::objects::ObjectError;

/// The type.
pub struct ConfigMaps;

#[async_trait]
impl VolumeType for ConfigMaps {
    fn name(&self) -> &'static str {
        "kubernetes.io/configmap"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn live(&self) -> bool {
        true
    }

    async fn set_up(&self, host: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .config_map
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        let chosen = Chosen {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode, request.fs_group),
            kind: "config",
        };
        let payload = payload(host, request, &source.name, &chosen).await?;
        atomic::write(request.dir, &payload, request.fs_group)?;
        Ok(request.dir.to_path_buf())
    }
}

/// Which keys become which files.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// `items`; `None` = every key.
    pub items: Option<&'a [KeyToPath]>,
    /// `optional`.
    pub optional: bool,
    /// Mode of files without one of their own.
    pub mode: u32,
    /// For messages.
    pub kind: &'static str,
}

/// `defaultMode`, with what fsGroup adds.
pub fn mode(default_mode: Option<i32>, fs_group: Option<u32>) -> u32 {
    let mode = default_mode
        .and_then(|m| u32::try_from(m).ok())
        .unwrap_or(0o644);
    if fs_group.is_some() {
        mode | 0o440
    } else {
        mode
    }
}

/// Files of an object's keys.
pub fn choose(
    data: &[(String, Vec<u8>)],
    chosen: &Chosen<'_>,
    fs_group: Option<u32>,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    let Some(items) = chosen.items.filter(|i| !i.is_empty()) else {
        for (key, bytes) in data {
            payload.insert(
                key.clone(),
                File {
                    data: bytes.clone(),
                    mode: chosen.mode,
                    uid: None,
                },
            );
        }
        return Ok(payload);
    };
    for item in items {
        match data.iter().find(|(key, _)| *key == item.key) {
            Some((_, bytes)) => {
                let mode = item.mode.map_or(chosen.mode, |m| mode(Some(m), fs_group));
                payload.insert(
                    item.path.clone(),
                    File {
                        data: bytes.clone(),
                        mode,
                        uid: None,
                    },
                );
            }
            None if chosen.optional => {}
            None => {
                return Err(VolumeError::Key {
                    kind: chosen.kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(payload)
}

/// Files of a ConfigMap.
pub async fn payload(
    host: &Volumes,
    request: &Request<'_>,
    name: &str,
    chosen: &Chosen<'_>,
) -> Result<Payload, VolumeError> {
    let map = match host
        .objects
        .config_maps
        .get(request.uid, request.namespace(), name)
        .await
    {
        Ok(map) => map,
        Err(ObjectError::NotFound { .. }) if chosen.optional => return Ok(Payload::new()),
        Err(error) => return Err(error.into()),
    };
    choose(&data(&map), chosen, request.fs_group)
}

fn data(map: &ConfigMap) -> Vec<(String, Vec<u8>)> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_bytes().to_vec()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_to_paths() {
        let data = vec![
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec()),
        ];
        let item = |key: &str| KeyToPath {
            key: key.into(),
            path: "x/y".into(),
            mode: Some(0o400),
        };
        let chosen = |items, optional| Chosen {
            items,
            optional,
            mode: 0o644,
            kind: "config",
        };
        assert_eq!(choose(&data, &chosen(None, false), None).unwrap().len(), 2);
        let (one, gone) = ([item("b")], [item("c")]);
        assert_eq!(
            choose(&data, &chosen(Some(&one), false), None).unwrap()["x/y"].mode,
            0o400
        );
        assert_eq!(
            choose(&data, &chosen(Some(&one), false), Some(5)).unwrap()["x/y"].mode,
            0o440
        );
        assert!(choose(&data, &chosen(Some(&gone), false), None).is_err());
        assert!(
            choose(&data, &chosen(Some(&gone), true), None)
                .unwrap()
                .is_empty()
        );
    }
}
