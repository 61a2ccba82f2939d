//! The administrator's context in the calling user's own kubeconfig: merged in and taken out without touching the rest.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::layout::Layout;

/// The kubeconfig files of the user who called, and of the one behind `sudo`, with the owner that the file must have.
fn targets() -> Vec<(PathBuf, Option<(u32, u32)>)> {
    let mut homes: Vec<(PathBuf, Option<(u32, u32)>)> = std::env::var_os("HOME")
        .map(|home| (PathBuf::from(home), None))
        .into_iter()
        .collect();
    if let Ok(user) = std::env::var("SUDO_USER")
        && let Ok(Some(user)) = nix::unistd::User::from_name(&user)
    {
        homes.push((user.dir, Some((user.uid.as_raw(), user.gid.as_raw()))));
    }
    homes.dedup_by(|a, b| a.0 == b.0);
    homes
        .into_iter()
        .map(|(home, owner)| (home.join(".kube/config"), owner))
        .collect()
}

fn edit(
    path: &std::path::Path,
    owner: Option<(u32, u32)>,
    change: impl Fn(&mut Value) -> bool,
) -> Result<bool> {
    let mut document: Value = match std::fs::read_to_string(path) {
        Ok(text) => serde_norway::from_str(&text)
            .with_context(|| format!("{} is not YAML; left alone", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if !change(&mut document) {
        return Ok(false);
    }
    let owner = owner.or_else(|| std::fs::metadata(path).ok().map(|m| (m.uid(), m.gid())));
    let text = serde_norway::to_string(&document)?;
    keelson_pki::file::write(path, text.as_bytes(), 0o600)?;
    if let Some((uid, gid)) = owner {
        for target in [path.parent().unwrap_or(path), path] {
            std::os::unix::fs::chown(target, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to its user", target.display()))?;
        }
    }
    Ok(true)
}

fn ours(layout: &Layout) -> Result<Option<Value>> {
    match std::fs::read_to_string(layout.admin_conf()) {
        Ok(text) => Ok(Some(
            serde_norway::from_str(&text).context("admin.conf is damaged; run: keelson up")?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot read admin.conf"),
    }
}

/// Merges the cluster's context into the callers' kubeconfigs and makes it current. Returns whether anything changed.
pub fn merge(layout: &Layout) -> Result<bool> {
    let Some(ours) = ours(layout)? else {
        return Ok(false);
    };
    let mut changed = false;
    for (path, owner) in targets() {
        changed |= edit(&path, owner, |theirs| {
            keelson_pki::kubeconfig::merge(theirs, &ours, true)
        })?;
    }
    Ok(changed)
}

/// Takes the cluster's context out of the callers' kubeconfigs.
pub fn remove(layout: &Layout) -> Result<()> {
    let Some(ours) = ours(layout)? else {
        return Ok(());
    };
    for (path, owner) in targets() {
        if path.exists() {
            edit(&path, owner, |theirs| {
                keelson_pki::kubeconfig::unmerge(theirs, &ours)
            })?;
        }
    }
    Ok(())
}

/// The administrator's kubeconfig as text.
pub fn show(layout: &Layout) -> Result<String> {
    std::fs::read_to_string(layout.admin_conf()).with_context(|| {
        format!(
            "cannot read {}; run: keelson up",
            layout.admin_conf().display()
        )
    })
}
