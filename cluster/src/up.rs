//! `keelson up`: from nothing, or from whatever a previous run left, to a running, secured cluster with the guide's example.
//!
//! Every step finds out whether there is anything to do; a second run changes nothing and says so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::certificates::Certificates;
use crate::components::{self, Facts, Programs};
use crate::failure::Failure;
use crate::layout::{Layout, primary_address};
use crate::progress::Progress;
use crate::{
    addons, check, configuration, example, images, kubeconfig, netns, nodes, status, supervisor,
    systemd,
};

/// How long the control plane may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the example may take to become available.
const EXAMPLE_TIMEOUT: Duration = Duration::from_secs(180);

/// What `up` is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// Apply the guide's example.
    pub example: bool,
    /// Merge the context into the caller's kubeconfig.
    pub merge_kubeconfig: bool,
    /// Folder of the daemons; the folder of this program when `None`.
    pub programs: Option<PathBuf>,
    /// How many nodes; as many as there are when `None`.
    pub nodes: Option<u32>,
    /// `registry=url`, for the kubelets.
    pub mirrors: Vec<String>,
}

/// A client with the administrator's certificate, from inside the cluster's network namespace if it has one.
pub async fn client(layout: &Layout) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(layout.admin_conf())
        .map_err(|_| Failure::new("the cluster was never started", "keelson up"))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("admin.conf")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(60));
    Client::try_from(config).context("cannot make a client")
}

/// Brings the cluster up.
pub async fn run(layout: &Layout, options: &Options) -> Result<()> {
    let progress = Progress::default();
    if let Some(failure) = check::first_failure(layout) {
        return Err(failure.into());
    }
    let node = layout.node_name();
    let number = nodes::wanted(layout, options.nodes)?;
    let all: Vec<Layout> = (1..=number).map(|n| layout.of_node(n)).collect();
    let dismissed: Vec<Layout> = nodes::known(layout)
        .into_iter()
        .filter(|n| n.node() > number)
        .collect();
    let mut changed = false;
    let address = address(layout).await?;
    let certificates = progress
        .step("certificates", async {
            Certificates::ensure(layout, &node, &[address]).context("certificates")
        })
        .await?;
    changed |= certificates.apiserver.renewed;
    changed |= configuration::ensure(layout, &certificates, address)?;
    changed |= crate::secrets::ensure(layout)?;
    remember_sysctls(layout)?;
    changed |= prepare_nodes(&all, address)?;
    let ours = programs(options)?;
    changed |= progress
        .step("images", images::ensure_all(&all, &ours))
        .await?;

    let programs = Programs {
        ours,
        etcd: check::find_program("etcd").context("etcd has gone")?,
    };
    let rows = components::all(&Facts {
        layout,
        certificates: &certificates,
        programs: &programs,
        address,
        nodes: number,
        mirrors: &options.mirrors,
        keelson: &std::env::current_exe().context("cannot find this program")?,
    });
    changed |= progress
        .step("daemons", async {
            tokio::task::block_in_place(|| {
                if systemd::in_charge(layout) {
                    systemd::start(&rows)
                } else {
                    supervisor::start(layout, &rows)
                }
            })
        })
        .await?;
    for node in &dismissed {
        nodes::remove(node)?;
        changed = true;
    }
    let client = client(layout).await?;
    progress
        .step("API server ready", wait_ready(&client, layout))
        .await?;
    nodes::forget(&client, &dismissed).await?;
    changed |= progress
        .step("cluster DNS", addons::apply(&client, addons::DNS))
        .await?;
    progress
        .step("node ready", wait_nodes(layout, &all))
        .await?;
    changed |= nodes::route_ranges(&client, &all).await?;
    changed |= label_control_plane(&client, &node).await?;
    if options.example {
        let created = progress
            .step(
                "the guide's example (sections 4 and 9)",
                example::create(&client),
            )
            .await?;
        progress
            .step(
                "three replicas available",
                example::wait_available(&client, EXAMPLE_TIMEOUT),
            )
            .await?;
        changed |= created;
    }
    if options.merge_kubeconfig {
        changed |= kubeconfig::merge(layout)?;
        progress.done(&format!("context {} in the kubeconfig", layout.context()));
    }
    if changed {
        println!(
            "The cluster is up. Try:\n\n  kubectl get pods -o wide\n  kubectl port-forward svc/api-service 8080:3000\n"
        );
    } else {
        println!("The cluster was up already; nothing was changed.");
    }
    Ok(())
}

/// Network, certificates and configuration of the nodes beside the first.
fn prepare_nodes(all: &[Layout], first: IpAddr) -> Result<bool> {
    let mut changed = false;
    for node in all.iter().filter(|n| !n.is_first()) {
        nodes::connect(node, first)?;
        let address = nodes::address(node.node()).into();
        let certificates = Certificates::ensure_node(node, address)
            .with_context(|| format!("certificates of {}", node.node_name()))?;
        changed |= configuration::ensure_node(node, &certificates, first)?;
    }
    Ok(changed)
}

/// The node's address: the host's primary one, or the one of the cluster's namespace, which this process enters too.
async fn address(layout: &Layout) -> Result<IpAddr> {
    match layout.netns() {
        // `main` entered the namespace before the runtime started its threads.
        Some(_) => Ok(netns::NODE_ADDRESS.into()),
        None => primary_address().ok_or_else(|| {
            Failure::new(
                "this host has no address but loopback, and pods need one of the node",
                "ip address; ip route",
            )
            .into()
        }),
    }
}

fn programs(options: &Options) -> Result<PathBuf> {
    let folder = match &options.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?
            .parent()
            .map(Path::to_path_buf)
            .context("this program is in no folder")?,
    };
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "keelson-shim",
        "kube-proxy",
        "keelson-dns",
        "example-api",
    ] {
        if !folder.join(name).is_file() {
            return Err(Failure::new(
                format!("{} is missing", folder.join(name).display()),
                "make build",
            )
            .into());
        }
    }
    Ok(folder)
}

/// Records, once, what the daemons will change in `/proc/sys`, for `uninstall` to set back.
fn remember_sysctls(layout: &Layout) -> Result<()> {
    let file = layout.state().join("sysctls.json");
    if !layout.is_default() || file.exists() {
        return Ok(());
    }
    let mut before = BTreeMap::new();
    for path in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/forwarding",
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
    ] {
        if let Ok(value) = std::fs::read_to_string(path) {
            before.insert(path, value);
        }
    }
    keelson_pki::file::write(&file, &serde_json::to_vec(&before)?, 0o644)?;
    Ok(())
}

async fn wait_ready(client: &Client, layout: &Layout) -> Result<()> {
    let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
    loop {
        let answer = client
            .request_text(http::Request::get("/readyz").body(Vec::new())?)
            .await;
        match answer {
            Ok(text) if text == "ok" => return Ok(()),
            _ if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Ok(text) => bail!("the API server is not ready: {text}"),
            Err(error) => {
                let what = format!("the API server does not answer: {error}");
                return Err(Failure::new(
                    what,
                    format!(
                        "tail {}/kube-apiserver.log {}/etcd.log",
                        layout.logs().display(),
                        layout.logs().display()
                    ),
                )
                .into());
            }
        }
    }
}

/// Gives the node its role, which a kubelet may not give itself (upstream refuses such `--node-labels`; kubeadm does the same).
async fn label_control_plane(client: &Client, node: &str) -> Result<bool> {
    let api: Api<Node> = Api::all(client.clone());
    let label = "node-role.kubernetes.io/control-plane";
    if api
        .get(node)
        .await?
        .metadata
        .labels
        .is_some_and(|labels| labels.contains_key(label))
    {
        return Ok(false);
    }
    let patch = serde_json::json!({"metadata": {"labels": {label: ""}}});
    api.patch(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context("cannot label the node")?;
    Ok(true)
}

async fn wait_nodes(layout: &Layout, wanted: &[Layout]) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(Layout::node_name).collect();
    let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
    loop {
        let nodes = status::nodes(layout).await;
        match nodes {
            Ok(nodes)
                if wanted
                    .iter()
                    .all(|name| nodes.contains(&(name.clone(), true))) =>
            {
                return Ok(());
            }
            _ if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Ok(nodes) => {
                let what = format!("the node is not ready: {nodes:?}");
                return Err(Failure::new(
                    what,
                    format!(
                        "kubectl describe nodes; tail {}/kubelet.log",
                        layout.logs().display()
                    ),
                )
                .into());
            }
            Err(error) => return Err(error),
        }
    }
}
