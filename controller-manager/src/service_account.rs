//! Every namespace has the service account `default`.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error, ResourceExt};

use crate::context::{Context, StartError};
use crate::controllers::Task;

const NAME: &str = "default";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Whether things can be created in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace
            .status
            .as_ref()
            .is_none_or(|status| status.phase.as_deref() != Some("Terminating"))
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("serviceaccount");
    let controller = Arc::new(Controller {
        namespaces: context.informers.get(),
        accounts: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.namespaces.handle(move |event| {
        if let Event::Added(namespace) | Event::Updated { new: namespace, .. } = event {
            wake.add(Key::of(&**namespace));
        }
    });
    let wake = queue.clone();
    controller.accounts.handle(move |event| {
        if let Event::Deleted(account) = event
            && account.name_any() == NAME
        {
            wake.add(Key::cluster(account.namespace().unwrap_or_default()));
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 1, reconcile).boxed())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let active = self
            .namespaces
            .get(key)
            .is_some_and(|namespace| is_active(&namespace));
        if !active || self.accounts.find(&key.name, NAME).is_some() {
            return Ok(Outcome::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.context.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Err(error)
                if !write::is_already_exists(&error)
                    && !write::is_namespace_terminating(&error) =>
            {
                Err(error)
            }
            _ => Ok(Outcome::Done),
        }
    }
}
