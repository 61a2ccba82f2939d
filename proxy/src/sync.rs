//! Keeps the kernel as the API says: one task that owns the ruleset, gathers changes, and applies each batch as one transaction.
//!
//! After a refused transaction the next one is a cold one, since what is in the kernel is then not known for sure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_net::conntrack;
use keelson_net::nft::Nft;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::watch;

use crate::config::Config;
use crate::model::{Protocol, Virtual};
use crate::ruleset::{Delta, Elements, Map, Ruleset};
use crate::transaction;

/// Delay before a refused transaction is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Upstream's metrics of the proxy.
#[derive(Debug, Clone)]
pub struct SyncMetrics {
    duration: Histogram,
    failures: Counter,
    last: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl SyncMetrics {
    /// Registers them.
    pub fn register(metrics: &keelson_daemon::metrics::Metrics) -> Self {
        Self {
            duration: metrics.register(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            ),
            failures: metrics.register(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures",
                "Number of nftables transactions that failed",
                Counter::default(),
            ),
            last: metrics.register(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                Gauge::<f64, std::sync::atomic::AtomicU64>::default(),
            ),
        }
    }
}

/// The owner of the ruleset.
pub struct Sync {
    config: Config,
    nft: Arc<dyn Nft>,
    rules: Ruleset,
    pending: Delta,
    cold: bool,
    metrics: SyncMetrics,
    synced: watch::Sender<Option<Timestamp>>,
}

impl std::fmt::Debug for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sync")
            .field("elements", &self.rules.len())
            .field("cold", &self.cold)
            .finish_non_exhaustive()
    }
}

impl Sync {
    /// With nothing in the kernel yet.
    pub fn new(config: Config, nft: Arc<dyn Nft>, metrics: SyncMetrics) -> Self {
        Self {
            config,
            nft,
            rules: Ruleset::default(),
            pending: Delta::default(),
            cold: true,
            metrics,
            synced: watch::Sender::new(None),
        }
    }

    /// When the kernel was last brought up to date.
    pub fn synced(&self) -> watch::Receiver<Option<Timestamp>> {
        self.synced.subscribe()
    }

    /// Says what a Service needs now. Nothing reaches the kernel before [`Sync::apply`].
    pub fn set(&mut self, service: &str, virtuals: &[Virtual]) {
        let delta = self.rules.set(service, virtuals);
        self.pending.merge(delta);
    }

    /// Applies what has changed. On failure, says after which delay to try again.
    pub async fn apply(&mut self) -> Result<(), Duration> {
        if self.pending.is_empty() && !self.cold {
            return Ok(());
        }
        let started = std::time::Instant::now();
        let delta = std::mem::take(&mut self.pending);
        let text = if self.cold {
            transaction::cold(&self.config, &self.rules.everything())
        } else {
            transaction::delta(&self.config, &delta)
        };
        if let Err(error) = self.nft.apply(&text).await {
            tracing::error!(%error, "could not write the rules; will write all of them anew");
            self.metrics.failures.inc();
            self.cold = true;
            return Err(RETRY);
        }
        let stale = if self.cold {
            None
        } else {
            Some(stale_flows(&delta.remove))
        };
        self.cold = false;
        self.metrics
            .duration
            .observe(started.elapsed().as_secs_f64());
        let now = Timestamp::now();
        self.metrics.last.set(now.as_second() as f64);
        self.synced.send_replace(Some(now));
        tracing::debug!(added = delta.add.len(), removed = delta.remove.len(), elapsed = ?started.elapsed(), "rules written");
        self.forget_flows(stale).await;
        Ok(())
    }

    /// Deletes UDP connection tracking entries that lead to endpoints that have gone: after a cold start all that contradict the rules.
    async fn forget_flows(&self, stale: Option<BTreeSet<(SocketAddrV4, SocketAddrV4)>>) {
        if stale.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
        let (fronts, pairs) = match stale {
            Some(stale) => (None, stale),
            None => {
                let live = stale_flows(&self.rules.everything().add);
                (
                    Some(
                        live.iter()
                            .map(|(front, _)| *front)
                            .collect::<BTreeSet<_>>(),
                    ),
                    live,
                )
            }
        };
        let outcome = tokio::task::spawn_blocking(move || {
            conntrack::delete_udp(|flow| {
                let front = SocketAddrV4::new(flow.destination.0, flow.destination.1);
                let pair = (front, SocketAddrV4::new(flow.endpoint.0, flow.endpoint.1));
                match &fronts {
                    None => pairs.contains(&pair),
                    Some(fronts) => fronts.contains(&front) && !pairs.contains(&pair),
                }
            })
        })
        .await;
        match outcome {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(
                count,
                "deleted connection tracking entries of endpoints that have gone"
            ),
            Ok(Err(error)) => tracing::warn!(%error, "could not clean up connection tracking"),
            Err(error) => tracing::error!(%error, "connection tracking"),
        }
    }
}

/// UDP pairs of (address of the Service, endpoint) among elements. Node ports are found by the endpoint's going from the cluster address too.
fn stale_flows(elements: &Elements) -> BTreeSet<(SocketAddrV4, SocketAddrV4)> {
    elements
        .iter()
        .filter(|((map, _), _)| {
            matches!(
                map,
                Map::Endpoints(Protocol::Udp) | Map::AffinityEndpoints(Protocol::Udp)
            )
        })
        .filter_map(|((_, key), target)| {
            let mut parts = key.split(" . ");
            let ip: Ipv4Addr = parts.next()?.parse().ok()?;
            parts.next()?;
            let front = SocketAddrV4::new(ip, parts.next()?.parse().ok()?);
            let (ip, port) = target.split_once(" . ")?;
            Some((
                front,
                SocketAddrV4::new(ip.parse().ok()?, port.parse().ok()?),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Front, Masquerade, Otherwise};
    use keelson_net::nft::{Fake, NftError};

    fn virtual_(endpoints: &[u8]) -> Virtual {
        Virtual {
            front: Front::Address([10, 96, 0, 1].into(), Protocol::Udp, 53),
            endpoints: endpoints
                .iter()
                .map(|&e| SocketAddrV4::new([10, 244, 0, e].into(), 53))
                .collect(),
            affinity: None,
            otherwise: Otherwise::Reject,
            masquerade: Masquerade::OffCluster,
        }
    }

    fn sync(fake: &Arc<Fake>) -> Sync {
        let config = Config {
            kubeconfig: "/k".into(),
            node: "n".into(),
            cluster_cidr: None,
            healthz: ([0, 0, 0, 0], 1).into(),
            metrics: ([0, 0, 0, 0], 1).into(),
            masquerade_all: false,
        };
        Sync::new(
            config,
            fake.clone(),
            SyncMetrics::register(&keelson_daemon::metrics::Metrics::new()),
        )
    }

    #[tokio::test]
    async fn the_first_transaction_writes_the_table_and_later_ones_the_difference() {
        let fake = Arc::new(Fake::default());
        let mut sync = sync(&fake);
        sync.set("n/s", &[virtual_(&[1])]);
        sync.apply().await.expect("applied");
        assert!(fake.take().concat().contains("delete table"));
        sync.apply().await.expect("nothing to do");
        assert!(fake.take().is_empty());
        sync.set("n/s", &[virtual_(&[2])]);
        sync.apply().await.expect("applied");
        let text = fake.take().concat();
        assert!(
            text.contains("10.244.0.2 . 53") && !text.contains("table ip keelson-proxy {"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_refused_transaction_is_followed_by_a_cold_one() {
        let fake = Arc::new(Fake::default());
        let mut sync = sync(&fake);
        sync.apply().await.expect("applied");
        fake.take();
        fake.fail_next(NftError::Refused("no".into()));
        sync.set("n/s", &[virtual_(&[1])]);
        assert!(sync.apply().await.is_err());
        sync.apply().await.expect("applied");
        let text = fake.take().concat();
        assert!(
            text.contains("delete table") && text.contains("10.244.0.1 . 53"),
            "{text}"
        );
    }

    #[test]
    fn only_udp_flows_are_stale() {
        let mut rules = Ruleset::default();
        rules.set("n/s", &[virtual_(&[1, 2])]);
        let gone = rules.set("n/s", &[virtual_(&[1])]);
        let flows: Vec<String> = stale_flows(&gone.remove)
            .iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect();
        assert_eq!(flows, ["10.96.0.1:53 10.244.0.2:53"]);
    }
}
