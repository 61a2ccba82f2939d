//! `/etc/hosts`, `/etc/resolv.conf` and the host name of a pod, as text. Pure, but for reading the node's own files.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// Why a pod has no valid host name or DNS settings.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostsError {
    /// setHostnameAsFQDN with a name that the kernel doesn't take.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {0} is too long (64 characters is the max, {1} characters requested)"
    )]
    TooLong(String, usize),
}

/// Host name and domain of a pod: `spec.hostname`, or its name cut to 63 characters; domain by `spec.subdomain`.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let given = |f: fn(&k8s_openapi::api::core::v1::PodSpec) -> Option<&String>| {
        spec.and_then(f).filter(|s| !s.is_empty()).cloned()
    };
    if let Some(name) = given(|s| s.hostname_override.as_ref()) {
        return (name, String::new());
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let hostname = given(|s| s.hostname.as_ref()).unwrap_or_else(|| {
        let cut: String = name.chars().take(63).collect();
        cut.trim_end_matches(['-', '.']).to_owned()
    });
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = given(|s| s.subdomain.as_ref())
        .map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
    (hostname, domain.unwrap_or_default())
}

/// The name the kernel is told.
pub fn kernel_name(pod: &Pod, cluster_domain: &str) -> Result<String, HostsError> {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let as_fqdn = pod
        .spec
        .as_ref()
        .and_then(|s| s.set_hostname_as_fqdn)
        .unwrap_or(false);
    if !as_fqdn || domain.is_empty() {
        return Ok(hostname);
    }
    let fqdn = format!("{hostname}.{domain}");
    let length = fqdn.len();
    if length > 64 {
        Err(HostsError::TooLong(fqdn, length))
    } else {
        Ok(fqdn)
    }
}

fn aliases(pod: &Pod) -> String {
    let list = pod
        .spec
        .as_ref()
        .and_then(|s| s.host_aliases.as_deref())
        .unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in list {
        let names = alias
            .hostnames
            .iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// `/etc/hosts` of a pod with addresses of its own.
pub fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str) -> String {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let line = if domain.is_empty() {
            format!("{ip}\t{hostname}\n")
        } else {
            format!("{ip}\t{hostname}.{domain}\t{hostname}\n")
        };
        text.push_str(&line);
    }
    text + &aliases(pod)
}

/// `/etc/hosts` of a pod in the node's network: the node's, with the pod's aliases.
pub fn host_network_hosts(pod: &Pod, node: &str) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{node}{}",
        aliases(pod)
    )
}

/// A resolv.conf in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    /// `nameserver`.
    pub servers: Vec<String>,
    /// `search`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads the node's file.
    pub fn parse(text: &str) -> Self {
        let mut resolv = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolv.servers.extend(words.next()),
                // The last search line counts, as in the resolver itself.
                Some("search" | "domain") => resolv.searches = words.filter(|w| w != ".").collect(),
                Some("options") => resolv.options.extend(words),
                _ => {}
            }
        }
        resolv
    }

    /// Writes it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Most nameservers a resolver looks at.
const MAX_SERVERS: usize = 3;
/// Most search domains the API lets a pod have.
const MAX_SEARCHES: usize = 32;

fn push_new(list: &mut Vec<String>, values: impl IntoIterator<Item = String>) {
    for value in values {
        if !list.contains(&value) {
            list.push(value);
        }
    }
}

/// The resolv.conf of a pod by its dnsPolicy and dnsConfig.
pub fn resolv(pod: &Pod, node: &Resolv, cluster_dns: &[IpAddr], cluster_domain: &str) -> Resolv {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let mut resolv = match (policy, cluster && !cluster_dns.is_empty()) {
        ("None", _) => Resolv::default(),
        (_, true) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                searches = vec![
                    format!("{namespace}.svc.{cluster_domain}"),
                    format!("svc.{cluster_domain}"),
                    cluster_domain.to_owned(),
                ];
            }
            push_new(&mut searches, node.searches.clone());
            let servers = cluster_dns.iter().map(ToString::to_string).collect();
            Resolv {
                servers,
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => node.clone(),
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        push_new(
            &mut resolv.servers,
            config.nameservers.iter().flatten().cloned(),
        );
        push_new(
            &mut resolv.searches,
            config.searches.iter().flatten().cloned(),
        );
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let same = |o: &String| o.split(':').next() == Some(name.as_str());
            resolv.options.retain(|o| !same(o));
            resolv.options.push(
                option
                    .value
                    .as_ref()
                    .map_or_else(|| name.clone(), |v| format!("{name}:{v}")),
            );
        }
    }
    resolv.servers.truncate(MAX_SERVERS);
    resolv.searches.truncate(MAX_SEARCHES);
    resolv
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn hosts_with_subdomain_and_aliases() {
        let pod = pod(
            json!({"containers": [], "hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&pod, &["10.0.0.5".parse().unwrap()], "cluster.local");
        assert!(text.contains("10.0.0.5\th.s.ns.svc.cluster.local\th\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }

    #[test]
    fn names_the_kernel_takes() {
        let long = pod(
            json!({"containers": [], "hostname": "h", "subdomain": "s".repeat(60), "setHostnameAsFQDN": true}),
        );
        assert!(matches!(
            kernel_name(&long, "cluster.local"),
            Err(HostsError::TooLong(..))
        ));
        let over = pod(json!({"containers": [], "hostnameOverride": "x.example"}));
        assert_eq!(kernel_name(&over, "cluster.local").unwrap(), "x.example");
    }

    #[test]
    fn dns_by_policy() {
        let node =
            Resolv::parse("# c\nnameserver 9.9.9.9\nsearch corp.example .\noptions timeout:1\n");
        let dns = ["10.96.0.10".parse().unwrap()];
        let get = |spec| resolv(&pod(spec), &node, &dns, "cluster.local");
        assert_eq!(
            get(json!({"containers": []})).text(),
            "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert_eq!(get(json!({"containers": [], "dnsPolicy": "Default"})), node);
        assert_eq!(get(json!({"containers": [], "hostNetwork": true})), node);
        let none = get(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}}),
        );
        assert_eq!(none.text(), "nameserver 1.1.1.1\noptions ndots:2\n");
        let both = get(
            json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        assert_eq!(both.options, ["ndots:2", "edns0"]);
    }
}
