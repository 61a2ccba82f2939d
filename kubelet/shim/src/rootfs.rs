//! A container's root filesystem: an overlay mounted in a mount namespace that only the container's processes share, so
//! that it is gone with the last of them.

use std::path::{Path, PathBuf};

use keelson_shim::{Overlay, Start};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the overlay is mounted, in the bundle.
pub const ROOT: &str = "rootfs";
/// Stands in for the layers of an image that has none.
const EMPTY: &str = "empty";

/// Gives the calling process a mount namespace of its own and mounts the root filesystem there.
pub fn prepare(start: &Start) -> Result<PathBuf, String> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("unshare mount namespace: {errno}"))?;
    if !start.shared_mounts {
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_SLAVE | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(|errno| format!("make mounts slave: {errno}"))?;
    }
    let root = start.bundle.join(ROOT);
    let empty = start.bundle.join(EMPTY);
    for directory in [&root, &start.overlay.upper, &start.overlay.work] {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    if start.overlay.lower.is_empty() {
        std::fs::create_dir_all(&empty).map_err(|error| format!("{}: {error}", empty.display()))?;
    }
    let options = options(&start.overlay, &empty)?;
    // Relative lower directories keep the options within the one page that mount(2) takes.
    std::env::set_current_dir(&start.overlay.base)
        .map_err(|error| format!("{}: {error}", start.overlay.base.display()))?;
    let mounted = mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    std::env::set_current_dir("/").map_err(|error| error.to_string())?;
    mounted.map_err(|errno| format!("mount overlay on {}: {errno}", root.display()))?;
    Ok(root)
}

fn options(overlay: &Overlay, empty: &Path) -> Result<String, String> {
    let text = |path: &Path| {
        path.to_str()
            .filter(|text| !text.contains([',', ':', '\\']))
            .map(str::to_owned)
            .ok_or_else(|| format!("{} can't be an overlay directory", path.display()))
    };
    let mut lower = overlay
        .lower
        .iter()
        .map(|path| text(path))
        .collect::<Result<Vec<_>, _>>()?;
    if lower.is_empty() {
        lower.push(text(empty)?);
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        text(&overlay.upper)?,
        text(&overlay.work)?
    );
    if options.len() > 4000 {
        return Err(format!(
            "the image has too many layers ({}) for one overlay mount",
            lower.len()
        ));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_refuse_what_would_be_read_otherwise() {
        let overlay = |upper: &str| Overlay {
            base: "/images".into(),
            lower: vec!["l/b".into(), "l/a".into()],
            upper: upper.into(),
            work: "/c/work".into(),
        };
        assert_eq!(
            options(&overlay("/c/upper"), Path::new("/e")).unwrap(),
            "lowerdir=l/b:l/a,upperdir=/c/upper,workdir=/c/work"
        );
        assert!(options(&overlay("/c,lowerdir=/"), Path::new("/e")).is_err());
    }
}
