//! ClusterRoles that gather the rules of all others with certain labels.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use keelson_api::selector::Selector;
use keelson_runtime::{Informer, Key, Outcome, Queue, write};
use kube::{Api, Error, ResourceExt};
use serde_json::json;

use crate::context::{Context, StartError};
use crate::controllers::Task;

const GATHERS: &str = "gathers";

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("ClusterRoleAggregator");
    let roles = context.informers.get::<ClusterRole>();
    roles.index_by(GATHERS, |role| {
        role.aggregation_rule
            .as_ref()
            .map(|_| "yes".to_owned())
            .into_iter()
            .collect()
    });
    let controller = Arc::new(Controller { roles, context });
    let (wake, this) = (queue.clone(), controller.clone());
    controller.roles.handle(move |_| {
        // There are a handful of them.
        for role in this.roles.by_index(GATHERS, "yes") {
            wake.add(Key::of(&*role));
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 5, reconcile).boxed())
}

/// The rules that a role should have: those of all roles that its selectors match, each once, in the order of the roles' names.
fn gather(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors: Vec<Selector> = role
        .aggregation_rule
        .iter()
        .flat_map(|rule| rule.cluster_role_selectors.iter().flatten())
        .filter_map(|selector| Selector::from_label_selector(Some(selector)).ok())
        .collect();
    let mut matching: Vec<_> = all
        .iter()
        .filter(|other| other.metadata.name != role.metadata.name)
        .filter(|other| {
            selectors
                .iter()
                .any(|selector| selector.matches(other.labels()))
        })
        .collect();
    matching.sort_by_key(|other| other.name_any());
    let mut seen = BTreeSet::new();
    matching
        .into_iter()
        .flat_map(|other| other.rules.iter().flatten())
        .filter(|rule| seen.insert(serde_json::to_string(rule).unwrap_or_default()))
        .cloned()
        .collect()
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(role) = self
            .roles
            .get(key)
            .filter(|role| role.aggregation_rule.is_some())
        else {
            return Ok(Outcome::Done);
        };
        let rules = gather(&role, &self.roles.list());
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Outcome::Done);
        }
        let api = Api::<ClusterRole>::all(self.context.client.clone());
        let patch = json!({"metadata": {"uid": role.metadata.uid, "resourceVersion": role.metadata.resource_version}, "rules": rules});
        write::optional(write::patch_merge(&api, &key.name, &patch).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_gathered_once() {
        let role = |name: &str, label: &str, resource: &str| -> Arc<ClusterRole> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {"to": label}},
                "rules": [{"verbs": ["get"], "resources": [resource]}]}))
                .unwrap(),
            )
        };
        let all = [
            role("b", "view", "pods"),
            role("a", "view", "nodes"),
            role("c", "view", "pods"),
            role("d", "edit", "secrets"),
        ];
        let gatherer: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "view"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}))
        .unwrap();
        let resources: Vec<_> = gather(&gatherer, &all)
            .iter()
            .map(|rule| rule.resources.clone().unwrap()[0].clone())
            .collect();
        assert_eq!(resources, ["nodes", "pods"]);
    }
}
