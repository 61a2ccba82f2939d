//! Which pod has which address and which hostPorts: one file, changed under a lock.
//!
//! Addresses are given out in a circle, so one that was given back rests for as long as possible.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::runtime::PortMapping;

/// One hostPort as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Port on the node.
    pub host_port: u16,
    /// Address on the node, or all.
    pub host_ip: Option<Ipv4Addr>,
    /// Port in the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lease {
    address: Ipv4Addr,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    /// The last address given out.
    last: Option<Ipv4Addr>,
    /// By uid of the pod.
    leases: BTreeMap<String, Lease>,
}

/// The store of addresses.
#[derive(Debug)]
pub struct Addresses {
    file: PathBuf,
    lock: PathBuf,
}

impl Addresses {
    /// In a directory that exists.
    pub fn new(directory: &Path) -> Self {
        Self {
            file: directory.join("addresses.json"),
            lock: directory.join("addresses.lock"),
        }
    }

    /// The pod's address: the one it has, or the next free one of the range.
    pub fn allocate(
        &self,
        range: Ipv4Net,
        uid: &str,
        wanted: &[PortMapping],
    ) -> Result<Ipv4Addr, Error> {
        self.change(|book| {
            if let Some(lease) = book
                .leases
                .get(uid)
                .filter(|lease| range.contains(&lease.address))
            {
                return Ok(lease.address);
            }
            let ports = ports_of(wanted);
            for port in &ports {
                check_free(book, uid, port)?;
            }
            let address = next_free(book, range).ok_or(Error::Exhausted(range))?;
            book.last = Some(address);
            book.leases.insert(uid.to_owned(), Lease { address, ports });
            Ok(address)
        })
    }

    /// Takes the pod's address back; true if it had hostPorts.
    pub fn release(&self, uid: &str) -> Result<bool, Error> {
        self.change(|book| {
            Ok(book
                .leases
                .remove(uid)
                .is_some_and(|lease| !lease.ports.is_empty()))
        })
    }

    /// The pods that have an address.
    pub fn owners(&self) -> Result<Vec<String>, Error> {
        Ok(self.read()?.leases.into_keys().collect())
    }

    /// All hostPorts with the address of their pod.
    pub fn ports(&self) -> Result<Vec<(Ipv4Addr, Port)>, Error> {
        let leases = self.read()?.leases.into_values();
        Ok(leases
            .flat_map(|lease| {
                lease
                    .ports
                    .into_iter()
                    .map(move |port| (lease.address, port))
            })
            .collect())
    }

    fn read(&self) -> Result<Book, Error> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| self.at(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
            Err(error) => Err(self.at(error)),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> Result<T, Error>) -> Result<T, Error> {
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(|error| self.at(error))?;
        let _held = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| self.at(errno.into()))?;
        let mut book = self.read()?;
        let result = change(&mut book)?;
        let bytes = serde_json::to_vec(&book).map_err(|error| self.at(error.into()))?;
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, bytes)
            .and_then(|()| fs::rename(&fresh, &self.file))
            .map_err(|error| self.at(error))?;
        Ok(result)
    }

    fn at(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.file.clone(),
            source,
        }
    }
}

fn ports_of(wanted: &[PortMapping]) -> Vec<Port> {
    let ports = wanted
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .filter_map(|mapping| {
            let host_ip = match mapping.host_ip {
                None => None,
                Some(std::net::IpAddr::V4(ip)) if ip.is_unspecified() => None,
                Some(std::net::IpAddr::V4(ip)) => Some(ip),
                Some(std::net::IpAddr::V6(ip)) if ip.is_unspecified() => None,
                Some(std::net::IpAddr::V6(_)) => return None, // pods have IPv4 addresses
            };
            let protocol = mapping.protocol.to_ascii_lowercase();
            Some(Port {
                host_port: mapping.host_port,
                host_ip,
                container_port: mapping.container_port,
                protocol,
            })
        });
    ports.collect()
}

fn check_free(book: &Book, uid: &str, port: &Port) -> Result<(), Error> {
    let clashes = |other: &Port| {
        other.host_port == port.host_port
            && other.protocol == port.protocol
            && (other.host_ip.is_none() || port.host_ip.is_none() || other.host_ip == port.host_ip)
    };
    let others = book.leases.iter().filter(|(owner, _)| *owner != uid);
    if others.flat_map(|(_, lease)| &lease.ports).any(clashes) {
        return Err(Error::PortInUse {
            port: port.host_port,
            protocol: port.protocol.to_ascii_uppercase(),
        });
    }
    Ok(())
}

/// The next free address after the last one, around the range, without the network's, the gateway's and the broadcast one.
fn next_free(book: &Book, range: Ipv4Net) -> Option<Ipv4Addr> {
    let taken: std::collections::HashSet<Ipv4Addr> =
        book.leases.values().map(|lease| lease.address).collect();
    let (first, last) = (
        u32::from(range.network()).checked_add(2)?,
        u32::from(range.broadcast()).checked_sub(1)?,
    );
    if first > last {
        return None;
    }
    let from = book
        .last
        .map(u32::from)
        .filter(|at| (first..last).contains(at))
        .map_or(first, |at| at + 1);
    (from..=last)
        .chain(first..from)
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            container_port: 80,
            protocol: "TCP".into(),
        }
    }

    #[test]
    fn around_the_range() {
        let directory = tempfile::tempdir().unwrap();
        let store = Addresses::new(directory.path());
        let range = range("10.0.0.0/29"); // .2 to .6
        let get = |uid: &str| store.allocate(range, uid, &[]).map(|ip| ip.octets()[3]);
        assert_eq!(
            (get("a").unwrap(), get("b").unwrap(), get("a").unwrap()),
            (2, 3, 2)
        );
        store.release("a").unwrap();
        assert_eq!(
            (get("c").unwrap(), get("d").unwrap(), get("e").unwrap()),
            (4, 5, 6)
        );
        // Only now does the first one come again.
        assert_eq!(get("f").unwrap(), 2);
        assert!(matches!(get("g"), Err(Error::Exhausted(_))));
        assert!(
            Addresses::new(directory.path())
                .owners()
                .unwrap()
                .contains(&"f".to_owned())
        );
    }

    #[test]
    fn parallel_pods_never_share() {
        let directory = tempfile::tempdir().unwrap();
        let range = range("10.0.0.0/24");
        let mut found: Vec<Ipv4Addr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let store = Addresses::new(directory.path());
                    scope.spawn(move || {
                        (0..10)
                            .map(|n| {
                                store
                                    .allocate(range, &format!("{thread}-{n}"), &[])
                                    .unwrap()
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 80);
    }

    #[test]
    fn ports_of_the_node_clash() {
        let directory = tempfile::tempdir().unwrap();
        let store = Addresses::new(directory.path());
        let range = range("10.0.0.0/24");
        store
            .allocate(range, "a", &[port(8080, None), port(0, None)])
            .unwrap();
        assert!(matches!(
            store.allocate(range, "b", &[port(8080, Some("127.0.0.1"))]),
            Err(Error::PortInUse { .. })
        ));
        store
            .allocate(range, "c", &[port(8081, Some("127.0.0.1"))])
            .unwrap();
        store
            .allocate(range, "d", &[port(8081, Some("127.0.0.2"))])
            .unwrap();
        assert_eq!(store.ports().unwrap().len(), 3);
        assert!(store.release("a").unwrap());
        store.allocate(range, "b", &[port(8080, None)]).unwrap();
    }
}
