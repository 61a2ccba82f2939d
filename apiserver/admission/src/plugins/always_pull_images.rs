//! AlwaysPullImages: every image is pulled (and the right to it checked) at every start.

use async_trait::async_trait;
use keelson_api::field::{Error, Path};
use keelson_auth::Status;
use keelson_registry::access::{Access, items_mut, set};

use crate::chain::{Environment, Plugin};
use crate::pod::CONTAINER_LISTS;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "AlwaysPullImages";
const ALWAYS: &str = "Always";

/// The plugin.
#[derive(Debug, Default)]
pub struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.concerns("", "pods")
            && matches!(request.subresource.as_str(), "" | "ephemeralcontainers")
            && matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request, _environment: &Environment) -> Result<(), Status> {
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        for list in CONTAINER_LISTS {
            for container in items_mut(pod, &format!("spec.{list}")) {
                set(container, "imagePullPolicy", ALWAYS);
            }
        }
        for volume in items_mut(pod, "spec.volumes").filter(|v| v.has("image")) {
            set(volume, "image.pullPolicy", ALWAYS);
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request,
        _environment: &Environment,
    ) -> Result<(), Status> {
        let Some(pod) = request.object.as_ref() else {
            return Ok(());
        };
        let spec_path = Path::new("spec");
        for list in CONTAINER_LISTS {
            let path = spec_path.child(list);
            for (i, container) in pod.items(&format!("spec.{list}")).iter().enumerate() {
                let policy = container.text("imagePullPolicy");
                if policy != ALWAYS {
                    let item = path.index(i);
                    return Err(request.forbidden(Error::not_supported(
                        &item.child("imagePullPolicy"),
                        policy,
                        &[ALWAYS],
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create};

    #[tokio::test]
    async fn every_container_pulls() {
        let mut request = create(
            "",
            "pods",
            json!({"spec": {"containers": [{"imagePullPolicy": "Never"}], "initContainers": [{}],
            "volumes": [{"image": {"reference": "x"}}]}}),
        );
        admit(&AlwaysPullImages, &mut request, &[]).await.unwrap();
        let pod = request.object.unwrap();
        for path in [
            "/spec/containers/0/imagePullPolicy",
            "/spec/initContainers/0/imagePullPolicy",
            "/spec/volumes/0/image/pullPolicy",
        ] {
            assert_eq!(pod.pointer(path), Some(&json!(ALWAYS)), "{path}");
        }
    }
}
