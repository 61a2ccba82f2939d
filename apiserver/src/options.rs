//! What the server is asked to be, read from the flags once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use keelson_admission::service_addresses::PortRange;
use keelson_registry::Family;

use crate::audit::log::LogOptions;
use crate::audit::webhook::BatchOptions;
use crate::authentication::config::{
    ClaimMappings, ClaimRule, IssuerConfig, JwtAuthenticator, Mapping,
};
use crate::flags::{FlagError, Flags};

/// How the server behaves. Paths of certificates and the like are read while it is put together.
#[derive(Debug, Clone)]
pub struct Options {
    /// Prefix of keys in etcd.
    pub etcd_prefix: String,
    /// Whether objects are stored as protobuf.
    pub store_protobuf: bool,
    /// Who is who, beyond certificates and service accounts.
    pub authentication: AuthenticationOptions,
    /// What is recorded of requests, and where.
    pub audit: AuditOptions,
    /// The encryption configuration's file, and whether it is followed.
    pub encryption: Option<(PathBuf, bool)>,
    /// Address that others reach the server by.
    pub advertise_address: IpAddr,
    /// Port that it listens on.
    pub secure_port: u16,
    /// How long a request may take that isn't long-running.
    pub request_timeout: Duration,
    /// Seconds that a watch lasts at least.
    pub min_request_timeout: u64,
    /// Bound on requests in flight that read.
    pub max_requests_inflight: usize,
    /// Bound on requests in flight that write.
    pub max_mutating_requests_inflight: usize,
    /// Whether requests are served by priority and fairness; else the bounds alone count.
    pub priority_and_fairness: bool,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// CA of client certificates, PEM.
    pub client_ca: Option<Vec<u8>>,
    /// The front proxy's CA, allowed names and headers.
    pub front_proxy: Option<keelson_auth::authenticate::front_proxy::Config>,
    /// Client certificate and key for aggregated servers.
    pub proxy_client: Option<(PathBuf, PathBuf)>,
    /// Whether aggregated servers are reached at endpoints and not at their Service's address.
    pub aggregator_routing: bool,
    /// Keys that verify service-account tokens, PEM.
    pub service_account_keys: Vec<Vec<u8>>,
    /// Key that signs service-account tokens, PEM.
    pub service_account_signing_key: Vec<u8>,
    /// Issuers of service-account tokens, the first of which issues.
    pub service_account_issuers: Vec<String>,
    /// Where the JSON Web Key Set is said to be.
    pub jwks_uri: Option<String>,
    /// Audiences of tokens for this server.
    pub api_audiences: Vec<String>,
    /// Longest lifetime of a token that may be asked for.
    pub max_token_expiration: Option<Duration>,
    /// Whether tokens of pods live longer than they say.
    pub extend_token_expiration: bool,
    /// The authorizers, in order.
    pub authorization_modes: Vec<String>,
    /// Admission plugins to turn on.
    pub enable_admission: Vec<String>,
    /// Admission plugins to turn off.
    pub disable_admission: Vec<String>,
    /// Ranges that Services get addresses from.
    pub service_ranges: Vec<String>,
    /// Their families.
    pub service_families: Vec<Family>,
    /// Ports that Services of type NodePort get.
    pub node_ports: PortRange,
    /// Whether this server keeps itself in the endpoints of `default/kubernetes`.
    pub reconcile_endpoints: bool,
    /// Whether containers may be privileged.
    pub allow_privileged: bool,
    /// Client certificate and key for kubelets.
    pub kubelet_client: Option<(PathBuf, PathBuf)>,
    /// CA of kubelets.
    pub kubelet_ca: Option<PathBuf>,
    /// Node addresses, the preferred first.
    pub kubelet_addresses: Vec<String>,
}

/// Who is who, beyond certificates and service accounts.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationOptions {
    /// The file with issuers and anonymous paths.
    pub config: Option<PathBuf>,
    /// The issuer of the old flags.
    pub oidc: Option<JwtAuthenticator>,
    /// Bootstrap tokens.
    pub bootstrap_tokens: bool,
    /// The file with tokens.
    pub token_file: Option<PathBuf>,
    /// The token webhook's kubeconfig, and how long its answers are kept.
    pub webhook: Option<(PathBuf, Duration)>,
    /// Whether the health paths are answered to anybody.
    pub anonymous: bool,
    /// CA of client certificates, followed.
    pub client_ca_file: Option<PathBuf>,
    /// CA of front proxies, followed.
    pub front_proxy_ca_file: Option<PathBuf>,
}

impl AuthenticationOptions {
    fn of(flags: &Flags) -> Result<Self, OptionsError> {
        Ok(AuthenticationOptions {
            config: flags.authentication_config.clone(),
            oidc: oidc(flags)?,
            bootstrap_tokens: flags.enable_bootstrap_token_auth,
            token_file: flags.token_auth_file.clone(),
            webhook: flags
                .authentication_token_webhook_config_file
                .clone()
                .map(|file| (file, flags.authentication_token_webhook_cache_ttl)),
            anonymous: flags.anonymous_auth,
            client_ca_file: flags.client_ca_file.clone(),
            front_proxy_ca_file: flags.requestheader_client_ca_file.clone(),
        })
    }
}

/// What the old flags say of an OpenID issuer, as the new configuration would.
fn oidc(flags: &Flags) -> Result<Option<JwtAuthenticator>, OptionsError> {
    let (Some(url), Some(audience)) = (&flags.oidc_issuer_url, &flags.oidc_client_id) else {
        return Ok(None);
    };
    let ca = match &flags.oidc_ca_file {
        Some(path) => String::from_utf8_lossy(&read("oidc-ca-file", path)?).into_owned(),
        None => String::new(),
    };
    // Names of a foreign issuer must not be those of this cluster, unless they are mail addresses.
    let prefix = match flags.oidc_username_prefix.as_str() {
        "" if flags.oidc_username_claim != "email" => format!("{url}#"),
        "-" => String::new(),
        given => given.to_owned(),
    };
    let rules = flags
        .oidc_required_claim
        .iter()
        .map(|entry| {
            let (claim, value) = entry.split_once('=').ok_or_else(|| OptionsError::Value {
                flag: "oidc-required-claim",
                why: format!("{entry:?} is not of the form key=value"),
            })?;
            Ok(ClaimRule {
                claim: claim.to_owned(),
                required_value: value.to_owned(),
                ..ClaimRule::default()
            })
        })
        .collect::<Result<_, OptionsError>>()?;
    Ok(Some(JwtAuthenticator {
        issuer: IssuerConfig {
            url: url.clone(),
            certificate_authority: ca,
            audiences: vec![audience.clone()],
            ..IssuerConfig::default()
        },
        claim_validation_rules: rules,
        claim_mappings: ClaimMappings {
            username: Mapping {
                claim: flags.oidc_username_claim.clone(),
                prefix: Some(prefix),
                ..Mapping::default()
            },
            groups: Mapping {
                claim: flags.oidc_groups_claim.clone(),
                prefix: Some(flags.oidc_groups_prefix.clone())
                    .filter(|_| !flags.oidc_groups_claim.is_empty()),
                ..Mapping::default()
            },
            ..ClaimMappings::default()
        },
        algorithms: flags.oidc_signing_algs.clone(),
        ..JwtAuthenticator::default()
    }))
}

/// What is recorded of requests, and where.
#[derive(Debug, Clone, Default)]
pub struct AuditOptions {
    /// The policy's file; without it nothing is.
    pub policy: Option<PathBuf>,
    /// The log file.
    pub log: Option<LogOptions>,
    /// The webhook's kubeconfig, and how events are gathered for it.
    pub webhook: Option<(PathBuf, BatchOptions)>,
}

impl AuditOptions {
    fn of(flags: &Flags) -> Self {
        AuditOptions {
            policy: flags.audit_policy_file.clone(),
            log: flags.audit_log_path.clone().map(|path| LogOptions {
                path,
                max_age: flags.audit_log_maxage,
                max_backups: flags.audit_log_maxbackup,
                max_size: flags.audit_log_maxsize,
                legacy: flags.audit_log_format == "legacy",
                compress: flags.audit_log_compress,
                strict: flags.audit_log_mode == "blocking-strict",
            }),
            webhook: flags.audit_webhook_config_file.clone().map(|file| {
                let batches = flags.audit_webhook_mode == "batch";
                let throttle = (
                    flags.audit_webhook_batch_throttle_qps,
                    flags.audit_webhook_batch_throttle_burst,
                );
                let batch = BatchOptions {
                    buffer: flags.audit_webhook_batch_buffer_size,
                    size: if batches {
                        flags.audit_webhook_batch_max_size
                    } else {
                        1
                    },
                    wait: flags.audit_webhook_batch_max_wait,
                    throttle: flags
                        .audit_webhook_batch_throttle_enable
                        .then_some(throttle)
                        .filter(|_| batches),
                    backoff: flags.audit_webhook_initial_backoff,
                };
                (file, batch)
            }),
        }
    }
}

/// Why the options can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A flag makes no sense.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A file can't be read.
    #[error("--{flag}: cannot read {path}: {source}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else is wrong with a value.
    #[error("--{flag}: {why}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn read(flag: &'static str, path: &PathBuf) -> Result<Vec<u8>, OptionsError> {
    std::fs::read(path).map_err(|source| OptionsError::File {
        flag,
        path: path.clone(),
        source,
    })
}

impl Options {
    /// Checks the flags and reads the files that they name.
    pub fn read(flags: &Flags) -> Result<Self, OptionsError> {
        flags.check()?;
        let issuers = flags.service_account_issuer.clone();
        let signing = match &flags.service_account_signing_key_file {
            Some(path) => read("service-account-signing-key-file", path)?,
            None => Vec::new(),
        };
        let ranges: Vec<String> = flags
            .service_cluster_ip_range
            .split(',')
            .map(|r| r.trim().to_owned())
            .collect();
        Ok(Options {
            etcd_prefix: format!("/{}", flags.etcd_prefix.trim_matches('/')),
            store_protobuf: flags.storage_media_type == crate::resources::PROTOBUF_TYPE,
            authentication: AuthenticationOptions::of(flags)?,
            audit: AuditOptions::of(flags),
            encryption: flags
                .encryption_provider_config
                .clone()
                .map(|file| (file, flags.encryption_provider_config_automatic_reload)),
            advertise_address: advertised(flags)?,
            secure_port: flags.secure_port,
            request_timeout: flags.request_timeout,
            min_request_timeout: flags.min_request_timeout,
            max_requests_inflight: flags.max_requests_inflight,
            max_mutating_requests_inflight: flags.max_mutating_requests_inflight,
            priority_and_fairness: flags.enable_priority_and_fairness,
            event_ttl: flags.event_ttl,
            client_ca: flags
                .client_ca_file
                .as_ref()
                .map(|p| read("client-ca-file", p))
                .transpose()?,
            front_proxy: front_proxy(flags)?,
            proxy_client: flags
                .proxy_client_cert_file
                .clone()
                .zip(flags.proxy_client_key_file.clone()),
            aggregator_routing: flags.enable_aggregator_routing,
            service_account_keys: flags
                .service_account_key_file
                .iter()
                .map(|p| read("service-account-key-file", p))
                .collect::<Result<_, _>>()?,
            service_account_signing_key: signing,
            api_audiences: if flags.api_audiences.is_empty() {
                issuers.clone()
            } else {
                flags.api_audiences.clone()
            },
            service_account_issuers: issuers,
            jwks_uri: flags.service_account_jwks_uri.clone(),
            max_token_expiration: Some(flags.service_account_max_token_expiration)
                .filter(|d| !d.is_zero()),
            extend_token_expiration: flags.service_account_extend_token_expiration,
            authorization_modes: flags.authorization_mode.clone(),
            enable_admission: flags.enable_admission_plugins.clone(),
            disable_admission: flags.disable_admission_plugins.clone(),
            service_families: families(&ranges)?,
            service_ranges: ranges,
            node_ports: node_ports(&flags.service_node_port_range)?,
            reconcile_endpoints: flags.endpoint_reconciler_type == "lease",
            allow_privileged: flags.allow_privileged,
            kubelet_client: flags
                .kubelet_client_certificate
                .clone()
                .zip(flags.kubelet_client_key.clone()),
            kubelet_ca: flags.kubelet_certificate_authority.clone(),
            kubelet_addresses: flags.kubelet_preferred_address_types.clone(),
        })
    }
}

/// The address to advertise: the one given, the one bound to, or that of the route to the outside.
fn advertised(flags: &Flags) -> Result<IpAddr, OptionsError> {
    if let Some(ip) = flags.advertise_address {
        return Ok(ip);
    }
    let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback();
    if usable(&flags.bind_address) {
        return Ok(flags.bind_address);
    }
    // Connecting a datagram socket sends nothing; it only chooses the address to send from.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        s.connect("192.0.2.1:9")?;
        s.local_addr()
    });
    match outward {
        Ok(address) if usable(&address.ip()) => Ok(address.ip()),
        _ => Err(OptionsError::Value {
            flag: "advertise-address",
            why: "no address of this host can be found, give one".to_owned(),
        }),
    }
}

fn front_proxy(
    flags: &Flags,
) -> Result<Option<keelson_auth::authenticate::front_proxy::Config>, OptionsError> {
    let Some(ca) = &flags.requestheader_client_ca_file else {
        return Ok(None);
    };
    let ca = read("requestheader-client-ca-file", ca)?;
    let mut config = keelson_auth::authenticate::front_proxy::Config::with_default_headers(
        ca,
        flags.requestheader_allowed_names.clone(),
    );
    for (given, headers) in [
        (
            &flags.requestheader_username_headers,
            &mut config.username_headers,
        ),
        (&flags.requestheader_uid_headers, &mut config.uid_headers),
        (
            &flags.requestheader_group_headers,
            &mut config.group_headers,
        ),
        (
            &flags.requestheader_extra_headers_prefix,
            &mut config.extra_header_prefixes,
        ),
    ] {
        if !given.is_empty() {
            *headers = given.clone();
        }
    }
    Ok(Some(config))
}

fn node_ports(range: &str) -> Result<PortRange, OptionsError> {
    range.parse().map_err(|_| OptionsError::Value {
        flag: "service-node-port-range",
        why: format!("{range:?} is not a range of ports"),
    })
}

fn families(ranges: &[String]) -> Result<Vec<Family>, OptionsError> {
    let bad = |range: &str| OptionsError::Value {
        flag: "service-cluster-ip-range",
        why: format!("{range:?} is not a CIDR"),
    };
    let families: Vec<Family> = ranges
        .iter()
        .map(|range| {
            let (address, bits) = range.split_once('/').ok_or_else(|| bad(range))?;
            bits.parse::<u8>().map_err(|_| bad(range))?;
            Ok(match address.parse().map_err(|_| bad(range))? {
                IpAddr::V4(_) => Family::V4,
                IpAddr::V6(_) => Family::V6,
            })
        })
        .collect::<Result<_, OptionsError>>()?;
    match families[..] {
        [_] => Ok(families),
        [a, b] if a != b => Ok(families),
        _ => Err(OptionsError::Value {
            flag: "service-cluster-ip-range",
            why: "want one range, or one of each family".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_one_or_one_of_each_family() {
        let families = |ranges: &[&str]| {
            families(&ranges.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()).ok()
        };
        assert_eq!(families(&["10.96.0.0/12"]), Some(vec![Family::V4]));
        assert_eq!(
            families(&["fd00::/108", "10.96.0.0/12"]),
            Some(vec![Family::V6, Family::V4])
        );
        assert_eq!(families(&["10.96.0.0/12", "10.0.0.0/24"]), None);
        assert_eq!(families(&["10.96.0.0"]), None);
    }
}
