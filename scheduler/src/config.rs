//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1), and the profiles that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Handle, Plugin, PluginChoice, Point, Profile};
use crate::plugins::{self, PluginError};

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Why.
        source: serde_norway::Error,
    },
    /// It says something that makes no sense or isn't supported.
    #[error("{0}")]
    Invalid(String),
    /// A plugin's arguments make no sense.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    /// `kubescheduler.config.k8s.io/v1`.
    pub api_version: String,
    /// `KubeSchedulerConfiguration`.
    pub kind: String,
    /// How to reach the API server.
    pub client_connection: ClientConnection,
    /// Leader election.
    pub leader_election: LeaderElection,
    /// How many goroutines upstream filters with; accepted and not needed.
    pub parallelism: Option<i32>,
    /// How many percent of the nodes are scored; 0 leaves it to the size of the cluster.
    pub percentage_of_nodes_to_score: Option<u32>,
    /// Seconds that a pod waits after its first failure.
    pub pod_initial_backoff_seconds: Option<u64>,
    /// Seconds that a pod waits at most.
    pub pod_max_backoff_seconds: Option<u64>,
    /// Profiles; without any there is the default one.
    pub profiles: Vec<ProfileConfig>,
    /// Extenders: not supported.
    pub extenders: Vec<Value>,
    /// Accepted: contention profiling doesn't exist here.
    pub enable_contention_profiling: Option<bool>,
    /// Accepted: profiling doesn't exist here.
    pub enable_profiling: Option<bool>,
    /// Accepted: caching for nominated nodes is always on.
    pub delay_cache_until_active: Option<bool>,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    /// The kubeconfig.
    pub kubeconfig: String,
    /// Accepted; the API server's priority and fairness decides.
    pub qps: Option<f64>,
    /// Accepted.
    pub burst: Option<i64>,
    /// Accepted.
    pub content_type: Option<String>,
    /// Accepted.
    pub accept_content_types: Option<String>,
}

/// Leader election, as the file says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// Whether to elect.
    pub leader_elect: Option<bool>,
    /// A Go duration.
    pub lease_duration: Option<String>,
    /// A Go duration.
    pub renew_deadline: Option<String>,
    /// A Go duration.
    pub retry_period: Option<String>,
    /// `leases`.
    pub resource_lock: Option<String>,
    /// The lease's name.
    pub resource_name: Option<String>,
    /// The lease's namespace.
    pub resource_namespace: Option<String>,
}

/// One profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProfileConfig {
    /// What pods ask for; `default-scheduler` unless said.
    pub scheduler_name: Option<String>,
    /// Instead of the global percentage.
    pub percentage_of_nodes_to_score: Option<u32>,
    /// Which plugins.
    pub plugins: Plugins,
    /// Arguments of plugins.
    pub plugin_config: Vec<PluginConfig>,
}

/// Arguments of one plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginConfig {
    /// The plugin.
    pub name: String,
    /// Its arguments.
    pub args: Value,
}

/// Changes of the default plugins, by extension point.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are the extension points")]
pub struct Plugins {
    /// At every point at once.
    pub multi_point: PluginSet,
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
}

impl Plugins {
    fn by_point(&self) -> [(Point, &PluginSet); 12] {
        [
            (Point::PreEnqueue, &self.pre_enqueue),
            (Point::QueueSort, &self.queue_sort),
            (Point::PreFilter, &self.pre_filter),
            (Point::Filter, &self.filter),
            (Point::PostFilter, &self.post_filter),
            (Point::PreScore, &self.pre_score),
            (Point::Score, &self.score),
            (Point::Reserve, &self.reserve),
            (Point::Permit, &self.permit),
            (Point::PreBind, &self.pre_bind),
            (Point::Bind, &self.bind),
            (Point::PostBind, &self.post_bind),
        ]
    }
}

/// Plugins to add and to leave out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSet {
    /// To add.
    pub enabled: Vec<PluginRef>,
    /// To leave out; `*` is all.
    pub disabled: Vec<PluginRef>,
}

/// A plugin by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginRef {
    /// Its name.
    pub name: String,
    /// What its scores count; 0 leaves the default.
    pub weight: i64,
}

impl PluginSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled
            .iter()
            .any(|plugin| plugin.name == "*" || plugin.name == name)
    }
}

impl Configuration {
    /// Reads the file and checks what it says.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: shown.clone(),
            source,
        })?;
        let config: Configuration =
            serde_norway::from_str(&text).map_err(|source| ConfigError::Parse {
                path: shown.clone(),
                source,
            })?;
        if config.kind != "KubeSchedulerConfiguration"
            || config.api_version != "kubescheduler.config.k8s.io/v1"
        {
            return Err(ConfigError::Invalid(format!(
                "{shown}: is {} {}, not kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration",
                config.api_version, config.kind
            )));
        }
        if !config.extenders.is_empty() {
            return Err(ConfigError::Invalid(format!(
                "{shown}: extenders are not supported"
            )));
        }
        Ok(config)
    }

    /// Makes the profiles, by scheduler name.
    pub fn profiles(&self, handle: &Handle) -> Result<BTreeMap<String, Arc<Profile>>, ConfigError> {
        let default = [ProfileConfig::default()];
        let configs = if self.profiles.is_empty() {
            &default[..]
        } else {
            &self.profiles
        };
        let mut profiles = BTreeMap::new();
        for config in configs {
            let name = config
                .scheduler_name
                .as_deref()
                .unwrap_or("default-scheduler");
            let percentage = config
                .percentage_of_nodes_to_score
                .or(self.percentage_of_nodes_to_score)
                .filter(|percentage| *percentage > 0);
            if percentage.is_some_and(|percentage| percentage > 100) {
                let text = "percentageOfNodesToScore must be between 0 and 100";
                return Err(ConfigError::Invalid(text.to_owned()));
            }
            let profile = Profile::new(name, config.choices(handle)?, percentage);
            if profile.at(Point::QueueSort).count() != 1 {
                let text = format!("profile {name:?} must have exactly one queueSort plugin");
                return Err(ConfigError::Invalid(text));
            }
            if profile.at(Point::Bind).next().is_none() {
                let text = format!("profile {name:?} has no bind plugin");
                return Err(ConfigError::Invalid(text));
            }
            if profiles
                .insert(name.to_owned(), Arc::new(profile))
                .is_some()
            {
                let text = format!("there are two profiles with schedulerName {name:?}");
                return Err(ConfigError::Invalid(text));
            }
        }
        Ok(profiles)
    }
}

impl ProfileConfig {
    fn choices(&self, handle: &Handle) -> Result<Vec<PluginChoice>, ConfigError> {
        let mut choices: Vec<PluginChoice> = Vec::new();
        let set = &self.plugins.multi_point;
        for row in plugins::ALL {
            if !set.disables(row.name) {
                choices.push(self.choice(row.name, 0, handle)?);
            }
        }
        for wanted in &set.enabled {
            choices.retain(|choice| choice.plugin.name() != wanted.name);
            choices.push(self.choice(&wanted.name, wanted.weight, handle)?);
        }
        for (point, set) in self.plugins.by_point() {
            for choice in &mut choices {
                if set.disables(choice.plugin.name()) {
                    choice.points.remove(&point);
                }
            }
            for wanted in &set.enabled {
                let known = choices
                    .iter_mut()
                    .find(|choice| choice.plugin.name() == wanted.name);
                let choice = match known {
                    Some(choice) => choice,
                    None => {
                        let mut choice = self.choice(&wanted.name, 0, handle)?;
                        choice.points = BTreeSet::new();
                        choices.push(choice);
                        choices.last_mut().expect("just pushed")
                    }
                };
                if !choice.plugin.points().contains(&point) {
                    return Err(ConfigError::Invalid(format!(
                        "plugin {} has no extension point {point:?}",
                        wanted.name
                    )));
                }
                choice.points.insert(point);
                if wanted.weight > 0 {
                    choice.weight = wanted.weight;
                }
            }
        }
        Ok(choices)
    }

    fn choice(
        &self,
        name: &str,
        weight: i64,
        handle: &Handle,
    ) -> Result<PluginChoice, ConfigError> {
        let row = plugins::ALL
            .iter()
            .find(|row| row.name == name)
            .ok_or_else(|| ConfigError::Invalid(format!("there is no plugin {name:?}")))?;
        let args = self
            .plugin_config
            .iter()
            .find(|config| config.name == name)
            .map(|config| &config.args);
        let plugin: Arc<dyn Plugin> = (row.make)(args, handle)?;
        Ok(PluginChoice {
            points: plugin.points().iter().copied().collect(),
            plugin,
            weight: if weight > 0 { weight } else { row.weight },
        })
    }
}
