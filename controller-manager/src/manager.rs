//! Starting up: clients, the secure port, leader election, then every controller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use keelson_daemon::health::Health;
use keelson_daemon::metrics::Metrics;
use keelson_daemon::secure_port::{SecurePort, listen};
use keelson_daemon::{shutdown, systemd, task, tls, version};
use keelson_runtime::delegation::Delegation;
use keelson_runtime::leader::{self, Elector};
use keelson_runtime::{Informers, Recorder, client};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::context::Context;
use crate::controllers::{self, Controller};
use crate::identity::Identities;
use crate::monitors::Monitors;
use crate::options::Options;

const NAME: &str = "kube-controller-manager";
/// How long what is under way may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// How often the API server is asked whether it is healthy.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);

/// Runs the daemon until a signal, or until leadership is lost.
pub async fn run(options: Options) -> anyhow::Result<()> {
    options.check(&controllers::names())?;
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let agent = version::user_agent(NAME);
    let manager = client::from_kubeconfig_or_cluster(options.kubeconfig.as_deref(), &agent).await?;
    let identities = if options.use_service_account_credentials {
        let config = match &options.kubeconfig {
            Some(path) => client::config_from_kubeconfig(path, &agent).await?,
            None => client::config_in_cluster(&agent)?,
        };
        Identities::separate(manager.clone(), config)?
    } else {
        Identities::shared(manager.clone())
    };
    let informers = Arc::new(Informers::new(manager.clone()));
    serve(&options, &manager, &agent, &stop).await?;
    systemd::ready();
    systemd::watchdog(stop.clone());

    if stop
        .run_until_cancelled(server_healthy(&manager))
        .await
        .is_none()
    {
        return Ok(());
    }
    let options = Arc::new(options);
    let mut elector = None;
    if options.leader.elect {
        let mut candidate = Elector::new(manager.clone(), election(&options));
        if stop
            .run_until_cancelled(candidate.acquire())
            .await
            .is_none()
        {
            return Ok(());
        }
        elector = Some(candidate);
    }
    let mut tasks = start_all(&identities, &informers, &options, &stop);
    let lost = async {
        match &mut elector {
            Some(elector) => elector.renew().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = lost => anyhow::bail!("leader election lost"),
    }
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        // Without certainty that nothing runs any more, the lease has to expire by itself.
        warn!("controllers still busy; leaving without giving the lease up");
        return Ok(());
    }
    if let Some(mut elector) = elector {
        match tokio::time::timeout(DRAIN, elector.release()).await {
            Ok(Ok(())) => info!("gave the lease up"),
            Ok(Err(error)) => warn!(%error, "cannot give the lease up; it will expire"),
            Err(_) => warn!("no answer while giving the lease up; it will expire"),
        }
    }
    Ok(())
}

/// Waits until the API server calls itself healthy: before that its roles aren't there yet, and controllers would only be refused.
async fn server_healthy(client: &Client) {
    let mut told = false;
    loop {
        let request = http::Request::get("/healthz").body(Vec::new());
        let answer = match request {
            Ok(request) => client
                .request_text(request)
                .await
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let Err(error) = answer else { return };
        if !std::mem::replace(&mut told, true) {
            info!(%error, "waiting for the API server to be healthy");
        }
        tokio::time::sleep(HEALTH_PERIOD).await;
    }
}

/// Starts every controller that the flags ask for. One that can't start is reported and left out.
pub fn start_all(
    identities: &Identities,
    informers: &Arc<Informers>,
    options: &Arc<Options>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let monitors = Arc::new(Monitors::new(informers.client().clone(), informers.clone()));
    for controller in controllers::ALL {
        if !options.enabled(controller.name, controller.on_by_default) {
            info!(controller = controller.name, "controller is disabled");
            continue;
        }
        let context = context_of(controller, identities, &monitors, options, stop);
        match (controller.start)(context) {
            Ok(task) => {
                tasks.spawn(async move {
                    task.await;
                });
                info!(controller = controller.name, "started controller");
            }
            Err(error) => error!(controller = controller.name, %error, "controller not started"),
        }
    }
    if monitors.is_wanted() {
        let stop = stop.clone();
        tasks.spawn(async move { monitors.run(stop).await });
    }
    tasks
}

fn context_of(
    controller: &Controller,
    identities: &Identities,
    monitors: &Arc<Monitors>,
    options: &Arc<Options>,
    stop: &CancellationToken,
) -> Context {
    let client = identities.client(controller.account);
    Context {
        name: controller.name,
        recorder: Recorder::core(client.clone(), controller.account, None),
        client,
        informers: monitors.informers().clone(),
        monitors: monitors.clone(),
        options: options.clone(),
        stop: stop.clone(),
    }
}

fn election(options: &Options) -> leader::Options {
    leader::Options {
        namespace: options.leader.lease_namespace.clone(),
        name: options.leader.lease_name.clone(),
        lease_duration: options.leader.lease_duration,
        renew_deadline: options.leader.renew_deadline,
        retry_period: options.leader.retry_period,
        identity_file: Some(options.leader.identity_file.clone()),
    }
}

/// Opens the secure port.
async fn serve(
    options: &Options,
    manager: &Client,
    agent: &str,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if options.secure_port == 0 {
        return Ok(());
    }
    let metrics = Metrics::new();
    metrics.with(keelson_runtime::metrics::register);
    let asking = |path: Option<std::path::PathBuf>| async move {
        match path {
            Some(path) => client::from_kubeconfig(path, agent).await,
            None => Ok(manager.clone()),
        }
    };
    let delegation = Delegation::new(
        asking(options.authentication_kubeconfig.clone()).await?,
        asking(options.authorization_kubeconfig.clone()).await?,
    );
    let port = SecurePort {
        health: Health::new(),
        metrics,
        configz: None,
        delegate: Some(Arc::new(delegation)),
    };
    let listener = listen(SocketAddr::new(options.bind_address, options.secure_port)).await?;
    let server = port.serve(listener, Some(Arc::new(tls_config(options)?)), stop.clone());
    task::spawn_critical("secure port", stop, server);
    Ok(())
}

fn tls_config(options: &Options) -> anyhow::Result<rustls::ServerConfig> {
    let roots = options
        .client_ca_file
        .as_deref()
        .map(tls::roots)
        .transpose()?;
    if let (Some(certificate), Some(key)) = (&options.tls_cert_file, &options.tls_private_key_file)
    {
        return Ok(tls::server_config(
            tls::ReloadingKey::load(certificate, key)?,
            roots,
        )?);
    }
    // As upstream: callers that don't check get a certificate made up for this run.
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), NAME.to_owned()])
        .context("cannot make a certificate for the secure port")?;
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("cannot make a key for the secure port: {error}"))?;
    let builder = rustls::ServerConfig::builder();
    let builder = match roots {
        Some(roots) => builder.with_client_cert_verifier(
            rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
                .allow_unauthenticated()
                .build()?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
