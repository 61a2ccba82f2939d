//! The kube-proxy daemon: flags → configuration → watch → nftables, until SIGTERM. The rules stay when it ends.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use keelson_daemon::health::Health;
use keelson_daemon::metrics::Metrics;
use keelson_daemon::secure_port::{SecurePort, listen};
use keelson_daemon::{logging, shutdown, systemd, task};
use kube_proxy::config::{Config, Flags};
use kube_proxy::sync::{Sync, SyncMetrics};
use kube_proxy::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = Flags::parse();
    logging::init(&flags.log);
    keelson_daemon::run("kube-proxy", async move {
        let config = Config::load(&flags)?;
        serve(config).await
    })
}

async fn serve(config: Config) -> Result<()> {
    let stop = shutdown::on_signal().context("signals")?;
    forward()?;
    let metrics = Metrics::new();
    let client = keelson_runtime::client::from_kubeconfig(
        &config.kubeconfig,
        &keelson_daemon::version::user_agent("kube-proxy"),
    )
    .await?;
    let sync = Sync::new(
        config.clone(),
        Arc::new(keelson_net::nft::Command),
        SyncMetrics::register(&metrics),
    );
    let mut synced = sync.synced();
    let health = Health::new();
    let state = synced.clone();
    health.add("rules", move || {
        state
            .borrow()
            .map(|_| ())
            .ok_or_else(|| "the rules were not written yet".to_owned())
    });
    let port = SecurePort {
        health,
        metrics,
        configz: None,
        delegate: None,
    };
    let healthz = listen(config.healthz).await?;
    let metrics_port = listen(config.metrics).await?;
    task::spawn_critical(
        "healthz",
        &stop,
        port.clone().serve(healthz, None, stop.clone()),
    );
    task::spawn_critical(
        "metrics",
        &stop,
        port.serve(metrics_port, None, stop.clone()),
    );
    task::spawn_critical(
        "watch",
        &stop,
        watch::run(client, config.node, sync, stop.clone()),
    );
    tokio::select! {
        () = stop.cancelled() => {}
        changed = synced.changed() => {
            changed.context("the sync ended")?;
            systemd::ready();
            tracing::info!("rules written");
        }
    }
    systemd::watchdog(stop.clone());
    stop.cancelled().await;
    Ok(())
}

/// Packets to endpoints are forwarded by this node.
fn forward() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    std::fs::write(path, "1").with_context(|| format!("cannot write {path}"))
}
