//! From the API to the [`Zone`]: informers of Services, EndpointSlices and Namespaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_runtime::informer::{Event, Informer, Options};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::records;
use crate::zone::Zone;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";

fn service_of(slice: &EndpointSlice) -> Option<(String, String)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.clone()?, name.clone()))
}

/// Watches until `stop`; `synced` is cancelled once the zone holds everything that was there.
pub async fn run(
    client: Client,
    zone: Arc<Zone>,
    synced: CancellationToken,
    stop: CancellationToken,
) {
    let namespaces = Informer::<Namespace>::start(Api::all(client.clone()), Options::default());
    let services = Informer::<Service>::start(Api::all(client.clone()), Options::default());
    let slices = Informer::<EndpointSlice>::start(Api::all(client), Options::default());
    slices
        .store()
        .index_by(BY_SERVICE, |slice: &EndpointSlice| {
            service_of(slice)
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .into_iter()
                .collect()
        });
    let names = zone.clone();
    namespaces.handle(move |event: &Event<Namespace>| {
        if let Some(name) = event.object().and_then(|n| n.metadata.name.as_deref()) {
            names.set_namespace(name, !matches!(event, Event::Deleted(_)));
        }
    });
    // Keys are gathered into a set as fast as they come; the set is bounded by the number of Services.
    let (changes, mut changed) = mpsc::unbounded_channel::<(String, String)>();
    let tell = changes.clone();
    services.handle(move |event: &Event<Service>| {
        if let Some(meta) = event.object().map(|s| &s.metadata)
            && let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name)
        {
            let _ = tell.send((namespace.clone(), name.clone()));
        }
    });
    slices.handle(move |event: &Event<EndpointSlice>| {
        let old = match event {
            Event::Updated { old, .. } => service_of(old),
            _ => None,
        };
        for key in event
            .object()
            .and_then(|s| service_of(s))
            .into_iter()
            .chain(old)
        {
            let _ = changes.send(key);
        }
    });
    tokio::select! {
        () = stop.cancelled() => return,
        () = async { namespaces.synced().await; services.synced().await; slices.synced().await; } => {}
    }
    let mut dirty = BTreeSet::new();
    loop {
        while let Ok(key) = changed.try_recv() {
            dirty.insert(key);
        }
        for (namespace, name) in std::mem::take(&mut dirty) {
            let slices = slices
                .store()
                .by_index(BY_SERVICE, &format!("{namespace}/{name}"));
            let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
            let found = services
                .store()
                .find(&namespace, &name)
                .and_then(|service| records::of(&service, &slices));
            zone.set(&namespace, &name, found);
        }
        synced.cancel();
        tokio::select! {
            () = stop.cancelled() => return,
            key = changed.recv() => match key {
                Some(key) => { dirty.insert(key); }
                None => return,
            },
        }
    }
}
