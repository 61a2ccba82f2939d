//! Every namespace has the cluster's root certificates in the config map `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::informer::Options;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error};

use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::service_account::is_active;

const NAME: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Certificates with which clients inside the cluster verify the API server at its internal addresses.";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    root: String,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let Some(path) = context.options.root_ca_file.clone() else {
        return Err(StartError::Options("--root-ca-file is not given".into()));
    };
    let root = std::fs::read_to_string(&path).map_err(|source| StartError::File {
        path: path.display().to_string(),
        source,
    })?;
    let queue = Queue::new("root_ca_cert_publisher");
    // Only the maps of this name, so that the cluster's other maps are not kept in memory.
    let options = Options::default().fields(format!("metadata.name={NAME}"));
    let controller = Arc::new(Controller {
        namespaces: context.informers.get(),
        maps: Informer::start(Api::all(context.informers.client().clone()), options),
        root,
        context,
    });
    let wake = queue.clone();
    controller.namespaces.handle(move |event| {
        if let Event::Added(namespace) | Event::Updated { new: namespace, .. } = event {
            wake.add(Key::of(&**namespace));
        }
    });
    let wake = queue.clone();
    controller.maps.handle(move |event| {
        if let Some(map) = event
            .object()
            .filter(|map| map.metadata.name.as_deref() == Some(NAME))
        {
            wake.add(Key::cluster(
                map.metadata.namespace.clone().unwrap_or_default(),
            ));
        }
    });
    let (context, maps) = (controller.context.clone(), controller.maps.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(async move {
        if context
            .stop
            .clone()
            .run_until_cancelled(maps.synced())
            .await
            .is_some()
        {
            context.run(queue, 1, reconcile).await;
        }
    }
    .boxed())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        if !self
            .namespaces
            .get(key)
            .is_some_and(|namespace| is_active(&namespace))
        {
            return Ok(Outcome::Done);
        }
        let data = BTreeMap::from([(ENTRY.to_owned(), self.root.clone())]);
        let api = Api::<ConfigMap>::namespaced(self.context.client.clone(), &key.name);
        let result = match self.maps.find(&key.name, NAME) {
            Some(map) if map.data.as_ref() == Some(&data) && described(&map) => {
                return Ok(Outcome::Done);
            }
            Some(map) => {
                let mut map = (*map).clone();
                map.data = Some(data);
                map.metadata
                    .annotations
                    .get_or_insert_default()
                    .insert(DESCRIPTION.into(), TEXT.into());
                api.replace(NAME, &PostParams::default(), &map).await
            }
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.into()),
                        namespace: Some(key.name.clone()),
                        annotations: Some(BTreeMap::from([(
                            DESCRIPTION.to_owned(),
                            TEXT.to_owned(),
                        )])),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &map).await
            }
        };
        match result {
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

fn described(map: &ConfigMap) -> bool {
    map.metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(DESCRIPTION))
}
