//! The pods' network with real links and rules, in a network namespace of the test's own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::process::Command;
use std::time::Duration;

use kubelet::runtime::{Namespaces, PortMapping, Runtime};
use support::{Host, in_own_network};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn output(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks an HTTP server; the body.
async fn ask(stream: &mut tokio::net::TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /name HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text.rsplit("\r\n").next().unwrap_or("").to_owned())
}

async fn get(address: &str) -> std::io::Result<String> {
    let connect = tokio::net::TcpStream::connect(address);
    ask(&mut tokio::time::timeout(Duration::from_secs(3), connect).await??).await
}

/// The same from inside a pod (Debian's static wget crashes where there is no name service).
fn inside(address: &str, port: u16) -> [&'static str; 3] {
    let script = format!(
        "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port} | busybox tail -n 1"
    );
    ["sh", "-c", script.leak()]
}

/// Answers with its pod's name.
const SERVER: &str = "hostname > /tmp/name; exec httpd -f -p 8080 -h /tmp";

#[test]
fn pods_reach_each_other_and_the_node() {
    in_own_network(|| async {
        let host = Host::new().await;
        let mut servers = Vec::new();
        for name in ["one", "two"] {
            let mut pod = host.pod(name);
            if name == "one" {
                let port = |host_port, host_ip: Option<&str>| PortMapping {
                    host_port,
                    host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                    container_port: 8080,
                    protocol: "TCP".into(),
                };
                pod.port_mappings = vec![port(18080, None), port(18081, Some("127.0.0.1"))];
            }
            let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
            let spec = host.container(&pod, "server", &["sh", "-c", SERVER]);
            host.start(&spec).await;
            servers.push((pod, spec, sandbox.ips[0]));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (_, links, _) = host.exec(&servers[0].1.container, &["ip", "addr"]).await;
        assert!(
            links.contains(&format!("inet {}/32", servers[0].2))
                && links.contains("inet 127.0.0.1/8"),
            "{links}"
        );
        // Node to pod, pod to pod, hostPort, and by the namespace's door.
        assert_eq!(
            get(&format!("{}:8080", servers[1].2)).await.unwrap(),
            "two\n"
        );
        let (code, text, error) = host
            .exec(
                &servers[0].1.container,
                &inside(&servers[1].2.to_string(), 8080),
            )
            .await;
        assert_eq!((code, text.as_str()), (0, "two\n"), "{error}");
        assert_eq!(get("127.0.0.1:18080").await.unwrap(), "one\n");
        assert_eq!(get("127.0.0.1:18081").await.unwrap(), "one\n");
        assert_eq!(get("10.99.0.1:18080").await.unwrap(), "one\n");
        assert!(get("10.99.0.1:18081").await.is_err());
        // A pod's own hostPort, by the node's address.
        let (code, text, error) = host
            .exec(&servers[0].1.container, &inside("10.99.0.1", 18080))
            .await;
        assert_eq!((code, text.as_str()), (0, "one\n"), "{error}");
        let mut stream = host
            .runtime
            .dial(&servers[1].0.pod.uid, 8080)
            .await
            .unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), "two\n");
        assert!(
            host.runtime
                .dial(&servers[1].0.pod.uid, 1)
                .await
                .unwrap_err()
                .to_string()
                .contains("refused")
        );
        // The same port twice is refused, and nothing is left of the attempt.
        let mut third = host.pod("three");
        third.port_mappings = servers[0].0.port_mappings.clone();
        let error = host.runtime.run_sandbox(&third).await.unwrap_err();
        assert!(
            error.to_string().contains("hostPort 18080/TCP is in use"),
            "{error}"
        );
        assert!(
            host.runtime
                .sandbox(&third.pod.uid)
                .await
                .unwrap()
                .is_none()
        );
        host.runtime
            .remove_sandbox(&servers[0].0.pod.uid)
            .await
            .unwrap();
        host.runtime.run_sandbox(&third).await.unwrap();
        let links = output(&["ip", "-o", "link", "show", "type", "veth"]);
        assert_eq!(links.lines().count(), 2, "{links}");
        host.close().await;
        assert!(output(&["ip", "-o", "link", "show", "type", "veth"]).is_empty());
    });
}

#[test]
fn what_leaves_the_pods_is_masqueraded() {
    in_own_network(|| async {
        // "Outside" is a second namespace that knows no way back to the pods.
        let name = format!("keelson-out-{}", std::process::id());
        output(&["ip", "netns", "add", &name]);
        output(&[
            "ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", &name,
        ]);
        output(&["ip", "addr", "add", "192.0.2.1/30", "dev", "up0"]);
        output(&["ip", "link", "set", "up0", "up"]);
        for words in [
            vec!["addr", "add", "192.0.2.2/30", "dev", "out0"],
            vec!["link", "set", "out0", "up"],
        ] {
            let mut all = vec!["ip", "-n", name.as_str()];
            all.extend(words);
            output(&all);
        }
        let netns = format!("/run/netns/{name}");
        let listener = std::thread::spawn(move || {
            nix::sched::setns(
                std::fs::File::open(netns).unwrap(),
                nix::sched::CloneFlags::CLONE_NEWNET,
            )
            .unwrap();
            std::net::TcpListener::bind("192.0.2.2:9000").unwrap()
        })
        .join()
        .unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let host = Host::new().await;
        let pod = host.pod("leaver");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let spec = host.container(&pod, "main", &["sleep", "1000"]);
        host.start(&spec).await;
        let serve = async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(b"outside").await.unwrap();
            peer.ip().to_string()
        };
        let (peer, (_, text, error)) = tokio::join!(
            serve,
            host.exec(&spec.container, &["nc", "192.0.2.2", "9000"])
        );
        assert_eq!(
            (peer.as_str(), text.as_str()),
            ("192.0.2.1", "outside"),
            "{error}"
        );
        host.close().await;
        output(&["ip", "netns", "del", &name]);
    });
}

#[test]
fn host_network_and_missing_range() {
    in_own_network(|| async {
        let host = Host::new().await;
        let mut pod = host.pod("hostnet");
        pod.namespaces = Namespaces {
            host_network: true,
            ..Namespaces::default()
        };
        let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
        assert!(sandbox.ips.is_empty() && sandbox.netns.is_none());
        let spec = host.container(&pod, "main", &["readlink", "/proc/self/ns/net"]);
        host.start(&spec).await;
        host.wait(&spec.container).await;
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(host.log(&spec), [format!("stdout F {}", own.display())]);
        host.close().await;
    });
}
