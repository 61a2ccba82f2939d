//! The rules in a real kernel: a network namespace of the test's own, real connections through a Service's address.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use keelson_daemon::metrics::Metrics;
use kube_proxy::config::Config;
use kube_proxy::model::{Front, Masquerade, Otherwise, Protocol, Virtual};
use kube_proxy::sync::{Sync, SyncMetrics};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn endpoint(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, last), 3000)
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("ip");
    assert!(status.success(), "ip {arguments}");
}

/// Answers one datagram through a Service's address.
fn ask_udp() -> std::io::Result<String> {
    let client = UdpSocket::bind((NODE, 0))?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.connect((SERVICE, 53))?;
    client.send(b"?")?;
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Answers every datagram with its own address.
fn serve_udp(address: SocketAddrV4) {
    let socket = UdpSocket::bind(address).expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(address.ip().to_string().as_bytes(), client);
        }
    });
}

/// Answers every connection with its own address.
fn serve(address: SocketAddrV4) {
    let listener = TcpListener::bind(address).expect("listen");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(address.ip().to_string().as_bytes());
        }
    });
}

fn ask(ip: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((ip, port)), Duration::from_secs(2))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn virtual_(front: Front, endpoints: &[u8], affinity: Option<u32>) -> Virtual {
    let masquerade = if matches!(front, Front::Node(..)) {
        Masquerade::Always
    } else {
        Masquerade::OffCluster
    };
    Virtual {
        front,
        endpoints: endpoints.iter().map(|&e| endpoint(e)).collect(),
        affinity,
        otherwise: Otherwise::Reject,
        masquerade,
    }
}

#[test]
fn services_reach_their_endpoints() {
    if !nix_root()
        || std::process::Command::new("nft")
            .arg("--version")
            .output()
            .is_err()
    {
        eprintln!("SKIPPED: needs root and nft");
        return;
    }
    // A namespace belongs to a thread; everything below runs on this one or on threads and processes it starts.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
        ip("link set lo up");
        ip("link add node0 type veth peer name node1");
        ip("link set node1 up");
        for last in 1..=4 {
            ip(&format!("address add 198.51.100.{last}/24 dev node0"));
        }
        ip("link set node0 up");
        ip("route add default dev node0");
        (2..=4).for_each(|last| serve(endpoint(last)));
        (2..=4).for_each(|last| serve_udp(endpoint(last)));
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(scenario());
    })
    .join()
    .expect("the scenario passes");
}

async fn scenario() {
    keelson_daemon::logging::init(&keelson_daemon::logging::LogOptions::default());
    let config = Config {
        kubeconfig: "/nonexistent".into(),
        node: "n".into(),
        cluster_cidr: "10.244.0.0/16".parse().ok(),
        healthz: ([127, 0, 0, 1], 0).into(),
        metrics: ([127, 0, 0, 1], 0).into(),
        masquerade_all: false,
    };
    let mut sync = Sync::new(
        config,
        Arc::new(keelson_net::nft::Command),
        SyncMetrics::register(&Metrics::new()),
    );
    let front = Front::Address(SERVICE, Protocol::Tcp, 80);
    let node = Front::Node(Protocol::Tcp, 30080);
    let hits = |ip, port| {
        (0..60)
            .map(|_| ask(ip, port).expect("an answer"))
            .collect::<BTreeSet<String>>()
    };

    sync.set(
        "n/s",
        &[
            virtual_(front, &[2, 3, 4], None),
            virtual_(node, &[2, 3], None),
        ],
    );
    sync.apply().await.expect("cold start");
    assert_eq!(hits(SERVICE, 80).len(), 3, "every endpoint is used");
    assert_eq!(hits(NODE, 30080).len(), 2);

    sync.set(
        "n/s",
        &[virtual_(front, &[3], None), virtual_(node, &[], None)],
    );
    sync.apply().await.expect("change");
    assert_eq!(
        hits(SERVICE, 80),
        BTreeSet::from(["198.51.100.3".to_owned()])
    );
    let refused = ask(NODE, 30080).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    sync.set(
        "n/s",
        &[
            virtual_(front, &[2, 3, 4], Some(3600)),
            virtual_(node, &[2, 3, 4], Some(3600)),
        ],
    );
    sync.apply().await.expect("affinity");
    let bound = hits(SERVICE, 80);
    assert_eq!(
        bound.len(),
        1,
        "a client stays with one endpoint: {bound:?}"
    );
    assert_eq!(hits(NODE, 30080).len(), 1);
    let last: u8 = bound
        .first()
        .and_then(|ip| ip.rsplit('.').next()?.parse().ok())
        .expect("an address");
    let others: Vec<u8> = (2..=4).filter(|&e| e != last).collect();
    sync.set("n/s", &[virtual_(front, &others, Some(3600))]);
    sync.apply().await.expect("its endpoint goes");
    let moved = hits(SERVICE, 80);
    assert_eq!(moved.len(), 1, "bound anew: {moved:?}");
    assert!(
        !moved.is_subset(&bound),
        "not to the endpoint that has gone"
    );
    sync.set("n/s", &[virtual_(front, &[2, 3, 4], Some(3600))]);
    sync.apply().await.expect("it comes back");
    assert_eq!(
        hits(SERVICE, 80),
        moved,
        "positions moved, the client did not"
    );

    let dns = Front::Address(SERVICE, Protocol::Udp, 53);
    sync.set("n/dns", &[virtual_(dns, &[2, 3], None)]);
    sync.apply().await.expect("udp");
    let answers = (0..40)
        .map(|_| ask_udp().expect("a datagram"))
        .collect::<BTreeSet<String>>();
    assert_eq!(answers.len(), 2);

    sync.set("n/s", &[]);
    sync.apply().await.expect("gone");
    assert!(ask(SERVICE, 80).is_err());
}

fn nix_root() -> bool {
    nix::unistd::geteuid().is_root()
}
