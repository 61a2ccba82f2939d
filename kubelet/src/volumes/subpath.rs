//! subPath: a part of a volume as a mount, without ever following a link out of the volume.
//!
//! The container owns the volume's content and may swap directories for links at any instant (CVE-2017-1002101,
//! CVE-2021-25741). So the path is resolved once, by `openat2` beneath the volume, and what is mounted is the opened
//! file itself, by `/proc/self/fd`.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::VolumeError;

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
}

fn open_root(root: &Path) -> Result<OwnedFd, VolumeError> {
    rustix::fs::openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| VolumeError::Io {
        what: format!("opening {}", root.display()),
        error: e.into(),
    })
}

/// Opens a regular file beneath `root` for reading.
pub fn open_beneath(root: &Path, path: &Path) -> std::io::Result<File> {
    let dir = rustix::fs::openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let fd = rustix::fs::openat2(
        dir,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        resolve(),
    )?;
    let file = File::from(fd);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("not a regular file")),
    }
}

/// Refuses what the API should have refused already.
pub fn check(path: &str) -> Result<(), VolumeError> {
    let fine = Path::new(path)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if fine {
        Ok(())
    } else {
        Err(VolumeError::Path(format!(
            "subPath {path:?} must be relative and must not contain '..'"
        )))
    }
}

/// Opens `path` beneath the volume, making directories that are missing.
fn open_or_make(root: &Path, path: &Path, gid: Option<u32>) -> Result<OwnedFd, VolumeError> {
    let mut at = open_root(root)?;
    let fail = |error: rustix::io::Errno| VolumeError::Io {
        what: format!(
            "failed to prepare subPath {:?} of {}",
            path.display(),
            root.display()
        ),
        error: error.into(),
    };
    let whole = rustix::fs::openat2(
        &at,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve(),
    );
    match whole {
        Ok(fd) => return Ok(fd),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(fail(error)),
    }
    let mut walked = PathBuf::new();
    let base = open_root(root)?;
    for part in path.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        walked.push(name);
        // Every prefix is resolved from the volume's root, so that links inside it are followed safely.
        let open = || {
            rustix::fs::openat2(
                &base,
                &walked,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                resolve(),
            )
        };
        at = match open() {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o750)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(fail(error)),
                }
                let made = rustix::fs::openat2(
                    &at,
                    Path::new(name),
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                    resolve() | ResolveFlags::NO_SYMLINKS,
                )
                .map_err(fail)?;
                let bits = if gid.is_some() { 0o2775 } else { 0o755 };
                rustix::fs::fchmod(&made, Mode::from_raw_mode(bits)).map_err(fail)?;
                if gid.is_some() {
                    rustix::fs::fchown(&made, None, gid.map(rustix::fs::Gid::from_raw))
                        .map_err(fail)?;
                }
                made
            }
            Err(error) => return Err(fail(error)),
        };
    }
    Ok(at)
}

/// Binds `path` of the volume at `root` to `target`, which is made.
pub fn bind(root: &Path, path: &str, target: &Path, gid: Option<u32>) -> Result<(), VolumeError> {
    check(path)?;
    let fd = open_or_make(root, Path::new(path), gid)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let meta = std::fs::metadata(&source).map_err(VolumeError::io(format!("reading {path:?}")))?;
    if let Some(parent) = target.parent() {
        super::make_dir(parent)?;
    }
    super::tmpfs::unmount(target)?;
    let fail = || VolumeError::io(format!("making {}", target.display()));
    if meta.is_dir() {
        if !target.is_dir() {
            std::fs::create_dir(target).map_err(fail())?;
        }
    } else {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(target)
            .map_err(fail())?;
    }
    nix::mount::mount(
        Some(&source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|e| VolumeError::Io {
        what: format!("binding subPath {path:?}"),
        error: e.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn never_leaves_the_volume() {
        let root = std::env::temp_dir().join(format!("keelson-subpath-{}", std::process::id()));
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(root.join("in/f"), "x").unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        symlink("../../../../../etc", root.join("rel")).unwrap();
        symlink("in", root.join("good")).unwrap();
        for path in ["abs", "rel", "abs/passwd", "rel/new"] {
            assert!(
                open_or_make(&root, Path::new(path), None).is_err(),
                "{path}"
            );
        }
        assert!(open_beneath(&root, Path::new("good/f")).is_ok());
        open_or_make(&root, Path::new("good/made/here"), None).unwrap();
        assert!(root.join("in/made/here").is_dir());
        assert!(check("a/../b").is_err() && check("/a").is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
