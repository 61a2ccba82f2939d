//! An identity that only one living process on this host can have.
//!
//! The identity is kept in a file; whoever holds the file's lock may use it. A process that died has lost the lock, so its
//! successor may take what it left (a lease, say) at once, and two living processes can never be mistaken for each other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// The identity and the lock that guards it.
pub(crate) struct HostLock {
    pub(crate) identity: String,
    _lock: Option<Flock<File>>,
}

impl HostLock {
    /// The identity kept in `path`, made up if there is none; a fresh one that is not kept if another process has the lock.
    pub(crate) fn acquire(path: &Path, host: &str) -> std::io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let Ok(mut lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Ok(Self::fresh(host));
        };
        let mut kept = String::new();
        (&mut *lock).take(512).read_to_string(&mut kept)?;
        let kept = kept.trim();
        let identity = if kept.starts_with(&format!("{host}_")) {
            kept.to_owned()
        } else {
            let identity = Self::fresh(host).identity;
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            lock.write_all(identity.as_bytes())?;
            lock.sync_data()?;
            identity
        };
        Ok(Self {
            identity,
            _lock: Some(lock),
        })
    }

    /// An identity that is nobody else's and doesn't outlive this process.
    pub(crate) fn fresh(host: &str) -> Self {
        Self {
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            _lock: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_inherits_and_a_rival_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/id");
        let first = HostLock::acquire(&path, "node").unwrap();
        let rival = HostLock::acquire(&path, "node").unwrap();
        assert_ne!(first.identity, rival.identity);
        let identity = first.identity.clone();
        drop(first);
        let successor = HostLock::acquire(&path, "node").unwrap();
        assert_eq!(successor.identity, identity);
        drop(successor);
        // The file of a machine that was cloned or renamed is not believed.
        assert_ne!(
            HostLock::acquire(&path, "other").unwrap().identity,
            identity
        );
    }
}
