//! `keelson uninstall`: takes away everything that `up` made, so that the host is as it was.

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::progress::Progress;
use crate::{down, kubeconfig, systemd};

/// Stops the cluster and removes its files, its kubeconfig entries and its units.
pub async fn run(layout: &Layout) -> Result<()> {
    let progress = Progress::default();
    down::run(layout).await?;
    progress
        .step("remove the kubeconfig context", async {
            kubeconfig::remove(layout)
        })
        .await?;
    progress
        .step("remove files", async {
            systemd::remove(layout)?;
            restore_sysctls(layout)?;
            for folder in layout.folders() {
                match std::fs::remove_dir_all(&folder) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error)
                            .with_context(|| format!("cannot remove {}", folder.display()));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
}

/// Sets what the daemons changed in `/proc/sys` back to what it was before the first start (recorded by `up`).
fn restore_sysctls(layout: &Layout) -> Result<()> {
    let Ok(text) = std::fs::read(layout.state().join("sysctls.json")) else {
        return Ok(());
    };
    let before: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&text).context("sysctls.json is damaged")?;
    for (path, value) in before {
        std::fs::write(&path, value).with_context(|| format!("cannot restore {path}"))?;
    }
    Ok(())
}
