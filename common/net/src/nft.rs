//! Transactions of nftables: a text goes to `nft -f -` and takes effect whole or not at all.
//!
//! The `nftables` crate cannot declare verdict maps and nft 1.0.6's JSON cannot load its own listings of concatenated maps, so
//! text is the interface (see the project's notes on crates). The executor is a trait, so that raw netlink can take its place.

use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;

/// How long one transaction may take; a cold load of 10,000 Services takes about a second.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How much of nft's complaint is kept: it repeats the offending lines.
const MESSAGE_MOST: usize = 2000;

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NftError {
    /// `nft` cannot be started.
    #[error("cannot run nft: {0}; install it with: apt-get install nftables")]
    Start(String),
    /// The kernel or nft refused the transaction; nothing of it took effect.
    #[error("nft refused the transaction: {0}")]
    Refused(String),
    /// It took too long and was ended; whether it took effect is not known.
    #[error("nft did not end within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Applies transactions.
#[async_trait]
pub trait Nft: Send + Sync + 'static {
    /// Applies the text as one transaction.
    async fn apply(&self, text: &str) -> Result<(), NftError>;
}

/// The real one: Debian's `nft`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Command;

#[async_trait]
impl Nft for Command {
    async fn apply(&self, text: &str) -> Result<(), NftError> {
        let start = |error: std::io::Error| NftError::Start(error.to_string());
        let mut child = tokio::process::Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let mut stdin = child
            .stdin
            .take()
            .ok_or_else(|| NftError::Start("no standard input".into()))?;
        let run = async move {
            // nft reads everything before it acts, so its complaints cannot block this write for want of a reader.
            let written = stdin.write_all(text.as_bytes()).await;
            drop(stdin);
            let output = child.wait_with_output().await.map_err(start)?;
            if output.status.success() {
                return written.map_err(start);
            }
            let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if message.len() > MESSAGE_MOST {
                let end = (0..=MESSAGE_MOST)
                    .rev()
                    .find(|&i| message.is_char_boundary(i))
                    .unwrap_or(0);
                message.truncate(end);
            }
            Err(NftError::Refused(message))
        };
        tokio::time::timeout(TIMEOUT, run)
            .await
            .map_err(|_| NftError::Timeout)?
    }
}

/// Remembers transactions instead of applying them.
#[derive(Debug, Default)]
pub struct Fake {
    applied: Mutex<Vec<String>>,
    failures: Mutex<Vec<NftError>>,
}

impl Fake {
    /// What was applied since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.applied.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next transaction fail.
    pub fn fail_next(&self, error: NftError) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(error);
    }
}

#[async_trait]
impl Nft for Fake {
    async fn apply(&self, text: &str) -> Result<(), NftError> {
        if let Some(error) = self
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
        {
            return Err(error);
        }
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.to_owned());
        Ok(())
    }
}
