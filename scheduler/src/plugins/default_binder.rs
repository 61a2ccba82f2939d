//! DefaultBinder: tells the API server which node a pod gets.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;

use super::PluginError;
use crate::framework::{Bound, Handle, Plugin, Point, Rejection};
use crate::model::PodInfo;

pub struct DefaultBinder {
    client: Client,
}

pub fn make(_: Option<&Value>, handle: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    Ok(Arc::new(DefaultBinder {
        client: handle.client.clone(),
    }))
}

#[async_trait]
impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<Bound, Rejection> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                // Not to bind another pod of the same name.
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        // The answer is a Status, not a Pod.
        let _: Value = Api::<Pod>::namespaced(self.client.clone(), pod.namespace())
            .create_subresource("binding", &pod.key.name, &PostParams::default(), &binding)
            .await
            .map_err(|error| match error {
                // What the API server says is enough; the rest of the answer is noise.
                kube::Error::Api(status) => Rejection::error(format!(
                    "running Bind plugin \"DefaultBinder\": {}",
                    status.message
                )),
                other => Rejection::error(other),
            })?;
        Ok(Bound::Done)
    }
}
