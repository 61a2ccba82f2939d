//! What an autoscaler scales, by its scale subresource.

use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::api::core::v1::ObjectReference;
use keelson_runtime::recorder::Kind;
use keelson_runtime::{Key, write};
use kube::api::{DynamicObject, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{Controller, Draft};
use crate::pod_control::words;

/// How often a scale that others write too is tried.
const TRIES: u32 = 5;

/// The target of an autoscaler, as its scale subresource has it.
pub(super) struct Scaled {
    api: Api<DynamicObject>,
    scale: DynamicObject,
    /// How many replicas it is to have.
    pub(super) replicas: i32,
    /// How many it has.
    pub(super) status_replicas: i32,
    /// The selector of its pods.
    pub(super) selector: String,
}

fn number(value: &Value) -> i32 {
    value
        .as_i64()
        .and_then(|number| i32::try_from(number).ok())
        .unwrap_or(0)
}

impl Controller {
    /// Reads the scale.
    pub(super) async fn scale_of(
        &self,
        key: &Key,
        target: &CrossVersionObjectReference,
    ) -> Result<Scaled, String> {
        let version = target.api_version.clone().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let found = self.context.monitors.resource(group, &target.kind);
        let resource: ApiResource = match found {
            Some(resource) => resource.api,
            None => {
                self.context.monitors.doubt();
                return Err(format!(
                    "no matches for kind \"{}\" in group \"{group}\"",
                    target.kind
                ));
            }
        };
        let api = Api::<DynamicObject>::namespaced_with(
            self.context.client.clone(),
            &key.namespace,
            &resource,
        );
        let scale = api
            .get_subresource("scale", &target.name)
            .await
            .map_err(|error| words(&error))?;
        Ok(Scaled {
            replicas: number(&scale.data["spec"]["replicas"]),
            status_replicas: number(&scale.data["status"]["replicas"]),
            selector: scale.data["status"]["selector"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            api,
            scale,
        })
    }

    /// Writes it.
    pub(super) async fn rescale(
        &self,
        about: &ObjectReference,
        scaled: &mut Scaled,
        desired: i32,
        reason: &str,
        draft: &mut Draft,
    ) -> Result<(), String> {
        let name = scaled.scale.name_any();
        let mut tries = TRIES;
        let written = loop {
            scaled.scale.data["spec"]["replicas"] = json!(desired);
            let written = scaled
                .api
                .replace_subresource("scale", &name, &PostParams::default(), &scaled.scale)
                .await;
            tries -= 1;
            match written {
                Err(error) if write::is_conflict(&error) && tries > 0 => {
                    if let Ok(newest) = scaled.api.get_subresource("scale", &name).await {
                        scaled.scale = newest;
                    }
                }
                other => break other,
            }
        };
        match written {
            Ok(_) => {
                draft.set(
                    "AbleToScale",
                    true,
                    "SucceededRescale",
                    format!("the HPA controller was able to update the target scale to {desired}"),
                );
                self.context.recorder.event(
                    about,
                    Kind::Normal,
                    "SuccessfulRescale",
                    format!("New size: {desired}; reason: {reason}"),
                );
                Ok(())
            }
            Err(error) => {
                let why = words(&error);
                let message = format!("New size: {desired}; reason: {reason}; error: {why}");
                self.warn(about, "FailedRescale", &message);
                draft.set(
                    "AbleToScale",
                    false,
                    "FailedUpdateScale",
                    format!("the HPA controller was unable to update the target scale: {why}"),
                );
                Err(format!("failed to rescale: {why}"))
            }
        }
    }
}
