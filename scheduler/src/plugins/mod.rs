//! The plugins: one file each, and the one table.

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::framework::{Handle, Plugin};

/// Why a plugin can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Its arguments make no sense.
    #[error("arguments of plugin {plugin}: {why}")]
    Arguments {
        /// The plugin.
        plugin: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// The arguments of plugins (`pluginConfig`), by plugin.
pub type Arguments = BTreeMap<String, Value>;

/// What a plugin is made with: its arguments, if there are any, and the handle.
type Make = fn(Option<&Value>, &Handle) -> Result<Arc<dyn Plugin>, PluginError>;

/// A row of the table.
pub struct Row {
    /// Upstream's name.
    pub name: &'static str,
    /// What its scores count by default.
    pub weight: i64,
    /// Makes it.
    pub make: Make,
}

const fn row(name: &'static str, weight: i64, make: Make) -> Row {
    Row { name, weight, make }
}

/// Every plugin, in the order in which they are asked by default.
pub const ALL: &[Row] = &[
    row("SchedulingGates", 0, |_, _| {
        Ok(Arc::new(scheduling_gates::SchedulingGates))
    }),
    row("PrioritySort", 0, |_, _| {
        Ok(Arc::new(priority_sort::PrioritySort))
    }),
    row("NodeUnschedulable", 0, |_, _| {
        Ok(Arc::new(node_unschedulable::NodeUnschedulable))
    }),
    row("NodeName", 0, |_, _| Ok(Arc::new(node_name::NodeName))),
    row("TaintToleration", 3, |_, _| {
        Ok(Arc::new(taint_toleration::TaintToleration))
    }),
    row("NodeAffinity", 2, node_affinity::make),
    row("NodePorts", 0, |_, _| Ok(Arc::new(node_ports::NodePorts))),
    row("NodeResourcesFit", 1, node_resources_fit::make),
    row("VolumeRestrictions", 0, volume_restrictions::make),
    row("VolumeBinding", 0, volume_binding::make),
    row("PodTopologySpread", 2, pod_topology_spread::make),
    row("InterPodAffinity", 2, inter_pod_affinity::make),
    row("DynamicResources", 0, |_, _| {
        Ok(Arc::new(dynamic_resources::DynamicResources))
    }),
    row("DefaultPreemption", 0, default_preemption::make),
    row(
        "NodeResourcesBalancedAllocation",
        1,
        node_resources_balanced_allocation::make,
    ),
    row("ImageLocality", 1, |_, _| {
        Ok(Arc::new(image_locality::ImageLocality))
    }),
    row("DefaultBinder", 0, default_binder::make),
];

/// Reads a plugin's arguments.
fn arguments<T: serde::de::DeserializeOwned + Default>(
    plugin: &'static str,
    given: Option<&Value>,
) -> Result<T, PluginError> {
    match given {
        None => Ok(T::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| PluginError::Arguments {
                plugin,
                why: error.to_string(),
            })
        }
    }
}

/// The default profile, of the plugins that need no handle.
#[cfg(test)]
pub fn profile_for_tests() -> crate::framework::Profile {
    use crate::framework::{PluginChoice, Profile};
    let plugins: Vec<(Arc<dyn Plugin>, i64)> = vec![
        (Arc::new(scheduling_gates::SchedulingGates), 0),
        (Arc::new(priority_sort::PrioritySort), 0),
        (Arc::new(node_unschedulable::NodeUnschedulable), 0),
        (Arc::new(node_name::NodeName), 0),
        (Arc::new(taint_toleration::TaintToleration), 3),
        (Arc::new(node_affinity::NodeAffinity::default()), 2),
        (Arc::new(node_ports::NodePorts), 0),
        (Arc::new(node_resources_fit::NodeResourcesFit::default()), 1),
        (
            Arc::new(pod_topology_spread::PodTopologySpread::default()),
            2,
        ),
        (Arc::new(inter_pod_affinity::InterPodAffinity::default()), 2),
        (
            Arc::new(
                node_resources_balanced_allocation::NodeResourcesBalancedAllocation::default(),
            ),
            1,
        ),
        (Arc::new(image_locality::ImageLocality), 1),
    ];
    let choices = plugins
        .into_iter()
        .map(|(plugin, weight)| PluginChoice {
            points: plugin.points().iter().copied().collect(),
            plugin,
            weight,
        })
        .collect();
    Profile::new("default-scheduler", choices, None)
}
