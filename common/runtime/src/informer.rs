//! One shared list and watch per kind.
//!
//! An [`Informer`] fills a [`Store`] and tells its listeners what changed, in order. Watches resume at the last resource
//! version; after a 410 the kind is listed again and only the differences are told. Nothing is listed again on a timer.
//!
//! There are two ways to listen: [`Informer::handle`] calls a function from within the informer's task (cheap work only, such
//! as putting a key on a [`crate::Queue`]) and misses nothing; [`Informer::subscribe`] delivers through a bounded ring,
//! and a listener that falls behind is told [`Event::Resync`].

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::store::{Key, Store};

/// What every kind that can be watched is.
pub trait Object: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// What happened to one object.
#[derive(Debug)]
pub enum Event<K> {
    /// It is new (or was there when the listener came).
    Added(Arc<K>),
    /// It changed.
    Updated {
        /// What it was.
        old: Arc<K>,
        /// What it is.
        new: Arc<K>,
    },
    /// It is gone; this is the last state known.
    Deleted(Arc<K>),
    /// The listener fell behind and missed events: it must look at the whole store again.
    Resync,
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated {
                old: old.clone(),
                new: new.clone(),
            },
            Self::Deleted(object) => Self::Deleted(object.clone()),
            Self::Resync => Self::Resync,
        }
    }
}

impl<K> Event<K> {
    /// The newest state that the event carries.
    pub fn object(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => {
                Some(object)
            }
            Self::Resync => None,
        }
    }
}

type Projection<K> = Arc<dyn Fn(&mut K) + Send + Sync>;
type Handler<K> = Box<dyn Fn(&Event<K>) + Send + Sync>;

struct Listeners<K> {
    handlers: Vec<Handler<K>>,
    ring: Option<broadcast::Sender<Event<K>>>,
}

struct Shared<K> {
    store: Store<K>,
    // Held while the store changes and listeners are told, so that one who joins sees each object exactly once.
    listeners: Mutex<Listeners<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Shared<K> {
    fn tell(listeners: &Listeners<K>, event: Event<K>) {
        for handler in &listeners.handlers {
            handler(&event);
        }
        if let Some(ring) = &listeners.ring {
            // An error only says that nobody listens at the moment.
            let _ = ring.send(event);
        }
    }
}

impl<K: Resource> Shared<K> {
    fn apply(&self, object: K) {
        let key = Key::of(&object);
        let object = Arc::new(object);
        let listeners = self.listeners.lock();
        match self.store.insert(key, object.clone()) {
            None => Self::tell(&listeners, Event::Added(object)),
            // A watch that resumes may repeat the last state.
            Some(old)
                if old.meta().resource_version == object.meta().resource_version
                    && old.meta().uid == object.meta().uid
                    && object.meta().resource_version.is_some() => {}
            // Deleted and made again between two watches: two objects, two events.
            Some(old) if old.meta().uid != object.meta().uid => {
                Self::tell(&listeners, Event::Deleted(old));
                Self::tell(&listeners, Event::Added(object));
            }
            Some(old) => Self::tell(&listeners, Event::Updated { old, new: object }),
        }
    }

    fn delete(&self, object: K) {
        let key = Key::of(&object);
        let listeners = self.listeners.lock();
        if self.store.remove(&key).is_some() {
            Self::tell(&listeners, Event::Deleted(Arc::new(object)));
        }
    }

    fn keep_only(&self, present: &HashSet<Key>) {
        for key in self.store.keys() {
            if !present.contains(&key) {
                let listeners = self.listeners.lock();
                if let Some(old) = self.store.remove(&key) {
                    Self::tell(&listeners, Event::Deleted(old));
                }
            }
        }
    }
}

/// How an informer looks at its kind.
pub struct Options<K> {
    label_selector: Option<String>,
    field_selector: Option<String>,
    projection: Option<Projection<K>>,
}

impl<K> Default for Options<K> {
    fn default() -> Self {
        Self {
            label_selector: None,
            field_selector: None,
            projection: None,
        }
    }
}

impl<K> Options<K> {
    /// Only objects with these labels.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    /// Only objects with these fields.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    /// Strips what the daemon doesn't read before an object is stored (managedFields go in any case).
    #[must_use]
    pub fn project(mut self, projection: impl Fn(&mut K) + Send + Sync + 'static) -> Self {
        self.projection = Some(Arc::new(projection));
        self
    }
}

/// A handle to a shared list and watch; its task ends with the last handle.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    _stop: Arc<DropGuard>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            _stop: self._stop.clone(),
        }
    }
}

impl<K> Deref for Informer<K> {
    type Target = Store<K>;

    fn deref(&self) -> &Store<K> {
        &self.shared.store
    }
}

impl<K> Debug for Informer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer")
            .field("len", &self.shared.store.len())
            .finish_non_exhaustive()
    }
}

impl<K: Object> Informer<K> {
    /// Starts watching what `api` reaches.
    pub fn start(api: Api<K>, options: Options<K>) -> Self {
        let config = watcher::Config {
            label_selector: options.label_selector,
            field_selector: options.field_selector,
            ..watcher::Config::default()
        };
        let name = api.resource_url().to_owned();
        Self::from_stream(watcher::watcher(api, config), options.projection, name)
    }

    /// Starts on a given stream of watcher events: what tests use to play the API server.
    pub fn from_stream<S>(events: S, projection: Option<Projection<K>>, name: String) -> Self
    where
        S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            store: Store::default(),
            listeners: Mutex::new(Listeners {
                handlers: Vec::new(),
                ring: None,
            }),
            synced: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        tokio::spawn({
            let (shared, stop) = (shared.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(follow(events, projection, shared, name))
                    .await;
            }
        });
        Self {
            shared,
            _stop: Arc::new(stop.drop_guard()),
        }
    }
}

impl<K: Send + Sync + 'static> Informer<K> {
    /// The objects.
    pub fn store(&self) -> &Store<K> {
        &self.shared.store
    }

    /// Waits until the first list is in the store.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // An error means the sender is gone, but we hold it.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the first list is in the store.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Calls `handler` for every event from now on, and with `Added` for every object there is. It runs in the
    /// informer's task: it must be quick, and must not add handlers to the same informer.
    pub fn handle(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut listeners = self.shared.listeners.lock();
        for object in self.shared.store.list() {
            handler(&Event::Added(object));
        }
        listeners.handlers.push(Box::new(handler));
    }

    /// Events from now on, through a bounded ring; [`Event::Resync`] stands first, so that objects already there are seen.
    pub fn subscribe(&self) -> Subscription<K> {
        let mut listeners = self.shared.listeners.lock();
        let events = listeners
            .ring
            .get_or_insert_with(|| broadcast::Sender::new(RING))
            .subscribe();
        Subscription {
            events,
            fresh: true,
        }
    }
}

/// How many events a subscriber may lag behind before it must resync.
const RING: usize = 1024;

/// The receiving end of [`Informer::subscribe`].
pub struct Subscription<K> {
    events: broadcast::Receiver<Event<K>>,
    fresh: bool,
}

impl<K: Send + Sync + 'static> Subscription<K> {
    /// The next event; `None` once the informer is gone.
    pub async fn next(&mut self) -> Option<Event<K>> {
        if std::mem::take(&mut self.fresh) {
            return Some(Event::Resync);
        }
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The first pause after a failed list or watch; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: short, because everything behind an informer stands still while it waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

async fn follow<K, S>(
    events: S,
    projection: Option<Projection<K>>,
    shared: Arc<Shared<K>>,
    name: String,
) where
    K: Object,
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send,
{
    let mut events = std::pin::pin!(events);
    let mut pause = FIRST_PAUSE;
    let mut listed = HashSet::new();
    let strip = |object: &mut K| {
        object.meta_mut().managed_fields = None;
        if let Some(projection) = &projection {
            projection(object);
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                pause = FIRST_PAUSE;
                match event {
                    watcher::Event::Init => listed.clear(),
                    watcher::Event::InitApply(mut object) => {
                        strip(&mut object);
                        listed.insert(Key::of(&object));
                        shared.apply(object);
                    }
                    watcher::Event::InitDone => {
                        shared.keep_only(&listed);
                        listed = HashSet::new();
                        shared.synced.send_replace(true);
                    }
                    watcher::Event::Apply(mut object) => {
                        strip(&mut object);
                        shared.apply(object);
                    }
                    watcher::Event::Delete(mut object) => {
                        strip(&mut object);
                        shared.delete(object);
                    }
                }
            }
            Err(error) => {
                // A server that restarts is ordinary; one that stays away is worth a word.
                if pause < LONGEST_PAUSE {
                    debug!(resource = %name, %error, "watch interrupted");
                } else {
                    warn!(resource = %name, %error, "cannot watch; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The informers of one daemon, one a kind: asking twice gives the same one.
pub struct Informers {
    client: Client,
    by_type: Mutex<HashMap<TypeId, Entry>>,
}

struct Entry {
    informer: Box<dyn Any + Send + Sync>,
    synced: Box<dyn Fn() -> bool + Send + Sync>,
    wait: watch::Receiver<bool>,
}

impl Informers {
    /// Informers that use this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            by_type: Mutex::new(HashMap::new()),
        }
    }

    /// The client that they use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of a kind over all namespaces, started when first asked for.
    pub fn get<K>(&self) -> Informer<K>
    where
        K: Object + Resource<DynamicType = ()>,
    {
        self.get_with(Options::default)
    }

    /// As [`Informers::get`], with options that count only for whoever asks first.
    pub fn get_with<K>(&self, options: impl FnOnce() -> Options<K>) -> Informer<K>
    where
        K: Object + Resource<DynamicType = ()>,
    {
        let mut by_type = self.by_type.lock();
        if let Some(informer) = by_type
            .get(&TypeId::of::<K>())
            .and_then(|entry| entry.informer.downcast_ref::<Informer<K>>())
        {
            return informer.clone();
        }
        let informer = Informer::start(Api::<K>::all(self.client.clone()), options());
        Self::keep(&mut by_type, informer.clone());
        informer
    }

    /// Registers an informer made elsewhere (a fake one in tests) as the one of its kind.
    pub fn put<K: Object>(&self, informer: Informer<K>) {
        Self::keep(&mut self.by_type.lock(), informer);
    }

    fn keep<K: Object>(by_type: &mut HashMap<TypeId, Entry>, informer: Informer<K>) {
        let entry = Entry {
            synced: Box::new({
                let informer = informer.clone();
                move || informer.is_synced()
            }),
            wait: informer.shared.synced.subscribe(),
            informer: Box::new(informer),
        };
        by_type.insert(TypeId::of::<K>(), entry);
    }

    /// Waits until each informer asked for so far has its first list.
    pub async fn synced(&self) {
        let waits: Vec<_> = self
            .by_type
            .lock()
            .values()
            .map(|entry| entry.wait.clone())
            .collect();
        for mut wait in waits {
            let _ = wait.wait_for(|synced| *synced).await;
        }
    }

    /// Whether each informer asked for so far has its first list.
    pub fn is_synced(&self) -> bool {
        self.by_type.lock().values().all(|entry| (entry.synced)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio::sync::mpsc;

    type Sender = mpsc::UnboundedSender<Result<watcher::Event<ConfigMap>, watcher::Error>>;

    fn fake() -> (Sender, Informer<ConfigMap>) {
        let (send, receive) = mpsc::unbounded_channel();
        let stream = futures::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|event| (event, receive))
        });
        (
            send,
            Informer::from_stream(stream, None, "configmaps".into()),
        )
    }

    fn config_map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let mut cm = ConfigMap::default();
        cm.metadata.name = Some(name.into());
        cm.metadata.namespace = Some("default".into());
        cm.metadata.uid = Some(uid.into());
        cm.metadata.resource_version = Some(version.into());
        cm.metadata.managed_fields = Some(vec![]);
        cm
    }

    fn words(log: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
        std::mem::take(&mut *log.lock())
    }

    #[tokio::test(start_paused = true)]
    async fn a_relist_tells_only_the_differences() {
        let (send, informer) = fake();
        let log = Arc::new(Mutex::new(Vec::new()));
        informer.handle({
            let log = log.clone();
            move |event| {
                let word = match event {
                    Event::Added(_) => "added",
                    Event::Updated { .. } => "updated",
                    Event::Deleted(_) => "deleted",
                    Event::Resync => "resync",
                };
                let name = event
                    .object()
                    .and_then(|o| o.metadata.name.clone())
                    .unwrap_or_default();
                log.lock().push(format!("{word} {name}"));
            }
        });
        let list = |objects: Vec<ConfigMap>| {
            send.send(Ok(watcher::Event::Init)).unwrap();
            for object in objects {
                send.send(Ok(watcher::Event::InitApply(object))).unwrap();
            }
            send.send(Ok(watcher::Event::InitDone)).unwrap();
        };
        list(vec![
            config_map("a", "1", "10"),
            config_map("b", "2", "11"),
            config_map("c", "3", "12"),
        ]);
        informer.synced().await;
        assert_eq!(words(&log), ["added a", "added b", "added c"]);
        assert!(
            informer
                .find("default", "a")
                .unwrap()
                .metadata
                .managed_fields
                .is_none()
        );

        send.send(Err(watcher::Error::NoResourceVersion)).unwrap();
        // b unchanged, a changed, c replaced by another object of that name, d new
        list(vec![
            config_map("a", "1", "20"),
            config_map("b", "2", "11"),
            config_map("c", "9", "21"),
            config_map("d", "4", "22"),
        ]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            words(&log),
            ["updated a", "deleted c", "added c", "added d"]
        );

        list(vec![config_map("d", "4", "22")]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut gone = words(&log);
        gone.sort();
        assert_eq!(gone, ["deleted a", "deleted b", "deleted c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_lags_is_told_to_resync() {
        let (send, informer) = fake();
        let mut events = informer.subscribe();
        assert!(matches!(events.next().await, Some(Event::Resync)));
        for n in 0..(RING * 2) {
            send.send(Ok(watcher::Event::Apply(config_map(
                "a",
                "1",
                &n.to_string(),
            ))))
            .unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(events.next().await, Some(Event::Resync)));
        assert!(matches!(events.next().await, Some(Event::Updated { .. })));
    }
}
