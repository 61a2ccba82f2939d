//! The loop that follows the definitions: sets their conditions, serves what is accepted, and stops serving what is gone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_admission::webhooks;
use keelson_extensions::Definition;
use keelson_extensions::names::is_true;
use keelson_registry::access::Access;
use keelson_registry::rest;
use keelson_storage::{
    CacheError, ListRequest, StoreError, VersionMatch, WatchRequest, WatchStart,
};
use serde_json::Value;

use crate::aggregation::priorities::rank;
use crate::custom::convert::Converter;
use crate::custom::{self, DEFINITIONS, cleanup, conditions};
use crate::discovery;
use crate::field_owner::Owner;
use crate::resources::Resource;
use crate::server::Server;

/// A pause before the watch of the definitions is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Who sets conditions.
const MANAGER: &str = "kube-apiserver";

/// A definition that is served.
struct Served {
    /// What of the definition decides how it is served.
    basis: Value,
    id: String,
    resources: Vec<Arc<Resource>>,
}

/// The state of the loop.
#[derive(Default)]
struct Follower {
    served: HashMap<String, Served>,
    cleaning: HashMap<String, tokio::task::JoinHandle<()>>,
}

/// Serves what is defined already, and follows the definitions from then on.
pub async fn start(server: &Arc<Server>) {
    let mut follower = Follower::default();
    follower.round(server).await;
    let server = server.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = server.stop.cancelled() => return,
                ended = follower.watch(&server) => {
                    if let Err(e) = ended {
                        tracing::warn!(error = %e, "the watch of custom resource definitions ended, opening it again");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

impl Follower {
    async fn watch(&mut self, server: &Arc<Server>) -> Result<(), CacheError> {
        let request = WatchRequest {
            start: WatchStart::Any,
            ..WatchRequest::default()
        };
        let mut watcher = server.cache.watch(DEFINITIONS, request).await?;
        while let Some(events) = watcher.next().await {
            events?;
            self.round(server).await;
        }
        Ok(())
    }

    /// Looks at all definitions: what they should say and what is to be served.
    async fn round(&mut self, server: &Arc<Server>) {
        let Some(resource) = server.resources.cached_as(DEFINITIONS) else {
            return;
        };
        let mut all = match definitions(server, &resource).await {
            Ok(all) => all,
            Err(e) => {
                tracing::warn!(error = %e, "can't list custom resource definitions");
                return;
            }
        };
        all.sort_by(|a, b| {
            let key = |crd: &Value| {
                (
                    crd.text("metadata.creationTimestamp").to_owned(),
                    crd.text("metadata.name").to_owned(),
                )
            };
            key(a).cmp(&key(b))
        });
        let now = rest::timestamp(Timestamp::now());
        let mut changed = false;
        let mut writes = Vec::new();
        for at in 0..all.len() {
            let old = all[at].clone();
            let mut new = conditions::next(&old, &all, &now);
            if is_true(&new, "NamesAccepted") || is_true(&new, "Established") {
                match self.serve(server, &new).await {
                    Ok(fresh) => {
                        changed |= fresh;
                        if is_true(&new, "NamesAccepted") {
                            conditions::establish(&mut new, &now);
                        }
                    }
                    Err(why) => {
                        tracing::error!(
                            definition = new.text("metadata.name"),
                            why,
                            "a custom resource can't be served"
                        );
                    }
                }
            }
            if new != old {
                writes.push((new.clone(), old));
            }
            all[at] = new;
        }
        changed |= self.forget(server, &all);
        server.aggregation.registrar.set_custom(&served(&all));
        if changed {
            discovery::publish(server);
        }
        for (new, old) in writes {
            write(server, &resource, new, &old).await;
        }
        self.clean(server, &all);
    }

    /// Serves a definition as it is now; says whether that is anything new.
    async fn serve(&mut self, server: &Arc<Server>, crd: &Value) -> Result<bool, String> {
        let name = crd.text("metadata.name").to_owned();
        let basis = serde_json::json!([
            crd["metadata"]["uid"],
            crd["spec"],
            crd["status"]["acceptedNames"],
            crd.has("metadata.deletionTimestamp")
        ]);
        if self.served.get(&name).is_some_and(|s| s.basis == basis) {
            return Ok(false);
        }
        let definition = Arc::new(Definition::read(crd)?);
        let caller = webhooks::https::shared();
        let converter = Arc::new(Converter::new(&definition, server.lookup.clone(), caller));
        let (resources, config) =
            custom::resources(&definition, &converter, server.resources.prefix());
        let id = config.id.clone();
        server
            .cache
            .add_resource(config)
            .await
            .map_err(|e| e.to_string())?;
        self.served.insert(
            name,
            Served {
                basis,
                id,
                resources,
            },
        );
        // Before the condition says so: who reads the condition finds the resource.
        self.install(server);
        Ok(true)
    }

    /// Stops serving what is no longer defined; says whether that was anything.
    fn forget(&mut self, server: &Server, all: &[Value]) -> bool {
        let gone: Vec<String> = self
            .served
            .keys()
            .filter(|name| {
                !all.iter()
                    .any(|crd| crd.text("metadata.name") == name.as_str())
            })
            .cloned()
            .collect();
        for name in &gone {
            if let Some(served) = self.served.remove(name) {
                self.install(server);
                server.cache.remove_resource(&served.id);
            }
        }
        !gone.is_empty()
    }

    fn install(&self, server: &Server) {
        let mut all: Vec<Arc<Resource>> = self
            .served
            .values()
            .flat_map(|s| s.resources.iter().cloned())
            .collect();
        all.sort_by(|a, b| {
            let (a, b) = (&a.kind, &b.kind);
            a.group
                .cmp(&b.group)
                .then_with(|| rank(&b.version).cmp(&rank(&a.version)))
                .then_with(|| a.version.cmp(&b.version))
                .then_with(|| a.plural.cmp(&b.plural))
        });
        server.resources.set_custom(all);
    }

    /// Starts to delete the objects of definitions that are being deleted.
    fn clean(&mut self, server: &Arc<Server>, all: &[Value]) {
        self.cleaning.retain(|_, task| !task.is_finished());
        for crd in all.iter().filter(|crd| cleanup::is_due(crd)) {
            let name = crd.text("metadata.name").to_owned();
            if !self.cleaning.contains_key(&name) {
                let task = tokio::spawn(cleanup::clean(server.clone(), name.clone()));
                self.cleaning.insert(name, task);
            }
        }
    }
}

async fn definitions(server: &Server, resource: &Resource) -> Result<Vec<Value>, CacheError> {
    let request = ListRequest {
        version: VersionMatch::Any,
        ..ListRequest::default()
    };
    let listed = server.cache.list(&resource.id, request).await?;
    Ok(listed
        .entries
        .iter()
        .filter_map(|e| resource.object(e).ok())
        .collect())
}

/// Stores a definition with new conditions; if somebody else was quicker, the next round looks again.
async fn write(server: &Server, resource: &Resource, mut new: Value, old: &Value) {
    let name = old.text("metadata.name");
    let Ok(revision) = old.text("metadata.resourceVersion").parse() else {
        return;
    };
    let rules = &*resource.kind.strategy;
    Owner {
        resource,
        strategy: rules.subresource("status").unwrap_or(rules),
        manager: MANAGER,
        subresource: "status",
    }
    .record(Some(old), &mut new);
    keelson_schema::normalise(&mut new, &resource.ty);
    let bytes = match resource.encode(&new).await {
        Ok(bytes) => bytes,
        Err(e) => {
            tracing::error!(name, error = %e, "a custom resource definition can't be encoded");
            return;
        }
    };
    match server
        .store
        .update(&resource.key("", name), bytes, revision, None)
        .await
    {
        Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound) => {}
        Err(e) => {
            tracing::warn!(name, error = %e, "the conditions of a custom resource definition can't be stored")
        }
    }
}

/// The group versions that definitions serve.
fn served(all: &[Value]) -> BTreeSet<(String, String)> {
    all.iter()
        .flat_map(|crd| {
            let versions = crd
                .items("spec.versions")
                .iter()
                .filter(|v| v.flag("served"));
            versions.map(|v| (crd.text("spec.group").to_owned(), v.text("name").to_owned()))
        })
        .collect()
}
