//! Applies nftables text through `nft -f -`, in one transaction.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why a ruleset was not applied. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// `nft` could not be run.
    #[error("cannot run nft: {0}; install it with: apt-get install nftables")]
    Run(#[from] std::io::Error),
    /// `nft` refused the text.
    #[error("nft refused the transaction: {0}")]
    Refused(String),
}

/// Applies the text: all of it or nothing.
pub async fn apply(text: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A refusal may close the pipe early; the exit status tells.
        let _ = stdin.write_all(text.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    message.truncate(
        message
            .char_indices()
            .nth(2000)
            .map_or(message.len(), |(at, _)| at),
    );
    Err(NftError::Refused(message))
}
