//! A registry for the cluster's nodes: Debian's `docker-registry` over a folder that the images are written to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use keelson::assembly::{Recipe, digest};

/// Where the registry listens in the cluster's network.
pub const PORT: u16 = 5000;

/// Stores an image under its names, in the form of the registry's `filesystem` driver.
pub fn publish(root: &Path, names: &[String], recipe: &Recipe) -> Result<()> {
    let blobs = recipe.blobs()?;
    let base = root.join("docker/registry/v2");
    let manifest = digest(&blobs.manifest);
    let parts = [&blobs.configuration, &blobs.layer, &blobs.manifest];
    for part in parts {
        let id = digest(part);
        let hex = id.trim_start_matches("sha256:");
        let file = base
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data");
        if !file.exists() {
            write(&file, part)?;
        }
    }
    for name in names {
        let (_, path) = name.split_once('/').context("a name without a registry")?;
        let (repository, tag) = path.rsplit_once(':').context("a name without a tag")?;
        let folder = base.join("repositories").join(repository);
        for part in [&blobs.configuration, &blobs.layer] {
            let id = digest(part);
            link(&folder.join("_layers"), &id, &id)?;
        }
        let manifests = folder.join("_manifests");
        link(&manifests.join("revisions"), &manifest, &manifest)?;
        let tag = manifests.join("tags").join(tag);
        link(&tag.join("index"), &manifest, &manifest)?;
        write(&tag.join("current/link"), manifest.as_bytes())?;
    }
    Ok(())
}

/// `<folder>/sha256/<hex>/link` holding a digest.
fn link(folder: &Path, of: &str, to: &str) -> Result<()> {
    write(
        &folder.join(of.replace(':', "/")).join("link"),
        to.as_bytes(),
    )
}

fn write(file: &Path, content: &[u8]) -> Result<()> {
    let folder = file.parent().context("a file in no folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}

/// The running registry; ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
}

impl Registry {
    /// Starts it in the cluster's network by `enter`, the command that gets there.
    pub fn start(enter: &[&str], program: &Path, root: &Path, work: &Path) -> Result<Self> {
        let configuration: PathBuf = work.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: false\nhttp:\n  addr: 0.0.0.0:{PORT}\n",
            root.display()
        );
        std::fs::write(&configuration, text)?;
        let log = std::fs::File::create(work.join("registry.log"))?;
        let (first, rest) = enter.split_first().context("no command")?;
        let mut child = Command::new(first)
            .args(rest)
            .arg(program)
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the registry")?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        if let Some(status) = child.try_wait()? {
            bail!(
                "the registry ended ({status}); see registry.log in {}",
                work.display()
            );
        }
        Ok(Self { child })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already; waiting tells.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson::assembly::File;

    #[test]
    fn an_image_is_stored_as_the_registry_reads_it() {
        let dir = std::env::temp_dir().join(format!("keelson-registry-{}", std::process::id()));
        let mut recipe = Recipe::default();
        let file = File::Content(b"x".to_vec(), 0o644);
        recipe.files.push(("/x".into(), file));
        publish(&dir, &["example/a/b:1".into()], &recipe).expect("publish");
        let base = dir.join("docker/registry/v2");
        let tag = base.join("repositories/a/b/_manifests/tags/1/current/link");
        let id = std::fs::read_to_string(tag).expect("the tag");
        let hex = id.trim_start_matches("sha256:");
        let manifest = base
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data");
        let text = std::fs::read_to_string(manifest).expect("the manifest");
        assert!(text.contains("oci.image.layer"), "{text}");
        std::fs::remove_dir_all(dir).expect("clean");
    }
}
