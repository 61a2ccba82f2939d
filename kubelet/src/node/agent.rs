//! Writes the Node and its Lease: registers once, then heartbeats. The only place that does.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::machine::{self, Machine};
use super::status::{self, Health, Snapshot};
use crate::clock::Clock;
use crate::config::KubeletConfiguration;
use crate::eviction::Pressure;
use crate::runtime::Images;

/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Why the node could not be written.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The API server said no, or could not be reached.
    #[error("{0}")]
    Api(#[from] Box<kube::Error>),
    /// The object could not be encoded.
    #[error("encoding the node: {0}")]
    Encode(#[from] serde_json::Error),
}

impl From<kube::Error> for NodeError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// What the agent is made from.
pub struct Options {
    /// Node name.
    pub name: String,
    /// Address given by flag.
    pub node_ip: Option<IpAddr>,
    /// Labels given by flag.
    pub labels: Vec<(String, String)>,
    /// Settings.
    pub config: Arc<KubeletConfiguration>,
    /// The kubelet's root, whose disk is the node's.
    pub root_dir: PathBuf,
    /// Image store.
    pub images: Arc<dyn Images>,
    /// What the node runs short of.
    pub pressure: watch::Receiver<Pressure>,
    /// Time.
    pub clock: Clock,
}

/// The node as this kubelet keeps it.
pub struct Agent {
    options: Options,
    client: Client,
    machine: Machine,
    hostname: String,
    node: watch::Sender<Option<Arc<Node>>>,
    not_ready: watch::Receiver<Vec<String>>,
    changed: Arc<Notify>,
}

impl Agent {
    /// `not_ready` carries the reasons why pods can't run at present (runtime, network).
    pub fn new(options: Options, client: Client, not_ready: watch::Receiver<Vec<String>>) -> Self {
        let machine = Machine::read(&options.root_dir);
        let hostname = options.name.clone();
        Self {
            machine,
            hostname,
            options,
            client,
            node: watch::Sender::new(None),
            not_ready,
            changed: Arc::new(Notify::new()),
        }
    }

    /// The node as last read from the API server.
    pub fn node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.node.subscribe()
    }

    /// Makes the agent write the status soon (images changed, network became ready).
    pub fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// The host.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn health(&self) -> Health {
        let pressure = *self.options.pressure.borrow();
        Health {
            memory_pressure: pressure.memory,
            disk_pressure: pressure.disk,
            pid_pressure: pressure.pids,
            not_ready: self.not_ready.borrow().clone(),
        }
    }

    async fn desired(&self) -> Node {
        let images = match self.options.images.list().await {
            Ok(images) => images,
            Err(error) => {
                warn!(%error, "listing images for the node's status");
                Vec::new()
            }
        };
        let addresses: Vec<IpAddr> = self
            .options
            .node_ip
            .or_else(machine::default_ip)
            .into_iter()
            .collect();
        status::node(&Snapshot {
            name: &self.options.name,
            hostname: &self.hostname,
            addresses: &addresses,
            machine: &self.machine,
            config: &self.options.config,
            labels: &self.options.labels,
            images: &images,
            health: &self.health(),
            now: self.options.clock.now(),
        })
    }

    /// Creates the node, or brings the labels of one that exists up to date.
    pub async fn register(&self) -> Result<(), NodeError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let desired = self.desired().await;
        let node = match api.create(&PostParams::default(), &desired).await {
            Ok(node) => {
                info!(node = %self.options.name, "registered node");
                node
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let found = api.get(&self.options.name).await?;
                let wanted = desired.metadata.labels.clone().unwrap_or_default();
                if wanted.iter().any(|(k, v)| found.labels().get(k) != Some(v)) {
                    let patch = json!({"metadata": {"labels": wanted}});
                    api.patch(
                        &self.options.name,
                        &PatchParams::default(),
                        &Patch::Strategic(patch),
                    )
                    .await?
                } else {
                    found
                }
            }
            Err(error) => return Err(error.into()),
        };
        self.node.send_replace(Some(Arc::new(node)));
        self.write_status(true).await
    }

    /// Writes the status if it changed, or if `force`d because a report is due.
    async fn write_status(&self, force: bool) -> Result<(), NodeError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let known = self.node.borrow().clone();
        let current = match known {
            Some(node) => node,
            None => Arc::new(api.get(&self.options.name).await?),
        };
        let old = current.status.clone().unwrap_or_default();
        let mut new = self.desired().await.status.unwrap_or_default();
        status::carry_over(&mut new, &old);
        let node = if force || status::differs(&new, &old) {
            let mut body = serde_json::to_value(&new)?;
            replace_addresses(&mut body, &old);
            let patch = json!({"status": body});
            Arc::new(
                api.patch_status(
                    &self.options.name,
                    &PatchParams::default(),
                    &Patch::Strategic(patch),
                )
                .await?,
            )
        } else {
            current
        };
        self.node.send_replace(Some(node));
        Ok(())
    }

    async fn renew_lease(&self) -> Result<(), NodeError> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let name = &self.options.name;
        let now = MicroTime(self.options.clock.now());
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(self.options.config.node_lease_duration_seconds),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let owner = self.node.borrow().as_ref().map(|node| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.uid().unwrap_or_default(),
            ..OwnerReference::default()
        });
        let patch = Patch::Merge(
            json!({"spec": spec, "metadata": {"ownerReferences": owner.iter().collect::<Vec<_>>()}}),
        );
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        namespace: Some(LEASE_NAMESPACE.into()),
                        owner_references: owner.map(|o| vec![o]),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                api.create(&PostParams::default(), &lease).await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Registers, then heartbeats until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut delay = Duration::from_millis(200);
        if self.options.config.register_node {
            while let Err(error) = self.register().await {
                warn!(%error, node = %self.options.name, "unable to register the node, trying again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(7));
            }
        }
        let lease = self.clone();
        let lease_period = Duration::from_secs(
            u64::try_from(self.options.config.node_lease_duration_seconds)
                .unwrap_or(40)
                .max(4)
                / 4,
        );
        let follow = self.clone();
        tokio::join!(
            self.clone().run_status(),
            lease.run_lease(lease_period),
            follow.follow()
        );
    }

    /// Keeps the node as the API server has it: its podCIDR, labels and conditions of others.
    async fn follow(self: Arc<Self>) {
        let api: Api<Node> = Api::all(self.client.clone());
        let config =
            watcher::Config::default().fields(&format!("metadata.name={}", self.options.name));
        let mut stream = watcher::watcher(api, config).default_backoff().boxed();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) => {
                    self.node.send_replace(Some(Arc::new(node)));
                }
                Ok(Event::Delete(_)) => {
                    // The next status write finds it missing and registers again.
                    self.node.send_replace(None);
                    self.changed.notify_one();
                }
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => warn!(%error, "watching this node"),
            }
        }
    }

    async fn run_lease(self: Arc<Self>, period: Duration) {
        loop {
            let wait = match self.renew_lease().await {
                Ok(()) => period,
                Err(error) => {
                    warn!(%error, "renewing the node's lease");
                    Duration::from_secs(1)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn run_status(self: Arc<Self>) {
        let mut not_ready = self.not_ready.clone();
        let config = &self.options.config;
        let mut reported = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(config.node_status_update_frequency) => {}
                () = self.changed.notified() => {}
                Ok(()) = not_ready.changed() => {}
            }
            not_ready.borrow_and_update();
            let due = reported.elapsed() >= config.node_status_report_frequency;
            match self.write_status(due).await {
                Ok(()) if due => reported = tokio::time::Instant::now(),
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, "updating the node's status");
                    if matches!(&error, NodeError::Api(e) if matches!(&**e, kube::Error::Api(s) if s.code == 404))
                        && config.register_node
                    {
                        // Somebody deleted the node: it is ours to bring back.
                        if let Err(error) = self.register().await {
                            warn!(%error, "registering the node again");
                        }
                    }
                }
            }
        }
    }
}

/// Addresses merge by type, so that one that vanished has to be deleted by name.
fn replace_addresses(body: &mut serde_json::Value, old: &k8s_openapi::api::core::v1::NodeStatus) {
    let Some(list) = body.get_mut("addresses").and_then(|a| a.as_array_mut()) else {
        return;
    };
    let same = old
        .addresses
        .as_deref()
        .unwrap_or_default()
        .iter()
        .all(|a| {
            list.iter()
                .any(|n| n["type"] == a.type_.as_str() && n["address"] == a.address.as_str())
        });
    if !same {
        list.insert(0, json!({"$patch": "replace"}));
    }
}
