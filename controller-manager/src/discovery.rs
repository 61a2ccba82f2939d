//! The resources that the API server serves, for the controllers that deal with all kinds.

use std::collections::BTreeSet;

use kube::core::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use kube::{Client, Error};

/// One resource in the version that its group prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Group, version, kind and plural.
    pub api: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: BTreeSet<String>,
}

impl Resource {
    /// Whether it supports all of these verbs.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    /// `group/resource`, or the resource alone for the core group.
    pub fn group_resource(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }
}

/// A resource in any version that is served, as the rules of policies name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// Plural and singular.
    pub names: [String; 2],
    /// The kind.
    pub kind: String,
}

/// Asks the API server for every resource in every version.
pub async fn all_versions(client: &Client) -> Result<Vec<Named>, Error> {
    let (core, groups) = futures::try_join!(
        client.list_core_api_versions_aggregated(),
        client.list_api_groups_aggregated()
    )?;
    Ok(core
        .items
        .into_iter()
        .chain(groups.items)
        .flat_map(named)
        .collect())
}

fn named(group: APIGroupDiscovery) -> Vec<Named> {
    let name = group
        .metadata
        .and_then(|meta| meta.name)
        .unwrap_or_default();
    let mut found = Vec::new();
    for version in group.versions {
        let label = version.version.unwrap_or_default();
        for resource in version.resources {
            let (Some(plural), Some(kind)) = (
                resource.resource,
                resource.response_kind.and_then(|kind| kind.kind),
            ) else {
                continue;
            };
            found.push(Named {
                group: name.clone(),
                version: label.clone(),
                names: [plural, resource.singular_resource.unwrap_or_default()],
                kind,
            });
        }
    }
    found
}

/// What discovery answered.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    /// Every resource, each once.
    pub resources: Vec<Resource>,
    /// Group versions whose server doesn't answer at present.
    pub failing: Vec<String>,
}

/// Asks the API server.
pub async fn discover(client: &Client) -> Result<Discovered, Error> {
    let (core, groups) = futures::try_join!(
        client.list_core_api_versions_aggregated(),
        client.list_api_groups_aggregated()
    )?;
    Ok(read(core, groups))
}

fn read(core: APIGroupDiscoveryList, groups: APIGroupDiscoveryList) -> Discovered {
    let mut found = Discovered::default();
    for group in core.items.into_iter().chain(groups.items) {
        read_group(group, &mut found);
    }
    found
}

fn read_group(group: APIGroupDiscovery, found: &mut Discovered) {
    let name = group
        .metadata
        .and_then(|meta| meta.name)
        .unwrap_or_default();
    let mut seen = BTreeSet::new();
    for version in group.versions {
        let Some(label) = version.version else {
            continue;
        };
        let api_version = if name.is_empty() {
            label.clone()
        } else {
            format!("{name}/{label}")
        };
        if version.freshness.as_deref() == Some("Stale") {
            found.failing.push(api_version.clone());
        }
        for resource in version.resources {
            let (Some(plural), Some(kind)) = (
                resource.resource,
                resource.response_kind.and_then(|kind| kind.kind),
            ) else {
                continue;
            };
            // Versions come in the order of preference: the first that has a resource counts.
            if !seen.insert(plural.clone()) {
                continue;
            }
            found.resources.push(Resource {
                api: ApiResource {
                    group: name.clone(),
                    version: label.clone(),
                    api_version: api_version.clone(),
                    kind,
                    plural,
                },
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
                verbs: resource.verbs.into_iter().collect(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_resource_is_found_once_in_its_preferred_version() {
        let resource = |name: &str, kind: &str, scope: &str| {
            json!({"resource": name, "scope": scope, "verbs": ["list", "delete"],
                "responseKind": {"group": "", "version": "", "kind": kind}})
        };
        let core = json!({"items": [{"versions": [{"version": "v1", "resources": [resource("pods", "Pod", "Namespaced")]}]}]});
        let groups = json!({"items": [{"metadata": {"name": "autoscaling"}, "versions": [
            {"version": "v2", "resources": [resource("hpas", "HPA", "Namespaced")]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("hpas", "HPA", "Namespaced"), resource("old", "Old", "Cluster")]},
        ]}]});
        let found = read(
            serde_json::from_value(core).unwrap(),
            serde_json::from_value(groups).unwrap(),
        );
        let names: Vec<_> = found
            .resources
            .iter()
            .map(|r| {
                format!(
                    "{} {} {}",
                    r.api.api_version,
                    r.group_resource(),
                    r.namespaced
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                "v1 pods true",
                "autoscaling/v2 hpas.autoscaling true",
                "autoscaling/v1 old.autoscaling false"
            ]
        );
        assert_eq!(found.failing, ["autoscaling/v1"]);
        assert!(found.resources[0].supports(&["list"]) && !found.resources[0].supports(&["watch"]));
    }
}
