//! `hostPath`: a path of the node, after checking what kind of thing is there.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Volume};

use super::{Request, VolumeError, VolumeType, Volumes, make_dir};

/// The type.
pub struct HostPath;

#[async_trait]
impl VolumeType for HostPath {
    fn name(&self) -> &'static str {
        "kubernetes.io/host-path"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, _: &Volumes, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let source = request
            .volume
            .host_path
            .as_ref()
            .ok_or_else(|| VolumeError::Unsupported(request.volume.name.clone()))?;
        check(source)
    }
}

/// Checks, and for the `…OrCreate` types makes, what the source names.
pub fn check(source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    if path
        .components()
        .any(|c| c == std::path::Component::ParentDir)
    {
        return Err(VolumeError::Path(format!(
            "hostPath {:?} must not contain '..'",
            source.path
        )));
    }
    let found = std::fs::metadata(&path).ok().map(|m| m.file_type());
    let wrong = |what: &str| {
        Err(VolumeError::HostPathType(format!(
            "{} is not a {what}",
            path.display()
        )))
    };
    match source.type_.as_deref().unwrap_or_default() {
        "" => Ok(path),
        "DirectoryOrCreate" => {
            if found.is_none() {
                make_dir(&path)?;
                set_mode(&path, 0o755)?;
            }
            if path.is_dir() {
                Ok(path)
            } else {
                wrong("directory")
            }
        }
        "FileOrCreate" => {
            if found.is_none() {
                std::fs::write(&path, b"")
                    .map_err(VolumeError::io(format!("making {}", path.display())))?;
                set_mode(&path, 0o644)?;
            }
            if path.is_file() {
                Ok(path)
            } else {
                wrong("file")
            }
        }
        "Directory" if found.is_some_and(|t| t.is_dir()) => Ok(path),
        "Directory" => wrong("directory"),
        "File" if found.is_some_and(|t| t.is_file()) => Ok(path),
        "File" => wrong("file"),
        "Socket" if found.is_some_and(|t| t.is_socket()) => Ok(path),
        "Socket" => wrong("socket file"),
        "CharDevice" if found.is_some_and(|t| t.is_char_device()) => Ok(path),
        "CharDevice" => wrong("character device"),
        "BlockDevice" if found.is_some_and(|t| t.is_block_device()) => Ok(path),
        "BlockDevice" => wrong("block device"),
        other => Err(VolumeError::HostPathType(format!(
            "{other} is an invalid volume type"
        ))),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(VolumeError::io(format!(
        "setting the mode of {}",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_things() {
        let dir = std::env::temp_dir().join(format!("keelson-hostpath-{}", std::process::id()));
        let source = |path: &Path, type_: &str| HostPathVolumeSource {
            path: path.to_string_lossy().into(),
            type_: Some(type_.into()),
        };
        assert!(check(&source(&dir, "Directory")).is_err());
        assert!(check(&source(&dir, "DirectoryOrCreate")).is_ok());
        assert!(check(&source(&dir, "File")).is_err());
        assert!(check(&source(&dir.join("f"), "FileOrCreate")).is_ok());
        assert!(check(&source(Path::new("/dev/null"), "CharDevice")).is_ok());
        assert!(check(&source(Path::new("/dev/null"), "Socket")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
