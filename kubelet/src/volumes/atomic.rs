//! Files that change all at once: a timestamped directory, and `..data`, a link that is swapped to it.
//!
//! A reader sees either the old files or the new. Readers rely on the names: `..data`, and a link for each
//! top-level name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::VolumeError;

/// A file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, if not root.
    pub uid: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Refuses paths that are absolute, climb, or could be taken for the writer's own.
pub fn check_path(path: &str) -> Result<(), VolumeError> {
    let bad = |why: &str| Err(VolumeError::Path(format!("invalid path {path:?}: {why}")));
    if path.is_empty() || path.len() > 4096 {
        return bad("must not be empty or longer than 4096 bytes");
    }
    if path.starts_with("..") {
        return bad("must not start with '..'");
    }
    match Path::new(path)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        true => Ok(()),
        false => bad("must be relative and must not contain '..'"),
    }
}

/// Brings `dir` to exactly this payload; `true` if anything changed.
pub fn write(dir: &Path, payload: &Payload, gid: Option<u32>) -> Result<bool, VolumeError> {
    for path in payload.keys() {
        check_path(path)?;
    }
    super::make_dir(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && is_current(&dir.join(old), payload)
    {
        return Ok(false);
    }
    let fresh = fill(dir, payload, gid)?;
    let fail = |what: &str| VolumeError::io(format!("{what} in {}", dir.display()));
    let temporary = dir.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&fresh, &temporary).map_err(fail("linking"))?;
    fs::rename(&temporary, dir.join(DATA)).map_err(fail("swapping ..data"))?;
    link_names(dir, payload)?;
    if let Some(old) = old.filter(|o| o.as_os_str().as_encoded_bytes().starts_with(b"..")) {
        fs::remove_dir_all(dir.join(old)).map_err(fail("removing the old files"))?;
    }
    Ok(true)
}

fn is_current(dir: &Path, payload: &Payload) -> bool {
    let mut found = 0;
    let mut stack = vec![dir.to_path_buf()];
    while let Some(at) = stack.pop() {
        let Ok(entries) = fs::read_dir(&at) else {
            return false;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => stack.push(entry.path()),
                _ => found += 1,
            }
        }
    }
    found == payload.len()
        && payload.iter().all(|(path, file)| {
            let path = dir.join(path);
            let mode = fs::metadata(&path)
                .map(|m| m.permissions().mode() & 0o777)
                .unwrap_or(u32::MAX);
            mode == file.mode & 0o777 && fs::read(&path).is_ok_and(|data| data == file.data)
        })
}

fn fill(dir: &Path, payload: &Payload, gid: Option<u32>) -> Result<PathBuf, VolumeError> {
    let name = jiff::fmt::strtime::format("..%Y_%m_%d_%H_%M_%S.%N", Timestamp::now())
        .map_err(|e| VolumeError::Path(format!("naming a directory: {e}")))?;
    let root = dir.join(&name);
    let fail = |path: &Path| VolumeError::io(format!("writing {}", path.display()));
    fs::create_dir(&root).map_err(fail(&root))?;
    let dir_mode = if gid.is_some() { 0o2775 } else { 0o755 };
    let own_dir = |path: &Path| -> Result<(), VolumeError> {
        std::os::unix::fs::chown(path, None, gid).map_err(fail(path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(dir_mode)).map_err(fail(path))
    };
    own_dir(&root)?;
    for (relative, file) in payload {
        let path = root.join(relative);
        if let Some(parent) = Path::new(relative).parent() {
            let mut at = root.clone();
            for part in parent.components() {
                at.push(part);
                if !at.exists() {
                    fs::create_dir(&at).map_err(fail(&at))?;
                    own_dir(&at)?;
                }
            }
        }
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail(&path))?;
        out.write_all(&file.data).map_err(fail(&path))?;
        std::os::unix::fs::fchown(&out, file.uid, gid).map_err(fail(&path))?;
        out.set_permissions(fs::Permissions::from_mode(file.mode & 0o7777))
            .map_err(fail(&path))?;
    }
    Ok(PathBuf::from(name))
}

fn link_names(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let wanted: BTreeSet<&str> = payload
        .keys()
        .filter_map(|p| p.trim_start_matches("./").split('/').next())
        .collect();
    let fail = |path: &Path| VolumeError::io(format!("linking {}", path.display()));
    for name in &wanted {
        let (link, target) = (dir.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            let _ = fs::remove_file(&link);
            symlink(&target, &link).map_err(fail(&link))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(fail(dir))?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(entry.path()).map_err(fail(&entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File {
            data: text.as_bytes().to_vec(),
            mode: 0o644,
            uid: None,
        }
    }

    #[test]
    fn swaps_all_at_once() {
        let dir = std::env::temp_dir().join(format!("keelson-atomic-{}", std::process::id()));
        let mut payload = Payload::from([("a".into(), file("1")), ("d/b".into(), file("2"))]);
        assert!(write(&dir, &payload, None).unwrap());
        assert!(!write(&dir, &payload, None).unwrap(), "nothing changed");
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        let before = fs::read_link(dir.join("..data")).unwrap();
        payload.remove("a");
        payload.insert("d/b".into(), file("3"));
        assert!(write(&dir, &payload, None).unwrap());
        assert_ne!(fs::read_link(dir.join("..data")).unwrap(), before);
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "3");
        assert!(!dir.join("a").exists() && !dir.join(before).exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn refuses_to_leave() {
        for path in ["../x", "/x", "a/../../x", "", "..data", "..2026"] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("a/b..c").is_ok());
    }
}
