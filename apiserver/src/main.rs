//! The `kube-apiserver` binary.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use clap::Parser;
use keelson_daemon::logging::{self, LogOptions};
use keelson_daemon::tls::{self, ReloadingKey};
use keelson_daemon::{shutdown, systemd, version};
use keelson_storage::{EtcdConfig, EtcdStore, EtcdTls};
use kube_apiserver::assemble::assemble;
use kube_apiserver::flags::Flags;
use kube_apiserver::following::Followed;
use kube_apiserver::options::Options;
use kube_apiserver::{serving, startup};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long open requests may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.version.is_some() {
        println!("{}", version::LONG);
        return ExitCode::SUCCESS;
    }
    keelson_daemon::run("kube-apiserver", serve(flags))
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    logging::init(&LogOptions {
        verbosity: flags.verbosity,
        format: flags.logging_format,
    });
    let options = Options::read(&flags)?;
    let (cert, key) = flags
        .tls_cert_file
        .as_deref()
        .zip(flags.tls_private_key_file.as_deref())
        .context("--tls-cert-file and --tls-private-key-file are required")?;
    let certificate = ReloadingKey::load(cert, key)?;
    let client_cas = flags
        .client_ca_file
        .as_deref()
        .map(tls::roots)
        .transpose()?
        .unwrap_or_else(rustls::RootCertStore::empty);
    let tls = Arc::new(ArcSwap::from_pointee(serving::tls::server_config(
        certificate.clone(),
        &client_cas,
    )?));
    let address = SocketAddr::new(flags.bind_address, flags.secure_port);
    let listener = keelson_daemon::secure_port::listen(address).await?;

    let signal = shutdown::on_signal()?;
    let etcd = EtcdStore::connect(etcd_config(&flags)?).await?;
    let store = etcd.clone();
    let stop = CancellationToken::new();
    if let Some(path) = &flags.client_ca_file {
        follow_client_cas(path, certificate, &tls, &stop)?;
    }
    let server = tokio::select! {
        server = assemble(options, Arc::new(etcd), stop.clone()) => server?,
        () = signal.cancelled() => return Ok(()),
    };
    if !flags.etcd_compaction_interval.is_zero() {
        let (cache, every) = (server.cache.clone(), flags.etcd_compaction_interval);
        tokio::spawn(async move {
            store
                .compact_every(every, |revision| cache.forget_before(revision))
                .await;
        });
    }
    let port_closed = CancellationToken::new();
    let serving = tokio::spawn(serving::serve(
        server.clone(),
        listener,
        tls,
        port_closed.clone(),
        GRACE,
    ));
    tracing::info!(%address, "serving");
    startup::run(&server).await;
    systemd::ready();
    systemd::watchdog(stop.clone());

    signal.cancelled().await;
    // Load balancers see /readyz fail before the port closes.
    stop.cancel();
    tokio::time::sleep(flags.shutdown_delay_duration).await;
    port_closed.cancel();
    serving.await.context("serving ended oddly")?;
    startup::leave(&server).await;
    Ok(())
}

/// Tells clients which certificates to send, by what the file of their CAs says at the time.
fn follow_client_cas(
    path: &Path,
    certificate: Arc<ReloadingKey>,
    tls: &Arc<ArcSwap<rustls::ServerConfig>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (tls, file) = (tls.clone(), path.to_owned());
    let take = move |_: &[u8]| -> Result<(), String> {
        let roots = tls::roots(&file).map_err(|e| e.to_string())?;
        let config = serving::tls::server_config(certificate.clone(), &roots);
        tls.store(Arc::new(config.map_err(|e| e.to_string())?));
        Ok(())
    };
    Followed::start(path, stop, take).map_err(anyhow::Error::msg)?;
    Ok(())
}

fn etcd_config(flags: &Flags) -> anyhow::Result<EtcdConfig> {
    let mut config = EtcdConfig::new(flags.etcd_servers.clone());
    if let (Some(ca), Some(cert), Some(key)) = (
        &flags.etcd_cafile,
        &flags.etcd_certfile,
        &flags.etcd_keyfile,
    ) {
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        config.tls = Some(EtcdTls {
            ca: read(ca)?,
            certificate: read(cert)?,
            key: read(key)?,
        });
    } else if flags.etcd_cafile.is_some()
        || flags.etcd_certfile.is_some()
        || flags.etcd_keyfile.is_some()
    {
        anyhow::bail!("--etcd-cafile, --etcd-certfile and --etcd-keyfile must be given together");
    }
    Ok(config)
}
