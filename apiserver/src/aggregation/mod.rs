//! API aggregation: group versions that Services serve in this server's name.
//!
//! Every APIService is followed. One that names a Service becomes a [`Remote`]: a route for its requests ([`proxy`]), a
//! task that keeps its condition right ([`availability`]) and learns what it serves ([`remote`]). What this server serves
//! itself is registered by [`register`]. The documents of discovery and OpenAPI are put together in [`crate::discovery`].

pub mod availability;
pub mod priorities;
pub mod proxy;
pub mod register;
pub mod registration;
pub mod remote;
pub mod resolve;
pub mod transport;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use keelson_daemon::tls::{ReloadingKey, TlsError};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::discovery;
use crate::feeds::{self, Feed, Follower};
use crate::options::Options;
use crate::request::Request;
use crate::server::Server;
use register::Registrar;
use registration::Registration;
use remote::Remote;

/// The resource of registrations, as the cache names it.
pub const SERVICES: &str = "apiservices.apiregistration.k8s.io";
/// The longest a change of what is registered waits for others before the documents are made anew.
const GATHER: Duration = Duration::from_millis(20);

/// The aggregator's state.
pub struct Aggregation {
    /// Routes by `group/version`, read by every request.
    routes: ArcSwap<HashMap<String, Arc<Remote>>>,
    state: Mutex<State>,
    /// Held while the documents are made.
    pub publishing: Mutex<()>,
    /// Registers what this server serves itself.
    pub registrar: Registrar,
    /// Proves to aggregated servers that this server asks.
    certificate: Option<Arc<ReloadingKey>>,
    /// Whether requests go to endpoints and not to the Service's address.
    endpoints: bool,
    /// Told to requests that are sent on, so that they are recognised should they come back.
    pub hop: String,
    /// The documents don't fit any more.
    stale: Notify,
    /// Remotes that want a task of their own.
    begun: mpsc::UnboundedSender<Arc<Remote>>,
    waiting: Mutex<Option<mpsc::UnboundedReceiver<Arc<Remote>>>>,
}

#[derive(Default)]
struct State {
    registered: BTreeMap<String, Arc<Registration>>,
    remotes: BTreeMap<String, (Arc<Remote>, DropGuard)>,
}

/// A group version of another server, as the documents show it.
pub struct Shown {
    /// Who serves it.
    pub registration: Arc<Registration>,
    /// What is known of it.
    pub found: Arc<remote::Found>,
}

impl Aggregation {
    /// An aggregator that knows of nothing yet.
    pub fn new(options: &Options) -> Result<Self, TlsError> {
        let certificate = options
            .proxy_client
            .as_ref()
            .map(|(certificate, key)| ReloadingKey::load(certificate, key))
            .transpose()?;
        let (begun, waiting) = mpsc::unbounded_channel();
        Ok(Aggregation {
            routes: ArcSwap::default(),
            state: Mutex::default(),
            publishing: Mutex::default(),
            registrar: Registrar::default(),
            certificate,
            endpoints: options.aggregator_routing,
            hop: uuid::Uuid::new_v4().to_string(),
            stale: Notify::new(),
            begun,
            waiting: Mutex::new(Some(waiting)),
        })
    }

    /// Who serves a request, if it isn't this server.
    pub fn route(&self, request: &Request) -> Option<Arc<Remote>> {
        let routes = self.routes.load();
        if routes.is_empty() {
            return None;
        }
        let info = &request.info;
        if info.is_resource {
            return routes
                .get(&format!("{}/{}", info.group, info.version))
                .cloned();
        }
        let mut segments = request.uri.path().split('/').filter(|s| !s.is_empty());
        let key = match (segments.next()?, segments.next()?, segments.next()) {
            ("apis", group, Some(version)) => format!("{group}/{version}"),
            ("api", version, _) => format!("/{version}"),
            _ => return None,
        };
        routes.get(&key).cloned()
    }

    /// Who serves a group version.
    pub fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.routes
            .load()
            .get(&format!("{group}/{version}"))
            .cloned()
    }

    /// Everything registered, by name.
    pub fn registered(&self) -> Vec<Arc<Registration>> {
        self.state.lock().registered.values().cloned().collect()
    }

    /// The group versions of other servers.
    pub fn shown(&self) -> Vec<Shown> {
        let state = self.state.lock();
        let shown = state.remotes.values().map(|(remote, _)| Shown {
            registration: remote.registration(),
            found: remote.found(),
        });
        shown.collect()
    }

    /// Has the documents made anew, soon.
    pub fn republish(&self) {
        self.stale.notify_one();
    }

    fn set(&self, new: Registration) {
        let new = Arc::new(new);
        let mut state = self.state.lock();
        let old = state.registered.insert(new.name.clone(), new.clone());
        let shape = |r: &Registration| (r.group_priority, r.version_priority, r.service.is_some());
        let (group, version) = priorities::of(&new.group, &new.version);
        let before = old.as_deref().map_or((group, version, false), shape);
        if before != shape(&new) {
            self.republish();
        }
        if new.service.is_none() {
            if state.remotes.remove(&new.name).is_some() {
                self.reroute(&state);
            }
            return;
        }
        if let Some((remote, _)) = state.remotes.get(&new.name) {
            remote.update(new, self.certificate.as_ref());
            return;
        }
        let stop = CancellationToken::new();
        let remote = Arc::new(Remote::new(
            new.clone(),
            self.certificate.as_ref(),
            stop.clone(),
        ));
        state
            .remotes
            .insert(new.name.clone(), (remote.clone(), stop.drop_guard()));
        self.reroute(&state);
        // Fails only when the server is gone.
        let _ = self.begun.send(remote);
    }

    fn forget(&self, name: &str) {
        let mut state = self.state.lock();
        let Some(old) = state.registered.remove(name) else {
            return;
        };
        if state.remotes.remove(name).is_some() {
            self.reroute(&state);
        }
        let usual = priorities::of(&old.group, &old.version);
        if old.service.is_some() || (old.group_priority, old.version_priority) != usual {
            self.republish();
        }
    }

    fn reroute(&self, state: &State) {
        let routes = state
            .remotes
            .values()
            .map(|(remote, _)| {
                let registration = remote.registration();
                (
                    format!("{}/{}", registration.group, registration.version),
                    remote.clone(),
                )
            })
            .collect();
        self.routes.store(Arc::new(routes));
    }

    /// Has what depends on a Service look again.
    fn service_changed(&self, namespace: &str, name: Option<&str>) {
        let state = self.state.lock();
        for (remote, _) in state.remotes.values() {
            let registration = remote.registration();
            let uses = registration.service.as_ref().is_some_and(|s| {
                s.namespace == namespace && name.is_none_or(|name| s.name == name)
            });
            if uses {
                remote.wake();
            }
        }
    }
}

/// Keeps the aggregator in step with what is stored.
struct Keeper(Arc<Server>);

impl Follower for Keeper {
    fn wants(&self, resource: &str, namespace: &str) -> bool {
        // Most Services are nobody's API: they aren't even decoded.
        resource == "apiservices" || {
            let state = self.0.aggregation.state.lock();
            state.remotes.values().any(|(remote, _)| {
                let registration = remote.registration();
                let service = registration.service.as_ref();
                service.is_some_and(|s| s.namespace == namespace)
            })
        }
    }

    fn upsert(&self, resource: &str, object: &Value) {
        let aggregation = &self.0.aggregation;
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or_default();
        match resource {
            "apiservices" => {
                let registration = Registration::read(object);
                let name = registration.name.clone();
                if registration.service.is_none() && registration.condition.reason != "Local" {
                    tokio::spawn(availability::set_local(self.0.clone(), name.clone()));
                }
                aggregation.set(registration);
                aggregation.registrar.look_at(&name);
            }
            "services" => aggregation.service_changed(namespace, text("/metadata/name")),
            _ => {
                let owner = object
                    .pointer("/metadata/labels")
                    .and_then(|l| l.get(resolve::SERVICE_NAME))
                    .and_then(Value::as_str);
                if owner.is_some() {
                    aggregation.service_changed(namespace, owner);
                }
            }
        }
    }

    fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let aggregation = &self.0.aggregation;
        match resource {
            "apiservices" => {
                aggregation.forget(name);
                self.0.metrics.aggregation.forget(name);
                aggregation.registrar.look_at(name);
            }
            "services" => aggregation.service_changed(namespace, Some(name)),
            _ => aggregation.service_changed(namespace, None),
        }
    }
}

/// Follows what is registered, from what is stored on.
pub async fn start(server: &Arc<Server>) {
    if let Some(waiting) = server.aggregation.waiting.lock().take() {
        tokio::spawn(attend(server.clone(), waiting));
    }
    tokio::spawn(publish(server.clone()));
    let keeper = Arc::new(Keeper(server.clone()));
    // Registrations first, so that the rest knows which Services matter.
    feeds::start(server, vec![Feed::new(&[SERVICES], keeper.clone())]).await;
    feeds::start(
        server,
        vec![Feed::new(
            &["services", "endpointslices.discovery.k8s.io"],
            keeper,
        )],
    )
    .await;
}

/// Gives every remote its task.
async fn attend(server: Arc<Server>, mut waiting: mpsc::UnboundedReceiver<Arc<Remote>>) {
    loop {
        let remote = tokio::select! {
            () = server.stop.cancelled() => return,
            remote = waiting.recv() => remote,
        };
        let Some(remote) = remote else { return };
        tokio::spawn(availability::attend(server.clone(), remote));
    }
}

/// Makes the documents anew when they don't fit any more.
async fn publish(server: Arc<Server>) {
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = server.aggregation.stale.notified() => {}
        }
        discovery::publish(&server);
        tokio::time::sleep(GATHER).await;
    }
}
