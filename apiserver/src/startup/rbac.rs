//! The roles and bindings that every cluster has, kept as the policy says.

use std::sync::Arc;

use keelson_auth::rbac::bootstrap::{self, Change};

use super::own::{create, delete, get, retry, update};
use crate::objects::text;
use crate::server::Server;

/// Creates what is missing and adds to what lacks something.
pub async fn reconcile(server: &Arc<Server>) {
    for object in bootstrap::policy() {
        let id = format!("{}.rbac.authorization.k8s.io", object.resource);
        let (namespace, name) = (
            text(&object.value, "namespace").to_owned(),
            text(&object.value, "name").to_owned(),
        );
        let id = id.as_str();
        retry(server, &name, async || {
            let existing = get(server, id, &namespace, &name).await?;
            match bootstrap::reconcile(&object.value, existing.as_ref()) {
                Change::Keep => Ok(()),
                Change::Create(value) => create(server, id, value).await.map(|_| ()),
                Change::Update(value) => update(server, id, value).await.map(|_| ()),
                Change::Replace(value) => {
                    delete(server, id, &namespace, &name).await?;
                    create(server, id, value).await.map(|_| ())
                }
            }
        })
        .await;
    }
}
