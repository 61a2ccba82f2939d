//! fsGroup: giving a volume's files to a group.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::VolumeError;

/// Gives everything below `dir` to `gid`, readable and writable, new files inheriting it.
///
/// With `on_root_mismatch` the tree is left alone if its root is right already.
pub fn give(dir: &Path, gid: u32, on_root_mismatch: bool) -> Result<(), VolumeError> {
    let fail = |path: &Path| VolumeError::io(format!("giving {} to group {gid}", path.display()));
    let meta = std::fs::symlink_metadata(dir).map_err(fail(dir))?;
    if on_root_mismatch && meta.gid() == gid && meta.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    let mut stack = vec![dir.to_path_buf()];
    while let Some(path) = stack.pop() {
        let meta = std::fs::symlink_metadata(&path).map_err(fail(&path))?;
        std::os::unix::fs::lchown(&path, None, Some(gid)).map_err(fail(&path))?;
        if meta.is_symlink() {
            continue;
        }
        let extra = if meta.is_dir() { 0o2770 } else { 0o660 };
        let mode = (meta.mode() & 0o7777) | extra;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(fail(&path))?;
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(fail(&path))?.flatten() {
                stack.push(entry.path());
            }
        }
    }
    Ok(())
}
