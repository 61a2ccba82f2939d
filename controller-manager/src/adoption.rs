//! Taking the objects that match a selector and have no controller, and letting go of those that match no longer.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use keelson_api::selector::Selector;
use keelson_runtime::informer::Object;
use keelson_runtime::owners::{self, Claim};
use keelson_runtime::write;
use kube::{Api, Client, Error, Resource, ResourceExt};

/// A kind with a namespace.
pub trait Namespaced: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope> {}
impl<K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>> Namespaced for K {}

/// The candidates that belong to `owner`, after adopting and releasing. `adoptable` says which orphans are worth taking.
pub async fn claim<O, K>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
    adoptable: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Namespaced,
    K: Namespaced,
{
    claim_with(client, owner, selector, candidates, adoptable, &[]).await
}

/// As [`claim`]; what is adopted gets these finalizers too.
pub async fn claim_with<O, K>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
    adoptable: impl Fn(&K) -> bool,
    finalizers: &[&str],
) -> Result<Vec<Arc<K>>, Error>
where
    O: Namespaced,
    K: Namespaced,
{
    let meta = owner.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let deleting = meta.deletion_timestamp.is_some();
    let api = Api::<K>::namespaced(
        client.clone(),
        meta.namespace.as_deref().unwrap_or_default(),
    );
    let mut mine = Vec::new();
    let mut allowed = None;
    for object in candidates {
        match owners::claim(
            uid,
            deleting,
            object.meta(),
            selector.matches(object.labels()),
        ) {
            Claim::Keep => mine.push(object),
            Claim::Release => release(&api, &*object, uid).await?,
            Claim::Adopt if adoptable(&object) => {
                let allowed = match allowed {
                    Some(allowed) => allowed,
                    None => *allowed.insert(may_adopt(client, owner).await?),
                };
                if allowed && let Some(object) = adopt(&api, owner, &*object, finalizers).await? {
                    mine.push(Arc::new(object));
                }
            }
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    Ok(mine)
}

/// Looks the owner up at the API server: one that is being deleted must not adopt, and the cache may not know yet.
async fn may_adopt<O: Namespaced>(client: &Client, owner: &O) -> Result<bool, Error> {
    let api = Api::<O>::namespaced(
        client.clone(),
        owner.meta().namespace.as_deref().unwrap_or_default(),
    );
    let fresh = api.get_opt(&owner.name_any()).await?;
    Ok(fresh.is_some_and(|fresh| {
        fresh.meta().uid == owner.meta().uid && fresh.meta().deletion_timestamp.is_none()
    }))
}

/// `None` if the object is gone or was taken by another meanwhile.
async fn adopt<O, K>(
    api: &Api<K>,
    owner: &O,
    object: &K,
    finalizers: &[&str],
) -> Result<Option<K>, Error>
where
    O: Namespaced,
    K: Namespaced + Debug,
{
    let mut patch = owners::adopt_patch(
        &owners::controller_ref(owner),
        object.meta().uid.as_deref().unwrap_or_default(),
    );
    if !finalizers.is_empty() {
        patch["metadata"]["finalizers"] = finalizers.into();
    }
    match write::patch_strategic(api, &object.name_any(), &patch).await {
        Ok(object) => Ok(Some(object)),
        Err(Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn release<K: Namespaced>(api: &Api<K>, object: &K, owner_uid: &str) -> Result<(), Error> {
    let patch = owners::release_patch(owner_uid, object.meta().uid.as_deref().unwrap_or_default());
    match write::patch_strategic(api, &object.name_any(), &patch).await {
        // Gone already, or owned by others by now.
        Err(Error::Api(status)) if matches!(status.code, 404 | 422) => Ok(()),
        other => other.map(drop),
    }
}
