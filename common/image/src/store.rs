//! The store's directory: blobs, unpacked layers, the list of images, and who uses them.
//!
//! ```text
//! images.json            the list
//! lock                   held while the list or the layers change
//! blobs/sha256/<hex>     configurations
//! layers/<chain>/        unpacked layers
//! l/<short>              links to them, short enough for mount(2)'s one page of options
//! users/<image>/<id>     containers that use an image; a file holds the path whose absence ends the use
//! tmp/                   work in progress; emptied at start
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{At, Error, Result};
use crate::index::{Image, IndexFile, write_atomically};
use crate::layer::{self, Limits, hex_digest};
use crate::manifest::{ImageConfig, check_digest};
use crate::pull::{Credentials, Registries};
use crate::reference::Name;

/// An image store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    index: IndexFile,
    limits: Limits,
    registries: Registries,
    /// One unpacking at a time in this process: the file lock covers the others.
    unpacking: tokio::sync::Mutex<()>,
    /// Names that are being pulled.
    pulling: std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// An image as it is being put in: its configuration and where its layers' blobs are.
pub(crate) struct Incoming {
    /// Names to give it.
    pub(crate) tags: Vec<String>,
    /// Digest names to give it.
    pub(crate) digests: Vec<String>,
    /// The configuration's bytes.
    pub(crate) config: Vec<u8>,
    /// Blobs of its layers, lowest first; `None` where the layer was already there when it was looked for.
    pub(crate) blobs: Vec<Option<PathBuf>>,
}

impl Store {
    /// Opens or makes the store at `root`.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::with(root, Registries::default(), Limits::default())
    }

    /// Opens the store with registries (mirrors, plain HTTP) and bounds.
    pub fn with(root: impl Into<PathBuf>, registries: Registries, limits: Limits) -> Result<Self> {
        let root = root.into();
        for directory in ["blobs/sha256", "layers", "l", "users", "tmp"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).at(&path)?;
        }
        // Images may hold files that only root should read or run (set-id programs).
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).at(&root)?;
        let index = IndexFile::new(&root);
        let inner = Inner {
            root,
            index,
            limits,
            registries,
            unpacking: tokio::sync::Mutex::new(()),
            pulling: Default::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn registries(&self) -> &Registries {
        &self.inner.registries
    }

    /// All images, by id.
    pub fn list(&self) -> Result<Vec<Image>> {
        Ok(self.inner.index.read()?.images.into_values().collect())
    }

    /// The image that a reference or an id (`sha256:…`) names, if it is here.
    pub fn find(&self, reference: &str) -> Result<Option<Image>> {
        let index = self.inner.index.read()?;
        if let Some(image) = index.images.get(reference) {
            return Ok(Some(image.clone()));
        }
        if check_digest(&format!("sha256:{reference}")).is_ok() {
            return Ok(index.images.get(&format!("sha256:{reference}")).cloned());
        }
        if check_digest(reference).is_ok() {
            return Ok(None);
        }
        let name = Name::parse(reference)?;
        let with_digest = name.digest().map(|digest| name.with_digest(digest));
        Ok(index
            .find(name.tagged().as_deref(), with_digest.as_deref())
            .cloned())
    }

    /// The image's configuration.
    pub fn config(&self, id: &str) -> Result<ImageConfig> {
        let path = self.blob_path(id)?;
        match fs::read(&path) {
            Ok(bytes) => ImageConfig::parse(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NotFound(id.to_owned()))
            }
            Err(error) => Err(error).at(path),
        }
    }

    /// Directories of the image's layers relative to [`Store::root`], topmost first, as overlayfs's `lowerdir` has them.
    pub fn lower_directories(&self, image: &Image) -> Vec<PathBuf> {
        image
            .chain
            .iter()
            .rev()
            .map(|chain| Path::new("l").join(short(chain)))
            .collect()
    }

    /// Gives an image one more name.
    pub fn tag(&self, reference: &str, new: &str) -> Result<Image> {
        let name = Name::parse(new)?;
        let tagged = name.tagged().ok_or_else(|| Error::InvalidName {
            image: new.to_owned(),
            message: "no tag".into(),
        })?;
        let image = self
            .find(reference)?
            .ok_or_else(|| Error::NotFound(reference.to_owned()))?;
        self.inner.index.update(|index| {
            let mut change = image.clone();
            change.tags = vec![tagged];
            index.add(change);
            index
                .images
                .get(&image.id)
                .cloned()
                .ok_or_else(|| Error::NotFound(reference.to_owned()))
        })
    }

    /// Says that a container uses the image for as long as `witness` (a path) exists or until [`Store::release`].
    pub fn hold(&self, id: &str, container: &str, witness: &Path) -> Result<()> {
        let _guard = self.inner.index.lock()?;
        if !self.inner.index.read()?.images.contains_key(id) {
            return Err(Error::NotFound(id.to_owned()));
        }
        let directory = self.users_of(id)?;
        fs::create_dir_all(&directory).at(&directory)?;
        let file = directory.join(container);
        fs::write(&file, witness.as_os_str().as_encoded_bytes()).at(file)
    }

    /// Ends a use.
    pub fn release(&self, id: &str, container: &str) -> Result<()> {
        let file = self.users_of(id)?.join(container);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at(file),
            _ => Ok(()),
        }
    }

    /// Removes a name, or the whole image when given its id; layers that nothing needs go too.
    pub fn remove(&self, reference: &str) -> Result<()> {
        let image = self
            .find(reference)?
            .ok_or_else(|| Error::NotFound(reference.to_owned()))?;
        let _guard = self.inner.index.lock()?;
        let by_id =
            reference.trim_start_matches("sha256:") == image.id.trim_start_matches("sha256:");
        let name = if by_id {
            None
        } else {
            Some(Name::parse(reference)?)
        };
        let tagged = name.as_ref().and_then(Name::tagged);
        if let Some(tagged) = tagged.filter(|_| image.tags.len() > 1) {
            return self.inner.index.update_locked(|index| {
                if let Some(image) = index.images.get_mut(&image.id) {
                    image.tags.retain(|tag| *tag != tagged);
                }
                Ok(())
            });
        }
        if let Some(container) = self.user_of(&image.id)? {
            return Err(Error::InUse {
                image: image.id,
                container,
            });
        }
        self.inner.index.update_locked(|index| {
            index.images.remove(&image.id);
            Ok(())
        })?;
        self.collect_garbage()
    }

    /// A living user of the image.
    fn user_of(&self, id: &str) -> Result<Option<String>> {
        let directory = self.users_of(id)?;
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at(directory),
        };
        for entry in entries {
            let entry = entry.at(&directory)?;
            let witness = fs::read(entry.path()).at(entry.path())?;
            use std::os::unix::ffi::OsStrExt as _;
            if Path::new(std::ffi::OsStr::from_bytes(&witness)).exists() {
                return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
            }
            fs::remove_file(entry.path()).at(entry.path())?;
        }
        Ok(None)
    }

    /// Removes layers and blobs that no image names. The caller holds the lock.
    fn collect_garbage(&self) -> Result<()> {
        let index = self.inner.index.read()?;
        let chains: std::collections::HashSet<&str> = index
            .images
            .values()
            .flat_map(|image| image.chain.iter().map(String::as_str))
            .collect();
        let layers = self.inner.root.join("layers");
        for entry in fs::read_dir(&layers).at(&layers)? {
            let entry = entry.at(&layers)?;
            let chain = entry.file_name().to_string_lossy().into_owned();
            if !chains.contains(chain.as_str()) {
                let link = self.inner.root.join("l").join(short(&chain));
                if fs::read_link(&link).is_ok() {
                    fs::remove_file(&link).at(&link)?;
                }
                // Renamed first, so that a crash half-way never leaves half a layer under its name.
                let doomed = tempfile::tempdir_in(self.inner.root.join("tmp"))
                    .at(self.inner.root.join("tmp"))?;
                fs::rename(entry.path(), doomed.path().join("layer")).at(entry.path())?;
                doomed.close().at(entry.path())?;
            }
        }
        let blobs = self.inner.root.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).at(&blobs)? {
            let entry = entry.at(&blobs)?;
            if !index
                .images
                .contains_key(&format!("sha256:{}", entry.file_name().to_string_lossy()))
            {
                fs::remove_file(entry.path()).at(entry.path())?;
            }
        }
        let users = self.inner.root.join("users");
        for entry in fs::read_dir(&users).at(&users)? {
            let entry = entry.at(&users)?;
            if !index
                .images
                .contains_key(&format!("sha256:{}", entry.file_name().to_string_lossy()))
            {
                fs::remove_dir_all(entry.path()).at(entry.path())?;
            }
        }
        Ok(())
    }

    /// Pulls an image.
    pub async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Image> {
        let name = Name::parse(reference)?;
        // A second pull of the same name waits, and then finds the layers of the first.
        let turn = {
            let mut pulling = self
                .inner
                .pulling
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            pulling.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(pulling.entry(name.to_string()).or_default())
        };
        let _turn = turn.lock().await;
        crate::pull::pull(self, &name, credentials).await
    }

    /// Imports every image of an OCI layout or docker-archive tar (gzip or zstd or plain). `name` names an image that
    /// brings no name of its own.
    pub async fn import(
        &self,
        archive: impl Into<PathBuf>,
        name: Option<&str>,
    ) -> Result<Vec<Image>> {
        crate::import::import(self, archive.into(), name.map(Name::parse).transpose()?).await
    }

    /// A directory for work in progress, removed when dropped.
    pub(crate) fn work_directory(&self) -> Result<tempfile::TempDir> {
        let tmp = self.inner.root.join("tmp");
        tempfile::tempdir_in(&tmp).at(tmp)
    }

    /// Whether the layer with this chain id (hex) is unpacked.
    pub(crate) fn has_layer(&self, chain: &str) -> bool {
        self.layer_path(chain).is_dir()
    }

    /// Unpacks what is missing and lists the image.
    pub(crate) async fn put(&self, incoming: Incoming) -> Result<Image> {
        let _one_at_a_time = self.inner.unpacking.lock().await;
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.put_blocking(&incoming))
            .await
            .map_err(|error| Error::Content(format!("unpacking failed: {error}")))?
    }

    fn put_blocking(&self, incoming: &Incoming) -> Result<Image> {
        let config = ImageConfig::parse(&incoming.config)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        if chain.len() != incoming.blobs.len() {
            return Err(Error::Content(format!(
                "image has {} layers, but its configuration names {}",
                incoming.blobs.len(),
                chain.len()
            )));
        }
        let _guard = self.inner.index.lock()?;
        let mut size = 0;
        for (position, id) in chain.iter().enumerate() {
            if !self.has_layer(id) {
                let blob = incoming.blobs[position].as_ref().ok_or_else(|| {
                    Error::Content("a layer was removed meanwhile; pull again".into())
                })?;
                self.unpack_layer(
                    blob,
                    &config.rootfs.diff_ids[position],
                    &chain[..position],
                    id,
                )?;
            }
            let path = self.layer_path(id).join("size");
            let text = fs::read_to_string(&path).at(&path)?;
            size += text.trim().parse::<u64>().unwrap_or(0);
        }
        let digest = digest_of(&incoming.config);
        write_atomically(&self.blob_path(&digest)?, &incoming.config)?;
        let image = Image {
            id: digest.clone(),
            tags: incoming.tags.clone(),
            digests: incoming.digests.clone(),
            size,
            chain,
        };
        self.inner.index.update_locked(|index| {
            index.add(image);
            index
                .images
                .get(&digest)
                .cloned()
                .ok_or(Error::NotFound(digest))
        })
    }

    fn unpack_layer(
        &self,
        blob: &Path,
        diff_id: &str,
        below: &[String],
        chain: &str,
    ) -> Result<()> {
        let work = self.work_directory()?;
        let target = work.path().join("layer/fs");
        fs::create_dir_all(&target).at(&target)?;
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).at(&target)?;
        let parents: Vec<PathBuf> = below
            .iter()
            .rev()
            .map(|id| self.layer_path(id).join("fs"))
            .collect();
        let unpacked = layer::unpack(
            File::open(blob).at(blob)?,
            &target,
            &parents,
            &self.inner.limits,
        )?;
        if unpacked.diff_id != diff_id {
            return Err(Error::Content(format!(
                "wrong diff id calculated on extraction: {} instead of {diff_id}",
                unpacked.diff_id
            )));
        }
        let size = work.path().join("layer/size");
        fs::write(&size, unpacked.size.to_string()).at(&size)?;
        let layers = self.inner.root.join("layers");
        // Content reaches the disk before the name does.
        nix::unistd::syncfs(File::open(&layers).at(&layers)?).at(&layers)?;
        let link = self.inner.root.join("l").join(short(chain));
        if fs::read_link(&link).is_ok() {
            fs::remove_file(&link).at(&link)?;
        }
        std::os::unix::fs::symlink(format!("../layers/{chain}/fs"), &link).at(&link)?;
        let layer = work.path().join("layer");
        fs::rename(&layer, self.layer_path(chain)).at(&layer)?;
        File::open(&layers)
            .and_then(|directory| directory.sync_all())
            .at(layers)
    }

    fn layer_path(&self, chain: &str) -> PathBuf {
        self.inner.root.join("layers").join(chain)
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        Ok(self
            .inner
            .root
            .join("blobs/sha256")
            .join(check_digest(digest)?))
    }

    fn users_of(&self, id: &str) -> Result<PathBuf> {
        Ok(self.inner.root.join("users").join(check_digest(id)?))
    }
}

/// Directory names in `l/`: 24 hex digits.
fn short(chain: &str) -> &str {
    chain.get(..24).unwrap_or(chain)
}

/// `sha256:…` of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex_digest(Sha256::new_with_prefix(bytes))
}

/// Chain ids (hex) of layers: each covers the layers below it.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for id in diff_ids {
        let next = match chain.last() {
            None => id.clone(),
            Some(below) => digest_of(format!("sha256:{below} {id}").as_bytes()),
        };
        chain.push(next.trim_start_matches("sha256:").to_owned());
    }
    chain
}
