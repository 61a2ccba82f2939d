//! OwnerReferencesPermissionEnforcement: owner references let an object be deleted, and owners be kept from being deleted, so
//! setting them needs the rights to do so oneself.

use async_trait::async_trait;
use keelson_auth::{Attributes, Status};
use keelson_registry::access::{Access, same};
use keelson_registry::kinds;
use serde_json::Value;

use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "OwnerReferencesPermissionEnforcement";

/// The plugin.
#[derive(Debug, Default)]
pub struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        // A pod's status carries no owners that a kubelet could set.
        matches!(request.operation, Operation::Create | Operation::Update)
            && !(request.concerns("", "pods") && request.subresource == "status")
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let Some(new) = request.object.as_ref() else {
            return Ok(());
        };
        let none = Value::Null;
        let old = request.old_object.as_deref().unwrap_or(&none);
        if same(
            new.part("metadata.ownerReferences"),
            old.part("metadata.ownerReferences"),
        ) {
            return Ok(());
        }
        let authorizer = environment.authorizer.as_ref();
        if request.operation != Operation::Create {
            let answer = authorizer.authorize(&Attributes {
                user: request.user.clone(),
                verb: "delete".into(),
                api_group: request.resource.group.clone(),
                api_version: request.resource.version.clone(),
                resource: request.resource.resource.clone(),
                subresource: request.subresource.clone(),
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                resource_request: true,
                ..Attributes::default()
            });
            if !answer.allowed() {
                let why = format!(
                    "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
                    answer.reason
                );
                return Err(request.forbidden(why));
            }
        }
        let blocking: Vec<&Value> = new
            .items("metadata.ownerReferences")
            .iter()
            .filter(|r| newly_blocks(r, old))
            .collect();
        if blocking.is_empty()
            || authorizer
                .authorize(&finalizers(request, "*", "*", "*", "*", ""))
                .allowed()
        {
            return Ok(());
        }
        for reference in blocking {
            let (api_version, kind) = (reference.text("apiVersion"), reference.text("kind"));
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let Some(owner) = kinds::find_kind(group, version, kind) else {
                return Err(request.forbidden(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind \
                     {kind}: no matches for kind {kind:?} in version {api_version:?}"
                )));
            };
            let namespace = if owner.namespaced {
                request.namespace.as_str()
            } else {
                ""
            };
            let answer = authorizer.authorize(&finalizers(
                request,
                group,
                version,
                &owner.plural,
                reference.text("name"),
                namespace,
            ));
            if !answer.allowed() {
                return Err(request.forbidden(format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
                    answer.reason
                )));
            }
        }
        Ok(())
    }
}

fn newly_blocks(reference: &Value, old: &Value) -> bool {
    let blocks = |r: &Value| r.flag("blockOwnerDeletion");
    let before = old
        .items("metadata.ownerReferences")
        .iter()
        .find(|r| r.text("uid") == reference.text("uid"));
    blocks(reference) && !before.is_some_and(blocks)
}

fn finalizers(
    request: &Request,
    group: &str,
    version: &str,
    resource: &str,
    name: &str,
    namespace: &str,
) -> Attributes {
    Attributes {
        user: request.user.clone(),
        verb: "update".into(),
        api_group: group.into(),
        api_version: version.into(),
        resource: resource.into(),
        subresource: "finalizers".into(),
        namespace: namespace.into(),
        name: name.into(),
        resource_request: true,
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keelson_auth::rbac::Index;
    use serde_json::json;

    use super::*;
    use crate::testing::{create, environment_with, run, update};

    fn allowed(resource: &str, verb: &str) -> Arc<Index> {
        let index = Arc::new(Index::new());
        let rules = json!([{"apiGroups": ["*"], "resources": [resource], "verbs": [verb]}]);
        index.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "r"}, "rules": rules}),
        );
        index.upsert(
            "clusterrolebindings",
            &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "jane"}]}),
        );
        index
    }

    #[tokio::test]
    async fn owners_need_rights() {
        let owned = json!({"metadata": {"name": "c", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "1", "blockOwnerDeletion": true}]}});
        let plugin = OwnerReferencesPermissionEnforcement;
        let blocking = || create("", "configmaps", owned.clone());
        let none = environment_with(&[], Arc::new(Index::new()));
        assert!(run(&plugin, &mut blocking(), &none).await.is_err());
        assert!(
            run(
                &plugin,
                &mut blocking(),
                &environment_with(&[], allowed("deployments/finalizers", "update"))
            )
            .await
            .is_ok()
        );
        let mut adopted = owned.clone();
        adopted["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
        let adopting = || {
            update(
                "",
                "configmaps",
                json!({"metadata": {"name": "c"}}),
                adopted.clone(),
            )
        };
        assert!(run(&plugin, &mut adopting(), &none).await.is_err());
        assert!(
            run(
                &plugin,
                &mut adopting(),
                &environment_with(&[], allowed("configmaps", "delete"))
            )
            .await
            .is_ok()
        );
    }
}
