//! Further nodes of a cluster on this machine: each is a network namespace with a kubelet and a kube-proxy of its own.
//!
//! A cable leads from the first node's network to each of them, and everything a node does not have itself goes over it: the
//! first node routes between the nodes and their pod ranges. What the nodes share is the machine: its kernel, disks and memory.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use nix::sched::{CloneFlags, unshare};

use crate::layout::{Layout, NODE_FOLDER};
use crate::netns::{self, NODE_ADDRESS};
use crate::{certificates, host};

/// Most nodes that a cluster can have: one machine's, so more would only be slow.
pub const MOST: u32 = 64;
/// Table of the rules that let further nodes out of this machine.
const TABLE: &str = "keelson-nodes";

/// A further node's address: it follows the first node's in the range that is used for nothing else.
pub fn address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(NODE_ADDRESS) + node - 1)
}

/// The further nodes that were made, by what they have on this machine.
pub fn known(cluster: &Layout) -> Vec<Layout> {
    let names = |folder: PathBuf, prefix: String| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(move |entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix(&prefix)?.parse::<u32>().ok()
        })
    };
    let mut numbers: Vec<u32> = names(cluster.state(), NODE_FOLDER.into())
        .chain(names(
            "/run/netns".into(),
            format!("{}.{NODE_FOLDER}", cluster.context()),
        ))
        .filter(|number| *number > 1)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.iter().map(|n| cluster.of_node(*n)).collect()
}

/// How many nodes the cluster shall have: as asked, or as many as it has.
pub fn wanted(cluster: &Layout, asked: Option<u32>) -> Result<u32> {
    let number =
        asked.unwrap_or_else(|| known(cluster).iter().map(Layout::node).max().unwrap_or(1));
    if !(1..=MOST).contains(&number) {
        bail!("--nodes: a cluster on one machine has 1 to {MOST} nodes, not {number}");
    }
    Ok(number)
}

/// The end of a node's cable in the first node's network.
fn cable(node: &Layout) -> String {
    format!("knode{}", node.node())
}

/// The network that the first node is in, for `ip`: a named cluster's namespace or the host.
fn first(node: &Layout) -> Option<String> {
    node.of_node(1).netns()
}

/// Where the node's pod range is remembered, so that its route is there before the API server is.
fn range_file(node: &Layout) -> PathBuf {
    node.state().join("pod-range")
}

/// Makes the node's namespace, its cable and the routes both ways. `gateway` is the first node's address.
pub fn connect(node: &Layout, gateway: IpAddr) -> Result<()> {
    let namespace = node.netns().context("the first node needs no cable")?;
    let (first, cable) = (first(node), cable(node));
    let address = address(node.node());
    if netns::make(&namespace)? {
        netns::ip(
            first.as_deref(),
            &format!("link add {cable} type veth peer name node0 netns {namespace}"),
        )?;
    }
    let inside = Some(namespace.as_str());
    netns::ip(inside, &format!("address replace {address}/32 dev node0"))?;
    netns::ip(inside, "link set node0 up")?;
    netns::ip(first.as_deref(), &format!("link set {cable} up"))?;
    netns::ip(
        first.as_deref(),
        &format!("route replace {address}/32 dev {cable} src {gateway}"),
    )?;
    netns::ip(
        inside,
        &format!("route replace {gateway}/32 dev node0 src {address}"),
    )?;
    netns::ip(
        inside,
        &format!("route replace default via {gateway} dev node0 src {address}"),
    )?;
    if let Ok(range) = std::fs::read_to_string(range_file(node)) {
        route(node, &range)?;
    }
    if node.is_default() {
        allow_out(node.bridge())?;
    }
    Ok(())
}

fn route(node: &Layout, range: &str) -> Result<()> {
    netns::ip(
        first(node).as_deref(),
        &format!(
            "route replace {range} via {} dev {} onlink",
            address(node.node()),
            cable(node)
        ),
    )
}

/// Lets further nodes of the default cluster reach what the host reaches, as the host.
fn allow_out(bridge: &str) -> Result<()> {
    let range = format!("{NODE_ADDRESS}/24");
    let rules = format!(
        "add table ip {TABLE}\nflush table ip {TABLE}\nadd chain ip {TABLE} postrouting {{ type nat hook postrouting priority srcnat; }}\nadd rule ip {TABLE} postrouting ip saddr {range} oifname != \"{bridge}\" oifname != \"knode*\" masquerade\n"
    );
    host::nft(&rules)
}

/// Routes the pod ranges that the controller manager gave the nodes. Returns whether one was new.
pub async fn route_ranges(client: &Client, nodes: &[Layout]) -> Result<bool> {
    let api: Api<Node> = Api::all(client.clone());
    let mut changed = false;
    for node in nodes.iter().filter(|n| !n.is_first()) {
        let object = api.get(&node.node_name()).await?;
        let range = object
            .spec
            .and_then(|s| s.pod_cidr)
            .with_context(|| format!("node {} has no pod range", node.node_name()))?;
        let file = range_file(node);
        changed |= crate::configuration::write_if_changed(&file, range.as_bytes(), 0o644)?;
        route(node, &range)?;
    }
    Ok(changed)
}

/// Replaces this process by a program of the node: in its namespace and under its host name.
pub fn exec(node: &Layout, command: &[String]) -> Result<()> {
    let namespace = node
        .netns()
        .context("the first node's programs need no namespace")?;
    let program = command.first().context("no program")?;
    netns::enter(&namespace)?;
    unshare(CloneFlags::CLONE_NEWUTS).context("cannot make a UTS namespace")?;
    std::fs::write("/proc/sys/kernel/hostname", node.node_name())
        .context("cannot set the node's host name")?;
    let error = std::process::Command::new(program)
        .args(&command[1..])
        .exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}

/// Ends what runs on the node and removes its network; its daemons must have been stopped. Its files stay.
pub fn stop(node: &Layout) -> Result<()> {
    host::remove_cgroups(node)?;
    host::unmount_below(&[node.run(), node.state(), node.kubelet()])?;
    if let Some(namespace) = node.netns() {
        // A namespace lives on until its last process has gone; its cable shall not.
        if first(node).is_none_or(|name| netns::exists(&name)) {
            let first = first(node);
            let place: Vec<&str> = first
                .iter()
                .flat_map(|name| ["-n", name.as_str()])
                .collect();
            host::run(
                "ip",
                &[place.as_slice(), &["link", "delete", &cable(node)]].concat(),
            )?;
        }
        netns::remove(&namespace)?;
    }
    Ok(())
}

/// Removes a node that the cluster shall have no more: everything that it has on this machine.
pub fn remove(node: &Layout) -> Result<()> {
    stop(node)?;
    for folder in node.folders() {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
    }
    certificates::remove_node(node)
}

/// Deletes the Node objects of nodes that are no more.
pub async fn forget(client: &Client, nodes: &[Layout]) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    for node in nodes {
        match api.delete(&node.node_name(), &Default::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => {
                other.with_context(|| format!("cannot delete node {}", node.node_name()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_by_their_folders() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cluster = Layout::at("count-nodes-test", dir.path()).expect("layout");
        assert_eq!(wanted(&cluster, None).expect("one"), 1);
        for name in ["node-3", "node-2", "node-x", "nodes"] {
            std::fs::create_dir_all(cluster.state().join(name)).expect("folder");
        }
        let numbers: Vec<u32> = known(&cluster).iter().map(Layout::node).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(wanted(&cluster, None).expect("as many as there are"), 3);
        assert_eq!(wanted(&cluster, Some(2)).expect("as asked"), 2);
        assert!(wanted(&cluster, Some(0)).is_err() && wanted(&cluster, Some(MOST + 1)).is_err());
    }

    #[test]
    fn addresses_follow_the_first_nodes() {
        assert_eq!(address(1), NODE_ADDRESS);
        assert_eq!(address(3), Ipv4Addr::new(198, 51, 100, 12));
    }
}
