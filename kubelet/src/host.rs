//! What every part of the kubelet that serves pods needs: one value, made once in [`crate::app`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use keelson_runtime::recorder::{Kind, Recorder};
use tokio::sync::{Notify, Semaphore, watch};

use crate::clock::Clock;
use crate::config::KubeletConfiguration;
use crate::eviction::Pressure;
use crate::objects::Objects;
use crate::pods::allotment::Allotments;
use crate::pods::resources::Settings;
use crate::pods::status_manager::Statuses;
use crate::runtime::ContainerRuntime;
use crate::volumes::Volumes;

/// The kubelet's shared parts.
pub struct Host {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node.
    pub node_ips: Vec<IpAddr>,
    /// Settings.
    pub config: Arc<KubeletConfiguration>,
    /// The kubelet's root.
    pub root_dir: PathBuf,
    /// Containers and images.
    pub runtime: ContainerRuntime,
    /// Time.
    pub clock: Clock,
    /// Events.
    pub recorder: Recorder,
    /// Objects pods refer to.
    pub objects: Arc<Objects>,
    /// Volumes.
    pub volumes: Arc<Volumes>,
    /// Statuses on their way to the API server.
    pub statuses: Arc<Statuses>,
    /// Pods can be given addresses.
    pub network_ready: watch::Receiver<bool>,
    /// The node as last read.
    pub node: watch::Receiver<Option<Arc<Node>>>,
    /// Makes the node's status be written soon.
    pub node_changed: Arc<Notify>,
    /// What the node runs short of.
    pub pressure: watch::Receiver<Pressure>,
    /// What pods have been allotted.
    pub allotments: Arc<Allotments>,
    /// What cgroup limits depend on.
    pub limits: Settings,
    /// Slots for image pulls.
    pub pulls: Semaphore,
    /// The resolv.conf of the node.
    pub resolv_conf: PathBuf,
    /// Directory of links for log collectors.
    pub log_links: PathBuf,
}

impl Host {
    /// Records an event about a pod, or about one of its containers by field path.
    pub fn event(
        &self,
        pod: &Pod,
        field_path: Option<&str>,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let meta = &pod.metadata;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            // Mirror pods' events go to the mirror, whose uid the API server knows.
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: field_path.map(str::to_owned),
        };
        self.recorder.event(&about, kind, reason, message);
    }

    /// Records an event about the node.
    pub fn node_event(&self, kind: Kind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node_name.clone()),
            // As upstream's kubelet has it: the name stands for the uid.
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, kind, reason, message);
    }

    /// Longest wait between restarts of a failing container.
    pub fn max_backoff(&self) -> std::time::Duration {
        self.config.crash_loop_back_off.max_container_restart_period
    }
}
