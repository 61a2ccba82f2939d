//! `keelson status`: which daemons run, whether the API server is ready, which nodes are.

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};

use crate::failure::{EXIT_UNHEALTHY, Failure};
use crate::layout::Layout;
use crate::supervisor::{self, Running, pid_file};
use crate::{systemd, up};

/// Prints the state; fails with exit code 3 when anything is not as it should be.
pub async fn run(layout: &Layout) -> Result<()> {
    let mut healthy = true;
    if !systemd::in_charge(layout) {
        for name in supervisor::names(layout) {
            match Running::find(&pid_file(layout, &name)) {
                Some(process) => println!(
                    " ✓ {name:<24} pid {:<8} {} MB",
                    process.pid,
                    resident_megabytes(process.pid)
                ),
                None => {
                    healthy = false;
                    println!(
                        " ✗ {name:<24} not running; see {}/{name}.log",
                        layout.logs().display()
                    );
                }
            }
        }
    }
    match nodes(layout).await {
        Ok(nodes) => {
            for (name, ready) in nodes {
                healthy &= ready;
                println!(
                    " {} node {name}: {}",
                    if ready { '✓' } else { '✗' },
                    if ready { "Ready" } else { "NotReady" }
                );
            }
        }
        Err(error) => {
            healthy = false;
            println!(" ✗ API server: {error:#}");
        }
    }
    if healthy {
        return Ok(());
    }
    Err(Failure::new(
        "the cluster is not healthy",
        "keelson up, or look into the logs",
    )
    .exit(EXIT_UNHEALTHY)
    .into())
}

/// Names of the nodes and whether each is Ready.
pub async fn nodes(layout: &Layout) -> Result<Vec<(String, bool)>> {
    let api: Api<Node> = Api::all(up::client(layout).await?);
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    };
    Ok(api
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .map(|n| (n.metadata.name.clone().unwrap_or_default(), ready(n)))
        .collect())
}

fn resident_megabytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|v| v.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
