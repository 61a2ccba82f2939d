//! Starting up: clients, the secure port, informers, leader election, then scheduling.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use keelson_daemon::health::Health;
use keelson_daemon::metrics::Metrics;
use keelson_daemon::secure_port::{SecurePort, listen};
use keelson_daemon::{shutdown, systemd, task, tls, version};
use keelson_runtime::delegation::Delegation;
use keelson_runtime::leader::Elector;
use keelson_runtime::{Informers, Recorder, client};
use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Configuration;
use crate::cycle::Scheduler;
use crate::framework::{Handle, Nominator, WaitingPods};
use crate::model::Cache;
use crate::options::Options;
use crate::queue::{Queue, QueueOptions};
use crate::{intake, metrics};

const NAME: &str = "kube-scheduler";

/// Runs the daemon until a signal, or until leadership is lost.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let config = match &options.config {
        Some(path) => Configuration::load(path)?,
        None => Configuration::default(),
    };
    let election = options
        .leader
        .election(&config.leader_election)
        .map_err(anyhow::Error::msg)?;
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let agent = version::user_agent(NAME);
    let kubeconfig = options.kubeconfig(&config);
    let client = client::from_kubeconfig_or_cluster(kubeconfig.as_deref(), &agent).await?;

    let mut elector = election
        .elect
        .then(|| Elector::new(client.clone(), election.options));
    let instance = elector.as_ref().map_or(NAME, Elector::identity);
    let recorder = Recorder::series(client.clone(), "default-scheduler", instance);
    let scheduler = build(&config, client, recorder)?;
    let informers = scheduler.handle.informers.clone();

    serve(&options, &scheduler, &agent, &stop).await?;
    systemd::ready();
    systemd::watchdog(stop.clone());

    // A standby follows too, so that it can take over at once.
    intake::follow(&scheduler);
    if stop.run_until_cancelled(informers.synced()).await.is_none() {
        return Ok(());
    }
    if let Some(elector) = &mut elector
        && stop.run_until_cancelled(elector.acquire()).await.is_none()
    {
        return Ok(());
    }
    let work = stop.child_token();
    let running = {
        let work = work.clone();
        tokio::spawn(async move {
            work.run_until_cancelled(scheduler.run()).await;
        })
    };
    let lost = async {
        match &mut elector {
            Some(elector) => elector.renew().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = lost => anyhow::bail!("leader election lost"),
        ended = running => {
            ended.context("scheduling failed")?;
            if !stop.is_cancelled() {
                anyhow::bail!("scheduling ended");
            }
        }
    }
    work.cancel();
    if let Some(mut elector) = elector {
        elector
            .release()
            .await
            .context("cannot give the lease up")?;
    }
    Ok(())
}

/// Puts the parts together.
pub fn build(
    config: &Configuration,
    client: Client,
    recorder: Recorder,
) -> anyhow::Result<Scheduler> {
    let informers = Arc::new(Informers::new(client.clone()));
    let pods = intake::pods(&informers);
    let handle = Handle {
        client,
        informers,
        recorder,
        cache: Arc::new(Mutex::new(Cache::default())),
        nominator: Arc::new(Nominator::default()),
        waiting: Arc::new(WaitingPods::default()),
    };
    let profiles = config.profiles(&handle)?;
    let mut queue = QueueOptions::default();
    if let Some(seconds) = config.pod_initial_backoff_seconds {
        queue.initial_backoff = Duration::from_secs(seconds);
    }
    if let Some(seconds) = config.pod_max_backoff_seconds {
        queue.max_backoff = Duration::from_secs(seconds);
    }
    Ok(Scheduler {
        queue: Arc::new(Queue::new(queue, profiles.clone())),
        handle,
        profiles: Arc::new(profiles),
        pods,
        start: Arc::new(AtomicUsize::new(0)),
    })
}

/// Opens the secure port.
async fn serve(
    options: &Options,
    scheduler: &Scheduler,
    agent: &str,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if options.secure_port == 0 {
        return Ok(());
    }
    let registry = Metrics::new();
    registry.with(keelson_runtime::metrics::register);
    registry.with(|registry| {
        metrics::register(registry, scheduler.queue.clone(), &scheduler.handle);
    });
    let own = &scheduler.handle.client;
    let asking = |path: Option<std::path::PathBuf>| async move {
        match path {
            Some(path) => client::from_kubeconfig(path, agent).await,
            None => Ok(own.clone()),
        }
    };
    let delegation = Delegation::new(
        asking(options.authentication_kubeconfig.clone()).await?,
        asking(options.authorization_kubeconfig.clone()).await?,
    );
    let health = Health::new();
    let informers = scheduler.handle.informers.clone();
    health.add_ready("sched-handler-sync", move || match informers.is_synced() {
        true => Ok(()),
        false => Err("the first lists are not there yet".to_owned()),
    });
    let port = SecurePort {
        health,
        metrics: registry,
        configz: None,
        delegate: Some(Arc::new(delegation)),
    };
    let tls = tls::serving_config(
        options.tls_cert_file.as_deref(),
        options.tls_private_key_file.as_deref(),
        options.client_ca_file.as_deref(),
        NAME,
    )?;
    let listener = listen(SocketAddr::new(options.bind_address, options.secure_port)).await?;
    let server = port.serve(listener, Some(Arc::new(tls)), stop.clone());
    task::spawn_critical("secure port", stop, server);
    Ok(())
}
