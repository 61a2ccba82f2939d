//! The command line, with upstream's flag names and defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser};
use ipnet::IpNet;
use keelson_daemon::logging::LogOptions;

/// Runs the controllers that bring the cluster to what its objects ask for.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-controller-manager", version = keelson_daemon::version::GIT_VERSION, long_version = keelson_daemon::version::LONG)]
pub struct Options {
    /// Kubeconfig with the credentials of the controller manager.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig for asking who a caller of the secure port is (default: --kubeconfig).
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig for asking what a caller of the secure port may do (default: --kubeconfig).
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Authority of the client certificates accepted on the secure port.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Certificate of the secure port (default: self-signed, made at the start).
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the secure port.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Address of the secure port.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Port for health, metrics and configz over HTTPS; 0 for none.
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// Controllers to run: `*` for those on by default, `name` to add, `-name` to leave out.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    pub controllers: Vec<String>,
    /// Let every controller act as its own service account.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// Name of the cluster.
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// Address ranges of pods.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Address ranges of Services.
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Give every node a range of pod addresses out of --cluster-cidr.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Prefix length of a node's IPv4 range when there is only one family.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size: u8,
    /// Prefix length of a node's IPv4 range.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 range.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Authority that every namespace gets as `kube-root-ca.crt`, and service-account tokens as `ca.crt`.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Key that signs legacy service-account tokens.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Certificate of the authority that signs certificate requests.
    #[arg(long)]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of the authority that signs certificate requests.
    #[arg(long)]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long certificates are signed for at most.
    #[arg(long, value_parser = duration, default_value = "8760h")]
    pub cluster_signing_duration: Duration,
    /// Authorities of single signers.
    #[command(flatten)]
    pub signing: SigningOptions,
    /// How often node health is looked at.
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub node_monitor_period: Duration,
    /// How long a node may be silent before it counts as unhealthy.
    #[arg(long, value_parser = duration, default_value = "50s")]
    pub node_monitor_grace_period: Duration,
    /// How long a node may be silent after its registration.
    #[arg(long, value_parser = duration, default_value = "1m")]
    pub node_startup_grace_period: Duration,
    /// Accepted for compatibility; tolerations decide how long pods stay on failed nodes.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub pod_eviction_timeout: Duration,
    /// Nodes a second whose pods are evicted when nodes fail.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f32,
    /// The same while many nodes of a zone are down.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f32,
    /// The part of a zone's nodes that must be down for the zone to count as unhealthy.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f32,
    /// Zones with no more nodes than this get no evictions at the secondary rate.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: u32,
    /// Ended pods kept before the oldest are deleted; 0 keeps all.
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: i32,
    /// Collect dependents of deleted owners.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub enable_garbage_collector: bool,
    /// Endpoints in a slice at most.
    #[arg(long, default_value_t = 100)]
    pub max_endpoints_per_slice: usize,
    /// How long endpoint updates are gathered.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub endpointslice_updates_batch_period: Duration,
    /// How often used resources are counted anew for all quotas.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub resource_quota_sync_period: Duration,
    /// Never detaches a volume that a node may still use, however long the node has been lost.
    #[arg(long)]
    pub disable_force_detach_on_timeout: bool,

    /// How often horizontal autoscalers are looked at.
    #[arg(long, value_parser = duration, default_value = "15s")]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// How long a lower recommendation must stand before it is followed, unless a behaviour says otherwise.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// The part by which the load may differ from its target without any effect.
    #[arg(long, default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// How long after a pod's start its CPU use may be left out of account.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// How long after a pod's start its changes of readiness count as its first readiness.
    #[arg(long, value_parser = duration, default_value = "30s")]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    /// How long a token secret that nobody uses is kept.
    #[arg(long, value_parser = duration, default_value = "8760h")]
    pub legacy_service_account_token_clean_up_period: Duration,
    /// Feature gates, `Name=true|false`.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Show stack samples on the secure port: accepted for compatibility.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub profiling: bool,
    /// Requests a second to the API server: accepted for compatibility; its priority and fairness decides.
    #[arg(long, default_value_t = 20.0)]
    pub kube_api_qps: f32,
    /// The same for bursts.
    #[arg(long, default_value_t = 30)]
    pub kube_api_burst: i32,
    /// Leader election.
    #[command(flatten)]
    pub leader: LeaderOptions,
    /// Workers a controller.
    #[command(flatten)]
    pub workers: Workers,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
}

/// The `--cluster-signing-<signer>-…` flags.
#[derive(Clone, Debug, Args)]
pub struct SigningOptions {
    /// Certificate of the authority of `kubernetes.io/kubelet-serving` (default: --cluster-signing-cert-file).
    #[arg(
        long = "cluster-signing-kubelet-serving-cert-file",
        requires = "kubelet_serving_key_file"
    )]
    pub kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(
        long = "cluster-signing-kubelet-serving-key-file",
        requires = "kubelet_serving_cert_file"
    )]
    pub kubelet_serving_key_file: Option<PathBuf>,
    /// Certificate of the authority of `kubernetes.io/kube-apiserver-client-kubelet` (default: --cluster-signing-cert-file).
    #[arg(
        long = "cluster-signing-kubelet-client-cert-file",
        requires = "kubelet_client_key_file"
    )]
    pub kubelet_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(
        long = "cluster-signing-kubelet-client-key-file",
        requires = "kubelet_client_cert_file"
    )]
    pub kubelet_client_key_file: Option<PathBuf>,
    /// Certificate of the authority of `kubernetes.io/kube-apiserver-client` (default: --cluster-signing-cert-file).
    #[arg(
        long = "cluster-signing-kube-apiserver-client-cert-file",
        requires = "kube_apiserver_client_key_file"
    )]
    pub kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(
        long = "cluster-signing-kube-apiserver-client-key-file",
        requires = "kube_apiserver_client_cert_file"
    )]
    pub kube_apiserver_client_key_file: Option<PathBuf>,
    /// Certificate of the authority of `kubernetes.io/legacy-unknown` (default: --cluster-signing-cert-file).
    #[arg(
        long = "cluster-signing-legacy-unknown-cert-file",
        requires = "legacy_unknown_key_file"
    )]
    pub legacy_unknown_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(
        long = "cluster-signing-legacy-unknown-key-file",
        requires = "legacy_unknown_cert_file"
    )]
    pub legacy_unknown_key_file: Option<PathBuf>,
}

/// The `--leader-elect…` flags.
#[derive(Clone, Debug, Args)]
pub struct LeaderOptions {
    /// Elect a leader before running controllers.
    #[arg(long = "leader-elect", num_args = 0..=1, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub elect: bool,
    /// How long a lease that nobody renews stands.
    #[arg(long = "leader-elect-lease-duration", value_parser = duration, default_value = "15s")]
    pub lease_duration: Duration,
    /// How long the leader tries to renew.
    #[arg(long = "leader-elect-renew-deadline", value_parser = duration, default_value = "10s")]
    pub renew_deadline: Duration,
    /// The pause between tries.
    #[arg(long = "leader-elect-retry-period", value_parser = duration, default_value = "2s")]
    pub retry_period: Duration,
    /// Kind of the lock object; only `leases`.
    #[arg(long = "leader-elect-resource-lock", default_value = "leases", value_parser = ["leases"])]
    pub resource_lock: String,
    /// Name of the lease.
    #[arg(
        long = "leader-elect-resource-name",
        default_value = "kube-controller-manager"
    )]
    pub lease_name: String,
    /// Namespace of the lease.
    #[arg(
        long = "leader-elect-resource-namespace",
        default_value = "kube-system"
    )]
    pub lease_namespace: String,
    /// File that keeps this replica's identity, so that after a crash it takes its own lease back at once.
    #[arg(
        long = "leader-elect-identity-file",
        default_value = "/run/keelson/kube-controller-manager.identity"
    )]
    pub identity_file: PathBuf,
}

macro_rules! workers {
    ($($field:ident, $flag:literal, $default:literal;)*) => {
        /// The `--concurrent-…-syncs` flags.
        #[derive(Clone, Debug, Args)]
        pub struct Workers {
            $(
                #[doc = concat!("Objects synced at once, `--", $flag, "`.")]
                #[arg(long = $flag, default_value_t = $default)]
                pub $field: usize,
            )*
        }
    };
}

workers! {
    cron_job, "concurrent-cron-job-syncs", 5;
    daemon_set, "concurrent-daemonset-syncs", 2;
    deployment, "concurrent-deployment-syncs", 5;
    disruption, "concurrent-disruption-syncs", 1;
    endpoint, "concurrent-endpoint-syncs", 5;
    endpoint_slice, "concurrent-service-endpoint-syncs", 5;
    ephemeral_volume, "concurrent-ephemeralvolume-syncs", 5;
    garbage_collector, "concurrent-gc-syncs", 20;
    horizontal_pod_autoscaler, "concurrent-horizontal-pod-autoscaler-syncs", 5;
    job, "concurrent-job-syncs", 5;
    namespace, "concurrent-namespace-syncs", 10;
    mirroring, "mirroring-concurrent-service-endpoint-syncs", 5;
    replica_set, "concurrent-replicaset-syncs", 5;
    replication_controller, "concurrent-rc-syncs", 5;
    resource_claim, "concurrent-resourceclaim-syncs", 50;
    resource_quota, "concurrent-resource-quota-syncs", 5;
    service_account_token, "concurrent-serviceaccount-token-syncs", 5;
    stateful_set, "concurrent-statefulset-syncs", 5;
    ttl_after_finished, "concurrent-ttl-after-finished-syncs", 5;
}

/// A duration in Go's form, such as `1h30m` or `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 10s, 1m30s or 24h");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut total, mut rest) = (0f64, text);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// Why the flags make no sense together.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// A name in `--controllers` that is no controller.
    #[error("--controllers: {0:?} is not in the list of known controllers: {1}")]
    UnknownController(String, String),
    /// The election's times are in the wrong order.
    #[error(
        "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline, and that greater than 1.2 × --leader-elect-retry-period"
    )]
    ElectionTimes,
    /// Node ranges without a range to take them from.
    #[error("--allocate-node-cidrs needs --cluster-cidr")]
    NoClusterCidr,
}

impl Options {
    /// Checks what clap can't.
    pub fn check(&self, known: &[&str]) -> Result<(), Error> {
        for name in &self.controllers {
            let bare = name.strip_prefix(['-', '+']).unwrap_or(name);
            if bare != "*" && !known.contains(&bare) {
                return Err(Error::UnknownController(bare.to_owned(), known.join(", ")));
            }
        }
        let leader = &self.leader;
        if leader.lease_duration <= leader.renew_deadline
            || leader.renew_deadline <= leader.retry_period.mul_f64(1.2)
        {
            return Err(Error::ElectionTimes);
        }
        if self.allocate_node_cidrs && self.cluster_cidr.is_empty() {
            return Err(Error::NoClusterCidr);
        }
        Ok(())
    }

    /// Whether `--controllers` asks for this controller.
    pub fn enabled(&self, name: &str, on_by_default: bool) -> bool {
        let mut star = false;
        for item in &self.controllers {
            match item.as_str() {
                "*" => star = true,
                item if item == name || item.strip_prefix('+') == Some(name) => return true,
                item if item.strip_prefix('-') == Some(name) => return false,
                _ => {}
            }
        }
        star && on_by_default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Options {
        Options::try_parse_from([&["kube-controller-manager"], flags].concat()).unwrap()
    }

    #[test]
    fn go_durations() {
        for (text, millis) in [
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("2s", 2000),
            ("1.5s", 1500),
            ("0", 0),
        ] {
            assert_eq!(duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "5", "s", "1x", "1h5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn controllers_are_chosen_as_upstream_does() {
        let options = parse(&["--controllers=*,-deployment-controller,+token-cleaner-controller"]);
        assert!(options.enabled("replicaset-controller", true));
        assert!(!options.enabled("deployment-controller", true));
        assert!(options.enabled("token-cleaner-controller", false));
        assert!(!options.enabled("bootstrap-signer-controller", false));
        assert!(!parse(&["--controllers=a"]).enabled("b", true));
        assert!(matches!(
            options.check(&["a"]),
            Err(Error::UnknownController(..))
        ));
    }

    #[test]
    fn flags_of_an_upstream_unit_file_are_understood() {
        let options = parse(&[
            "--allocate-node-cidrs=true",
            "--cluster-cidr=10.244.0.0/16",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            "--node-monitor-grace-period=40s",
            "--concurrent-deployment-syncs=7",
            "-v=2",
        ]);
        assert!(
            options.allocate_node_cidrs
                && options.use_service_account_credentials
                && !options.leader.elect
        );
        assert_eq!(options.workers.deployment, 7);
        assert_eq!(options.check(&[]), Ok(()));
        assert_eq!(
            parse(&["--allocate-node-cidrs"]).check(&[]),
            Err(Error::NoClusterCidr)
        );
        assert_eq!(
            parse(&["--leader-elect-renew-deadline=15s"]).check(&[]),
            Err(Error::ElectionTimes)
        );
    }
}
