//! The kernel's maps as data: which elements a [`Virtual`] needs, and the state of all of them with who needs what.
//!
//! A position (0..n) in a Service's endpoints is one element, so that a Service of any size needs one chain per distinct
//! *count* of endpoints, shared by all Services with that count. Endpoints keep their position while they stay, so a change
//! touches few elements. With affinity, what a client is bound to is the endpoint's own number, never its position.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddrV4;

use crate::model::{Front, Masquerade, Otherwise, Protocol, Virtual};

fn per_protocol(protocol: Protocol, names: [&'static str; 3]) -> &'static str {
    match protocol {
        Protocol::Tcp => names[0],
        Protocol::Udp => names[1],
        Protocol::Sctp => names[2],
    }
}

/// A set or map of our table. Maps whose values are endpoints are one a protocol, since nft types a value's port by its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// Address, protocol, port → chain.
    Services,
    /// Protocol, port → chain.
    NodePorts,
    /// Address, protocol, port, position → endpoint.
    Endpoints(Protocol),
    /// Protocol, port, position → endpoint.
    NodeEndpoints(Protocol),
    /// Address, protocol, port, position → number of the endpoint.
    AffinityNumbers,
    /// Address, protocol, port, number → endpoint.
    AffinityEndpoints(Protocol),
    /// Protocol, port, position → number of the endpoint.
    NodeAffinityNumbers,
    /// Protocol, port, number → endpoint.
    NodeAffinityEndpoints(Protocol),
    /// Endpoint, the same endpoint: traffic that comes back to its sender.
    Hairpin,
    /// Addresses whose traffic is refused.
    Reject,
    /// Node ports whose traffic is refused.
    RejectNode,
    /// Addresses whose traffic is dropped.
    Drop,
    /// Node ports whose traffic is dropped.
    DropNode,
}

impl Map {
    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::NodePorts => "node-ports",
            Self::Endpoints(protocol) => per_protocol(
                protocol,
                ["endpoints-tcp", "endpoints-udp", "endpoints-sctp"],
            ),
            Self::NodeEndpoints(protocol) => per_protocol(
                protocol,
                [
                    "node-endpoints-tcp",
                    "node-endpoints-udp",
                    "node-endpoints-sctp",
                ],
            ),
            Self::AffinityNumbers => "affinity-numbers",
            Self::AffinityEndpoints(protocol) => per_protocol(
                protocol,
                [
                    "affinity-endpoints-tcp",
                    "affinity-endpoints-udp",
                    "affinity-endpoints-sctp",
                ],
            ),
            Self::NodeAffinityNumbers => "node-affinity-numbers",
            Self::NodeAffinityEndpoints(protocol) => per_protocol(
                protocol,
                [
                    "node-affinity-endpoints-tcp",
                    "node-affinity-endpoints-udp",
                    "node-affinity-endpoints-sctp",
                ],
            ),
            Self::Hairpin => "hairpin",
            Self::Reject => "reject-services",
            Self::RejectNode => "reject-node-ports",
            Self::Drop => "drop-services",
            Self::DropNode => "drop-node-ports",
        }
    }
}

/// A chain that picks one of `count` endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pick {
    /// Of how many.
    pub count: usize,
    /// Of which protocol.
    pub protocol: Protocol,
    /// For node ports, which have a key of their own.
    pub node: bool,
    /// Whose address is hidden.
    pub masquerade: Masquerade,
    /// Affinity in seconds.
    pub affinity: Option<u32>,
}

impl Pick {
    /// Name of the chain.
    pub fn name(self) -> String {
        let mut name = format!(
            "{}{}-pick{}",
            if self.node { "node-" } else { "" },
            self.protocol,
            self.count
        );
        if let Some(seconds) = self.affinity {
            name.push_str(&format!("-affinity{seconds}"));
        }
        name.push_str(match self.masquerade {
            Masquerade::Never => "-transparent",
            Masquerade::OffCluster => "",
            Masquerade::Always => "-masquerade",
        });
        name
    }
}

/// Elements: map and key → value (empty in sets).
pub type Elements = BTreeMap<(Map, String), String>;

/// What a change of one Service does to the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Elements to take away, with the values they had.
    pub remove: Elements,
    /// Elements to put in.
    pub add: Elements,
    /// Chains to make first.
    pub chains: BTreeSet<Pick>,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Adds a later change to this one.
    pub fn merge(&mut self, later: Self) {
        for (key, value) in later.remove {
            if self.add.remove(&key).is_none() {
                self.remove.insert(key, value);
            }
        }
        for (key, value) in later.add {
            if self.remove.get(&key) == Some(&value) {
                self.remove.remove(&key);
            } else {
                self.add.insert(key, value);
            }
        }
        self.chains.extend(later.chains);
    }
}

/// Numbers of endpoints that affinity binds clients to; a number is never used for another endpoint.
#[derive(Debug, Default)]
struct Numbers {
    of: HashMap<SocketAddrV4, u32>,
    last: u32,
}

impl Numbers {
    fn of(&mut self, endpoint: SocketAddrV4) -> u32 {
        *self.of.entry(endpoint).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }
}

/// All that should be in the kernel.
#[derive(Debug, Default)]
pub struct Ruleset {
    services: HashMap<String, (Vec<(Front, Vec<SocketAddrV4>)>, Elements)>,
    elements: BTreeMap<(Map, String), Vec<(String, String)>>,
    chains: BTreeSet<Pick>,
    numbers: Numbers,
}

impl Ruleset {
    /// Replaces what the Service `key` (namespace/name) needs; no virtuals take it away.
    pub fn set(&mut self, key: &str, virtuals: &[Virtual]) -> Delta {
        let (positions, before) = self.services.remove(key).unwrap_or_default();
        let mut arranged = Vec::new();
        let mut after = Elements::new();
        let mut chains = BTreeSet::new();
        for virtual_ in virtuals {
            let old = positions
                .iter()
                .find(|(front, _)| *front == virtual_.front)
                .map(|(_, list)| list.as_slice());
            let list = arrange(old.unwrap_or_default(), &virtual_.endpoints);
            elements(virtual_, &list, &mut self.numbers, &mut after, &mut chains);
            arranged.push((virtual_.front, list));
        }
        let mut delta = Delta::default();
        for (element, value) in &before {
            if after.get(element) != Some(value) {
                self.release(key, element, &mut delta);
            }
        }
        for (element, value) in &after {
            if before.get(element) != Some(value) {
                self.claim(key, element, value, &mut delta);
            }
        }
        delta.chains = chains.difference(&self.chains).copied().collect();
        self.chains.extend(&delta.chains);
        if !after.is_empty() {
            self.services.insert(key.to_owned(), (arranged, after));
        }
        delta
    }

    /// Everything, as a change from nothing.
    pub fn everything(&self) -> Delta {
        let add = self
            .elements
            .iter()
            .filter_map(|(key, claims)| {
                claims
                    .first()
                    .map(|(_, value)| (key.clone(), value.clone()))
            })
            .collect();
        Delta {
            remove: Elements::new(),
            add,
            chains: self.chains.clone(),
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// An element may be wanted by several Services (hairpin pairs; by mistake, one external address): the first one has it,
    /// the next takes over when the first lets go.
    fn claim(&mut self, key: &str, element: &(Map, String), value: &str, delta: &mut Delta) {
        let claims = self.elements.entry(element.clone()).or_default();
        claims.push((key.to_owned(), value.to_owned()));
        if claims.len() == 1 {
            delta.add.insert(element.clone(), value.to_owned());
        }
    }

    fn release(&mut self, key: &str, element: &(Map, String), delta: &mut Delta) {
        let Some(claims) = self.elements.get_mut(element) else {
            return;
        };
        let Some(index) = claims.iter().position(|(owner, _)| owner == key) else {
            return;
        };
        let (_, value) = claims.remove(index);
        if index > 0 {
            return;
        }
        match claims.first() {
            Some((_, next)) if *next == value => {}
            Some((_, next)) => {
                delta.remove.insert(element.clone(), value);
                delta.add.insert(element.clone(), next.clone());
            }
            None => {
                delta.remove.insert(element.clone(), value);
                self.elements.remove(element);
            }
        }
    }
}

/// Endpoints in positions: those that stay keep theirs, holes are filled from the new ones and then from the end.
fn arrange(old: &[SocketAddrV4], wanted: &BTreeSet<SocketAddrV4>) -> Vec<SocketAddrV4> {
    let mut fresh = wanted.iter().filter(|e| !old.contains(e)).copied();
    let mut slots: Vec<Option<SocketAddrV4>> = old
        .iter()
        .map(|e| wanted.contains(e).then_some(*e))
        .collect();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = fresh.next();
    }
    slots.extend(fresh.map(Some));
    let mut list: Vec<SocketAddrV4> = Vec::with_capacity(wanted.len());
    while let Some(index) = slots.iter().position(Option::is_none) {
        match slots.pop() {
            Some(last) if index < slots.len() => slots[index] = last,
            _ => {}
        }
    }
    list.extend(slots.into_iter().flatten());
    list
}

fn elements(
    virtual_: &Virtual,
    endpoints: &[SocketAddrV4],
    numbers: &mut Numbers,
    into: &mut Elements,
    chains: &mut BTreeSet<Pick>,
) {
    let (key, protocol, node) = match virtual_.front {
        Front::Address(ip, protocol, port) => {
            (format!("{ip} . {protocol} . {port}"), protocol, false)
        }
        Front::Node(protocol, port) => (format!("{protocol} . {port}"), protocol, true),
    };
    if endpoints.is_empty() {
        let map = match (virtual_.otherwise, node) {
            (Otherwise::Reject, false) => Map::Reject,
            (Otherwise::Reject, true) => Map::RejectNode,
            (Otherwise::Drop, false) => Map::Drop,
            (Otherwise::Drop, true) => Map::DropNode,
        };
        into.insert((map, key), String::new());
        return;
    }
    let affinity = virtual_.affinity;
    let (numbered, numbered_endpoints) = if node {
        (
            Map::NodeAffinityNumbers,
            Map::NodeAffinityEndpoints(protocol),
        )
    } else {
        (Map::AffinityNumbers, Map::AffinityEndpoints(protocol))
    };
    let pick = Pick {
        count: endpoints.len(),
        protocol,
        node,
        masquerade: virtual_.masquerade,
        affinity,
    };
    chains.insert(pick);
    let map = if node { Map::NodePorts } else { Map::Services };
    into.insert((map, key.clone()), format!("goto {}", pick.name()));
    for (position, endpoint) in endpoints.iter().enumerate() {
        let target = format!("{} . {}", endpoint.ip(), endpoint.port());
        if affinity.is_some() {
            let number = numbers.of(*endpoint);
            into.insert(
                (numbered, format!("{key} . {position}")),
                format!("{number:#x}"),
            );
            into.insert((numbered_endpoints, format!("{key} . {number:#x}")), target);
        } else {
            let map = if node {
                Map::NodeEndpoints(protocol)
            } else {
                Map::Endpoints(protocol)
            };
            into.insert((map, format!("{key} . {position}")), target);
        }
        into.insert(
            (Map::Hairpin, format!("{0} . {0}", endpoint.ip())),
            String::new(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 244, 0, last].into(), 3000)
    }

    fn service(ip: u8, endpoints: &[u8]) -> Virtual {
        Virtual {
            front: Front::Address([10, 96, 0, ip].into(), Protocol::Tcp, 80),
            endpoints: endpoints.iter().map(|&e| endpoint(e)).collect(),
            affinity: None,
            otherwise: Otherwise::Reject,
            masquerade: Masquerade::OffCluster,
        }
    }

    #[test]
    fn who_stays_keeps_the_position() {
        let set = |list: &[u8]| list.iter().map(|&e| endpoint(e)).collect::<BTreeSet<_>>();
        let old: Vec<_> = [1, 2, 3, 4].map(endpoint).into();
        assert_eq!(arrange(&old, &set(&[1, 3, 4])), [1, 4, 3].map(endpoint));
        assert_eq!(
            arrange(&old, &set(&[1, 3, 4, 9])),
            [1, 9, 3, 4].map(endpoint)
        );
        assert_eq!(arrange(&old, &set(&[])), []);
        assert_eq!(arrange(&old, &set(&[4])), [4].map(endpoint));
        assert_eq!(arrange(&[], &set(&[2, 1])), [1, 2].map(endpoint));
    }

    #[test]
    fn a_change_costs_its_own_size() {
        let mut rules = Ruleset::default();
        for i in 0..200 {
            rules.set(&format!("n/{i}"), &[service(i, &[1, 2, 3])]);
        }
        let delta = rules.set("n/7", &[service(7, &[1, 2, 3, 4])]);
        assert_eq!(delta.add.len(), 3, "verdict, endpoint, hairpin: {delta:?}");
        assert_eq!(delta.remove.len(), 1, "the old verdict");
        assert!(
            rules.set("n/7", &[service(7, &[1, 2, 3, 4])]).is_empty(),
            "nothing changed"
        );
    }

    #[test]
    fn taking_everything_away_leaves_nothing() {
        let mut rules = Ruleset::default();
        let first = rules.set("n/a", &[service(1, &[1, 2])]);
        rules.set("n/b", &[service(2, &[2])]);
        let gone = rules.set("n/b", &[]);
        assert!(
            !gone
                .remove
                .contains_key(&(Map::Hairpin, "10.244.0.2 . 10.244.0.2".into())),
            "a still needs it"
        );
        let gone = rules.set("n/a", &[]);
        assert_eq!(gone.remove, first.add);
        assert!(rules.is_empty());
    }

    #[test]
    fn an_address_claimed_twice_goes_to_the_next() {
        let mut rules = Ruleset::default();
        rules.set("n/a", &[service(1, &[1])]);
        let second = rules.set("n/b", &[service(1, &[2])]);
        assert!(
            !second
                .add
                .keys()
                .any(|(map, _)| matches!(map, Map::Endpoints(_))),
            "{second:?}"
        );
        let takeover = rules.set("n/a", &[]);
        assert_eq!(
            takeover
                .add
                .get(&(
                    Map::Endpoints(Protocol::Tcp),
                    "10.96.0.1 . tcp . 80 . 0".into()
                ))
                .map(String::as_str),
            Some("10.244.0.2 . 3000")
        );
    }

    #[test]
    fn merged_changes_cancel_out() {
        let mut rules = Ruleset::default();
        rules.set("n/a", &[service(1, &[1])]);
        let mut delta = rules.set("n/a", &[service(1, &[1, 2])]);
        delta.merge(rules.set("n/a", &[service(1, &[1])]));
        assert!(delta.is_empty(), "{delta:?}");
    }
}
