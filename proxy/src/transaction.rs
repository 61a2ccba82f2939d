//! nftables text: our table from nothing, and the transaction of a change.
//!
//! Addresses are translated at `dstnat` for what arrives and what the node itself sends. What has no endpoints is refused or
//! dropped just before. Masquerading is decided by a mark, or for hairpins by a set of (endpoint, itself).

use std::fmt::Write;

use crate::config::Config;
use crate::model::{Masquerade, Protocol};
use crate::ruleset::{Delta, Map, Pick};

/// Our table.
pub const TABLE: &str = "ip keelson-proxy";
/// Bit of the packet mark that asks for masquerading (upstream's).
const MASQUERADE: &str = "0x4000";
/// How many clients one affinity map remembers.
const AFFINITY_SIZE: u32 = 131_072;

const SERVICE_KEY: &str = "ip daddr . meta l4proto . th dport";
const NODE_KEY: &str = "meta l4proto . th dport";

fn declare(text: &mut String, kind: &str, name: &str, type_: &str) {
    let _ = writeln!(text, "add {kind} {TABLE} {name} {{ {type_} ; }}");
}

/// The whole table with these elements, replacing whatever an earlier run left, in one transaction.
pub fn cold(config: &Config, everything: &Delta) -> String {
    let mut text = String::with_capacity(256 * (everything.add.len() + 64));
    let _ = writeln!(
        text,
        "add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE} {{ comment \"Services, written by kube-proxy\" ; }}"
    );
    let service = |rest: &str| format!("typeof {SERVICE_KEY}{rest}");
    let node = |rest: &str| format!("typeof {NODE_KEY}{rest}");
    let mut map = |map: Map, type_: String| declare(&mut text, "map", map.name(), &type_);
    map(Map::Services, service(" : verdict"));
    map(Map::NodePorts, node(" : verdict"));
    map(
        Map::AffinityNumbers,
        service(" . numgen random mod 2 : ct mark"),
    );
    map(
        Map::NodeAffinityNumbers,
        node(" . numgen random mod 2 : ct mark"),
    );
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        // Typed by `th dport`, a value could not be used by a rule that is added later (nft 1.0.6).
        let endpoint = format!(" : ip daddr . {protocol} dport");
        map(
            Map::Endpoints(protocol),
            service(&format!(" . numgen random mod 2{endpoint}")),
        );
        map(
            Map::NodeEndpoints(protocol),
            node(&format!(" . numgen random mod 2{endpoint}")),
        );
        map(
            Map::AffinityEndpoints(protocol),
            service(&format!(" . ct mark{endpoint}")),
        );
        map(
            Map::NodeAffinityEndpoints(protocol),
            node(&format!(" . ct mark{endpoint}")),
        );
    }
    let dynamic = format!(" : ct mark ; flags dynamic,timeout ; size {AFFINITY_SIZE}");
    declare(
        &mut text,
        "map",
        "affinity",
        &format!("typeof ip saddr . {SERVICE_KEY}{dynamic}"),
    );
    declare(
        &mut text,
        "map",
        "node-affinity",
        &format!("typeof ip saddr . {NODE_KEY}{dynamic}"),
    );
    declare(
        &mut text,
        "set",
        Map::Hairpin.name(),
        "typeof ip saddr . ip daddr",
    );
    for set in [Map::Reject, Map::Drop] {
        declare(&mut text, "set", set.name(), &service(""));
    }
    for set in [Map::RejectNode, Map::DropNode] {
        declare(&mut text, "set", set.name(), &node(""));
    }
    base_chains(&mut text);
    change(&mut text, config, everything);
    text
}

fn base_chains(text: &mut String) {
    let to_node = format!("fib daddr type local ip daddr != 127.0.0.0/8 {NODE_KEY}");
    let chain = |text: &mut String, name: &str, hook: &str, rules: &[String]| {
        let _ = writeln!(text, "add chain {TABLE} {name} {hook}");
        for rule in rules {
            let _ = writeln!(text, "add rule {TABLE} {name} {rule}");
        }
    };
    let unreachable = [
        format!("{SERVICE_KEY} @{} drop", Map::Drop.name()),
        format!("{to_node} @{} drop", Map::DropNode.name()),
        format!("{SERVICE_KEY} @{} reject", Map::Reject.name()),
        format!("{to_node} @{} reject", Map::RejectNode.name()),
    ];
    chain(text, "no-endpoints", "", &unreachable);
    chain(
        text,
        "no-endpoints-prerouting",
        "{ type filter hook prerouting priority -110 ; }",
        &["ct state new jump no-endpoints".into()],
    );
    chain(
        text,
        "no-endpoints-output",
        "{ type filter hook output priority -110 ; }",
        &["ct state new jump no-endpoints".into()],
    );
    let dispatch = [
        format!("{SERVICE_KEY} vmap @{}", Map::Services.name()),
        format!("{to_node} vmap @{}", Map::NodePorts.name()),
    ];
    chain(text, "services-dispatch", "", &dispatch);
    chain(
        text,
        "services-prerouting",
        "{ type nat hook prerouting priority -100 ; }",
        &["jump services-dispatch".into()],
    );
    chain(
        text,
        "services-output",
        "{ type nat hook output priority -100 ; }",
        &["jump services-dispatch".into()],
    );
    let masquerading = [
        format!(
            "ct status dnat meta mark and {MASQUERADE} == {MASQUERADE} meta mark set meta mark and 0xffffbfff masquerade fully-random"
        ),
        format!(
            "ct status dnat ip saddr . ip daddr @{} masquerade fully-random",
            Map::Hairpin.name()
        ),
    ];
    chain(
        text,
        "masquerading",
        "{ type nat hook postrouting priority 100 ; }",
        &masquerading,
    );
}

/// The transaction of a change.
pub fn delta(config: &Config, delta: &Delta) -> String {
    let mut text = String::new();
    change(&mut text, config, delta);
    text
}

fn change(text: &mut String, config: &Config, delta: &Delta) {
    for pick in &delta.chains {
        pick_chain(text, config, *pick);
    }
    let mut remove: Option<Map> = None;
    for (map, key) in delta.remove.keys() {
        separator(text, "delete", &mut remove, *map);
        text.push_str(key);
    }
    close(text, remove);
    let mut add: Option<Map> = None;
    for ((map, key), value) in &delta.add {
        separator(text, "add", &mut add, *map);
        text.push_str(key);
        if !value.is_empty() {
            text.push_str(" : ");
            text.push_str(value);
        }
    }
    close(text, add);
}

/// Elements are sorted by map, so each map is one statement.
fn separator(text: &mut String, verb: &str, current: &mut Option<Map>, map: Map) {
    if *current == Some(map) {
        text.push_str(", ");
        return;
    }
    close(text, *current);
    *current = Some(map);
    let _ = write!(text, "{verb} element {TABLE} {} {{ ", map.name());
}

fn close(text: &mut String, current: Option<Map>) {
    if current.is_some() {
        text.push_str(" }\n");
    }
}

fn pick_chain(text: &mut String, config: &Config, pick: Pick) {
    let name = pick.name();
    let _ = writeln!(text, "add chain {TABLE} {name}");
    let (key, endpoints, numbers, numbered, affinity) = if pick.node {
        (
            NODE_KEY,
            Map::NodeEndpoints(pick.protocol),
            Map::NodeAffinityNumbers,
            Map::NodeAffinityEndpoints(pick.protocol),
            "node-affinity",
        )
    } else {
        (
            SERVICE_KEY,
            Map::Endpoints(pick.protocol),
            Map::AffinityNumbers,
            Map::AffinityEndpoints(pick.protocol),
            "affinity",
        )
    };
    let mut rules = Vec::new();
    let mark = format!("meta mark set meta mark or {MASQUERADE}");
    match (pick.masquerade, config.cluster_cidr) {
        (Masquerade::Always, _) => rules.push(mark),
        (Masquerade::OffCluster, _) if config.masquerade_all => rules.push(mark),
        (Masquerade::OffCluster, Some(cidr)) => rules.push(format!("ip saddr != {cidr} {mark}")),
        (Masquerade::OffCluster, None) | (Masquerade::Never, _) => {}
    }
    let position = format!("numgen random mod {}", pick.count);
    match pick.affinity {
        None => rules.push(format!(
            "dnat ip to {key} . {position} map @{}",
            endpoints.name()
        )),
        Some(seconds) => {
            let remember =
                format!("update @{affinity} {{ ip saddr . {key} timeout {seconds}s : ct mark }}");
            let translate = format!("dnat ip to {key} . ct mark map @{}", numbered.name());
            // A client that is bound: if its endpoint has gone, the look-up finds nothing and the rule ends there.
            rules.push(format!("ct mark set ip saddr . {key} map @{affinity}"));
            rules.push(format!("ct mark != 0 {remember} {translate}"));
            // `update` keeps the value of an element that is there, so what is stale goes first.
            rules.push(format!(
                "ct mark != 0 delete @{affinity} {{ ip saddr . {key} : ct mark }}"
            ));
            rules.push(format!(
                "ct mark set {key} . {position} map @{}",
                numbers.name()
            ));
            rules.push(format!("{remember} {translate}"));
        }
    }
    for rule in rules {
        let _ = writeln!(text, "add rule {TABLE} {name} {rule}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::Elements;

    fn config() -> Config {
        Config {
            kubeconfig: "/k".into(),
            node: "n".into(),
            cluster_cidr: "10.244.0.0/16".parse().ok(),
            healthz: ([0, 0, 0, 0], 10256).into(),
            metrics: ([127, 0, 0, 1], 10249).into(),
            masquerade_all: false,
        }
    }

    #[test]
    fn a_change_is_one_statement_a_map() {
        let element = |map, key: &str, value: &str| ((map, key.to_owned()), value.to_owned());
        let change = Delta {
            remove: Elements::from([element(
                Map::Services,
                "10.96.0.1 . tcp . 80",
                "goto tcp-pick1",
            )]),
            add: Elements::from([
                element(Map::Services, "10.96.0.1 . tcp . 80", "goto tcp-pick2"),
                element(
                    Map::Endpoints(Protocol::Tcp),
                    "10.96.0.1 . tcp . 80 . 1",
                    "10.244.0.3 . 3000",
                ),
                element(Map::Hairpin, "10.244.0.3 . 10.244.0.3", ""),
            ]),
            chains: [Pick {
                count: 2,
                protocol: Protocol::Tcp,
                node: false,
                masquerade: Masquerade::OffCluster,
                affinity: None,
            }]
            .into(),
        };
        expect_test::expect![[r#"
            add chain ip keelson-proxy tcp-pick2
            add rule ip keelson-proxy tcp-pick2 ip saddr != 10.244.0.0/16 meta mark set meta mark or 0x4000
            add rule ip keelson-proxy tcp-pick2 dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints-tcp
            delete element ip keelson-proxy services { 10.96.0.1 . tcp . 80 }
            add element ip keelson-proxy services { 10.96.0.1 . tcp . 80 : goto tcp-pick2 }
            add element ip keelson-proxy endpoints-tcp { 10.96.0.1 . tcp . 80 . 1 : 10.244.0.3 . 3000 }
            add element ip keelson-proxy hairpin { 10.244.0.3 . 10.244.0.3 }
        "#]]
        .assert_eq(&delta(&config(), &change));
    }

    #[test]
    fn a_cold_start_replaces_the_table_in_one_transaction() {
        let text = cold(&config(), &Delta::default());
        assert!(text.starts_with("add table ip keelson-proxy\ndelete table ip keelson-proxy\nadd table ip keelson-proxy {"), "{text}");
    }
}
