//! A scheduler's name with the plugins that work under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plugin::{Plugin, Point};

/// A plugin with what its scores are multiplied by.
type Weighted = (Arc<dyn Plugin>, i64);

/// One plugin of a profile, with where it is asked and what its scores count.
#[derive(Clone)]
pub struct PluginChoice {
    /// The plugin.
    pub plugin: Arc<dyn Plugin>,
    /// Where it is asked: its own points less those that the configuration disables.
    pub points: BTreeSet<Point>,
    /// What its scores are multiplied by.
    pub weight: i64,
}

/// A profile.
pub struct Profile {
    /// Pods ask for it by this name.
    pub name: String,
    /// How many percent of the nodes are scored; `None` leaves it to the size of the cluster.
    pub percentage_of_nodes_to_score: Option<u32>,
    by_point: BTreeMap<Point, Vec<Weighted>>,
}

impl Profile {
    /// A profile of these plugins, asked in this order.
    pub fn new(
        name: impl Into<String>,
        choices: Vec<PluginChoice>,
        percentage_of_nodes_to_score: Option<u32>,
    ) -> Self {
        let mut by_point: BTreeMap<Point, Vec<_>> = BTreeMap::new();
        for choice in choices {
            for point in choice.points {
                by_point
                    .entry(point)
                    .or_default()
                    .push((choice.plugin.clone(), choice.weight));
            }
        }
        Profile {
            name: name.into(),
            percentage_of_nodes_to_score,
            by_point,
        }
    }

    /// The plugins asked at a point, in order, with the weights of their scores.
    pub fn at(&self, point: Point) -> impl Iterator<Item = (&Arc<dyn Plugin>, i64)> {
        self.by_point
            .get(&point)
            .into_iter()
            .flatten()
            .map(|(plugin, weight)| (plugin, *weight))
    }

    /// The plugin with this name, wherever it is asked.
    pub fn plugin(&self, name: &str) -> Option<&Arc<dyn Plugin>> {
        self.by_point
            .values()
            .flatten()
            .map(|(plugin, _)| plugin)
            .find(|plugin| plugin.name() == name)
    }
}
