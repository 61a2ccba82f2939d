//! The command line, with upstream's flag names and defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser};
use keelson_daemon::flags::duration;
use keelson_daemon::logging::LogOptions;

use crate::config::{Configuration, LeaderElection};

/// Finds a node for every pod that has none.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-scheduler", version = keelson_daemon::version::GIT_VERSION, long_version = keelson_daemon::version::LONG)]
pub struct Options {
    /// A KubeSchedulerConfiguration (v1).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Kubeconfig with the credentials of the scheduler.
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
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
    /// Feature gates: accepted for compatibility.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Accepted for compatibility; the API server's priority and fairness decides.
    #[arg(long, default_value_t = 50.0)]
    pub kube_api_qps: f32,
    /// The same for bursts.
    #[arg(long, default_value_t = 100)]
    pub kube_api_burst: i32,
    /// Show stack samples on the secure port: accepted for compatibility.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub profiling: bool,
    /// Leader election.
    #[command(flatten)]
    pub leader: LeaderOptions,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
}

/// The `--leader-elect…` flags; what is not given comes from the configuration file.
#[derive(Clone, Debug, Args)]
pub struct LeaderOptions {
    /// Elect a leader before scheduling.
    #[arg(long = "leader-elect", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub elect: Option<bool>,
    /// How long a lease that nobody renews stands.
    #[arg(long = "leader-elect-lease-duration", value_parser = duration)]
    pub lease_duration: Option<Duration>,
    /// How long the leader tries to renew.
    #[arg(long = "leader-elect-renew-deadline", value_parser = duration)]
    pub renew_deadline: Option<Duration>,
    /// The pause between tries.
    #[arg(long = "leader-elect-retry-period", value_parser = duration)]
    pub retry_period: Option<Duration>,
    /// Kind of the lock object; only `leases`.
    #[arg(long = "leader-elect-resource-lock", value_parser = ["leases"])]
    pub resource_lock: Option<String>,
    /// Name of the lease.
    #[arg(long = "leader-elect-resource-name")]
    pub lease_name: Option<String>,
    /// Namespace of the lease.
    #[arg(long = "leader-elect-resource-namespace")]
    pub lease_namespace: Option<String>,
    /// File that keeps this replica's identity, so that after a crash it takes its own lease back at once.
    #[arg(
        long = "leader-elect-identity-file",
        default_value = "/run/keelson/kube-scheduler.identity"
    )]
    pub identity_file: PathBuf,
}

/// Leader election as it is to be.
#[derive(Clone, Debug)]
pub struct Election {
    /// Whether to elect.
    pub elect: bool,
    /// The settings.
    pub options: keelson_runtime::leader::Options,
}

impl LeaderOptions {
    /// What the flags say, then what the file says, then the defaults.
    pub fn election(&self, file: &LeaderElection) -> Result<Election, String> {
        let mut options = keelson_runtime::leader::Options::new("kube-scheduler");
        let set = |to: &mut Duration, flag: Option<Duration>, file: &Option<String>| {
            if let Some(value) = flag {
                *to = value;
            } else if let Some(text) = file {
                *to = duration(text)?;
            }
            Ok::<_, String>(())
        };
        set(
            &mut options.lease_duration,
            self.lease_duration,
            &file.lease_duration,
        )?;
        set(
            &mut options.renew_deadline,
            self.renew_deadline,
            &file.renew_deadline,
        )?;
        set(
            &mut options.retry_period,
            self.retry_period,
            &file.retry_period,
        )?;
        if let Some(name) = self.lease_name.as_ref().or(file.resource_name.as_ref()) {
            options.name = name.clone();
        }
        let namespace = self.lease_namespace.as_ref();
        if let Some(namespace) = namespace.or(file.resource_namespace.as_ref()) {
            options.namespace = namespace.clone();
        }
        let lock = self.resource_lock.as_ref().or(file.resource_lock.as_ref());
        if lock.is_some_and(|lock| lock != "leases") {
            return Err("leaderElection.resourceLock must be leases".to_owned());
        }
        if options.lease_duration <= options.renew_deadline
            || options.renew_deadline <= options.retry_period.mul_f64(1.2)
        {
            return Err("leader election: the lease duration must be greater than the renew deadline, and that greater than 1.2 × the retry period".to_owned());
        }
        options.identity_file = Some(self.identity_file.clone());
        Ok(Election {
            elect: self.elect.or(file.leader_elect).unwrap_or(true),
            options,
        })
    }
}

impl Options {
    /// The kubeconfig: the flag's, or the file's.
    pub fn kubeconfig(&self, config: &Configuration) -> Option<PathBuf> {
        let from_file = &config.client_connection.kubeconfig;
        self.kubeconfig
            .clone()
            .or_else(|| (!from_file.is_empty()).then(|| PathBuf::from(from_file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_file() {
        let options = Options::try_parse_from([
            "kube-scheduler",
            "--leader-elect=false",
            "--leader-elect-resource-name",
            "flag",
            "-v=2",
        ])
        .unwrap();
        let file = LeaderElection {
            leader_elect: Some(true),
            resource_name: Some("file".to_owned()),
            resource_namespace: Some("elsewhere".to_owned()),
            lease_duration: Some("1m".to_owned()),
            ..LeaderElection::default()
        };
        let election = options.leader.election(&file).unwrap();
        assert!(!election.elect);
        assert_eq!(election.options.name, "flag");
        assert_eq!(election.options.namespace, "elsewhere");
        assert_eq!(election.options.lease_duration, Duration::from_secs(60));
        let wrong = LeaderElection {
            lease_duration: Some("1s".to_owned()),
            ..LeaderElection::default()
        };
        assert!(options.leader.election(&wrong).is_err());
    }
}
