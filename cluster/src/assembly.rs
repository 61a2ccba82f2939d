//! Assembles OCI images from files of this machine, without Docker: one layer, one configuration, an OCI layout in a tar.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image holds and how it starts.
#[derive(Debug, Default)]
pub struct Recipe {
    /// Names (`repository:tag`) the image gets.
    pub names: Vec<String>,
    /// Files: path in the image, content.
    pub files: Vec<(String, File)>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub command: Vec<String>,
    /// `USER`.
    pub user: String,
    /// `ENV`.
    pub environment: Vec<String>,
    /// `WORKDIR`.
    pub working_directory: String,
    /// `EXPOSE`, such as `3000/tcp`.
    pub ports: Vec<String>,
}

/// The three parts of an image, as a registry stores them.
#[derive(Debug)]
pub struct Blobs {
    /// Its configuration.
    pub configuration: Vec<u8>,
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its one layer.
    pub layer: Vec<u8>,
}

/// One entry of the layer.
#[derive(Debug)]
pub enum File {
    /// A copy of a file of this machine, with this mode.
    Copy(PathBuf, u32),
    /// Bytes, with this mode.
    Content(Vec<u8>, u32),
    /// A symbolic link.
    Link(String),
    /// A folder with this mode.
    Folder(u32),
}

impl Recipe {
    /// Adds a dynamically linked program of this machine with the shared libraries it needs.
    pub fn program(&mut self, target: &str, source: &Path) -> Result<()> {
        self.files
            .push((target.into(), File::Copy(source.into(), 0o755)));
        for library in shared_libraries(source)? {
            let name = library.to_string_lossy().into_owned();
            if !self.files.iter().any(|(path, _)| *path == name) {
                self.files.push((name, File::Copy(library, 0o755)));
            }
        }
        Ok(())
    }

    /// Adds Debian's static busybox as a shell with a link for each applet that it has.
    pub fn busybox(&mut self, busybox: &Path) -> Result<()> {
        let output = std::process::Command::new(busybox)
            .arg("--list")
            .output()
            .with_context(|| format!("cannot run {}", busybox.display()))?;
        self.files
            .push(("/bin/busybox".into(), File::Copy(busybox.into(), 0o755)));
        for applet in String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|a| *a != "busybox" && !a.is_empty())
        {
            self.files
                .push((format!("/bin/{applet}"), File::Link("/bin/busybox".into())));
        }
        Ok(())
    }

    /// Adds `/etc/passwd`, `/etc/group` and `/tmp` with root and nobody.
    pub fn users(&mut self) {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let group = "root:x:0:\nnogroup:x:65534:\n";
        self.files
            .push(("/etc/passwd".into(), File::Content(passwd.into(), 0o644)));
        self.files
            .push(("/etc/group".into(), File::Content(group.into(), 0o644)));
        self.files.push(("/tmp".into(), File::Folder(0o1777)));
    }

    /// Adds everything below a folder of this machine, at the same paths below the image's root, but for what `skip` names.
    pub fn tree(&mut self, source: &Path, skip: &dyn Fn(&str) -> bool) -> Result<()> {
        let mut folders = vec![source.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let mut entries = std::fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?
                .collect::<std::io::Result<Vec<_>>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let name = format!("/{}", path.strip_prefix(source)?.display());
                if skip(&name) {
                    continue;
                }
                let metadata = entry.metadata()?;
                let mode =
                    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
                let file = if metadata.is_symlink() {
                    File::Link(std::fs::read_link(&path)?.display().to_string())
                } else if metadata.is_dir() {
                    folders.push(path);
                    File::Folder(mode)
                } else {
                    File::Copy(path, mode)
                };
                self.files.push((name, file));
            }
        }
        Ok(())
    }

    /// What the image consists of. The same inputs give the same bytes.
    pub fn blobs(&self) -> Result<Blobs> {
        let layer = self.layer()?;
        let diff_id = digest(&layer);
        let configuration = serde_json::to_vec(&self.configuration(&diff_id))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        Ok(Blobs {
            configuration,
            manifest,
            layer,
        })
    }

    /// Writes the image as an OCI layout tar. The same inputs give the same bytes.
    pub fn write(&self, target: &Path) -> Result<()> {
        let Blobs {
            configuration,
            manifest,
            layer,
        } = self.blobs()?;
        let manifests: Vec<Value> = self
            .names
            .iter()
            .map(|name| {
                let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
                entry["platform"] = json!({"architecture": keelson_daemon::version::go_arch(), "os": "linux"});
                entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
                entry
            })
            .collect();
        let index = serde_json::to_vec(
            &json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}),
        )?;
        let mut archive = tar::Builder::new(Vec::new());
        let blobs = [&configuration, &manifest, &layer].map(|blob| {
            (
                format!(
                    "blobs/sha256/{}",
                    digest(blob).trim_start_matches("sha256:")
                ),
                blob.as_slice(),
            )
        });
        let fixed = [
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice(),
            ),
            ("index.json".to_owned(), index.as_slice()),
        ];
        for (path, content) in fixed.into_iter().chain(blobs) {
            append(&mut archive, &path, content, 0o644)?;
        }
        keelson_pki::file::write(target, &archive.into_inner()?, 0o644)?;
        Ok(())
    }

    fn configuration(&self, diff_id: &str) -> Value {
        let ports: serde_json::Map<String, Value> =
            self.ports.iter().map(|p| (p.clone(), json!({}))).collect();
        let mut environment =
            vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        environment.extend(self.environment.iter().cloned());
        json!({
            "architecture": keelson_daemon::version::go_arch(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "User": self.user,
                "Env": environment,
                "WorkingDir": if self.working_directory.is_empty() { "/" } else { &self.working_directory },
                "ExposedPorts": ports,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders = BTreeSet::new();
        let explicit: BTreeSet<&str> = self
            .files
            .iter()
            .filter(|(_, f)| matches!(f, File::Folder(_)))
            .map(|(p, _)| p.as_str())
            .collect();
        for (path, file) in &self.files {
            let Some(relative) = path
                .strip_prefix('/')
                .filter(|p| !p.is_empty() && !p.split('/').any(|c| c == ".."))
            else {
                bail!("{path:?} is no absolute path");
            };
            for parent in Path::new(relative)
                .ancestors()
                .skip(1)
                .filter(|p| !p.as_os_str().is_empty())
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                let parent = parent.to_string_lossy().into_owned();
                if !explicit.contains(format!("/{parent}").as_str())
                    && folders.insert(parent.clone())
                {
                    append_folder(&mut archive, &parent, 0o755)?;
                }
            }
            match file {
                File::Copy(source, mode) => {
                    let mut content = Vec::new();
                    std::fs::File::open(source)
                        .and_then(|mut f| f.read_to_end(&mut content))
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    append(&mut archive, relative, &content, *mode)?;
                }
                File::Content(content, mode) => append(&mut archive, relative, content, *mode)?,
                File::Link(to) => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    archive.append_link(&mut header, relative, to)?;
                }
                File::Folder(mode) => append_folder(&mut archive, relative, *mode)?,
            }
        }
        Ok(archive.into_inner()?)
    }
}

/// The shared libraries of a program (and its loader) at the paths the loader will look for them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks a shared library:\n{text}", program.display());
    }
    // Lines read `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and, for the loader, `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = header(mode, content.len() as u64);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

fn append_folder(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> Result<()> {
    let mut header = header(mode, 0);
    header.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
    Ok(())
}

/// `sha256:…` of a blob.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_recipe_gives_the_same_bytes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut recipe = Recipe {
            names: vec!["a/b:1".into()],
            entrypoint: vec!["/x".into()],
            ..Recipe::default()
        };
        recipe.files.push((
            "/opt/deep/x".into(),
            File::Content(b"hello".to_vec(), 0o755),
        ));
        recipe.users();
        let (one, two) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
        recipe.write(&one).expect("write");
        recipe.write(&two).expect("write");
        assert_eq!(
            std::fs::read(&one).expect("read"),
            std::fs::read(&two).expect("read")
        );
        let mut archive = tar::Archive::new(std::fs::File::open(&one).expect("open"));
        let paths: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|e| {
                e.expect("entry")
                    .path()
                    .expect("path")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert!(
            paths.contains(&"index.json".to_owned())
                && paths
                    .iter()
                    .filter(|p| p.starts_with("blobs/sha256/"))
                    .count()
                    == 3,
            "{paths:?}"
        );
    }

    #[test]
    fn paths_stay_inside_the_image() {
        let mut recipe = Recipe::default();
        recipe.files.push((
            "/a/../../etc/shadow".into(),
            File::Content(Vec::new(), 0o644),
        ));
        assert!(recipe.layer().is_err());
    }
}
