//! The command line: upstream's flags, read into [`crate::options::Options`].
//!
//! A flag of upstream whose function isn't here is refused by name unless its value asks for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::duration;

/// The Kubernetes API server: validates and stores the state of a cluster, and lets every other part watch it.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kube-apiserver",
    disable_version_flag = true,
    rename_all = "kebab-case"
)]
pub struct Flags {
    /// Print version information and quit.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub version: Option<String>,

    /// List of etcd servers to connect with (scheme://ip:port), comma separated.
    #[arg(long, value_delimiter = ',', help_heading = "etcd")]
    pub etcd_servers: Vec<String>,
    /// CA that etcd's certificate is checked against.
    #[arg(long, help_heading = "etcd")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, help_heading = "etcd")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd.
    #[arg(long, help_heading = "etcd")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Prefix of all keys in etcd.
    #[arg(long, default_value = "/registry", help_heading = "etcd")]
    pub etcd_prefix: String,
    /// Interval of etcd's compaction; 0 turns it off.
    #[arg(long, default_value = "5m", value_parser = duration::parse_flag, help_heading = "etcd")]
    pub etcd_compaction_interval: Duration,
    /// Only etcd3 is supported.
    #[arg(long, default_value = "etcd3", help_heading = "etcd")]
    pub storage_backend: String,
    /// Media type of stored objects: application/json or application/vnd.kubernetes.protobuf. Both are read.
    #[arg(long, default_value = "application/json", help_heading = "etcd")]
    pub storage_media_type: String,
    /// How long events are kept.
    #[arg(long, default_value = "1h", value_parser = duration::parse_flag, help_heading = "etcd")]
    pub event_ttl: Duration,
    /// Serve reads from the watch cache (it can't be turned off).
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "etcd")]
    pub watch_cache: bool,

    /// Address that other members of the cluster reach this server by.
    #[arg(long, help_heading = "serving")]
    pub advertise_address: Option<IpAddr>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0", help_heading = "serving")]
    pub bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443, help_heading = "serving")]
    pub secure_port: u16,
    /// Serving certificate.
    #[arg(long, help_heading = "serving")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate.
    #[arg(long, help_heading = "serving")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Bound on non-mutating requests in flight; 0 is no bound.
    #[arg(long, default_value_t = 400, help_heading = "serving")]
    pub max_requests_inflight: usize,
    /// Bound on mutating requests in flight; 0 is no bound.
    #[arg(long, default_value_t = 200, help_heading = "serving")]
    pub max_mutating_requests_inflight: usize,
    /// Serve requests by their priority, and the flows of one priority fairly.
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "serving")]
    pub enable_priority_and_fairness: bool,
    /// How long a request that isn't long-running may take.
    #[arg(long, default_value = "1m0s", value_parser = duration::parse_flag, help_heading = "serving")]
    pub request_timeout: Duration,
    /// Seconds that a watch lasts at least.
    #[arg(long, default_value_t = 1800, help_heading = "serving")]
    pub min_request_timeout: u64,
    /// How long to go on serving after SIGTERM while /readyz already fails.
    #[arg(long, default_value = "0s", value_parser = duration::parse_flag, help_heading = "serving")]
    pub shutdown_delay_duration: Duration,
    /// Profiling endpoints; Keelson has none, so the flag changes nothing.
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "serving")]
    pub profiling: bool,

    /// CA of client certificates.
    #[arg(long, help_heading = "authentication")]
    pub client_ca_file: Option<PathBuf>,
    /// Keys that service-account tokens are verified with.
    #[arg(long, help_heading = "authentication")]
    pub service_account_key_file: Vec<PathBuf>,
    /// Key that service-account tokens are signed with.
    #[arg(long, help_heading = "authentication")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Issuer of service-account tokens; the first one issues, all are accepted.
    #[arg(long, help_heading = "authentication")]
    pub service_account_issuer: Vec<String>,
    /// URI of the JSON Web Key Set in the discovery document.
    #[arg(long, help_heading = "authentication")]
    pub service_account_jwks_uri: Option<String>,
    /// Longest lifetime of a token that may be asked for; 0 is no bound.
    #[arg(long, default_value = "0s", value_parser = duration::parse_flag, help_heading = "authentication")]
    pub service_account_max_token_expiration: Duration,
    /// Extend the lifetime of tokens that pods get by injection.
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "authentication")]
    pub service_account_extend_token_expiration: bool,
    /// Check on every request that a token's service account exists.
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "authentication")]
    pub service_account_lookup: bool,
    /// Audiences of tokens for this server; the issuer where none are given.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub api_audiences: Vec<String>,
    /// Answer anonymous requests to the health paths and /version (more by --authentication-config).
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "authentication")]
    pub anonymous_auth: bool,
    /// Accept bootstrap tokens, which are Secrets of type bootstrap.kubernetes.io/token in kube-system.
    #[arg(long, default_value = "false", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "authentication")]
    pub enable_bootstrap_token_auth: bool,
    /// JWT issuers and anonymous paths: a file with an AuthenticationConfiguration.
    #[arg(long, help_heading = "authentication")]
    pub authentication_config: Option<PathBuf>,
    /// Lines of token, user, uid and groups.
    #[arg(long, help_heading = "authentication")]
    pub token_auth_file: Option<PathBuf>,
    /// Kubeconfig of a webhook that token reviews are sent to.
    #[arg(long, help_heading = "authentication")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long the webhook's answers are kept.
    #[arg(long, default_value = "2m0s", value_parser = duration::parse_flag, help_heading = "authentication")]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// Version of the reviews that are sent: v1.
    #[arg(long, default_value = "v1", help_heading = "authentication")]
    pub authentication_token_webhook_version: String,
    /// URL of an OpenID issuer.
    #[arg(long, help_heading = "authentication")]
    pub oidc_issuer_url: Option<String>,
    /// Audience of its tokens.
    #[arg(long, help_heading = "authentication")]
    pub oidc_client_id: Option<String>,
    /// CA of the issuer's server.
    #[arg(long, help_heading = "authentication")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name.
    #[arg(long, default_value = "sub", help_heading = "authentication")]
    pub oidc_username_claim: String,
    /// What stands in front of names; - is nothing.
    #[arg(long, default_value = "", help_heading = "authentication")]
    pub oidc_username_prefix: String,
    /// Claim with the groups.
    #[arg(long, default_value = "", help_heading = "authentication")]
    pub oidc_groups_claim: String,
    /// What stands in front of groups.
    #[arg(long, default_value = "", help_heading = "authentication")]
    pub oidc_groups_prefix: String,
    /// Claims that must be there, key=value.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub oidc_required_claim: Vec<String>,
    /// Signature algorithms that are accepted.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "RS256",
        help_heading = "authentication"
    )]
    pub oidc_signing_algs: Vec<String>,
    /// CA of authenticating proxies.
    #[arg(long, help_heading = "authentication")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that authenticating proxies may have.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's UID.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with more on the user.
    #[arg(long, value_delimiter = ',', help_heading = "authentication")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate for aggregated API servers and webhooks.
    #[arg(long, help_heading = "authentication")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, help_heading = "authentication")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Send requests for aggregated API servers to endpoints and not to the Service's address.
    #[arg(long, default_value = "false", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "features")]
    pub enable_aggregator_routing: bool,
    /// Answer 502 where an aggregated API server redirects (it can't be turned off).
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "features")]
    pub aggregator_reject_forwarding_redirect: bool,

    /// Ordered authorizers: Node, RBAC, AlwaysAllow, AlwaysDeny.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Node,RBAC",
        help_heading = "authorization"
    )]
    pub authorization_mode: Vec<String>,
    /// Admission plugins to turn on beside the default ones.
    #[arg(long, value_delimiter = ',', help_heading = "admission")]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins to turn off.
    #[arg(long, value_delimiter = ',', help_heading = "admission")]
    pub disable_admission_plugins: Vec<String>,
    /// Admission configuration is not supported.
    #[arg(long, help_heading = "admission")]
    pub admission_control_config_file: Option<PathBuf>,
    /// tolerationSeconds for not-ready nodes that pods get by default.
    #[arg(long, default_value_t = 300, help_heading = "admission")]
    pub default_not_ready_toleration_seconds: i64,
    /// tolerationSeconds for unreachable nodes that pods get by default.
    #[arg(long, default_value_t = 300, help_heading = "admission")]
    pub default_unreachable_toleration_seconds: i64,
    /// Allow privileged containers.
    #[arg(long, default_value = "false", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "admission")]
    pub allow_privileged: bool,

    /// Ranges that Services get addresses from.
    #[arg(long, default_value = "10.0.0.0/24", help_heading = "network")]
    pub service_cluster_ip_range: String,
    /// Ports that Services of type NodePort get.
    #[arg(long, default_value = "30000-32767", help_heading = "network")]
    pub service_node_port_range: String,
    /// How `default/kubernetes` gets its endpoints: lease or none.
    #[arg(long, default_value = "lease", help_heading = "network")]
    pub endpoint_reconciler_type: String,

    /// Client certificate for kubelets.
    #[arg(long, help_heading = "kubelet")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, help_heading = "kubelet")]
    pub kubelet_client_key: Option<PathBuf>,
    /// CA of the kubelets' serving certificates.
    #[arg(long, help_heading = "kubelet")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Kinds of node addresses, the preferred one first.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP",
        help_heading = "kubelet"
    )]
    pub kubelet_preferred_address_types: Vec<String>,
    /// How long to wait for a kubelet.
    #[arg(long, default_value = "5s", value_parser = duration::parse_flag, help_heading = "kubelet")]
    pub kubelet_timeout: Duration,

    /// API groups and versions to turn on or off; only the default ones exist.
    #[arg(long, value_delimiter = ',', help_heading = "features")]
    pub runtime_config: Vec<String>,
    /// Feature gates, name=true|false.
    #[arg(long, value_delimiter = ',', help_heading = "features")]
    pub feature_gates: Vec<String>,

    /// What is recorded of which request: a file with an audit Policy. Without it nothing is.
    #[arg(long, help_heading = "auditing")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that events are written to; - is standard output.
    #[arg(long, help_heading = "auditing")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old log files are kept; 0 is for ever.
    #[arg(long, default_value_t = 0, help_heading = "auditing")]
    pub audit_log_maxage: u64,
    /// How many old log files are kept; 0 is all.
    #[arg(long, default_value_t = 0, help_heading = "auditing")]
    pub audit_log_maxbackup: usize,
    /// Megabytes at which the log file is rotated; 0 is 100.
    #[arg(long, default_value_t = 0, help_heading = "auditing")]
    pub audit_log_maxsize: u64,
    /// json or legacy.
    #[arg(long, default_value = "json", help_heading = "auditing")]
    pub audit_log_format: String,
    /// Compress old log files.
    #[arg(long, default_value = "false", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "auditing")]
    pub audit_log_compress: bool,
    /// blocking, or blocking-strict: then a request fails whose event can't be written.
    #[arg(long, default_value = "blocking", help_heading = "auditing")]
    pub audit_log_mode: String,
    /// Version of the events.
    #[arg(long, default_value = "audit.k8s.io/v1", help_heading = "auditing")]
    pub audit_log_version: String,
    /// Kubeconfig of a webhook that events are sent to.
    #[arg(long, help_heading = "auditing")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// batch, or blocking: every event by itself.
    #[arg(long, default_value = "batch", help_heading = "auditing")]
    pub audit_webhook_mode: String,
    /// Version of the events.
    #[arg(long, default_value = "audit.k8s.io/v1", help_heading = "auditing")]
    pub audit_webhook_version: String,
    /// How many events may wait for the webhook.
    #[arg(long, default_value_t = 10_000, help_heading = "auditing")]
    pub audit_webhook_batch_buffer_size: usize,
    /// How many events go together.
    #[arg(long, default_value_t = 400, help_heading = "auditing")]
    pub audit_webhook_batch_max_size: usize,
    /// How long the first event of a batch waits.
    #[arg(long, default_value = "30s", value_parser = duration::parse_flag, help_heading = "auditing")]
    pub audit_webhook_batch_max_wait: Duration,
    /// Bound how many batches are sent.
    #[arg(long, default_value = "true", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "auditing")]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 10.0, help_heading = "auditing")]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches at once.
    #[arg(long, default_value_t = 15, help_heading = "auditing")]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Pause before a batch is tried again for the first time.
    #[arg(long, default_value = "10s", value_parser = duration::parse_flag, help_heading = "auditing")]
    pub audit_webhook_initial_backoff: Duration,
    /// What is encrypted in etcd, and how: a file with an EncryptionConfiguration.
    #[arg(long, help_heading = "etcd")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Follow the file while the server runs.
    #[arg(long, default_value = "false", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "etcd")]
    pub encryption_provider_config_automatic_reload: bool,

    /// Verbosity of the log.
    #[arg(short, long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// Format of the log: text or json.
    #[arg(long, value_enum, default_value_t = keelson_daemon::logging::LogFormat::Text)]
    pub logging_format: keelson_daemon::logging::LogFormat,
}

/// A flag whose value can't be honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--{flag}: {why}")]
pub struct FlagError {
    flag: &'static str,
    why: String,
}

fn refuse<T>(flag: &'static str, why: impl Into<String>) -> Result<T, FlagError> {
    Err(FlagError {
        flag,
        why: why.into(),
    })
}

impl Flags {
    /// Refuses what isn't supported or can't be right, so that nothing is silently left out.
    pub fn check(&self) -> Result<(), FlagError> {
        let unsupported: [(&'static str, bool); 3] = [
            (
                "admission-control-config-file",
                self.admission_control_config_file.is_some(),
            ),
            ("watch-cache", !self.watch_cache),
            (
                "aggregator-reject-forwarding-redirect",
                !self.aggregator_reject_forwarding_redirect,
            ),
        ];
        for (flag, given) in unsupported {
            if given {
                return refuse(flag, "is not supported by this server; leave it out");
            }
        }
        if self.encryption_provider_config_automatic_reload
            && self.encryption_provider_config.is_none()
        {
            return refuse(
                "encryption-provider-config-automatic-reload",
                "must be set with --encryption-provider-config",
            );
        }
        for (flag, value, known) in [
            (
                "audit-log-format",
                &self.audit_log_format,
                &["json", "legacy"][..],
            ),
            (
                "audit-log-mode",
                &self.audit_log_mode,
                &["blocking", "blocking-strict"],
            ),
            (
                "audit-webhook-mode",
                &self.audit_webhook_mode,
                &["batch", "blocking"],
            ),
            (
                "audit-log-version",
                &self.audit_log_version,
                &["audit.k8s.io/v1"],
            ),
            (
                "audit-webhook-version",
                &self.audit_webhook_version,
                &["audit.k8s.io/v1"],
            ),
        ] {
            if !known.contains(&value.as_str()) {
                return refuse(
                    flag,
                    format!("invalid value {value:?}, known are {}", known.join(", ")),
                );
            }
        }
        if self.enable_priority_and_fairness
            && self.max_requests_inflight + self.max_mutating_requests_inflight == 0
        {
            return refuse(
                "enable-priority-and-fairness",
                "--max-requests-inflight and --max-mutating-requests-inflight must not both be 0",
            );
        }
        let media_types = ["application/json", crate::resources::PROTOBUF_TYPE];
        if !media_types.contains(&self.storage_media_type.as_str()) {
            return refuse(
                "storage-media-type",
                format!(
                    "{:?} is invalid, allowed values: {}",
                    self.storage_media_type,
                    media_types.join(", ")
                ),
            );
        }
        self.check_authentication()?;
        if self.storage_backend != "etcd3" {
            return refuse(
                "storage-backend",
                format!("{:?} is not supported, only etcd3 is", self.storage_backend),
            );
        }
        if self.etcd_servers.is_empty() {
            return refuse("etcd-servers", "must be specified");
        }
        if self.tls_cert_file.is_some() != self.tls_private_key_file.is_some() {
            return refuse(
                "tls-cert-file",
                "certificate and --tls-private-key-file must be given together",
            );
        }
        if self.service_account_issuer.is_empty() {
            return refuse("service-account-issuer", "is a required flag");
        }
        if self.service_account_signing_key_file.is_none() {
            return refuse("service-account-signing-key-file", "is a required flag");
        }
        if self.proxy_client_cert_file.is_some() != self.proxy_client_key_file.is_some() {
            return refuse(
                "proxy-client-cert-file",
                "certificate and --proxy-client-key-file must be given together",
            );
        }
        for mode in &self.authorization_mode {
            if !["Node", "RBAC", "AlwaysAllow", "AlwaysDeny"].contains(&mode.as_str()) {
                return refuse(
                    "authorization-mode",
                    format!(
                        "{mode:?} is not a supported mode: Node, RBAC, AlwaysAllow, AlwaysDeny"
                    ),
                );
            }
        }
        if !["lease", "none"].contains(&self.endpoint_reconciler_type.as_str()) {
            return refuse("endpoint-reconciler-type", "supported are lease and none");
        }
        for entry in &self.runtime_config {
            let Some((name, value)) = entry.split_once('=') else {
                return refuse(
                    "runtime-config",
                    format!("{entry:?} is not of the form key=true|false"),
                );
            };
            let harmless = matches!(
                (name, value),
                ("api/all" | "api/ga", "true") | ("api/alpha" | "api/beta", "false")
            );
            if !harmless && value != "false" {
                return refuse(
                    "runtime-config",
                    format!(
                        "{name:?} can't be turned on: only the default group-versions are there"
                    ),
                );
            }
        }
        self.gates().map(|_| ())?;
        Ok(())
    }

    fn check_authentication(&self) -> Result<(), FlagError> {
        if self.oidc_issuer_url.is_some() != self.oidc_client_id.is_some() {
            return refuse(
                "oidc-issuer-url",
                "and --oidc-client-id must be specified together when any oidc-* flags are set",
            );
        }
        if self.oidc_issuer_url.is_some() && self.authentication_config.is_some() {
            return refuse(
                "authentication-config",
                "authentication-config file and oidc-* flags are mutually exclusive",
            );
        }
        let known = [
            "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
        ];
        for algorithm in &self.oidc_signing_algs {
            if !known.contains(&algorithm.as_str()) {
                return refuse(
                    "oidc-signing-algs",
                    format!("unsupported signing alg: {algorithm:?}"),
                );
            }
        }
        if self.authentication_token_webhook_version != "v1" {
            return refuse(
                "authentication-token-webhook-version",
                "only v1 is supported",
            );
        }
        Ok(())
    }

    /// The feature gates by name.
    pub fn gates(&self) -> Result<BTreeMap<String, bool>, FlagError> {
        let mut gates = BTreeMap::new();
        for entry in &self.feature_gates {
            let parsed = entry
                .split_once('=')
                .and_then(|(name, value)| Some((name, value.parse::<bool>().ok()?)));
            let Some((name, on)) = parsed else {
                return refuse(
                    "feature-gates",
                    format!("{entry:?} is not of the form name=true|false"),
                );
            };
            gates.insert(name.to_owned(), on);
        }
        Ok(gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(more: &[&str]) -> Flags {
        let base = [
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--service-account-issuer=https://x",
            "--service-account-signing-key-file=/k",
        ];
        Flags::try_parse_from(base.iter().chain(more)).unwrap()
    }

    #[test]
    fn upstreams_usual_command_line_is_taken() {
        let f = flags(&[
            "--advertise-address=10.0.0.1",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=false",
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
            "--requestheader-allowed-names=front-proxy-client",
            "--secure-port=16443",
            "--service-cluster-ip-range=10.96.0.0/12",
            "-v",
            "2",
        ]);
        assert_eq!(f.check(), Ok(()));
        assert!(f.allow_privileged);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (arg, flag) in [
            ("--audit-log-format=xml", "audit-log-format"),
            ("--watch-cache=false", "watch-cache"),
            ("--authorization-mode=Webhook", "authorization-mode"),
            (
                "--runtime-config=resource.k8s.io/v1beta1=true",
                "runtime-config",
            ),
            ("--feature-gates=X", "feature-gates"),
        ] {
            assert_eq!(flags(&[arg]).check().unwrap_err().flag, flag);
        }
        assert_eq!(flags(&["--runtime-config=api/all=true"]).check(), Ok(()));
    }
}
