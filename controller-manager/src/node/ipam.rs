//! Giving every node its range of pod addresses.

use std::sync::Arc;

use futures::FutureExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tracing::{info, warn};

use super::cidrs::Cidrs;
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::options::Options;

/// How often a node that others write at the same time is tried.
const TRIES: usize = 6;

/// Why a node has no range.
#[derive(Debug, thiserror::Error)]
enum IpamError {
    #[error("no range of pod addresses is left")]
    Exhausted,
    #[error(transparent)]
    Api(#[from] Error),
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    ranges: Mutex<Vec<Cidrs>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    if !context.options.allocate_node_cidrs {
        return Err(StartError::Options("--allocate-node-cidrs is off".into()));
    }
    let ranges = ranges(&context.options)?;
    let queue = Queue::new("node_ipam");
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        ranges: Mutex::new(ranges),
        context,
    });
    let (this, wake) = (controller.clone(), queue.clone());
    controller.nodes.handle(move |event| match event {
        Event::Added(node) | Event::Updated { new: node, .. } => {
            this.occupy(&cidrs_of(node));
            wake.add(Key::of(&**node));
        }
        Event::Deleted(node) => {
            let mut ranges = this.ranges.lock();
            for cidr in cidrs_of(node) {
                ranges.iter_mut().for_each(|range| range.release(&cidr));
            }
        }
        Event::Resync => {}
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    // One worker: ranges are given out in the order in which nodes come.
    Ok(context.run(queue, 1, reconcile).boxed())
}

fn ranges(options: &Options) -> Result<Vec<Cidrs>, StartError> {
    let pick = |specific: u8, default: u8| match (specific, options.node_cidr_mask_size) {
        (0, 0) => default,
        (0, shared) => shared,
        (specific, _) => specific,
    };
    let mut ranges = Vec::new();
    for range in &options.cluster_cidr {
        let mask = match range {
            IpNet::V4(_) => pick(options.node_cidr_mask_size_ipv4, 24),
            IpNet::V6(_) => pick(options.node_cidr_mask_size_ipv6, 64),
        };
        let mut cidrs =
            Cidrs::new(*range, mask).map_err(|error| StartError::Options(error.to_string()))?;
        // Should the ranges of pods and Services overlap, pods keep out of the latter.
        for services in &options.service_cluster_ip_range {
            cidrs.occupy(services);
        }
        ranges.push(cidrs);
    }
    Ok(ranges)
}

fn cidrs_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let many = spec.pod_cidrs.as_deref().unwrap_or_default();
    let one = spec.pod_cidr.as_ref().filter(|_| many.is_empty());
    many.iter()
        .chain(one)
        .filter_map(|cidr| cidr.parse().ok())
        .collect()
}

impl Controller {
    fn occupy(&self, cidrs: &[IpNet]) {
        let mut ranges = self.ranges.lock();
        for cidr in cidrs {
            ranges.iter_mut().for_each(|range| range.occupy(cidr));
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, IpamError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        if !cidrs_of(&node).is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(given) = self.allocate() else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.context.recorder.event(
                &reference(&*node),
                Kind::Normal,
                "CIDRNotAvailable",
                message,
            );
            return Err(IpamError::Exhausted);
        };
        match self.write(node, &given).await {
            Ok(true) => {
                info!(node = %key.name, cidrs = ?given, "gave the node its pod addresses");
                Ok(Outcome::Done)
            }
            Ok(false) => {
                self.give_back(key, &given).await?;
                Ok(Outcome::Done)
            }
            Err(error) => {
                warn!(node = %key.name, %error, "cannot give the node its pod addresses");
                self.give_back(key, &given).await?;
                Err(error.into())
            }
        }
    }

    /// Writes the ranges into the node; says whether it took them, which it does not if it has some by now.
    async fn write(&self, mut node: Arc<Node>, given: &[IpNet]) -> Result<bool, Error> {
        let words: Vec<String> = given.iter().map(IpNet::to_string).collect();
        let api = Api::<Node>::all(self.context.client.clone());
        for _ in 1..TRIES {
            let patch = json!({"metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"podCIDR": words.first(), "podCIDRs": words}});
            match write::patch_merge(&api, &node.name_any(), &patch).await {
                Ok(_) => return Ok(true),
                Err(error) if write::is_conflict(&error) => {}
                Err(error) => return Err(error),
            }
            // New nodes are written by several at once.
            match api.get_opt(&node.name_any()).await? {
                Some(fresh) if cidrs_of(&fresh).is_empty() => node = Arc::new(fresh),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Gives ranges back, unless the write that failed got through after all.
    async fn give_back(&self, key: &Key, given: &[IpNet]) -> Result<(), Error> {
        let api = Api::<Node>::all(self.context.client.clone());
        let held = api
            .get_opt(&key.name)
            .await?
            .map(|node| cidrs_of(&node))
            .unwrap_or_default();
        let mut ranges = self.ranges.lock();
        for cidr in given.iter().filter(|cidr| !held.contains(cidr)) {
            ranges.iter_mut().for_each(|range| range.release(cidr));
        }
        Ok(())
    }

    /// A part of every range, or nothing.
    fn allocate(&self) -> Option<Vec<IpNet>> {
        let mut ranges = self.ranges.lock();
        let mut given = Vec::new();
        for range in ranges.iter_mut() {
            match range.allocate() {
                Some(cidr) => given.push(cidr),
                None => {
                    for cidr in &given {
                        ranges.iter_mut().for_each(|range| range.release(cidr));
                    }
                    return None;
                }
            }
        }
        Some(given)
    }
}
