//! KubeletConfiguration v1beta1: upstream's file, read strictly.
//!
//! A field that upstream does not know is an error. A field that upstream knows and this kubelet does not act on is
//! named in a warning, so that nobody believes it works. Flags are in [`crate::flags`].

pub mod duration;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or a field of the wrong type.
    #[error("decoding kubelet configuration: {0}")]
    Decode(String),
    /// Another kind or version.
    #[error(
        "want apiVersion kubelet.config.k8s.io/v1beta1, kind KubeletConfiguration, found apiVersion {api_version:?}, kind {kind:?}"
    )]
    Kind {
        /// As written.
        api_version: String,
        /// As written.
        kind: String,
    },
    /// A field upstream does not have.
    #[error("strict decoding error: unknown field {0:?}")]
    UnknownField(String),
    /// A value out of range.
    #[error("invalid configuration: {0}")]
    Invalid(String),
}

/// `authentication`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authentication {
    /// Client certificates.
    pub x509: X509,
    /// TokenReview.
    pub webhook: WebhookAuthentication,
    /// Requests without credentials.
    pub anonymous: Anonymous,
}

/// `authentication.x509`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct X509 {
    /// Bundle of authorities for client certificates; empty = none are accepted.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// `authentication.webhook`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookAuthentication {
    /// Ask the API server about bearer tokens.
    pub enabled: bool,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL", with = "duration::text")]
    pub cache_ttl: Duration,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self {
            enabled: true,
            cache_ttl: Duration::from_secs(120),
        }
    }
}

/// `authentication.anonymous`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Anonymous {
    /// Let `system:anonymous` through to authorization.
    pub enabled: bool,
}

/// `authorization`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authorization {
    /// `Webhook` (SubjectAccessReview) or `AlwaysAllow`.
    pub mode: String,
    /// Cache times of the webhook.
    pub webhook: WebhookAuthorization,
}

impl Default for Authorization {
    fn default() -> Self {
        Self {
            mode: "Webhook".into(),
            webhook: WebhookAuthorization::default(),
        }
    }
}

/// `authorization.webhook`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookAuthorization {
    /// How long a yes is kept.
    #[serde(rename = "cacheAuthorizedTTL", with = "duration::text")]
    pub cache_authorized_ttl: Duration,
    /// How long a no is kept.
    #[serde(rename = "cacheUnauthorizedTTL", with = "duration::text")]
    pub cache_unauthorized_ttl: Duration,
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self {
            cache_authorized_ttl: Duration::from_secs(300),
            cache_unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

/// A taint given to the node when it registers itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfiguredTaint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// The fields this kubelet acts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are upstream's, documented there
pub struct KubeletConfiguration {
    pub enable_server: bool,
    pub static_pod_path: String,
    #[serde(with = "duration::text")]
    pub sync_frequency: Duration,
    #[serde(with = "duration::text")]
    pub file_check_frequency: Duration,
    pub address: IpAddr,
    pub port: u16,
    pub read_only_port: u16,
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub enable_debugging_handlers: bool,
    pub healthz_port: u16,
    pub healthz_bind_address: IpAddr,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    #[serde(with = "duration::text")]
    pub streaming_connection_idle_timeout: Duration,
    #[serde(with = "duration::text")]
    pub node_status_update_frequency: Duration,
    #[serde(with = "duration::text")]
    pub node_status_report_frequency: Duration,
    pub node_lease_duration_seconds: i32,
    #[serde(rename = "imageMinimumGCAge", with = "duration::text")]
    pub image_minimum_gc_age: Duration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    pub cgroup_root: String,
    pub cgroup_driver: String,
    pub max_pods: i64,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub pod_pids_limit: i64,
    pub resolv_conf: Option<String>,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod", with = "duration::text")]
    pub cpu_cfs_quota_period: Duration,
    pub node_status_max_images: i32,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<u32>,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    #[serde(with = "duration::text")]
    pub container_log_monitor_interval: Duration,
    #[serde(with = "duration::text")]
    pub shutdown_grace_period: Duration,
    #[serde(with = "duration::text")]
    pub shutdown_grace_period_critical_pods: Duration,
    pub seccomp_default: bool,
    pub register_with_taints: Vec<ConfiguredTaint>,
    pub register_node: bool,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    #[serde(with = "duration::text")]
    pub eviction_pressure_transition_period: Duration,
    pub eviction_max_pod_grace_period: i64,
    pub local_storage_capacity_isolation: bool,
    #[serde(rename = "imageMaximumGCAge", with = "duration::text")]
    pub image_maximum_gc_age: Duration,
    pub pod_logs_dir: PathBuf,
    pub allowed_unsafe_sysctls: Vec<String>,
    #[serde(rename = "enableSystemLogHandler")]
    pub enable_system_log_handler: bool,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub logging: Value,
    pub feature_gates: BTreeMap<String, bool>,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: bool,
}

/// `crashLoopBackOff`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CrashLoopBackOff {
    /// Longest wait between two starts of a failing container.
    #[serde(with = "duration::text")]
    pub max_container_restart_period: Duration,
}

impl Default for CrashLoopBackOff {
    fn default() -> Self {
        Self {
            max_container_restart_period: Duration::from_secs(300),
        }
    }
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            enable_server: true,
            static_pod_path: String::new(),
            sync_frequency: Duration::from_secs(60),
            file_check_frequency: Duration::from_secs(20),
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            read_only_port: 0,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            enable_debugging_handlers: true,
            healthz_port: 10248,
            healthz_bind_address: IpAddr::from([127, 0, 0, 1]),
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            streaming_connection_idle_timeout: Duration::from_secs(4 * 3600),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: Duration::from_secs(120),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            cgroup_root: String::new(),
            cgroup_driver: "cgroupfs".into(),
            max_pods: 110,
            pod_cidr: String::new(),
            pod_pids_limit: -1,
            resolv_conf: None,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            node_status_max_images: 50,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_log_monitor_interval: Duration::from_secs(10),
            shutdown_grace_period: Duration::ZERO,
            shutdown_grace_period_critical_pods: Duration::ZERO,
            seccomp_default: true,
            register_with_taints: Vec::new(),
            register_node: true,
            eviction_hard: default_eviction(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_period: Duration::from_secs(300),
            eviction_max_pod_grace_period: 0,
            local_storage_capacity_isolation: true,
            image_maximum_gc_age: Duration::ZERO,
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            allowed_unsafe_sysctls: Vec::new(),
            enable_system_log_handler: true,
            crash_loop_back_off: CrashLoopBackOff::default(),
            logging: Value::Null,
            feature_gates: BTreeMap::new(),
            fail_cgroup_v1: false,
        }
    }
}

fn default_eviction() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

/// Fields of upstream's that are read over: they change nothing here.
const NOT_ACTED_ON: &[&str] = &[
    "podInfraContainerImage",
    "httpCheckFrequency",
    "staticPodURL",
    "staticPodURLHeader",
    "tlsCipherSuites",
    "tlsMinVersion",
    "tlsCurvePreferences",
    "rotateCertificates",
    "serverTLSBootstrap",
    "registryPullQPS",
    "registryBurst",
    "imagePullCredentialsVerificationPolicy",
    "preloadedImagesVerificationAllowlist",
    "eventRecordQPS",
    "eventBurst",
    "oomScoreAdj",
    "volumeStatsAggPeriod",
    "kubeletCgroups",
    "systemCgroups",
    "cgroupsPerQOS",
    "cpuManagerPolicy",
    "singleProcessOOMKill",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "memoryManagerPolicy",
    "topologyManagerPolicy",
    "topologyManagerScope",
    "topologyManagerPolicyOptions",
    "qosReserved",
    "runtimeRequestTimeout",
    "hairpinMode",
    "runOnce",
    "maxOpenFiles",
    "contentType",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "mergeDefaultEvictionSettings",
    "podsPerCore",
    "enableControllerAttachDetach",
    "protectKernelDefaults",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "failSwapOn",
    "memorySwap",
    "containerLogMaxWorkers",
    "configMapAndSecretChangeDetectionStrategy",
    "volumePluginDir",
    "providerID",
    "kernelMemcgNotification",
    "enforceNodeAllocatable",
    "systemReservedCgroup",
    "kubeReservedCgroup",
    "systemReservedCgroupEnforcement",
    "kubeReservedCgroupEnforcement",
    "reservedSystemCPUs",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriodByPodPriority",
    "reservedMemory",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "memoryThrottlingFactor",
    "registerWithTaintsOverride",
    "tracing",
    "containerRuntimeEndpoint",
    "imageServiceEndpoint",
    "enableSystemLogQuery",
    "maxParallelImagePulls",
    "userNamespaces",
    "imageServiceEndpoint",
    "memoryReservationPolicy",
];

/// A configuration and what its reader should hear.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: KubeletConfiguration,
    /// Settings that were accepted and change nothing.
    pub warnings: Vec<String>,
}

/// Reads a configuration from YAML or JSON.
pub fn from_yaml(text: &str) -> Result<Loaded, ConfigError> {
    let value: Value =
        serde_norway::from_str(text).map_err(|e| ConfigError::Decode(e.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(ConfigError::Decode("not a mapping".into()));
    };
    let mut head = |key: &str| {
        fields
            .remove(key)
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    let (api_version, kind) = (head("apiVersion"), head("kind"));
    if api_version != "kubelet.config.k8s.io/v1beta1" || kind != "KubeletConfiguration" {
        return Err(ConfigError::Kind { api_version, kind });
    }
    let known = serde_json::to_value(KubeletConfiguration::default())
        .map_err(|e| ConfigError::Decode(e.to_string()))?;
    let mut warnings = Vec::new();
    for key in fields.keys().cloned().collect::<Vec<_>>() {
        if fields[&key].is_null() {
            fields.remove(&key);
        } else if known.get(&key).is_some() {
        } else if NOT_ACTED_ON.contains(&key.as_str()) {
            warnings.push(format!(
                "configuration field {key} has no effect in this kubelet"
            ));
            fields.remove(&key);
        } else {
            return Err(ConfigError::UnknownField(key));
        }
    }
    let config: KubeletConfiguration = serde_json::from_value(Value::Object(fields))
        .map_err(|e| ConfigError::Decode(e.to_string()))?;
    config.validate()?;
    Ok(Loaded { config, warnings })
}

impl KubeletConfiguration {
    /// Bounds that upstream checks too.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        if self.enable_server && self.port == 0 {
            return invalid("port (--port) 0 must be between 1 and 65535, inclusive".into());
        }
        if self.max_pods < 0 {
            return invalid(format!(
                "maxPods (--max-pods) {} must not be a negative number",
                self.max_pods
            ));
        }
        if self.image_gc_high_threshold_percent > 100
            || self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent
        {
            return invalid(format!(
                "imageGCLowThresholdPercent (--image-gc-low-threshold) {} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {}",
                self.image_gc_low_threshold_percent, self.image_gc_high_threshold_percent
            ));
        }
        if !matches!(self.authorization.mode.as_str(), "Webhook" | "AlwaysAllow") {
            return invalid(format!(
                "authorization.mode {:?}: want Webhook or AlwaysAllow",
                self.authorization.mode
            ));
        }
        if !matches!(self.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
            return invalid(format!(
                "cgroupDriver {:?}: want cgroupfs or systemd",
                self.cgroup_driver
            ));
        }
        if self.container_log_max_files < 2 {
            return invalid("containerLogMaxFiles must be greater than 1".into());
        }
        self.log_max_size().map(|_| ())?;
        if self.tls_cert_file.is_empty() != self.tls_private_key_file.is_empty() {
            return invalid("tlsCertFile and tlsPrivateKeyFile must be set together".into());
        }
        for taint in &self.register_with_taints {
            if !matches!(
                taint.effect.as_str(),
                "NoSchedule" | "PreferNoSchedule" | "NoExecute"
            ) {
                return invalid(format!(
                    "registerWithTaints: invalid taint effect {:?}",
                    taint.effect
                ));
            }
        }
        Ok(())
    }

    /// `containerLogMaxSize` in bytes.
    pub fn log_max_size(&self) -> Result<u64, ConfigError> {
        crate::quantity::bytes(&self.container_log_max_size)
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| {
                ConfigError::Invalid(format!(
                    "containerLogMaxSize {:?} is not a size",
                    self.container_log_max_size
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(rest: &str) -> Result<Loaded, ConfigError> {
        from_yaml(&format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{rest}"
        ))
    }

    #[test]
    fn reads_what_kubeadm_writes() {
        let loaded = yaml(
            "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\n\
             clusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\nrotateCertificates: true\nstaticPodPath: /etc/kubernetes/manifests\nlogging:\n  verbosity: 0\ncpuManagerReconcilePeriod: 0s\n",
        )
        .unwrap();
        assert_eq!(loaded.config.cluster_dns[0].to_string(), "10.96.0.10");
        assert_eq!(
            loaded.config.authentication.x509.client_ca_file,
            "/etc/kubernetes/pki/ca.crt"
        );
        assert_eq!(loaded.warnings.len(), 2);
    }

    #[test]
    fn refuses_unknown_fields_by_name() {
        assert!(
            matches!(yaml("clusterDSN: [1.2.3.4]\n"), Err(ConfigError::UnknownField(f)) if f == "clusterDSN")
        );
        assert!(
            matches!(yaml("authentication:\n  x508: {}\n"), Err(ConfigError::Decode(m)) if m.contains("x508"))
        );
        assert!(matches!(
            from_yaml("kind: Foo\n"),
            Err(ConfigError::Kind { .. })
        ));
        assert!(matches!(yaml("port: 0\n"), Err(ConfigError::Invalid(_))));
    }
}
