//! `keelson down`: stops the daemons and every container of the cluster; what is stored stays.

use anyhow::Result;

use crate::layout::Layout;
use crate::progress::Progress;
use crate::{host, nodes, supervisor, systemd};

/// Stops everything. Fine if nothing runs.
pub async fn run(layout: &Layout) -> Result<()> {
    let progress = Progress::default();
    progress
        .step("stop the daemons", async {
            if systemd::in_charge(layout) {
                systemd::stop()
            } else {
                supervisor::stop(layout)
            }
        })
        .await?;
    progress
        .step("stop the containers", async {
            for node in nodes::known(layout) {
                nodes::stop(&node)?;
            }
            host::remove_cgroups(layout)?;
            host::unmount_below(&[layout.run(), layout.state(), layout.kubelet()])
        })
        .await?;
    progress
        .step("remove the pods' network", async {
            host::remove_network(layout)
        })
        .await?;
    let _ = std::fs::remove_dir_all(layout.run());
    Ok(())
}
