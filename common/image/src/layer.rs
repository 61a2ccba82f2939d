//! Unpacks one layer into a directory that overlayfs can take as a lower layer.
//!
//! Every path is resolved with `openat2(RESOLVE_IN_ROOT)` below the layer's own directory, so neither `..`, nor an
//! absolute symlink, nor a hard link can reach outside. Whiteouts become overlayfs's own (character device 0/0, and
//! the `trusted.overlay.opaque` attribute).

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat,
};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType, Header};

use crate::error::{At, Error, Result};

/// Bounds on what an image may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Compressed bytes of one layer.
    pub blob: u64,
    /// Unpacked bytes of one layer.
    pub unpacked: u64,
    /// Files of one layer.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob: 20 << 30,
            unpacked: 60 << 30,
            entries: 5_000_000,
        }
    }
}

/// What unpacking found out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// `sha256:…` of the uncompressed tar.
    pub(crate) diff_id: String,
    /// Bytes of file content.
    pub(crate) size: u64,
}

/// Reads at most so many bytes and hashes them.
struct Metered<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "layer is larger than the limit",
            )
        })?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Decompresses by the blob's first bytes: gzip, zstd or plain.
fn decompressed(blob: File) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(1 << 16, blob);
    let magic = io::BufRead::fill_buf(&mut reader)?;
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(reader)?)
    } else {
        Box::new(reader)
    })
}

/// Unpacks `blob` into the existing, empty directory `target`. `parents` are the directories of the layers below,
/// topmost first: directories that the layer implies but does not list take owner and mode from there.
pub(crate) fn unpack(
    blob: File,
    target: &Path,
    parents: &[PathBuf],
    limits: &Limits,
) -> Result<Unpacked> {
    let stream = decompressed(blob).at(target)?;
    let mut metered = Metered {
        inner: stream,
        hash: Sha256::new(),
        left: limits.unpacked,
    };
    let mut writer = Writer::open(target, parents)?;
    let mut archive = Archive::new(&mut metered);
    let mut count = 0_u64;
    for entry in archive.entries().map_err(|error| damaged(&error))? {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        count += 1;
        if count > limits.entries {
            return Err(Error::Content(format!(
                "layer has more than {} files",
                limits.entries
            )));
        }
        writer.entry(&mut entry)?;
    }
    // The digest covers what follows the last entry, too.
    io::copy(&mut metered, &mut io::sink()).map_err(|error| damaged(&error))?;
    let size = writer.finish()?;
    Ok(Unpacked {
        diff_id: hex_digest(metered.hash),
        size,
    })
}

/// `sha256:…` of a finished hash.
pub(crate) fn hex_digest(hash: Sha256) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn damaged(error: &io::Error) -> Error {
    Error::Content(format!("failed to unpack layer: {error}"))
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const META: &[u8] = b".wh..wh.";

/// Writes entries below one directory.
struct Writer<'a> {
    root: OwnedFd,
    path: PathBuf,
    parents: &'a [PathBuf],
    size: u64,
    /// Directories' times are set last: their content changes them.
    times: HashMap<PathBuf, i64>,
}

impl<'a> Writer<'a> {
    fn open(path: &Path, parents: &'a [PathBuf]) -> Result<Self> {
        let root = open(
            path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .at(path)?;
        Ok(Self {
            root,
            path: path.to_owned(),
            parents,
            size: 0,
            times: HashMap::new(),
        })
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let raw = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let path = clean(&raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.directory(&parent_path)?;
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            return self.opaque(&parent_path);
        }
        if bytes.starts_with(META) {
            return Ok(()); // aufs's own bookkeeping
        }
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            return self.whiteout(parent.as_fd(), OsStr::from_bytes(hidden), &path);
        }
        self.make_room(
            parent.as_fd(),
            &name,
            entry.header().entry_type().is_dir(),
            &path,
        )?;
        self.create(entry, parent.as_fd(), &name, &path)
    }

    /// `./`: owner and mode of the image's root directory.
    fn root_entry(&mut self, entry: &Entry<'_, impl Read>) -> Result<()> {
        let header = entry.header();
        let root = open(
            &self.path,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .at(&self.path)?;
        let (uid, gid) = owners(header)?;
        fchown(&root, Some(uid), Some(gid)).at(&self.path)?;
        let mode = number(&header.as_old().mode, header.mode().map(u64::from))?;
        fchmod(&root, mode_of(mode)).at(&self.path)
    }

    fn create(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let header = entry.header().clone();
        let kind = header.entry_type();
        let mode = mode_of(number(&header.as_old().mode, header.mode().map(u64::from))?);
        let (uid, gid) = owners(&header)?;
        let mtime = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let attributes = attributes(entry)?;
        match kind {
            EntryType::Directory => {
                match mkdirat(parent, name, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno).at(path),
                }
                self.times.insert(path.to_owned(), mtime);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_WRONLY
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_CLOEXEC;
                let mut file = File::from(
                    openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).at(path)?,
                );
                self.size += io::copy(entry, &mut file).map_err(|error| damaged(&error))?;
                file.flush().at(path)?;
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| Error::Content("symlink without target".into()))?;
                symlinkat(OsStr::from_bytes(&target), parent, name).at(path)?;
            }
            EntryType::Link => return self.hard_link(entry, parent, name, path),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let major = header.device_major().ok().flatten().unwrap_or(0);
                let minor = header.device_minor().ok().flatten().unwrap_or(0);
                let (flag, device) = match kind {
                    EntryType::Char => (SFlag::S_IFCHR, libc::makedev(major, minor)),
                    EntryType::Block => (SFlag::S_IFBLK, libc::makedev(major, minor)),
                    _ => (SFlag::S_IFIFO, 0),
                };
                mknodat(parent, name, flag, Mode::S_IRUSR | Mode::S_IWUSR, device).at(path)?;
            }
            EntryType::XGlobalHeader => return Ok(()),
            other => {
                return Err(Error::Content(format!(
                    "unsupported entry type {other:?} of {}",
                    path.display()
                )));
            }
        }
        // Owner first: a change of owner clears the set-id bits and the file capabilities.
        fchownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .at(path)?;
        if kind != EntryType::Symlink {
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).at(path)?;
        }
        for (key, value) in &attributes {
            set_attribute(parent, name, key, value).at(path)?;
        }
        if kind != EntryType::Directory {
            let time = TimeSpec::new(mtime, 0);
            utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).at(path)?;
        }
        Ok(())
    }

    fn hard_link(
        &self,
        entry: &Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let target = entry
            .link_name_bytes()
            .ok_or_else(|| Error::Content("hard link without target".into()))?;
        let target = clean(Path::new(OsStr::from_bytes(&target)))?;
        let file = target
            .file_name()
            .ok_or_else(|| Error::Content("hard link to a directory".into()))?;
        let directory =
            beneath(&self.root, target.parent().unwrap_or(Path::new(""))).at(&target)?;
        linkat(&directory, file, parent, name, LinkatFlags::empty()).at(path)
    }

    /// Removes what an earlier entry of the same layer left at this name.
    fn make_room(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        directory: bool,
        path: &Path,
    ) -> Result<()> {
        let Ok(found) = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        if found.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).at(path);
        }
        if directory {
            return Ok(());
        }
        let inner = format!("/proc/self/fd/{}", parent.as_raw_fd());
        std::fs::remove_dir_all(Path::new(&inner).join(name)).at(path)
    }

    fn whiteout(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::Content(format!(
                "malformed whiteout {}",
                path.display()
            )));
        }
        match mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            // Something of this very layer is there: it hides what is below by itself.
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno).at(path),
        }
    }

    fn opaque(&self, directory: &Path) -> Result<()> {
        let (parent, name): (OwnedFd, &OsStr) = match directory.file_name() {
            Some(name) => (
                beneath(&self.root, directory.parent().unwrap_or(Path::new(""))).at(directory)?,
                name,
            ),
            None => return Ok(()),
        };
        set_attribute(
            parent.as_fd(),
            name,
            OsStr::new("trusted.overlay.opaque"),
            b"y",
        )
        .at(directory)
    }

    /// Opens a directory of the layer, making what is missing.
    fn directory(&self, path: &Path) -> Result<OwnedFd> {
        match beneath(&self.root, path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).at(path),
        }
        let mut done = PathBuf::new();
        for component in path.components() {
            let parent = beneath(&self.root, &done).at(&done)?;
            match mkdirat(
                &parent,
                component.as_os_str(),
                Mode::from_bits_truncate(0o755),
            ) {
                Ok(()) => self.inherit(&parent, component.as_os_str(), &done.join(component))?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno).at(path),
            }
            done.push(component);
        }
        beneath(&self.root, path).at(path)
    }

    /// Gives an implied directory the owner and mode that it has in the layers below.
    fn inherit(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
        fchmodat(
            parent,
            name,
            Mode::from_bits_truncate(0o755),
            FchmodatFlags::FollowSymlink,
        )
        .at(path)?;
        for lower in self.parents {
            let root = open(
                lower,
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .at(lower)?;
            let Ok(found) = beneath(&root, path) else {
                continue;
            };
            let stat = fstat(&found).at(path)?;
            fchownat(
                parent,
                name,
                Some(Uid::from_raw(stat.st_uid)),
                Some(Gid::from_raw(stat.st_gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .at(path)?;
            return fchmodat(
                parent,
                name,
                mode_of(stat.st_mode),
                FchmodatFlags::FollowSymlink,
            )
            .at(path);
        }
        Ok(())
    }

    fn finish(self) -> Result<u64> {
        for (path, mtime) in &self.times {
            // A later entry may have replaced the directory by something else.
            let Ok(directory) = beneath(&self.root, path) else {
                continue;
            };
            let time = TimeSpec::new(*mtime, 0);
            let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
            utimensat(
                nix::fcntl::AT_FDCWD,
                link.as_str(),
                &time,
                &time,
                UtimensatFlags::FollowSymlink,
            )
            .at(path)?;
        }
        Ok(self.size)
    }
}

/// Opens a directory below `root`, never leaving it.
fn beneath(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// A relative path without `.`; `..` is refused.
fn clean(path: &Path) -> Result<PathBuf> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(Error::Content(format!(
                    "layer path {} leaves the image",
                    path.display()
                )));
            }
        }
    }
    Ok(cleaned)
}

fn mode_of(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits & 0o7777)
}

fn owners(header: &Header) -> Result<(Uid, Gid)> {
    let raw = header.as_old();
    let (uid, gid) = (
        number(&raw.uid, header.uid())?,
        number(&raw.gid, header.gid())?,
    );
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// A number of the header; writers leave fields empty for zero.
fn number(raw: &[u8], parsed: io::Result<u64>) -> Result<u32> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    let number = parsed.map_err(|error| damaged(&error))?;
    u32::try_from(number).map_err(|_| Error::Content(format!("number {number} out of range")))
}

/// Extended attributes from PAX headers. Those of overlayfs are ours alone: an image could otherwise redirect directories.
fn attributes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    let Some(extensions) = entry.pax_extensions().map_err(|error| damaged(&error))? else {
        return Ok(found);
    };
    for extension in extensions {
        let extension = extension.map_err(|error| damaged(&error))?;
        let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else {
            continue;
        };
        if key == b"security.capability"
            || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
        {
            found.push((
                OsStr::from_bytes(key).to_owned(),
                extension.value_bytes().to_owned(),
            ));
        }
    }
    Ok(found)
}

fn set_attribute(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    key: &OsStr,
    value: &[u8],
) -> nix::Result<()> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let key = CString::new(key.as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: both strings are NUL-terminated and the value is a live slice of the length given.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            key.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match Errno::result(result) {
        // `user.` attributes exist on regular files and directories only.
        Ok(_) | Err(Errno::EPERM | Errno::EOPNOTSUPP) if key.as_bytes().starts_with(b"user.") => {
            Ok(())
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
