//! The sandbox of a pod as the runtime is asked for it. Pure, but for the host it is made on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::hosts::{self, HostsError};
use super::{resources, start};
use crate::host::Host;
use crate::runtime::{Namespaces, PodRef, PortMapping, SandboxSpec};

/// Why a pod can't have a sandbox here.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Its name.
    #[error("{0}")]
    Name(#[from] HostsError),
    /// It wants users of its own.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    UserNamespaces,
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?;
            Some(PortMapping {
                host_port,
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &std::net::IpAddr| !ip.is_unspecified()),
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}

/// The spec of the sandbox.
pub fn spec(host: &Host, pod: &Pod, pod_ref: &PodRef) -> Result<SandboxSpec, SandboxError> {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    if spec.is_some_and(|s| s.host_users == Some(false)) {
        return Err(SandboxError::UserNamespaces);
    }
    let sysctls: BTreeMap<String, String> = spec
        .and_then(|s| s.security_context.as_ref())
        .iter()
        .flat_map(|s| s.sysctls.iter().flatten())
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    Ok(SandboxSpec {
        pod: pod_ref.clone(),
        hostname: if host_network {
            host.node_name.clone()
        } else {
            hosts::kernel_name(pod, &host.config.cluster_domain)?
        },
        namespaces: Namespaces {
            host_network,
            host_pid: spec.and_then(|s| s.host_pid).unwrap_or(false),
            host_ipc: spec.and_then(|s| s.host_ipc).unwrap_or(false),
            share_pid: spec
                .and_then(|s| s.share_process_namespace)
                .unwrap_or(false),
        },
        sysctls,
        port_mappings: if host_network {
            Vec::new()
        } else {
            port_mappings(pod)
        },
        cgroup: resources::cgroup(pod, &pod_ref.uid),
        resources: resources::of_pod(pod, &host.limits),
        log_directory: start::log_directory(host, pod_ref),
    })
}
