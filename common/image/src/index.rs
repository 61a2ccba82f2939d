//! The list of images: one JSON file, replaced atomically under a file lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// `registry/repository:tag` names.
    pub tags: Vec<String>,
    /// `registry/repository@sha256:…` names.
    pub digests: Vec<String>,
    /// Unpacked bytes.
    pub size: u64,
    /// Chain ids (hex) of its layers, lowest first.
    pub chain: Vec<String>,
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) images: BTreeMap<String, Image>,
}

impl Index {
    /// The image that a tag, a digest name or an id (or a unique prefix of it) names.
    pub(crate) fn find(&self, tagged: Option<&str>, with_digest: Option<&str>) -> Option<&Image> {
        self.images
            .values()
            .find(|image| match (tagged, with_digest) {
                (_, Some(name)) => image.digests.iter().any(|digest| digest == name),
                (Some(name), None) => image.tags.iter().any(|tag| tag == name),
                (None, None) => false,
            })
    }

    /// Adds an image, moving its tags away from whichever had them.
    pub(crate) fn add(&mut self, image: Image) {
        for other in self.images.values_mut() {
            other.tags.retain(|tag| !image.tags.contains(tag));
        }
        match self.images.get_mut(&image.id) {
            Some(known) => {
                known.tags.extend(image.tags);
                for digest in image.digests {
                    if !known.digests.contains(&digest) {
                        known.digests.push(digest);
                    }
                }
                known.chain = image.chain;
                known.size = image.size;
            }
            None => {
                self.images.insert(image.id.clone(), image);
            }
        }
    }
}

/// The file and its lock.
#[derive(Debug)]
pub(crate) struct IndexFile {
    path: PathBuf,
    lock: PathBuf,
}

impl IndexFile {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            path: root.join("images.json"),
            lock: root.join("lock"),
        }
    }

    /// Reads the list; replaced atomically, so no lock is needed.
    pub(crate) fn read(&self) -> Result<Index> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::Content(format!("{}: {error}", self.path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(error).at(&self.path),
        }
    }

    /// Holds the store's lock: one writer among all processes.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .at(&self.lock)?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .at(&self.lock)
    }

    /// Changes the list under the lock.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _guard = self.lock()?;
        self.update_locked(change)
    }

    /// Changes the list; the caller holds the lock.
    pub(crate) fn update_locked<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let mut index = self.read()?;
        let result = change(&mut index)?;
        let bytes =
            serde_json::to_vec(&index).map_err(|error| Error::Content(error.to_string()))?;
        write_atomically(&self.path, &bytes)?;
        Ok(result)
    }
}

/// Writes a file so that a crash leaves the old or the new content.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory).at(directory)?;
    file.write_all(bytes).at(path)?;
    file.as_file().sync_all().at(path)?;
    file.persist(path).map_err(|error| error.error).at(path)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .at(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: id.into(),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            digests: vec![format!("r@{id}")],
            size: 1,
            chain: vec![],
        }
    }

    #[test]
    fn a_tag_moves_to_the_newest_image() {
        let mut index = Index::default();
        index.add(image("a", &["r:1", "r:latest"]));
        index.add(image("b", &["r:latest"]));
        assert_eq!(index.find(Some("r:latest"), None).unwrap().id, "b");
        assert_eq!(index.images["a"].tags, ["r:1"]);
        index.add(image("a", &["r:2"]));
        assert_eq!(index.images["a"].tags, ["r:1", "r:2"]);
        assert_eq!(index.find(None, Some("r@a")).unwrap().id, "a");
    }
}
