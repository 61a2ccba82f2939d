//! Quotas: counting what a namespace uses, and telling admission by the quota's status.
//!
//! Admission adds to `status.used` what it lets in; this counts anew when a quota changes, when something goes or changes its size, and from
//! time to time. What an object counts for is decided by [`keelson_api::quota`] for both. A count that is lower than the status
//! is believed only once the quota has been left alone for a moment: something just admitted may not have been stored yet.

mod ledger;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use keelson_api::quota::Counted;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, reconciler, write};
use kube::api::PostParams;
use kube::core::ApiResource;
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::time::Instant;

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::monitors::Seen;
use crate::pod;
use crate::pod_index::Pods;
use ledger::Ledger;
use plan::{Charge, Objects};

/// How long a quota must have been left alone before its count may fall.
const QUIET: Duration = Duration::from_millis(500);
/// How long a lower count is held back at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after a creation the namespace is counted: by then all that was admitted with it is stored.
const AFTER_CREATION: Duration = Duration::from_secs(2);

struct Ledgers {
    pods: Ledger,
    services: Ledger,
    claims: Ledger,
    devices: Ledger,
}

/// When a version of a quota was first seen, and since when its count waits to fall.
struct Watch {
    version: String,
    seen: Instant,
    lower_since: Option<Instant>,
}

struct Controller {
    context: Context,
    queue: Arc<Queue<Key>>,
    quotas: Informer<ResourceQuota>,
    pods: Pods,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    devices: Informer<ResourceClaim>,
    ledgers: Mutex<Ledgers>,
    watched: Mutex<HashMap<Key, Watch>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        queue: Queue::new("resourcequota_primary"),
        quotas: context.informers.get(),
        pods: Pods::of(&context.informers),
        services: context.informers.get(),
        claims: context.informers.get(),
        devices: context.informers.get(),
        ledgers: Mutex::new(Ledgers {
            pods: Ledger::new("", "pods"),
            services: Ledger::new("", "services"),
            claims: Ledger::new("", "persistentvolumeclaims"),
            devices: Ledger::new("resource.k8s.io", "resourceclaims"),
        }),
        watched: Mutex::default(),
        context,
    });
    controller.listen();
    Ok(run(controller).boxed())
}

async fn run(controller: Arc<Controller>) {
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let stop = context.stop.clone();
    let ready = async {
        context.informers.synced().await;
        context.monitors.ready().await;
    };
    if stop.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let period = context.options.resource_quota_sync_period;
    let recount = {
        let controller = controller.clone();
        async move {
            let mut kinds = controller.context.monitors.changes();
            loop {
                // Now and then, and when there are other kinds to be counted.
                let changed = async { kinds.changed().await.is_ok() };
                let _ = tokio::time::timeout(period.max(Duration::from_secs(1)), changed).await;
                for key in controller.quotas.keys() {
                    controller.queue.add(key);
                }
            }
        }
    };
    let workers = context.options.workers.resource_quota;
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    tokio::select! {
        () = reconciler::run(queue, context.name, workers, stop, reconcile) => {}
        () = recount => {}
    }
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.quotas.handle(move |event| match event {
            Event::Added(quota) => this.queue.add(Key::of(&**quota)),
            // A status that admission wrote needs no count.
            Event::Updated { old, new } if old.spec != new.spec || new.status.is_none() => {
                this.queue.add(Key::of(&**new));
            }
            Event::Deleted(quota) => this.forget(&Key::of(&**quota)),
            Event::Updated { .. } | Event::Resync => {}
        });
        let this = self.clone();
        self.context
            .monitors
            .listen(Box::new(move |api: &Arc<ApiResource>, seen| match seen {
                Seen::Gone(meta) => this.wake(
                    meta.namespace.as_deref().unwrap_or_default(),
                    api,
                    Duration::ZERO,
                ),
                Seen::There(meta) if meta.generation.is_none_or(|generation| generation <= 1) => {
                    this.wake(
                        meta.namespace.as_deref().unwrap_or_default(),
                        api,
                        AFTER_CREATION,
                    );
                }
                Seen::There(_) => {}
            }));
        let this = self.clone();
        self.pods.handle(move |event| {
            if let Event::Updated { old, new } = event {
                this.pod_changed(old, new);
            }
        });
        let this = self.clone();
        self.services.handle(move |event| {
            if let Event::Updated { old, new } = event
                && old.spec != new.spec
            {
                this.wake_counted(&new.namespace().unwrap_or_default(), ("", "services"));
            }
        });
        let this = self.clone();
        self.claims.handle(move |event| {
            if let Event::Updated { old, new } = event
                && (old.spec != new.spec || old.status != new.status)
            {
                let namespace = new.namespace().unwrap_or_default();
                this.wake_counted(&namespace, ("", "persistentvolumeclaims"));
            }
        });
    }

    /// A pod that ended, was resized or changed its scope uses something else now; one on its way out will.
    fn pod_changed(&self, old: &Pod, new: &Pod) {
        let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
        if (pod::is_terminal(new) && !pod::is_terminal(old)) || old.spec != new.spec {
            self.wake_counted(namespace, ("", "pods"));
        }
        if let Some(at) = ledger::overdue_at(&new.metadata)
            && old.metadata.deletion_timestamp.is_none()
        {
            let left = at.as_second() - now().as_second() + 1;
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
            self.each_quota(namespace, ("", "pods"), |key| {
                self.queue.add_after(key, left)
            });
        }
    }

    fn wake(&self, namespace: &str, api: &ApiResource, delay: Duration) {
        if namespace.is_empty() {
            return;
        }
        self.each_quota(namespace, (&api.group, &api.plural), |key| {
            self.queue.add_after(key, delay);
        });
    }

    fn wake_counted(&self, namespace: &str, resource: (&str, &str)) {
        self.each_quota(namespace, resource, |key| self.queue.add(key));
    }

    /// The quotas of a namespace that limit something that a resource uses.
    fn each_quota(
        &self,
        namespace: &str,
        (group, resource): (&str, &str),
        mut act: impl FnMut(Key),
    ) {
        let counted = Counted { group, resource };
        for quota in self.quotas.list_namespace(namespace) {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            if hard.is_some_and(|hard| hard.keys().any(|name| counted.uses(name))) {
                act(Key::of(&*quota));
            }
        }
    }

    fn forget(&self, key: &Key) {
        self.watched.lock().remove(key);
        if self.quotas.count_namespace(&key.namespace) == 0 {
            let mut ledgers = self.ledgers.lock();
            let Ledgers {
                pods,
                services,
                claims,
                devices,
            } = &mut *ledgers;
            for ledger in [pods, services, claims, devices] {
                ledger.forget(&key.namespace);
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(quota) = self.quotas.get(key) else {
            return Ok(Outcome::Done);
        };
        let used = self.count(&quota);
        let Some(status) = plan::status(&quota, &used) else {
            if let Some(watch) = self.watched.lock().get_mut(key) {
                watch.lower_since = None;
            }
            return Ok(Outcome::Done);
        };
        if plan::lowers(&quota, &used)
            && let Some(wait) = self.hold_back(key, &quota)
        {
            return Ok(Outcome::After(wait));
        }
        let mut next = (*quota).clone();
        next.status = Some(status);
        let api = Api::<ResourceQuota>::namespaced(self.context.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &next)
            .await
        {
            Ok(_) => {
                self.watched.lock().remove(key);
                Ok(Outcome::Done)
            }
            // Admission charged meanwhile: count again when its write has come by.
            Err(error) if write::is_conflict(&error) => {
                Ok(Outcome::After(Duration::from_millis(50)))
            }
            Err(error) => write::optional::<ResourceQuota>(Err(error)).map(|_| Outcome::Done),
        }
    }

    /// How long to wait before a lower count of this quota may be believed.
    fn hold_back(&self, key: &Key, quota: &ResourceQuota) -> Option<Duration> {
        let version = quota.resource_version().unwrap_or_default();
        let mut watched = self.watched.lock();
        let at = Instant::now();
        let watch = watched.entry(key.clone()).or_insert_with(|| Watch {
            version: version.clone(),
            seen: at,
            lower_since: None,
        });
        if watch.version != version {
            watch.version = version;
            watch.seen = at;
        }
        let since = *watch.lower_since.get_or_insert(at);
        if at.duration_since(since) >= PATIENCE {
            return None;
        }
        let left = QUIET.saturating_sub(at.duration_since(watch.seen));
        (!left.is_zero()).then_some(left)
    }

    fn count(&self, quota: &ResourceQuota) -> keelson_api::pod::ResourceList {
        let namespace = quota.namespace().unwrap_or_default();
        let hard: Vec<&str> = quota
            .spec
            .as_ref()
            .and_then(|spec| spec.hard.as_ref())
            .into_iter()
            .flat_map(|hard| hard.keys().map(String::as_str))
            .collect();
        let wanted = |counted: Counted<'_>| hard.iter().any(|name| counted.uses(name));
        let mut charges: Vec<(Counted<'static>, Vec<Arc<Charge>>)> = Vec::new();
        {
            let mut ledgers = self.ledgers.lock();
            let Ledgers {
                pods,
                services,
                claims,
                devices,
            } = &mut *ledgers;
            let at = now();
            if wanted(pods.counted()) {
                charges.push((
                    pods.counted(),
                    pods.of_namespace::<Pod>(&namespace, &self.pods, at),
                ));
            }
            if wanted(services.counted()) {
                charges.push((
                    services.counted(),
                    services.of_namespace(&namespace, &self.services, at),
                ));
            }
            if wanted(claims.counted()) {
                charges.push((
                    claims.counted(),
                    claims.of_namespace(&namespace, &self.claims, at),
                ));
            }
            if wanted(devices.counted()) {
                charges.push((
                    devices.counted(),
                    devices.of_namespace(&namespace, &self.devices, at),
                ));
            }
        }
        let others: Vec<(String, String)> = self
            .context
            .monitors
            .namespaced()
            .into_iter()
            .filter(|(group, resource)| {
                let counted = Counted { group, resource };
                !counted.looks_inside() && wanted(counted)
            })
            .collect();
        let mut sources: Vec<(Counted<'_>, Objects<'_>)> = charges
            .iter()
            .map(|(counted, list)| {
                (
                    *counted,
                    Objects::Charged(list.iter().map(|charge| &**charge).collect()),
                )
            })
            .collect();
        for (group, resource) in &others {
            if let Some(number) = self.context.monitors.count(group, resource, &namespace) {
                sources.push((Counted { group, resource }, Objects::Number(number)));
            }
        }
        let value = serde_json::to_value(quota).unwrap_or_default();
        plan::used(&value, &hard, &sources)
    }
}
