//! Memory-backed directories, and taking mounts down.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use super::VolumeError;

/// Mount points at or below `dir`, deepest last.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(VolumeError::io("reading mounts"))?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(dir));
    Ok(points.collect())
}

/// mountinfo writes blanks and the like in octal.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes
            .get(i + 1..i + 4)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (bytes[i], octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                i += 4;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Whether something is mounted exactly there.
pub fn is_mounted(dir: &Path) -> Result<bool, VolumeError> {
    Ok(mounts_below(dir)?.iter().any(|p| p == dir))
}

/// Mounts a tmpfs of at most `size` bytes at `dir`, which is made; fine if it is there.
pub fn mount(dir: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    super::make_dir(dir)?;
    if is_mounted(dir)? {
        return Ok(());
    }
    let options = size.filter(|s| *s > 0).map(|s| format!("size={s}"));
    nix::mount::mount(
        Some("tmpfs"),
        dir,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        options.as_deref(),
    )
    .map_err(|e| VolumeError::Io {
        what: format!("mounting a tmpfs at {}", dir.display()),
        error: e.into(),
    })
}

/// Takes down every mount at `dir`; fine if there is none.
pub fn unmount(dir: &Path) -> Result<(), VolumeError> {
    loop {
        match nix::mount::umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(VolumeError::Io {
                    what: format!("unmounting {}", dir.display()),
                    error: error.into(),
                });
            }
        }
    }
}

/// Takes down every mount at or below `dir`, the newest first.
pub fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    for point in mounts_below(dir)?.iter().rev() {
        unmount(point)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_octal() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
