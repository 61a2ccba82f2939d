//! The pods' network on one node: a bridge, a veth pair and an address a pod, masquerade, hostPorts; or CNI plugins where
//! the node has a configuration for them.
//!
//! A pod's address is a /32 with the bridge as its gateway. So even two pods of a node speak through the node's routing,
//! where Services and policies are, and need no `br_netfilter`. Where that is loaded all the same, the kernel switches what
//! was translated to a pod of the same bridge; so the bridge's ports let a pod reach itself (hairpin).

mod addresses;
mod cni;
mod link;
mod rules;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use keelson_net::nft::{Nft as _, NftError};
use parking_lot::Mutex;

use crate::runtime::PortMapping;
use addresses::Addresses;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node has no range yet.
    #[error("network is not ready: the node has no pod CIDR yet")]
    NoRange,
    /// Every address is taken.
    #[error("no IP addresses available in range {0}")]
    Exhausted(Ipv4Net),
    /// Two pods want one port of the node.
    #[error("hostPort {port}/{protocol} is in use by another pod")]
    PortInUse {
        /// Which.
        port: u16,
        /// `TCP`, `UDP` or `SCTP`.
        protocol: String,
    },
    /// The store of addresses.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {message}")]
    Link {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        message: String,
    },
    /// A CNI plugin failed.
    #[error("plugin type={plugin:?} failed: {reason}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// Its reason.
        reason: String,
    },
    /// The rules were refused.
    #[error(transparent)]
    Rules(#[from] NftError),
}

/// What a pod's network is made for.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// uid of the pod.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// hostPorts.
    pub ports: Vec<PortMapping>,
}

/// The pods' network.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    table: String,
    cluster: Option<Ipv4Net>,
    addresses: Addresses,
    plugins: cni::Plugins,
    range: Mutex<Option<Ipv4Net>>,
    /// Bridge and rules are made once a range, by one at a time.
    prepared: tokio::sync::Mutex<Option<Ipv4Net>>,
}

impl Network {
    /// With its store of addresses among the runtime's state.
    pub fn new(config: &super::Config) -> Self {
        let cluster = match config.cluster_cidr {
            Some(IpNet::V4(net)) => Some(net),
            _ => None,
        };
        Self {
            bridge: config.bridge.clone(),
            table: config.table.clone(),
            cluster,
            addresses: Addresses::new(&config.state_dir),
            plugins: cni::Plugins::new(
                &config.cni_config_dir,
                &config.cni_bin_dir,
                &config.state_dir,
            ),
            range: Mutex::default(),
            prepared: tokio::sync::Mutex::default(),
        }
    }

    /// The node's range (`spec.podCIDRs`): its first IPv4 one.
    pub fn set_range(&self, ranges: &[IpNet]) -> bool {
        let first = ranges.iter().find_map(|range| match range {
            IpNet::V4(range) => Some(range.trunc()),
            IpNet::V6(_) => None,
        });
        if first.is_some() {
            *self.range.lock() = first;
        }
        first.is_some()
    }

    /// Whether pods can be attached.
    pub fn ready(&self) -> bool {
        self.range.lock().is_some() || matches!(self.plugins.network(), Ok(Some(_)))
    }

    /// Gives a pod its address. Repeated, it answers the same.
    pub async fn attach(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        if let Some(network) = self.plugins.network()? {
            return self.attach_by_plugins(network, attachment).await;
        }
        let range = (*self.range.lock()).ok_or(Error::NoRange)?;
        self.prepare(range).await?;
        let address = self
            .addresses
            .allocate(range, &attachment.uid, &attachment.ports)?;
        let host = host_name(&attachment.uid);
        let made = async {
            link::connect(
                &self.bridge,
                &host,
                &attachment.netns,
                address,
                gateway(range),
            )
            .await?;
            if !attachment.ports.is_empty() {
                self.write_ports().await?;
            }
            Ok(())
        };
        match made.await {
            Ok(()) => Ok(vec![IpAddr::V4(address)]),
            Err(error) => {
                if let Err(second) = self.detach(&attachment.uid).await {
                    tracing::warn!(error = %second, "cannot undo a half-made network");
                }
                Err(error)
            }
        }
    }

    async fn attach_by_plugins(
        &self,
        network: serde_json::Value,
        attachment: &Attachment,
    ) -> Result<Vec<IpAddr>, Error> {
        // What an earlier attempt left would clash.
        self.plugins.delete(&attachment.uid).await?;
        let added = self.plugins.add(network, attachment).await;
        if added.is_err()
            && let Err(error) = self.plugins.delete(&attachment.uid).await
        {
            tracing::warn!(%error, "cannot undo a half-made network");
        }
        added
    }

    /// Takes a pod's address and ports back. Fine if it has none.
    pub async fn detach(&self, uid: &str) -> Result<(), Error> {
        if self.plugins.has(uid) {
            return self.plugins.delete(uid).await;
        }
        link::remove(&host_name(uid)).await?;
        if self.addresses.release(uid)? {
            self.write_ports().await?;
        }
        Ok(())
    }

    /// Gives back what belongs to no pod any more, and writes the rules of the others anew.
    pub async fn keep_only(&self, uids: &std::collections::BTreeSet<String>) -> Result<(), Error> {
        let owners = self
            .addresses
            .owners()?
            .into_iter()
            .chain(self.plugins.owners());
        for uid in owners.filter(|uid| !uids.contains(uid)) {
            self.detach(&uid).await?;
        }
        Ok(())
    }

    async fn prepare(&self, range: Ipv4Net) -> Result<(), Error> {
        let mut prepared = self.prepared.lock().await;
        if *prepared == Some(range) {
            return Ok(());
        }
        link::bridge(&self.bridge, gateway(range), range.prefix_len()).await?;
        link::sysctl("net/ipv4/ip_forward", "1")?;
        for (name, value) in [
            ("route_localnet", "1"),
            ("send_redirects", "0"),
            ("rp_filter", "2"),
        ] {
            link::sysctl(&format!("net/ipv4/conf/{}/{name}", self.bridge), value)?;
        }
        let cluster = self.cluster.unwrap_or(range);
        keelson_net::nft::Command
            .apply(&rules::base(&self.table, &self.bridge, cluster, range))
            .await?;
        self.write_ports().await?;
        rules::pass_forward_drop(&self.bridge).await;
        *prepared = Some(range);
        Ok(())
    }

    async fn write_ports(&self) -> Result<(), Error> {
        let ports = self.addresses.ports()?;
        Ok(keelson_net::nft::Command
            .apply(&rules::ports(&self.table, &ports))
            .await?)
    }
}

/// The first address of the range is the bridge's.
fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).wrapping_add(1))
}

/// The name of a pod's link on the node: at most 15 characters, the same whenever it is asked.
fn host_name(uid: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(uid.as_bytes());
    let hex: String = hash
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("veth{hex}")
}
