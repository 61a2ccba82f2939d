//! Which resources upstream serves, read off its discovery documents.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::client::Client;

/// A resource of a group-version.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// `v1` or `apps/v1`.
    pub group_version: String,
    /// Kind.
    pub kind: String,
    /// Plural name.
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Subresources by name with their verbs.
    pub subresources: BTreeMap<String, Vec<String>>,
}

impl Resource {
    /// The path of the collection, with `{ns}` for the namespace.
    pub fn path(&self) -> String {
        let root = if self.group_version.contains('/') {
            "/apis"
        } else {
            "/api"
        };
        let namespace = if self.namespaced {
            "/namespaces/{ns}"
        } else {
            ""
        };
        format!("{root}/{}{namespace}/{}", self.group_version, self.plural)
    }

    /// The path of the collection over all namespaces.
    pub fn path_everywhere(&self) -> String {
        self.path().replace("/namespaces/{ns}", "")
    }

    /// How it is called in reports.
    pub fn title(&self) -> String {
        format!("{}/{}", self.group_version, self.plural)
    }

    /// Whether it can do this.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Reads what upstream serves.
pub async fn discover(client: &Client) -> Result<Vec<Resource>> {
    let mut versions = vec!["/api/v1".to_owned()];
    let groups = client.document("/apis", "application/json").await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let name = version["groupVersion"].as_str().context("groupVersion")?;
            versions.push(format!("/apis/{name}"));
        }
    }
    let mut all = Vec::new();
    for path in versions {
        all.extend(of_version(
            &client.document(&path, "application/json").await?,
        ));
    }
    Ok(all)
}

fn of_version(document: &Value) -> Vec<Resource> {
    let group_version = document["groupVersion"].as_str().unwrap_or_default();
    let mut found: BTreeMap<String, Resource> = BTreeMap::new();
    for entry in document["resources"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap_or_default();
        let verbs: Vec<String> = entry["verbs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect();
        if let Some((parent, sub)) = name.split_once('/') {
            if let Some(resource) = found.get_mut(parent) {
                resource.subresources.insert(sub.to_owned(), verbs);
            }
            continue;
        }
        let resource = Resource {
            group_version: group_version.into(),
            kind: entry["kind"].as_str().unwrap_or_default().into(),
            plural: name.into(),
            namespaced: entry["namespaced"] == true,
            verbs,
            subresources: BTreeMap::new(),
        };
        found.insert(name.into(), resource);
    }
    found.into_values().collect()
}
