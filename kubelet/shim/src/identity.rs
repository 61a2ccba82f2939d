//! Who a container's process runs as: users and groups by the files of its own root filesystem.
//!
//! Names are looked up in text read below the root without following anything out of it; never through the C
//! library, whose name service would load modules from the container.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use keelson_shim::User;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Larger files are not read.
const MAX_FILE: u64 = 4 << 20;

/// The outcome.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Resolves `user` in the root filesystem at `root`.
pub fn resolve(root: &Path, user: &User) -> Result<Identity, String> {
    let passwd =
        read_below(root, "etc/passwd").map_err(|error| format!("read /etc/passwd: {error}"))?;
    let group =
        read_below(root, "etc/group").map_err(|error| format!("read /etc/group: {error}"))?;
    decide(user, &parse_passwd(&passwd), &parse_group(&group))
}

fn decide(user: &User, passwd: &[PasswdEntry], groups: &[GroupEntry]) -> Result<Identity, String> {
    let (image_user, image_group) = match user.image_user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (user.image_user.as_str(), ""),
    };
    let wanted = match user.uid {
        Some(uid) => uid.to_string(),
        None if image_user.is_empty() => "0".to_owned(),
        None => image_user.to_owned(),
    };
    // A name goes before a number, as a name may consist of digits.
    let number = wanted.parse::<u32>().ok();
    let found = passwd
        .iter()
        .find(|entry| user.uid.is_none() && entry.name == wanted)
        .or_else(|| passwd.iter().find(|entry| Some(entry.uid) == number));
    let uid = match (found, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(number)) => number,
        (None, None) => {
            return Err(format!(
                "unable to find user {wanted}: no matching entries in passwd file"
            ));
        }
    };
    let gid = match user.gid {
        Some(gid) => gid,
        None if user.uid.is_none() && !image_group.is_empty() => groups
            .iter()
            .find(|entry| entry.name == image_group)
            .map(|entry| entry.gid)
            .or_else(|| image_group.parse().ok())
            .ok_or_else(|| {
                format!("unable to find group {image_group}: no matching entries in group file")
            })?,
        None => found.map_or(0, |entry| entry.gid),
    };
    if user.non_root && uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let mut all = vec![gid];
    if let Some(entry) = found.filter(|_| !user.strict_groups) {
        all.extend(
            groups
                .iter()
                .filter(|group| group.members.contains(&entry.name))
                .map(|group| group.gid),
        );
    }
    all.extend(&user.groups);
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    let home = found
        .map(|entry| entry.home.clone())
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".into());
    Ok(Identity {
        uid,
        gid,
        groups: all,
        home,
    })
}

fn parse_passwd(text: &str) -> Vec<PasswdEntry> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?
            .to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or("").to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

fn parse_group(text: &str) -> Vec<GroupEntry> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?
            .to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields
            .next()
            .unwrap_or("")
            .split(',')
            .filter(|m| !m.is_empty())
            .map(str::to_owned)
            .collect();
        Some(GroupEntry { name, gid, members })
    };
    text.lines().filter_map(line).collect()
}

fn below() -> ResolveFlag {
    ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS
}

fn open_root(root: &Path) -> nix::Result<OwnedFd> {
    open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// The text of a regular file below `root`; empty if there is none.
fn read_below(root: &Path, path: &str) -> std::io::Result<String> {
    let root = open_root(root)?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match openat2(&root, path, OpenHow::new().flags(flags).resolve(below())) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a directory (and its parents) below `root`, if it is missing.
pub fn make_directory(root: &Path, path: &Path) -> nix::Result<()> {
    let root = open_root(root)?;
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
            .resolve(below())
    };
    let mut done = std::path::PathBuf::from(".");
    for part in path.components() {
        let std::path::Component::Normal(part) = part else {
            continue;
        };
        let parent = openat2(&root, &done, how())?;
        match mkdirat(&parent, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        done.push(part);
    }
    openat2(&root, &done, how()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n100:x:7:7::/:/x\nbroken:x\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nwww:x:34:\nlogs:x:50:web\n";

    fn get(user: &User) -> Result<Identity, String> {
        decide(user, &parse_passwd(PASSWD), &parse_group(GROUP))
    }

    fn image(text: &str) -> User {
        User {
            image_user: text.into(),
            ..User::default()
        }
    }

    #[test]
    fn names_numbers_and_groups() {
        let web = get(&image("web")).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups, web.home.as_str()),
            (33, 34, vec![34, 10, 50], "/srv")
        );
        let root = get(&image("")).unwrap();
        assert_eq!((root.uid, root.gid, root.groups), (0, 0, vec![0, 10]));
        assert_eq!(get(&image("web:root")).unwrap().gid, 0);
        assert_eq!(get(&image("4000")).unwrap().groups, [0]);
        assert_eq!(get(&image("100")).unwrap().uid, 7);
        assert!(
            get(&image("nobody"))
                .unwrap_err()
                .contains("no matching entries in passwd file")
        );
    }

    #[test]
    fn the_pods_wishes_go_first() {
        let user = User {
            uid: Some(33),
            groups: vec![2000, 10],
            ..image("root:root")
        };
        assert_eq!(get(&user).unwrap().groups, [34, 10, 50, 2000]);
        let strict = User {
            strict_groups: true,
            ..user
        };
        assert_eq!(get(&strict).unwrap().groups, [34, 2000, 10]);
        let group = User {
            gid: Some(5),
            ..image("web")
        };
        assert_eq!(get(&group).unwrap().gid, 5);
        assert!(
            get(&User {
                non_root: true,
                ..image("")
            })
            .is_err()
        );
        assert!(
            get(&User {
                non_root: true,
                uid: Some(1),
                ..image("")
            })
            .is_ok()
        );
    }

    #[test]
    fn files_are_read_below_the_root() {
        let outer = std::env::temp_dir().join(format!("keelson-identity-{}", std::process::id()));
        let root = outer.join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(outer.join("secret"), "web:x:1:1::/:/\n").unwrap();
        std::os::unix::fs::symlink(outer.join("secret"), root.join("etc/passwd")).unwrap();
        assert_eq!(read_below(&root, "etc/passwd").unwrap(), "");
        std::os::unix::fs::symlink("/", root.join("abs")).unwrap();
        make_directory(&root, Path::new("/abs/srv/../x")).unwrap();
        assert!(root.join("srv/x").is_dir() || root.join("x").is_dir());
        std::fs::remove_dir_all(outer).unwrap();
    }
}
