//! Deletes bootstrap tokens that have expired.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Error};

use super::{Left, NAMESPACE, left, tokens};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;

struct Controller {
    context: Context,
    tokens: Informer<Secret>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("token_cleaner");
    let controller = Arc::new(Controller {
        tokens: tokens(&context.client),
        context,
    });
    let wake = queue.clone();
    controller.tokens.handle(move |event| {
        if let Event::Added(secret) | Event::Updated { new: secret, .. } = event {
            wake.add(Key::of(&**secret));
        }
    });
    let (context, tokens) = (controller.context.clone(), controller.tokens.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(async move {
        let synced = context.stop.clone();
        if synced.run_until_cancelled(tokens.synced()).await.is_some() {
            context.run(queue, 1, reconcile).await;
        }
    }
    .boxed())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(secret) = self.tokens.get(key) else {
            return Ok(Outcome::Done);
        };
        match left(&secret, now()) {
            Left::ForEver => return Ok(Outcome::Done),
            Left::For(time) => {
                let pause = Duration::try_from(time).unwrap_or_default();
                return Ok(Outcome::After(pause));
            }
            Left::Nothing => {}
        }
        let api = Api::<Secret>::namespaced(self.context.client.clone(), NAMESPACE);
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &parameters).await {
            Ok(_) => Ok(Outcome::Done),
            // Gone already, or another one by now.
            Err(Error::Api(status)) if [404, 409].contains(&status.code) => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}
