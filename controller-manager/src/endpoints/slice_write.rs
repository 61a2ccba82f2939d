//! Reading and writing EndpointSlices, for the two controllers that do.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_runtime::{Informer, Informers, Key, write};
use kube::api::PostParams;
use kube::{Api, Client, Error, ResourceExt};

use super::slice_plan::Changes;
use super::tracker::Tracker;

/// The label with the name of the Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label with the name of the controller.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

const BY_SERVICE: &str = "service";

/// Why slices could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The cache lags behind our own writes.
    #[error("the cache of EndpointSlices is out of date")]
    Stale,
    /// The API server refused.
    #[error(transparent)]
    Api(#[from] Error),
}

/// The informer of slices with its index.
pub fn informer(informers: &Informers) -> Informer<EndpointSlice> {
    let slices = informers.get::<EndpointSlice>();
    slices.index_by(BY_SERVICE, |slice| {
        service_key(slice)
            .map(|key| key.to_string())
            .into_iter()
            .collect()
    });
    slices
}

/// The key of the Service that a slice belongs to.
pub fn service_key(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.labels().get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.clone()?, name.clone()))
}

/// Whether a controller looks after the slice.
pub fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice
        .labels()
        .get(MANAGED_BY)
        .is_some_and(|by| by == manager)
}

/// The slices of a Service that a controller looks after and that aren't being deleted.
pub fn slices_of(
    slices: &Informer<EndpointSlice>,
    service: &Key,
    manager: &str,
) -> Vec<Arc<EndpointSlice>> {
    let mut found = slices.by_index(BY_SERVICE, &service.to_string());
    found.retain(|slice| {
        is_managed_by(slice, manager) && slice.metadata.deletion_timestamp.is_none()
    });
    found
}

/// Writes. New slices come first, so that an endpoint which moves is never missing.
pub async fn carry_out(
    client: &Client,
    tracker: &Tracker,
    owner: &Key,
    changes: Changes,
) -> Result<(), Error> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &owner.namespace);
    for slice in &changes.create {
        match api.create(&PostParams::default(), slice).await {
            Ok(slice) => tracker.wrote(owner, &slice),
            Err(error) if write::is_namespace_terminating(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    for slice in &changes.update {
        let slice = api
            .replace(&slice.name_any(), &PostParams::default(), slice)
            .await?;
        tracker.wrote(owner, &slice);
    }
    for slice in &changes.delete {
        let params = write::delete_params(slice.metadata.uid.as_deref(), None);
        write::optional(api.delete(&slice.name_any(), &params).await)?;
        tracker.gone(owner, slice);
    }
    Ok(())
}
