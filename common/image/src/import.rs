//! Imports images from a tar: an OCI image layout (`index.json`) or what `docker save` writes (`manifest.json`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{At, Error, Result};
use crate::index::Image;
use crate::layer::hex_digest;
use crate::manifest::{
    Descriptor, MAX_CONFIG, MAX_MANIFEST, Manifest, check_digest, select_platform,
};
use crate::reference::Name;
use crate::store::{Incoming, Store};

/// One entry of docker-archive's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

pub(crate) async fn import(
    store: &Store,
    archive: PathBuf,
    name: Option<Name>,
) -> Result<Vec<Image>> {
    let work = store.work_directory()?;
    let directory = work.path().to_owned();
    let limit = store.limits().blob;
    let incoming = tokio::task::spawn_blocking(move || {
        let tar = Extracted::read(&archive, &directory, limit)?;
        tar.images(name.as_ref())
    })
    .await
    .map_err(|error| Error::Content(format!("import failed: {error}")))??;
    if incoming.is_empty() {
        return Err(Error::Content(
            "the archive holds no image for this platform".into(),
        ));
    }
    let mut images = Vec::with_capacity(incoming.len());
    for image in incoming {
        images.push(store.put(image).await?);
    }
    Ok(images)
}

/// The archive's files, extracted under names of our own.
struct Extracted {
    files: HashMap<PathBuf, PathBuf>,
}

impl Extracted {
    fn read(archive: &Path, directory: &Path, limit: u64) -> Result<Self> {
        let file = File::open(archive).at(archive)?;
        let mut buffered = BufReader::new(file);
        let magic = std::io::BufRead::fill_buf(&mut buffered).at(archive)?;
        let reader: Box<dyn Read> = if magic.starts_with(&[0x1f, 0x8b]) {
            Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
        } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Box::new(zstd::Decoder::with_buffer(buffered).at(archive)?)
        } else {
            Box::new(buffered)
        };
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let mut left = limit;
        let mut tar = tar::Archive::new(reader);
        for entry in tar.entries().at(archive)? {
            let mut entry = entry.at(archive)?;
            let path = plain(&entry.path().at(archive)?);
            if entry.header().entry_type().is_symlink() {
                if let Some(target) = entry.link_name().at(archive)? {
                    links.push((
                        path.clone(),
                        plain(&path.parent().unwrap_or(Path::new("")).join(target)),
                    ));
                }
            } else if entry.header().entry_type().is_file() {
                left = left.checked_sub(entry.size()).ok_or(Error::TooLarge {
                    what: "the archive".into(),
                    limit,
                })?;
                let target = directory.join(files.len().to_string());
                std::io::copy(&mut entry, &mut File::create(&target).at(&target)?).at(&target)?;
                files.insert(path, target);
            }
        }
        // `docker save` links layers that occur twice.
        for (link, target) in links {
            if let Some(file) = files.get(&target).cloned() {
                files.insert(link, file);
            }
        }
        Ok(Self { files })
    }

    fn images(&self, name: Option<&Name>) -> Result<Vec<Incoming>> {
        if let Some(index) = self.files.get(Path::new("index.json")) {
            let Manifest::Index(entries) = Manifest::parse(&small(index, MAX_MANIFEST)?)? else {
                return Err(Error::Content("index.json is not an index".into()));
            };
            return self.layout(&entries, name);
        }
        let manifest = self.files.get(Path::new("manifest.json")).ok_or_else(|| {
            Error::Content(
                "neither an OCI layout nor a docker-archive: no index.json, no manifest.json"
                    .into(),
            )
        })?;
        let entries: Vec<DockerEntry> = serde_json::from_slice(&small(manifest, MAX_MANIFEST)?)
            .map_err(|error| Error::Content(format!("malformed manifest.json: {error}")))?;
        entries
            .iter()
            .map(|entry| self.docker(entry, name))
            .collect()
    }

    fn layout(&self, entries: &[Descriptor], name: Option<&Name>) -> Result<Vec<Incoming>> {
        let mut images: Vec<(String, Incoming)> = Vec::new();
        for entry in entries {
            let named = name_of(entry, name)?;
            let mut digest = entry.digest.clone();
            let mut manifest = Manifest::parse(&self.blob_bytes(&digest, MAX_MANIFEST)?)?;
            for _ in 0..4 {
                let Manifest::Index(inner) = &manifest else {
                    break;
                };
                digest = select_platform(inner)?.digest.clone();
                manifest = Manifest::parse(&self.blob_bytes(&digest, MAX_MANIFEST)?)?;
            }
            let Manifest::Image { config, layers } = manifest else {
                return Err(Error::Content("indexes are nested too deeply".into()));
            };
            let tags: Vec<String> = named.iter().filter_map(Name::tagged).collect();
            let digests: Vec<String> = named
                .iter()
                .map(|name| name.with_digest(&entry.digest))
                .collect();
            // The same manifest under several names is one image with several tags.
            if let Some((_, known)) = images.iter_mut().find(|(known, _)| *known == digest) {
                known.tags.extend(tags);
                known.digests.extend(digests);
                continue;
            }
            let blobs = layers
                .iter()
                .map(|layer| self.verified_blob(&layer.digest).map(Some))
                .collect::<Result<Vec<_>>>()?;
            let config = self.blob_bytes(&config.digest, MAX_CONFIG)?;
            images.push((
                digest,
                Incoming {
                    tags,
                    digests,
                    config,
                    blobs,
                },
            ));
        }
        Ok(images.into_iter().map(|(_, image)| image).collect())
    }

    fn docker(&self, entry: &DockerEntry, name: Option<&Name>) -> Result<Incoming> {
        let find = |path: &str| {
            self.files
                .get(&plain(Path::new(path)))
                .cloned()
                .ok_or_else(|| Error::Content(format!("{path} is missing from the archive")))
        };
        let names = match entry.repo_tags.as_deref() {
            Some(tags) if !tags.is_empty() => tags
                .iter()
                .map(|tag| Name::parse(tag))
                .collect::<Result<Vec<_>>>()?,
            _ => name.cloned().into_iter().collect(),
        };
        Ok(Incoming {
            tags: names.iter().filter_map(Name::tagged).collect(),
            digests: Vec::new(),
            config: small(&find(&entry.config)?, MAX_CONFIG)?,
            blobs: entry
                .layers
                .iter()
                .map(|layer| find(layer).map(Some))
                .collect::<Result<Vec<_>>>()?,
        })
    }

    fn blob(&self, digest: &str) -> Result<&Path> {
        let path = Path::new("blobs/sha256").join(check_digest(digest)?);
        self.files
            .get(&path)
            .map(PathBuf::as_path)
            .ok_or_else(|| Error::Content(format!("blob {digest} is missing from the archive")))
    }

    fn verified_blob(&self, digest: &str) -> Result<PathBuf> {
        let path = self.blob(digest)?;
        let mut hash = Sha256::new();
        let mut file = File::open(path).at(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer).at(path)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        match hex_digest(hash) {
            found if found == digest => Ok(path.to_owned()),
            found => Err(Error::Content(format!("blob {digest} has digest {found}"))),
        }
    }

    fn blob_bytes(&self, digest: &str, limit: u64) -> Result<Vec<u8>> {
        small(&self.verified_blob(digest)?, limit)
    }
}

/// The name an entry of an image layout brings, or the one given.
fn name_of(entry: &Descriptor, given: Option<&Name>) -> Result<Option<Name>> {
    if let Some(full) = entry.annotations.get("io.containerd.image.name") {
        return Name::parse(full).map(Some);
    }
    let reference = entry.annotations.get("org.opencontainers.image.ref.name");
    match (reference, given) {
        // Skopeo and buildah write a whole name or only a tag here.
        (Some(reference), None) if reference.contains(['/', ':']) => {
            Name::parse(reference).map(Some)
        }
        (_, Some(given)) => Ok(Some(given.clone())),
        _ => Ok(None),
    }
}

fn small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    if fs::metadata(path).at(path)?.len() > limit {
        return Err(Error::TooLarge {
            what: "a manifest or configuration".into(),
            limit,
        });
    }
    fs::read(path).at(path)
}

/// A path without `.` and `..`, only ever used as a key.
fn plain(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}
