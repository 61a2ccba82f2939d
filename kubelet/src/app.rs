//! Puts the kubelet together: parts, in the order in which they need each other, and their tasks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_daemon::task::spawn_critical;
use keelson_runtime::recorder::Recorder;
use kube::Client;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::KubeletConfiguration;
use crate::eviction::{Evictions, Pressure};
use crate::flags::{FlagError, Flags};
use crate::host::Host;
use crate::images::collect::Collector;
use crate::node::agent::{self, Agent};
use crate::node::machine::{self, Machine};
use crate::node::network::{self, PodNetwork, Readiness};
use crate::node::status;
use crate::objects::Objects;
use crate::pods::downward::Capacity;
use crate::pods::manager::{Manager, Sources};
use crate::pods::mirror::Mirrors;
use crate::pods::resources::Settings;
use crate::pods::status_manager::Statuses;
use crate::pods::{logs, source, static_pods};
use crate::quantity;
use crate::runtime::ContainerRuntime;
use crate::server;
use crate::volumes::Volumes;
use crate::volumes::token::Tokens;

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag.
    #[error("{0}")]
    Flags(#[from] FlagError),
    /// A directory.
    #[error("cannot make {path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A threshold.
    #[error("invalid configuration: {0}")]
    Eviction(String),
    /// The server.
    #[error("{0}")]
    Server(#[from] server::ServerError),
}

/// What the kubelet is made from.
pub struct Options {
    /// Flags.
    pub flags: Flags,
    /// Settings, flags applied.
    pub config: KubeletConfiguration,
    /// API server; without it only static pods run.
    pub client: Option<Client>,
    /// Containers and images.
    pub runtime: ContainerRuntime,
    /// What takes the pod range.
    pub network: Arc<dyn PodNetwork>,
}

/// The node's name: by flag, or the host's.
pub fn node_name(flags: &Flags) -> String {
    match flags.hostname_override.trim() {
        "" => machine::hostname(),
        name => name.to_lowercase(),
    }
}

fn make_dir(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path).map_err(|error| StartError::Directory {
        path: path.to_owned(),
        error,
    })
}

fn limits(config: &KubeletConfiguration, machine: &Machine) -> Settings {
    Settings {
        cfs_quota: config.cpu_cfs_quota,
        cfs_period: config.cpu_cfs_quota_period,
        node_memory: machine.memory,
        pids: config.pod_pids_limit,
    }
}

/// What the downward API says where a container has no limit.
fn capacity(config: &KubeletConfiguration, machine: &Machine) -> Capacity {
    let list = status::allocatable(&status::capacity(machine, config), config);
    let get = |name: &str| quantity::value(Some(&list), name).unwrap_or(0);
    Capacity {
        cpu_millis: quantity::milli_value(Some(&list), "cpu").unwrap_or(0),
        memory: get("memory"),
        ephemeral: get("ephemeral-storage"),
    }
}

/// Runs until `stop`. Containers go on running afterwards.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), StartError> {
    let Options {
        flags,
        config,
        client,
        runtime,
        network,
    } = options;
    let name = node_name(&flags);
    for dir in [
        &flags.root_dir,
        &flags.root_dir.join("pods"),
        &config.pod_logs_dir,
    ] {
        make_dir(dir)?;
    }
    let config = Arc::new(config);
    let readiness = Arc::new(Readiness::new());
    let (pressure, pressure_seen) = watch::channel(Pressure::default());
    let agent = match &client {
        Some(client) => {
            let options = agent::Options {
                name: name.clone(),
                node_ip: flags.node_ip,
                labels: flags.labels()?,
                config: config.clone(),
                root_dir: flags.root_dir.clone(),
                images: runtime.images.clone(),
                pressure: pressure_seen.clone(),
                clock: Clock::System,
            };
            Some(Arc::new(Agent::new(
                options,
                client.clone(),
                readiness.reasons.subscribe(),
            )))
        }
        None => None,
    };
    let (no_node, nothing) = watch::channel(None);
    let node = agent.as_ref().map_or(nothing, |a| a.node());
    let host = make_host(
        &flags,
        &config,
        client.clone(),
        runtime,
        &readiness,
        agent.as_deref(),
        (node.clone(), pressure_seen),
    );
    let mirrors = Mirrors::new(client.clone(), node.clone());
    let (manager, ended) = Manager::new(host.clone(), mirrors.clone());
    server::start(&host, &manager, &flags, client.clone(), &stop).await?;

    let images = Arc::new(Collector::default());
    let evictions = Evictions::new(host.clone(), manager.clone(), images.clone(), pressure)
        .map_err(StartError::Eviction)?;
    let sources = start_sources(&flags, &config, client, &name, &stop);
    let critical =
        |name, work: futures::future::BoxFuture<'static, ()>| spawn_critical(name, &stop, work);
    critical("statuses", Box::pin(host.statuses.clone().run()));
    critical("mirrors", Box::pin(mirrors.run()));
    critical("log rotation", Box::pin(logs::rotate(host.clone())));
    let services = host.clone();
    if agent.is_some() {
        critical(
            "services",
            Box::pin(async move { services.objects.services.run().await }),
        );
    }
    critical(
        "network",
        Box::pin(network::run(
            network,
            config.pod_cidr.clone(),
            node,
            readiness,
        )),
    );
    critical("evictions", Box::pin(evictions.run()));
    let (collecting, pods) = (host.clone(), manager.clone());
    critical(
        "images",
        Box::pin(async move { images.run(&collecting, &pods).await }),
    );
    critical("pods", Box::pin(manager.run(sources, ended)));
    if let Some(agent) = agent {
        critical("node", Box::pin(agent.run()));
    }
    keelson_daemon::systemd::ready();
    keelson_daemon::systemd::watchdog(stop.clone());
    stop.cancelled().await;
    drop(no_node);
    keelson_daemon::systemd::stopping();
    Ok(())
}

fn make_host(
    flags: &Flags,
    config: &Arc<KubeletConfiguration>,
    client: Option<Client>,
    runtime: ContainerRuntime,
    readiness: &Readiness,
    agent: Option<&Agent>,
    (node, pressure): (
        watch::Receiver<Option<Arc<k8s_openapi::api::core::v1::Node>>>,
        watch::Receiver<Pressure>,
    ),
) -> Arc<Host> {
    let name = node_name(flags);
    let machine = Machine::read(&flags.root_dir);
    let objects = Arc::new(Objects::new(client.clone()));
    let volumes = Arc::new(Volumes {
        root_dir: flags.root_dir.clone(),
        objects: objects.clone(),
        tokens: Tokens::new(client.clone(), Clock::System),
        images: runtime.images.clone(),
        client: client.clone(),
        capacity: capacity(config, &machine),
    });
    let parallel = if config.serialize_image_pulls {
        1
    } else {
        config.max_parallel_image_pulls.unwrap_or(8).max(1)
    };
    let recorder = match &client {
        Some(client) => Recorder::core(client.clone(), "kubelet", Some(&name)),
        // Nobody to tell: the queue's other end is gone, and events are counted as dropped.
        None => Recorder::fake().0,
    };
    Arc::new(Host {
        node_ips: flags
            .node_ip
            .or_else(machine::default_ip)
            .into_iter()
            .collect(),
        node_name: name,
        config: config.clone(),
        root_dir: flags.root_dir.clone(),
        runtime,
        clock: Clock::System,
        recorder,
        objects,
        volumes,
        statuses: Statuses::new(client),
        network_ready: readiness.ready.subscribe(),
        node,
        node_changed: agent.map_or_else(|| Arc::new(Notify::new()), Agent::changed),
        pressure,
        allotments: Arc::default(),
        limits: limits(config, &machine),
        pulls: Semaphore::new(parallel as usize),
        resolv_conf: machine::resolv_conf(config.resolv_conf.as_deref()),
        log_links: flags.keelson_container_logs_dir.clone(),
    })
}

fn start_sources(
    flags: &Flags,
    config: &KubeletConfiguration,
    client: Option<Client>,
    name: &str,
    stop: &CancellationToken,
) -> Sources {
    let api = client.map(|client| {
        let (changes, receiver) = mpsc::channel(256);
        spawn_critical(
            "pod watch",
            stop,
            source::watch(client, name.to_owned(), changes),
        );
        receiver
    });
    let path = flags
        .pod_manifest_path
        .clone()
        .unwrap_or_else(|| config.static_pod_path.clone());
    let files = (!path.is_empty()).then(|| {
        let (changes, receiver) = mpsc::channel(16);
        let period = config.file_check_frequency.max(Duration::from_secs(1));
        spawn_critical(
            "static pods",
            stop,
            static_pods::watch(PathBuf::from(path), name.to_owned(), period, changes),
        );
        receiver
    });
    Sources { api, files }
}
