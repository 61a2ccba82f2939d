//! From the API to [`Sync`]: informers of Services and EndpointSlices, joined by the `kubernetes.io/service-name` label.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_runtime::informer::{Event, Informer, Options};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model;
use crate::sync::Sync;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";
/// Services that other proxies handle are left to them, headless ones have nothing to translate (upstream's selector).
const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

fn service_of(slice: &EndpointSlice) -> Option<String> {
    let namespace = slice.metadata.namespace.as_deref()?;
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{namespace}/{name}"))
}

/// Watches until `stop`. The first transaction is written once everything has been listed.
pub async fn run(client: Client, node: String, mut sync: Sync, stop: CancellationToken) {
    let services = Informer::<Service>::start(
        Api::all(client.clone()),
        Options::default().labels(SELECTOR),
    );
    let slices =
        Informer::<EndpointSlice>::start(Api::all(client), Options::default().labels(SELECTOR));
    slices
        .store()
        .index_by(BY_SERVICE, |slice: &EndpointSlice| {
            service_of(slice).into_iter().collect()
        });
    // Bounded by what it carries: a key is sent at most once until it was taken, since the receiver gathers into a set at once.
    let (changes, mut changed) = mpsc::unbounded_channel::<String>();
    let tell = changes.clone();
    services.handle(move |event: &Event<Service>| {
        for service in objects(event) {
            if let (Some(namespace), Some(name)) =
                (&service.metadata.namespace, &service.metadata.name)
            {
                let _ = tell.send(format!("{namespace}/{name}"));
            }
        }
    });
    slices.handle(move |event: &Event<EndpointSlice>| {
        for key in objects(event)
            .into_iter()
            .filter_map(|slice| service_of(slice))
        {
            let _ = changes.send(key);
        }
    });
    tokio::select! {
        () = stop.cancelled() => return,
        () = async { services.synced().await; slices.synced().await; } => {}
    }
    let mut dirty = BTreeSet::new();
    let mut retry: Option<Duration> = Some(Duration::ZERO);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            key = changed.recv() => match key {
                Some(key) => { dirty.insert(key); }
                None => return,
            },
            () = tokio::time::sleep(retry.unwrap_or(Duration::MAX)), if retry.is_some() => {}
        }
        while let Ok(key) = changed.try_recv() {
            dirty.insert(key);
        }
        for key in std::mem::take(&mut dirty) {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            let virtuals = match services.store().find(namespace, name) {
                Some(service) => {
                    let slices = slices.store().by_index(BY_SERVICE, &key);
                    let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
                    model::virtuals(&service, &slices, &node)
                }
                None => Vec::new(),
            };
            sync.set(&key, &virtuals);
        }
        retry = sync.apply().await.err();
    }
}

fn objects<K>(event: &Event<K>) -> Vec<&K> {
    match event {
        Event::Added(object) | Event::Deleted(object) => vec![object],
        Event::Updated { old, new } => vec![old, new],
        Event::Resync => Vec::new(),
    }
}
