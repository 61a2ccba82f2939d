//! Starts shims from a sealed copy of their program in memory.
//!
//! A container can reach the program that runs it by `/proc/<pid>/exe` and could overwrite it (CVE-2019-5736). The copy
//! is sealed against writing, and all shims of a kubelet share its pages.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::AsyncReadExt;

/// The shim's program.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    sealed: Option<OwnedFd>,
}

impl Program {
    /// Copies the program into memory; where that is impossible it is run from its file.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let sealed = match seal(&mut file) {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                tracing::warn!(%error, "shims run from their file: no sealed copy in memory");
                None
            }
        };
        Ok(Self {
            path: path.to_owned(),
            sealed,
        })
    }

    /// Starts a shim for the pod in `directory`; returns its pid once its socket is there.
    pub async fn spawn(&self, directory: &Path, joined: impl FnOnce(i32)) -> io::Result<i32> {
        let program = match &self.sealed {
            Some(sealed) => PathBuf::from(format!("/proc/self/fd/{}", sealed.as_raw_fd())),
            None => self.path.clone(),
        };
        let mut command = tokio::process::Command::new(program);
        command
            .arg0("keelson-shim")
            .arg(directory)
            .env_clear()
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(false);
        let mut child = command.spawn()?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| io::Error::other("the shim has no pid"))?;
        joined(pid);
        let mut answer = Vec::new();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        if let Some(stdout) = stdout {
            stdout.take(5).read_to_end(&mut answer).await?;
        }
        if answer == b"ready" {
            // Reaped whenever it ends.
            tokio::spawn(async move { child.wait().await });
            return Ok(pid);
        }
        let mut message = String::new();
        if let Some(stderr) = stderr {
            stderr.take(4096).read_to_string(&mut message).await?;
        }
        let status = child.wait().await?;
        Err(io::Error::other(format!(
            "shim: {} ({status})",
            message.trim()
        )))
    }
}

fn seal(file: &mut File) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Kernels from 6.3 on want to know that it will be executed, older ones refuse the flag.
    let exec = MFdFlags::from_bits_retain(flags.bits() | nix::libc::MFD_EXEC);
    let memory =
        memfd_create(c"keelson-shim", exec).or_else(|_| memfd_create(c"keelson-shim", flags))?;
    let mut memory = File::from(memory);
    let length = file.metadata()?.len();
    let copied = io::copy(&mut file.take(length), &mut memory)?;
    if copied != length {
        return Err(io::Error::other("the program changed while it was read"));
    }
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory.into())
}
