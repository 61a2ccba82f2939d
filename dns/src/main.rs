//! The cluster DNS daemon: flags → watch → serve, until SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use keelson_daemon::health::Health;
use keelson_daemon::logging::{self, LogOptions};
use keelson_daemon::metrics::Metrics;
use keelson_daemon::secure_port::{SecurePort, listen};
use keelson_daemon::{shutdown, systemd, task, version};
use keelson_dns::answer::Answerer;
use keelson_dns::forward::{Forwarder, servers};
use keelson_dns::zone::Zone;
use keelson_dns::{serve, watch};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Cluster DNS.
#[derive(Debug, Parser)]
#[command(name = "keelson-dns", version = version::LONG)]
struct Flags {
    /// Kubeconfig; the pod's service account without it.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Address of the DNS service, UDP and TCP.
    #[arg(long, default_value = "0.0.0.0:53")]
    listen: SocketAddr,
    /// Address of /livez and /readyz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    health: SocketAddr,
    /// Address of /metrics.
    #[arg(long, default_value = "0.0.0.0:9153")]
    metrics: SocketAddr,
    /// Where the servers for names outside the cluster are read from.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    logging::init(&flags.log);
    keelson_daemon::run("keelson-dns", run(flags))
}

async fn run(flags: Flags) -> Result<()> {
    let stop = shutdown::on_signal().context("signals")?;
    let user_agent = version::user_agent("keelson-dns");
    let client = keelson_runtime::client::from_kubeconfig_or_cluster(
        flags.kubeconfig.as_deref(),
        &user_agent,
    )
    .await?;
    let resolv_conf = tokio::fs::read_to_string(&flags.resolv_conf)
        .await
        .with_context(|| format!("cannot read {}", flags.resolv_conf.display()))?;
    let upstream = servers(&resolv_conf);
    tracing::info!(domain = flags.cluster_domain, ?upstream, "starting");
    let zone = Arc::new(Zone::new(&flags.cluster_domain));
    let synced = CancellationToken::new();
    let health = Health::new();
    let ready = synced.clone();
    health.add_ready("zone", move || {
        if ready.is_cancelled() {
            Ok(())
        } else {
            Err("the zone was not read yet".into())
        }
    });
    let port = SecurePort {
        health,
        metrics: Metrics::new(),
        configz: None,
        delegate: None,
    };
    let (health_port, metrics_port) = (listen(flags.health).await?, listen(flags.metrics).await?);
    task::spawn_critical(
        "health",
        &stop,
        port.clone().serve(health_port, None, stop.clone()),
    );
    task::spawn_critical(
        "metrics",
        &stop,
        port.serve(metrics_port, None, stop.clone()),
    );
    task::spawn_critical(
        "watch",
        &stop,
        watch::run(client, zone.clone(), synced.clone(), stop.clone()),
    );
    // Before the zone is whole, a name that exists would be denied.
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = synced.cancelled() => {}
    }
    let (udp, tcp) = serve::listen(flags.listen)
        .await
        .with_context(|| format!("cannot listen on {}", flags.listen))?;
    let answerer = Arc::new(Answerer::new(zone, Forwarder::new(upstream)));
    task::spawn_critical(
        "udp",
        &stop,
        serve::udp(udp, answerer.clone(), stop.clone()),
    );
    task::spawn_critical("tcp", &stop, serve::tcp(tcp, answerer, stop.clone()));
    systemd::ready();
    systemd::watchdog(stop.clone());
    stop.cancelled().await;
    Ok(())
}
