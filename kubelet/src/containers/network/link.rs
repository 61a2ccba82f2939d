//! Links, addresses and routes by netlink: the bridge on the node, and a pair of links for each pod.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};

use super::Error;

/// The pod's link inside the pod.
const INSIDE: &str = "eth0";

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> Error {
    move |error| Error::Link {
        what,
        message: error.to_string(),
    }
}

/// Treats "it exists" as done.
fn unless_exists(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if errno(&error) == nix::libc::EEXIST => Ok(()),
        other => other,
    }
}

fn errno(error: &ErrorMessage) -> i32 {
    error.code.map_or(0, |code| -code.get())
}

/// Runs netlink requests in a network namespace, on a thread of their own that is thrown away.
async fn inside<T, F, W>(netns: &Path, work: W) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>>,
    W: FnOnce(Handle) -> F + Send + 'static,
{
    let netns: PathBuf = netns.to_owned();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let link = |message: String| Error::Link {
        what: "enter the pod's network namespace",
        message,
    };
    std::thread::Builder::new()
        .name("pod-link".into())
        .spawn(move || {
            let run = || -> Result<T, Error> {
                let file = File::open(&netns)
                    .map_err(|error| link(format!("{}: {error}", netns.display())))?;
                setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| link(errno.to_string()))?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()
                    .map_err(|error| link(error.to_string()))?;
                runtime.block_on(async {
                    let (connection, handle, _) =
                        new_connection().map_err(|error| link(error.to_string()))?;
                    tokio::spawn(connection);
                    work(handle).await
                })
            };
            let _ = sender.send(run());
        })
        .map_err(|error| link(error.to_string()))?;
    receiver.await.map_err(|error| link(error.to_string()))?
}

fn host() -> Result<Handle, Error> {
    let (connection, handle, _) = new_connection().map_err(|error| Error::Link {
        what: "open netlink",
        message: error.to_string(),
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    match handle
        .link()
        .get()
        .match_name(name)
        .execute()
        .try_next()
        .await
    {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(error)) if errno(&error) == nix::libc::ENODEV => {
            Ok(None)
        }
        Err(error) => Err(failed("find a link")(error)),
    }
}

async fn index(handle: &Handle, name: &str) -> Result<u32, Error> {
    match find(handle, name).await? {
        Some(link) => Ok(link.header.index),
        None => Err(Error::Link {
            what: "find a link",
            message: format!("{name} is gone"),
        }),
    }
}

/// Makes the bridge with the gateway's address, or finds it.
pub async fn bridge(name: &str, gateway: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    let handle = host()?;
    if find(&handle, name).await?.is_none() {
        let made = handle
            .link()
            .add(LinkBridge::new(name).build())
            .execute()
            .await;
        unless_exists(made).map_err(failed("make the bridge"))?;
        // An address of its own: otherwise the bridge takes the lowest of its links', and every pod that goes changes it.
        let index = index(&handle, name).await?;
        let address = vec![
            0x0a,
            0x58,
            gateway.octets()[0],
            gateway.octets()[1],
            gateway.octets()[2],
            gateway.octets()[3],
        ];
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).address(address).build())
            .execute()
            .await
            .map_err(failed("set the bridge's address"))?;
    }
    let index = index(&handle, name).await?;
    let mut found = false;
    let mut addresses = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    let mut stale = Vec::new();
    while let Some(message) = addresses
        .try_next()
        .await
        .map_err(failed("list the bridge's addresses"))?
    {
        use rtnetlink::packet_route::address::AddressAttribute;
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
        match address {
            Some(address) if address == gateway && message.header.prefix_len == prefix => {
                found = true
            }
            Some(_) => stale.push(message),
            None => {}
        }
    }
    for message in stale {
        // The node got another range.
        handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(failed("remove a stale address of the bridge"))?;
    }
    if !found {
        let added = handle
            .address()
            .add(index, IpAddr::V4(gateway), prefix)
            .execute()
            .await;
        unless_exists(added).map_err(failed("set the bridge's address"))?;
    }
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(failed("raise the bridge"))
}

/// Connects a pod to the bridge: a pair of links, its address, and routes by the gateway.
pub async fn connect(
    bridge: &str,
    name: &str,
    netns: &Path,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), Error> {
    let handle = host()?;
    let bridge_link = find(&handle, bridge).await?;
    let bridge_link = bridge_link.ok_or(Error::Link {
        what: "find the bridge",
        message: format!("{bridge} is gone"),
    })?;
    if find(&handle, name).await?.is_none() {
        let namespace = File::open(netns).map_err(|error| Error::Link {
            what: "open the pod's network namespace",
            message: error.to_string(),
        })?;
        // The peer is born in the pod, under its final name: nobody else ever sees it.
        let mut peer = LinkUnspec::new_with_name(INSIDE)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        peer.header.index = 0;
        let pair = LinkVeth::new(name, INSIDE)
            .set_info_data(rtnetlink::packet_route::link::InfoData::Veth(
                rtnetlink::packet_route::link::InfoVeth::Peer(peer),
            ))
            .controller(bridge_link.header.index)
            .mtu(mtu(&bridge_link))
            .build();
        let made = handle.link().add(pair).execute().await;
        unless_exists(made).map_err(failed("make the pod's links"))?;
    }
    let outside = index(&handle, name).await?;
    // Where br_netfilter is loaded, what a pod sends to itself by way of a Service or hostPort is switched, not routed.
    handle
        .link()
        .set_port(LinkBridgePort::new(outside).hairpin(true).build())
        .execute()
        .await
        .map_err(failed("allow the pod to reach itself"))?;
    handle
        .link()
        .set(LinkUnspec::new_with_index(outside).up().build())
        .execute()
        .await
        .map_err(failed("raise the pod's link"))?;
    inside(netns, move |handle| async move {
        let index = index(&handle, INSIDE).await?;
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(failed("raise eth0"))?;
        let added = handle
            .address()
            .add(index, IpAddr::V4(address), 32)
            .execute()
            .await;
        unless_exists(added).map_err(failed("set the pod's address"))?;
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .pref_source(address)
            .build();
        unless_exists(handle.route().add(to_gateway).execute().await)
            .map_err(failed("route to the gateway"))?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .pref_source(address)
            .build();
        unless_exists(handle.route().add(default).execute().await)
            .map_err(failed("set the default route"))
    })
    .await
}

fn mtu(link: &LinkMessage) -> u32 {
    let found = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    found.unwrap_or(1500)
}

/// Removes a pod's links. Fine if they are gone with the pod's namespace.
pub async fn remove(name: &str) -> Result<(), Error> {
    let handle = host()?;
    let Some(link) = find(&handle, name).await? else {
        return Ok(());
    };
    match handle.link().del(link.header.index).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if errno(&error) == nix::libc::ENODEV => Ok(()),
        other => other.map_err(failed("remove the pod's link")),
    }
}

/// Sets a sysctl of the calling thread's network namespace, where it is not so already.
pub fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name);
    let at = |source| Error::Io {
        path: path.clone(),
        source,
    };
    if std::fs::read_to_string(&path).map_err(at)?.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(at)
}
