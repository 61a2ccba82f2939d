//! The kubelet's program: flags, configuration, container runtime, then [`kubelet::app`].

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use clap::Parser;
use kubelet::app;
use kubelet::config::{self, KubeletConfiguration};
use kubelet::containers::{self, KeelsonRuntime};
use kubelet::flags::Flags;
use kubelet::node::network::PodNetwork;
use kubelet::runtime::ContainerRuntime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let flags = Flags::parse();
    keelson_daemon::logging::init(&flags.log);
    keelson_daemon::run("kubelet", run(flags))
}

fn configuration(flags: &Flags) -> anyhow::Result<KubeletConfiguration> {
    let mut config = match &flags.config {
        None => KubeletConfiguration::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            let loaded =
                config::from_yaml(&text).with_context(|| format!("in {}", path.display()))?;
            for warning in loaded.warnings {
                tracing::warn!("{warning}");
            }
            loaded.config
        }
    };
    flags.apply(&mut config)?;
    config.validate()?;
    Ok(config)
}

/// The settings of the container runtime: all from `--keelson-*` flags but for the cgroup.
fn runtime_config(
    flags: &Flags,
    config: &KubeletConfiguration,
) -> anyhow::Result<containers::Config> {
    let mut settings = containers::Config::new(app::node_name(flags));
    settings.state_dir.clone_from(&flags.keelson_state_dir);
    settings.image_root.clone_from(&flags.keelson_image_root);
    settings
        .container_root
        .clone_from(&flags.keelson_container_root);
    if let Some(shim) = &flags.keelson_shim {
        settings.shim.clone_from(shim);
    }
    settings.bridge.clone_from(&flags.keelson_bridge);
    if flags.keelson_cluster != "keelson" {
        settings.table = format!("keelson-node-{}", flags.keelson_cluster);
    }
    let root = config.cgroup_root.trim_matches('/');
    if !root.is_empty() {
        settings.cgroup_root = root.to_owned();
    }
    if !flags.keelson_cluster_cidr.is_empty() {
        settings.cluster_cidr = Some(
            flags
                .keelson_cluster_cidr
                .parse()
                .context("--keelson-cluster-cidr")?,
        );
    }
    for pair in &flags.keelson_registry_mirror {
        let (registry, url) = pair
            .split_once('=')
            .context("--keelson-registry-mirror: want registry=url")?;
        settings
            .mirrors
            .entry(registry.to_owned())
            .or_default()
            .push(url.to_owned());
    }
    Ok(settings)
}

/// Hands pod ranges to the runtime.
struct Ranges(KeelsonRuntime);

#[async_trait]
impl PodNetwork for Ranges {
    async fn assign(&self, ranges: &[String]) -> Result<(), String> {
        let ranges: Vec<ipnet::IpNet> = ranges
            .iter()
            .map(|r| r.parse().map_err(|e| format!("pod range {r:?}: {e}")))
            .collect::<Result<_, _>>()?;
        self.0.set_pod_ranges(&ranges);
        if self.0.network_ready() {
            Ok(())
        } else {
            Err(format!("no usable range among {ranges:?}"))
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let config = configuration(&flags)?;
    let client = match &flags.kubeconfig {
        Some(path) => {
            let agent = keelson_daemon::version::user_agent("kubelet");
            let client = keelson_runtime::client::from_kubeconfig(path, &agent).await;
            Some(client.with_context(|| format!("reading {}", path.display()))?)
        }
        None => None,
    };
    let stop = keelson_daemon::shutdown::on_signal()?;
    let runtime = KeelsonRuntime::start(runtime_config(&flags, &config)?)
        .await
        .context("starting the container runtime")?;
    let shared = Arc::new(runtime.clone());
    let options = app::Options {
        flags,
        config,
        client,
        runtime: ContainerRuntime {
            runtime: shared.clone(),
            images: shared,
        },
        network: Arc::new(Ranges(runtime)),
    };
    Ok(app::run(options, stop).await?)
}
