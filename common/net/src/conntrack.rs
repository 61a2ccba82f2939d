//! Connection tracking entries of UDP: a client that goes on sending keeps its old translation for ever, so entries whose
//! endpoint has gone are deleted (ctnetlink: dump, match, delete; `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const PROTOCOL_UDP: u8 = 17;
const AF_INET: u8 = 2;
const HEADER: usize = 16;
const NFGEN: usize = 4;

/// One tracked UDP flow over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sent to.
    pub destination: (Ipv4Addr, u16),
    /// Who answers: the endpoint, after translation.
    pub endpoint: (Ipv4Addr, u16),
}

/// Deletes the UDP entries for which `stale` says so. Returns how many.
pub fn delete_udp(stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let socket = open()?;
    let mut deleted = 0;
    for (original, flow) in dump(&socket)? {
        if stale(&flow) {
            match delete(&socket, &original) {
                Ok(()) => deleted += 1,
                // It expired in between.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(deleted)
}

fn open() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + NFGEN + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend((NFNL_SUBSYS_CTNETLINK << 8 | kind).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([AF_INET, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// All UDP flows, each with the attribute of its original tuple.
fn dump(socket: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Flow)>> {
    send(
        socket.as_raw_fd(),
        &message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, &[]),
        MsgFlags::empty(),
    )?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..received];
        while let Some((kind, body, next)) = split_message(rest) {
            rest = next;
            match kind {
                NLMSG_DONE => return Ok(flows),
                NLMSG_ERROR => return Err(netlink_error(body)),
                _ => {
                    if let Some(flow) = body.get(NFGEN..).and_then(parse) {
                        flows.push(flow);
                    }
                }
            }
        }
        if received == 0 {
            return Ok(flows);
        }
    }
}

fn delete(socket: &OwnedFd, original: &[u8]) -> io::Result<()> {
    send(
        socket.as_raw_fd(),
        &message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, original),
        MsgFlags::empty(),
    )?;
    let mut buffer = [0; 4096];
    let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match split_message(&buffer[..received]) {
        Some((NLMSG_ERROR, body, _)) if body.get(..4) != Some(&[0; 4]) => Err(netlink_error(body)),
        _ => Ok(()),
    }
}

fn netlink_error(body: &[u8]) -> io::Error {
    let code = body
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Kind and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// Attributes: type, whole attribute, payload.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let (whole, payload) = (bytes.get(..length)?, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, whole, payload))
    })
}

#[derive(Default)]
struct Tuple {
    source: (Option<Ipv4Addr>, Option<u16>),
    destination: (Option<Ipv4Addr>, Option<u16>),
    protocol: Option<u8>,
}

fn tuple(bytes: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    let address = |payload: &[u8]| <[u8; 4]>::try_from(payload).ok().map(Ipv4Addr::from);
    let port = |payload: &[u8]| <[u8; 2]>::try_from(payload).ok().map(u16::from_be_bytes);
    for (kind, _, payload) in attributes(bytes) {
        for (inner, _, payload) in attributes(payload) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC) => tuple.source.0 = address(payload),
                (CTA_TUPLE_IP, CTA_IP_V4_DST) => tuple.destination.0 = address(payload),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => tuple.protocol = payload.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => tuple.source.1 = port(payload),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => tuple.destination.1 = port(payload),
                _ => {}
            }
        }
    }
    tuple
}

fn parse(bytes: &[u8]) -> Option<(Vec<u8>, Flow)> {
    let (mut original, mut destination, mut endpoint) = (None, None, None);
    for (kind, whole, payload) in attributes(bytes) {
        match kind {
            CTA_TUPLE_ORIG => {
                let tuple = tuple(payload);
                if tuple.protocol != Some(PROTOCOL_UDP) {
                    return None;
                }
                original = Some(whole.to_vec());
                destination = Some((tuple.destination.0?, tuple.destination.1?));
            }
            CTA_TUPLE_REPLY => {
                let tuple = tuple(payload);
                endpoint = Some((tuple.source.0?, tuple.source.1?));
            }
            _ => {}
        }
    }
    Some((
        original?,
        Flow {
            destination: destination?,
            endpoint: endpoint?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(payload.len() + 4)
            .expect("short")
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn side(
        kind: u16,
        source: ([u8; 4], u16),
        destination: ([u8; 4], u16),
        protocol: u8,
    ) -> Vec<u8> {
        let ip = [
            attribute(CTA_IP_V4_SRC, &source.0),
            attribute(CTA_IP_V4_DST, &destination.0),
        ]
        .concat();
        let ports = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_SRC_PORT, &source.1.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &destination.1.to_be_bytes()),
        ]
        .concat();
        attribute(
            kind,
            &[
                attribute(CTA_TUPLE_IP | 0x8000, &ip),
                attribute(CTA_TUPLE_PROTO | 0x8000, &ports),
            ]
            .concat(),
        )
    }

    #[test]
    fn reads_the_flow_of_an_entry() {
        let (client, service, pod) = (
            ([10, 0, 0, 9], 4000),
            ([10, 96, 0, 10], 53),
            ([10, 244, 0, 3], 5353),
        );
        let bytes = [
            side(CTA_TUPLE_ORIG, client, service, 17),
            side(CTA_TUPLE_REPLY, pod, client, 17),
        ]
        .concat();
        let (original, flow) = parse(&bytes).expect("a flow");
        assert_eq!(
            flow,
            Flow {
                destination: (service.0.into(), 53),
                endpoint: (pod.0.into(), 5353)
            }
        );
        assert_eq!(original, side(CTA_TUPLE_ORIG, client, service, 17));
        let tcp = [
            side(CTA_TUPLE_ORIG, client, service, 6),
            side(CTA_TUPLE_REPLY, pod, client, 6),
        ]
        .concat();
        assert!(parse(&tcp).is_none());
        assert!(parse(&bytes[..30]).is_none(), "truncated");
    }

    #[test]
    fn lying_lengths_end_the_walk() {
        assert_eq!(split_message(&[255, 0, 0, 0, 1]), None);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
