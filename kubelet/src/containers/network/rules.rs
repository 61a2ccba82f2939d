//! The node's nftables rules, as text: masquerade, forwarding, hostPorts. Everything is in one table of our own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tokio::process::Command;

use super::addresses::Port;

/// The table with its chains, written anew. The bridge routes loopback addresses, for hostPorts on 127.0.0.1; so what
/// comes from pods with such an address is dropped first, or they could reach what listens on the node's loopback.
pub fn base(table: &str, bridge: &str, cluster: Ipv4Net, range: Ipv4Net) -> String {
    format!(
        "\
table inet {table} {{}}
delete table inet {table}
table inet {table} {{
	map any_ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
	map ip_ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
	set own {{ type ipv4_addr . ipv4_addr; }}
	chain spoofed {{
		type filter hook prerouting priority -300; policy accept;
		iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
		iifname \"{bridge}\" ip saddr 127.0.0.0/8 drop
	}}
	chain to_ports {{
		dnat ip to ip daddr . meta l4proto . th dport map @ip_ports
		dnat ip to meta l4proto . th dport map @any_ports
	}}
	chain prerouting {{
		type nat hook prerouting priority -90; policy accept;
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump to_ports
	}}
	chain output {{
		type nat hook output priority -90; policy accept;
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump to_ports
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		ip saddr {range} ip daddr != {cluster} ip daddr != 224.0.0.0/4 masquerade
		ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
		ip saddr . ip daddr @own masquerade
	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
		ct state invalid iifname \"{bridge}\" drop
		iifname \"{bridge}\" accept
		oifname \"{bridge}\" accept
	}}
}}
"
    )
}

/// All hostPorts, written anew. What clashes with the proxy's ports is decided by priority: a Service's goes first.
pub fn ports(table: &str, ports: &[(Ipv4Addr, Port)]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "flush map inet {table} any_ports\nflush map inet {table} ip_ports\nflush set inet {table} own\n"
    );
    for (address, port) in ports {
        let Port {
            host_port,
            container_port,
            protocol,
            ..
        } = port;
        // Writing to a string can't fail.
        let _ = match port.host_ip {
            None => writeln!(
                text,
                "add element inet {table} any_ports {{ {protocol} . {host_port} : {address} . {container_port} }}"
            ),
            Some(ip) => {
                writeln!(
                    text,
                    "add element inet {table} ip_ports {{ {ip} . {protocol} . {host_port} : {address} . {container_port} }}"
                )
            }
        };
    }
    let mut owners: Vec<Ipv4Addr> = ports.iter().map(|(address, _)| *address).collect();
    owners.sort();
    owners.dedup();
    for address in owners {
        let _ = writeln!(
            text,
            "add element inet {table} own {{ {address} . {address} }}"
        );
    }
    text
}

/// Docker and ufw drop what they don't know in iptables's FORWARD chain; an accept in our own table can't undo a drop
/// there, so our bridge is accepted at that chain's head, where it drops.
pub async fn pass_forward_drop(bridge: &str) {
    let iptables = |arguments: Vec<String>| async move {
        Command::new("iptables")
            .arg("-w")
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .await
    };
    let Ok(listed) = iptables(vec!["-S".into(), "FORWARD".into()]).await else {
        return;
    };
    if !drops(&String::from_utf8_lossy(&listed.stdout)) {
        return;
    }
    for direction in ["-i", "-o"] {
        let rule = |verb: &str| -> Vec<String> {
            let rule = [
                "FORWARD",
                direction,
                bridge,
                "-m",
                "comment",
                "--comment",
                "keelson",
                "-j",
                "ACCEPT",
            ];
            std::iter::once(verb)
                .chain(rule)
                .map(str::to_owned)
                .collect()
        };
        if iptables(rule("-C"))
            .await
            .is_ok_and(|output| output.status.success())
        {
            continue;
        }
        match iptables(rule("-I")).await {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                tracing::warn!(error = %String::from_utf8_lossy(&output.stderr).trim(), "FORWARD drops what pods send");
            }
            Err(error) => tracing::warn!(%error, "FORWARD drops what pods send"),
        }
    }
}

fn drops(listing: &str) -> bool {
    listing
        .lines()
        .any(|line| line.trim() == "-P FORWARD DROP" || line.contains("ufw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_address_and_for_all() {
        let port = |host_port, host_ip: Option<&str>| Port {
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            container_port: 80,
            protocol: "tcp".into(),
        };
        let pod = "10.0.0.2".parse().unwrap();
        let text = ports(
            "t",
            &[
                (pod, port(8080, None)),
                (pod, port(8081, Some("127.0.0.1"))),
            ],
        );
        assert!(
            text.contains("add element inet t any_ports { tcp . 8080 : 10.0.0.2 . 80 }"),
            "{text}"
        );
        assert!(
            text.contains("add element inet t ip_ports { 127.0.0.1 . tcp . 8081 : 10.0.0.2 . 80 }"),
            "{text}"
        );
        assert_eq!(text.matches("inet t own {").count(), 1);
    }

    #[test]
    fn who_drops() {
        assert!(drops("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"));
        assert!(drops(
            "-P FORWARD ACCEPT\n-A FORWARD -j ufw-before-forward\n"
        ));
        assert!(!drops("-P FORWARD ACCEPT\n"));
    }
}
