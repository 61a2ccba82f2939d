//! What is suspicious about the expressions of ValidatingAdmissionPolicies, told in their status.
//!
//! Policies work whatever is found here. A policy is looked at once a generation, as upstream does: a kind that comes later
//! counts when the policy changes next. Kinds of aggregated API servers are not checked.

mod check;
mod kinds;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{Patch, PatchParams};
use kube::{Api, Error};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::discovery::{self, Named};

struct Controller {
    context: Context,
    policies: Informer<ValidatingAdmissionPolicy>,
    definitions: Informer<CustomResourceDefinition>,
    /// What discovery said last.
    resources: Mutex<Arc<Vec<Named>>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new(context.name);
    let controller = Arc::new(Controller {
        policies: context.informers.get(),
        definitions: context.informers.get(),
        resources: Mutex::default(),
        context,
    });
    let (wake, this) = (queue.clone(), controller.clone());
    controller.policies.handle(move |event| match event {
        Event::Added(policy) | Event::Updated { new: policy, .. } => wake.add(Key::of(&**policy)),
        Event::Deleted(_) => {}
        Event::Resync => this
            .policies
            .keys()
            .into_iter()
            .for_each(|key| wake.add(key)),
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 5, reconcile).boxed())
}

/// Whether this generation was looked at.
fn is_observed(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|s| s.observed_generation);
    policy.metadata.generation.unwrap_or_default() <= observed.unwrap_or_default()
}

/// The status that is applied.
fn status(policy: &ValidatingAdmissionPolicy, warnings: &[Value]) -> Value {
    let checking = if warnings.is_empty() {
        json!({})
    } else {
        json!({"expressionWarnings": warnings})
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy.metadata.name},
        "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checking},
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(policy) = self.policies.get(key).filter(|policy| !is_observed(policy)) else {
            return Ok(Outcome::Done);
        };
        let named = kinds::named_by(&policy);
        let mut resources = self.resources.lock().clone();
        if named.iter().flatten().any(|name| !name.is_in(&resources)) {
            resources = Arc::new(discovery::all_versions(&self.context.client).await?);
            *self.resources.lock() = resources.clone();
        }
        let kinds = kinds::resolve(&named, &resources);
        let warnings = check::warnings(&policy, &kinds, &self.definitions.list());
        let params = PatchParams::apply(self.context.name).force();
        let patch = Patch::Apply(status(&policy, &warnings));
        let api = Api::<ValidatingAdmissionPolicy>::all(self.context.client.clone());
        write::optional(api.patch_status(&key.name, &params, &patch).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_check_without_warnings_shows() {
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(
            json!({"metadata": {"name": "p", "generation": 2}, "status": {"observedGeneration": 1}}),
        )
        .unwrap();
        assert!(!is_observed(&policy));
        assert_eq!(
            status(&policy, &[])["status"],
            json!({"observedGeneration": 2, "typeChecking": {}})
        );
    }
}
