//! Layers that try to escape, and layers that must come out right.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

fn entry(
    builder: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    link: &str,
    data: &[u8],
    mode: u32,
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1000);
    // Written raw: the builder itself refuses `..`.
    let name = header.as_gnu_mut().unwrap();
    name.name[..path.len()].copy_from_slice(path.as_bytes());
    name.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn layer(entries: &[(&str, EntryType, &str, &str, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, link, data, mode) in entries {
        entry(&mut builder, path, *kind, link, data.as_bytes(), *mode);
    }
    builder.into_inner().unwrap()
}

fn unpack_bytes(bytes: &[u8], target: &Path, parents: &[PathBuf]) -> Result<Unpacked> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    unpack(file, target, parents, &Limits::default())
}

fn root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[test]
fn keeps_modes_owners_and_times() {
    if !root() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let bytes = layer(&[
        ("bin/", EntryType::Directory, "", "", 0o1777),
        ("bin/su", EntryType::Regular, "", "x", 0o4755),
        ("bin/sh", EntryType::Symlink, "/bin/su", "", 0o777),
        ("bin/su2", EntryType::Link, "bin/su", "", 0),
        ("dev/null", EntryType::Char, "", "", 0o666),
    ]);
    let unpacked = unpack_bytes(&bytes, target.path(), &[]).unwrap();
    assert_eq!(unpacked.size, 1);
    let su = std::fs::metadata(target.path().join("bin/su")).unwrap();
    assert_eq!(
        (
            su.permissions().mode() & 0o7777,
            su.uid(),
            su.gid(),
            su.mtime(),
            su.nlink()
        ),
        (0o4755, 12, 34, 1000, 2)
    );
    let bin = std::fs::metadata(target.path().join("bin")).unwrap();
    assert_eq!(
        (bin.permissions().mode() & 0o7777, bin.mtime()),
        (0o1777, 1000)
    );
    assert_eq!(
        std::fs::read_link(target.path().join("bin/sh")).unwrap(),
        Path::new("/bin/su")
    );
    assert!(
        std::fs::metadata(target.path().join("dev/null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    // The same bytes compressed give the same digest.
    let again = tempfile::tempdir().unwrap();
    let zipped = zstd::encode_all(&bytes[..], 1).unwrap();
    assert_eq!(unpack_bytes(&zipped, again.path(), &[]).unwrap(), unpacked);
}

#[test]
fn whiteouts_are_overlayfs_whiteouts() {
    if !root() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let bytes = layer(&[
        ("etc/.wh.passwd", EntryType::Regular, "", "", 0o644),
        ("opt/.wh..wh..opq", EntryType::Regular, "", "", 0o644),
        (".wh..wh.plnk", EntryType::Regular, "", "", 0o644),
    ]);
    unpack_bytes(&bytes, target.path(), &[]).unwrap();
    let passwd = std::fs::symlink_metadata(target.path().join("etc/passwd")).unwrap();
    assert!(passwd.file_type().is_char_device());
    assert_eq!(passwd.rdev(), 0);
    assert!(!target.path().join(".wh..wh.plnk").exists());
    let mut value = [0_u8; 8];
    let path = CString::new(target.path().join("opt").as_os_str().as_bytes()).unwrap();
    // SAFETY: NUL-terminated strings and a buffer of the length given.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            c"trusted.overlay.opaque".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    assert_eq!(&value[..usize::try_from(length).unwrap()], b"y");
}

#[test]
fn nothing_escapes() {
    if !root() {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("layer");
    let secret = outer.path().join("secret");
    std::fs::write(&secret, "host").unwrap();
    let absolute = secret.to_str().unwrap().to_owned();
    for (name, entries) in [
        (
            "dot-dot",
            vec![("../secret", EntryType::Regular, "", "evil", 0o644)],
        ),
        (
            "hard link",
            vec![("x", EntryType::Link, "../secret", "", 0o644)],
        ),
        (
            "absolute hard link",
            vec![("x", EntryType::Link, absolute.as_str(), "", 0o644)],
        ),
    ] {
        std::fs::create_dir(&target).unwrap();
        assert!(
            unpack_bytes(&layer(&entries), &target, &[]).is_err(),
            "{name}"
        );
        std::fs::remove_dir_all(&target).unwrap();
    }
    // Writing through symlinks stays inside.
    std::fs::create_dir(&target).unwrap();
    let up = format!("{}/", outer.path().display());
    let bytes = layer(&[
        ("out", EntryType::Symlink, up.as_str(), "", 0o777),
        ("out/secret", EntryType::Regular, "", "evil", 0o644),
    ]);
    let _ = unpack_bytes(&bytes, &target, &[]);
    let bytes = layer(&[
        ("f", EntryType::Symlink, absolute.as_str(), "", 0o777),
        ("f", EntryType::Regular, "", "evil", 0o644),
    ]);
    let _ = unpack_bytes(&bytes, &target, &[]);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "host");
}

#[test]
fn implied_directories_take_after_the_layer_below() {
    if !root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    unpack_bytes(
        &layer(&[("tmp/", EntryType::Directory, "", "", 0o1777)]),
        lower.path(),
        &[],
    )
    .unwrap();
    let upper = tempfile::tempdir().unwrap();
    let bytes = layer(&[("tmp/file", EntryType::Regular, "", "", 0o644)]);
    unpack_bytes(&bytes, upper.path(), &[lower.path().to_owned()]).unwrap();
    let tmp = std::fs::metadata(upper.path().join("tmp")).unwrap();
    assert_eq!((tmp.permissions().mode() & 0o7777, tmp.uid()), (0o1777, 12));
}

#[test]
fn bounded() {
    let target = tempfile::tempdir().unwrap();
    let bytes = zstd::encode_all(&vec![0_u8; 1 << 20][..], 1).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let limits = Limits {
        unpacked: 1 << 16,
        ..Limits::default()
    };
    assert!(
        unpack(file, target.path(), &[], &limits)
            .unwrap_err()
            .to_string()
            .contains("larger than the limit")
    );
}
