//! Flags and `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1), as far as they mean something here.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Parser;
use keelson_daemon::logging::LogOptions;
use serde::Deserialize;

/// Upstream's flags.
#[derive(Debug, Clone, Parser)]
#[command(name = "kube-proxy", version = keelson_daemon::version::LONG, disable_version_flag = false)]
pub struct Flags {
    /// Configuration file; flags that it also has are then ignored, as upstream does.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Kubeconfig of system:kube-proxy.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node.
    #[arg(long = "hostname-override")]
    pub hostname_override: Option<String>,
    /// Pod addresses of the cluster: traffic to Services from elsewhere is masqueraded.
    #[arg(long = "cluster-cidr")]
    pub cluster_cidr: Option<String>,
    /// `nftables`, the only mode there is.
    #[arg(long = "proxy-mode")]
    pub proxy_mode: Option<String>,
    /// Health check address.
    #[arg(long = "healthz-bind-address")]
    pub healthz_bind_address: Option<String>,
    /// Metrics address.
    #[arg(long = "metrics-bind-address")]
    pub metrics_bind_address: Option<String>,
    #[command(flatten)]
    /// Logging.
    pub log: LogOptions,
}

/// The configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    api_version: String,
    kind: String,
    client_connection: ClientConnection,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    mode: String,
    healthz_bind_address: String,
    metrics_bind_address: String,
    hostname_override: String,
    node_port_addresses: Vec<String>,
    nftables: Nftables,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ClientConnection {
    kubeconfig: String,
    accept_content_types: String,
    content_type: String,
    qps: f64,
    burst: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Nftables {
    masquerade_all: bool,
    masquerade_bit: Option<i32>,
    sync_period: String,
    min_sync_period: String,
}

/// What the daemon works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Kubeconfig file.
    pub kubeconfig: PathBuf,
    /// This node's name.
    pub node: String,
    /// Pod addresses, if known.
    pub cluster_cidr: Option<ipnet::Ipv4Net>,
    /// `/healthz`, default `0.0.0.0:10256`.
    pub healthz: SocketAddr,
    /// `/metrics`, default `127.0.0.1:10249`.
    pub metrics: SocketAddr,
    /// Masquerade everything sent to Services.
    pub masquerade_all: bool,
}

/// What is wrong with flags or file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is malformed.
    #[error("{path}: {message}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A value is wrong.
    #[error("{name}: {message}")]
    Value {
        /// Which setting.
        name: &'static str,
        /// Why.
        message: String,
    },
}

fn value(name: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        name,
        message: message.into(),
    }
}

impl Config {
    /// From flags, and the file they name.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        match &flags.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.clone(),
                    source,
                })?;
                Self::from_file(parse(path, &text)?, flags)
            }
            None => Self::from_file(File::default(), flags),
        }
    }

    fn from_file(file: File, flags: &Flags) -> Result<Self, ConfigError> {
        let or = |file: &str, flag: &Option<String>, default: &str| {
            if !file.is_empty() {
                file.to_owned()
            } else {
                flag.clone().unwrap_or_else(|| default.to_owned())
            }
        };
        match or(&file.mode, &flags.proxy_mode, "nftables").as_str() {
            "nftables" => {}
            other => {
                return Err(value(
                    "mode",
                    format!("unsupported mode {other:?}: only \"nftables\" is supported"),
                ));
            }
        }
        if !file.node_port_addresses.is_empty() {
            return Err(value(
                "nodePortAddresses",
                "not supported yet; NodePorts answer on every address of the node",
            ));
        }
        let kubeconfig = or(
            &file.client_connection.kubeconfig,
            &flags.kubeconfig.as_ref().map(|p| p.display().to_string()),
            "",
        );
        if kubeconfig.is_empty() {
            return Err(value(
                "clientConnection.kubeconfig",
                "is required: give --kubeconfig or set it in the file",
            ));
        }
        let cidr = or(&file.cluster_cidr, &flags.cluster_cidr, "");
        // A dual-stack list names one range a family; the IPv4 one counts.
        let first = cidr
            .split(',')
            .find(|c| !c.contains(':'))
            .unwrap_or_default();
        let cluster_cidr = match first {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                value(
                    "clusterCIDR",
                    format!("{text:?} is not a range such as 10.244.0.0/16"),
                )
            })?),
        };
        let hostname = || {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_lowercase()
        };
        // The flag wins here, as upstream lets it.
        let node = flags
            .hostname_override
            .clone()
            .filter(|n| !n.is_empty())
            .or(Some(file.hostname_override).filter(|n| !n.is_empty()))
            .unwrap_or_else(hostname);
        Ok(Self {
            kubeconfig: kubeconfig.into(),
            node,
            cluster_cidr,
            healthz: address(
                "healthzBindAddress",
                &or(
                    &file.healthz_bind_address,
                    &flags.healthz_bind_address,
                    "0.0.0.0:10256",
                ),
                10256,
            )?,
            metrics: address(
                "metricsBindAddress",
                &or(
                    &file.metrics_bind_address,
                    &flags.metrics_bind_address,
                    "127.0.0.1:10249",
                ),
                10249,
            )?,
            masquerade_all: file.nftables.masquerade_all,
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let malformed = |message: String| ConfigError::Malformed {
        path: path.into(),
        message,
    };
    let file: File = serde_norway::from_str(text).map_err(|e| malformed(e.to_string()))?;
    if file.api_version != "kubeproxy.config.k8s.io/v1alpha1"
        || file.kind != "KubeProxyConfiguration"
    {
        return Err(malformed(format!(
            "no kind {:?} is registered for version {:?}: expected KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1",
            file.kind, file.api_version
        )));
    }
    Ok(file)
}

fn address(name: &'static str, text: &str, port: u16) -> Result<SocketAddr, ConfigError> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)))
        .map_err(|_| {
            value(
                name,
                format!("{text:?} is not an address such as 0.0.0.0:{port}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let flags = Flags::parse_from(["kube-proxy", "--hostname-override=n1"]);
        parse(Path::new("f"), text)
            .and_then(|file| Config::from_file(file, &flags))
            .map_err(|e| e.to_string())
    }

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn upstreams_file_is_read() {
        let config = load(&format!("{HEAD}mode: nftables\nclusterCIDR: 10.244.0.0/16\nclientConnection: {{kubeconfig: /k}}\n")).expect("good");
        assert_eq!(config.node, "n1");
        assert_eq!(
            config.cluster_cidr.map(|c| c.to_string()).as_deref(),
            Some("10.244.0.0/16")
        );
        assert_eq!(config.healthz.port(), 10256);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let kubeconfig = "clientConnection: {kubeconfig: /k}\n";
        assert!(
            load(&format!("{HEAD}mode: ipvs\n{kubeconfig}"))
                .expect_err("mode")
                .contains("unsupported mode \"ipvs\"")
        );
        assert!(
            load(&format!("{HEAD}clusterCIDR: nonsense\n{kubeconfig}"))
                .expect_err("cidr")
                .starts_with("clusterCIDR: ")
        );
        assert!(
            load(&format!("{HEAD}nope: 1\n"))
                .expect_err("unknown")
                .contains("nope")
        );
        assert!(
            load("kind: Pod\napiVersion: v1\n")
                .expect_err("kind")
                .contains("KubeProxyConfiguration")
        );
        assert!(
            load(HEAD)
                .expect_err("no kubeconfig")
                .contains("clientConnection.kubeconfig")
        );
    }
}
