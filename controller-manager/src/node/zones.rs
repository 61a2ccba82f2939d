//! How many nodes of each zone are ready, and how fast pods may be evicted there. No I/O.
//!
//! When many nodes fail at once the fault is more likely in the network or in the control plane, so evictions slow down or stop.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::time::Instant;

use super::taints;

/// How a zone fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Few nodes are down.
    Normal,
    /// Many are.
    Partial,
    /// All are.
    Full,
}

/// The flags that decide.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes a second.
    pub rate: f32,
    /// The same while a large zone is partially disrupted.
    pub secondary_rate: f32,
    /// The part of nodes that makes a zone partially disrupted.
    pub threshold: f32,
    /// The number of nodes that makes a zone large.
    pub large: u32,
}

#[derive(Default)]
struct Zone {
    ready: u32,
    unready: u32,
    last: Option<Instant>,
}

/// All zones.
pub struct Zones {
    limits: Limits,
    zones: HashMap<String, Zone>,
    nodes: HashMap<String, (String, bool)>,
}

/// The zone of a node: region and zone together.
pub fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.labels().get(key).map_or("", String::as_str);
    format!(
        "{}:{}",
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone")
    )
}

impl Zones {
    /// No nodes yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            zones: HashMap::new(),
            nodes: HashMap::new(),
        }
    }

    /// Notes a node's state.
    pub fn note(&mut self, node: &Node) {
        let name = node.name_any();
        let new = (
            zone_of(node),
            taints::condition(node, "Ready") == Some("True"),
        );
        if self.nodes.get(&name) == Some(&new) {
            return;
        }
        self.forget(&name);
        let zone = self.zones.entry(new.0.clone()).or_default();
        *(if new.1 {
            &mut zone.ready
        } else {
            &mut zone.unready
        }) += 1;
        self.nodes.insert(name, new);
    }

    /// Forgets a node.
    pub fn forget(&mut self, name: &str) {
        let Some((zone_name, ready)) = self.nodes.remove(name) else {
            return;
        };
        if let Some(zone) = self.zones.get_mut(&zone_name) {
            *(if ready {
                &mut zone.ready
            } else {
                &mut zone.unready
            }) -= 1;
            if zone.ready + zone.unready == 0 {
                self.zones.remove(&zone_name);
            }
        }
    }

    fn state(&self, zone: &Zone) -> State {
        let total = zone.ready + zone.unready;
        if zone.ready == 0 && zone.unready > 0 {
            State::Full
        } else if zone.unready > 2
            && f64::from(zone.unready) / f64::from(total) >= f64::from(self.limits.threshold)
        {
            State::Partial
        } else {
            State::Normal
        }
    }

    /// Whether no node of any zone is ready: then nobody is evicted at all.
    pub fn all_down(&self) -> bool {
        !self.zones.is_empty()
            && self
                .zones
                .values()
                .all(|zone| self.state(zone) == State::Full)
    }

    /// Asks to evict the pods of a node in this zone now: either granted, or to be asked again after a while (`None`: when
    /// the zone fares better).
    pub fn grant(&mut self, zone_name: &str, now: Instant) -> Result<(), Option<Duration>> {
        if self.all_down() {
            return Err(None);
        }
        let Some(zone) = self.zones.get(zone_name) else {
            return Ok(());
        };
        let rate = match self.state(zone) {
            State::Normal | State::Full => self.limits.rate,
            State::Partial if zone.ready + zone.unready > self.limits.large => {
                self.limits.secondary_rate
            }
            State::Partial => 0.0,
        };
        if rate <= 0.0 {
            return Err(None);
        }
        let pause = Duration::from_secs_f32(1.0 / rate);
        let Some(zone) = self.zones.get_mut(zone_name) else {
            return Ok(());
        };
        match zone
            .last
            .map(|last| last + pause)
            .filter(|next| *next > now)
        {
            Some(next) => Err(Some(next - now)),
            None => {
                zone.last = Some(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::taints::tests::node;
    use super::*;
    use serde_json::json;

    fn zones(up: usize, down: usize) -> Zones {
        let mut zones = Zones::new(Limits {
            rate: 0.1,
            secondary_rate: 0.01,
            threshold: 0.55,
            large: 5,
        });
        for n in 0..up + down {
            zones.note(&node(
                &format!("n{n}"),
                if n < up { "True" } else { "Unknown" },
                json!({}),
            ));
        }
        zones
    }

    #[tokio::test(start_paused = true)]
    async fn evictions_are_rate_limited_and_stop_when_all_is_down() {
        let now = Instant::now();
        let mut few = zones(3, 1);
        assert_eq!(few.grant(":", now), Ok(()));
        assert_eq!(few.grant(":", now), Err(Some(Duration::from_secs(10))));
        assert_eq!(few.grant(":", now + Duration::from_secs(10)), Ok(()));
        // A small zone with most nodes down evicts nobody, a large one slowly.
        assert_eq!(zones(1, 3).grant(":", now), Err(None));
        let mut large = zones(2, 4);
        assert_eq!(large.grant(":", now), Ok(()));
        assert_eq!(large.grant(":", now), Err(Some(Duration::from_secs(100))));
        let mut all = zones(0, 1);
        assert!(all.all_down());
        assert_eq!(all.grant(":", now), Err(None));
        all.note(&node("n0", "True", json!({})));
        assert!(!all.all_down());
        all.forget("n0");
        assert!(!all.all_down());
    }
}
