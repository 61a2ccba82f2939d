//! Recording events about objects, as `kubectl describe` shows them.
//!
//! [`Recorder::event`] never waits and never fails: it puts the event on a bounded queue, and a task of its own
//! counts repeats, merges similar ones, silences the talkative ([`correlate`]) and writes. Events are lost rather than held up.

mod correlate;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::Event as SeriesEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error, Resource};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::metrics::METRICS;
use crate::write::is_not_found;
use correlate::{Correlator, Said, Written};

/// Whether an event is ordinary or a sign of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Ordinary.
    Normal,
    /// A sign of trouble.
    Warning,
}

impl Kind {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// `v1`: repeats raise `count`.
    Core,
    /// `events.k8s.io/v1`: repeats become a `series`.
    Series,
}

/// The events that wait to be written at most.
const QUEUE: usize = 1000;
/// How often the series of an event that goes on repeating is written.
const SERIES_REFRESH: Duration = Duration::from_secs(360);
const TRIES: u32 = 4;

/// A cheap handle that records events in the name of one component.
#[derive(Clone)]
pub struct Recorder {
    send: mpsc::Sender<Said>,
}

impl Recorder {
    /// A recorder of core events, as the controllers and kubelets write them. `host` is the node, for a kubelet.
    pub fn core(client: Client, component: &str, host: Option<&str>) -> Self {
        Self::start(client, Flavour::Core, component, host.unwrap_or_default())
    }

    /// A recorder of `events.k8s.io` events, as the scheduler writes them. `instance` tells replicas apart.
    pub fn series(client: Client, component: &str, instance: &str) -> Self {
        Self::start(client, Flavour::Series, component, instance)
    }

    fn start(client: Client, api: Flavour, component: &str, instance: &str) -> Self {
        let (send, receive) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            api,
            component: component.to_owned(),
            instance: instance.to_owned(),
            correlator: Correlator::new(),
        };
        tokio::spawn(writer.run(receive));
        Self { send }
    }

    /// A recorder that hands events to a test instead of writing them.
    pub fn fake() -> (Self, Recorded) {
        let (send, receive) = mpsc::channel(QUEUE);
        (Self { send }, Recorded { receive })
    }

    /// Records an event about an object.
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.action(about, kind, reason, "", message);
    }

    /// Records an event that says what was being done (`action`), which `events.k8s.io` requires.
    pub fn action(
        &self,
        about: &ObjectReference,
        kind: Kind,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        truncate(&mut message, 1024);
        let said = Said {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message,
        };
        if self.send.try_send(said).is_err() {
            METRICS.events_dropped.inc();
        }
    }
}

/// What a fake recorder was told.
pub struct Recorded {
    receive: mpsc::Receiver<Said>,
}

impl Recorded {
    /// Everything since the last call, as `Kind Reason message`.
    pub fn take(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(said) = self.receive.try_recv() {
            all.push(format!(
                "{} {} {}",
                said.kind.as_str(),
                said.reason,
                said.message
            ));
        }
        all
    }
}

/// The reference to an object that events are about.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

fn truncate(message: &mut String, most: usize) {
    if message.len() > most {
        let mut end = most;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
}

struct Writer {
    client: Client,
    api: Flavour,
    component: String,
    instance: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receive: mpsc::Receiver<Said>) {
        while let Some(said) = receive.recv().await {
            let now = Instant::now();
            let Some((said, written)) = self.correlator.correlate(said, now) else {
                METRICS.events_dropped.inc();
                continue;
            };
            let result = match self.api {
                Flavour::Core => {
                    write_core(
                        &self.client,
                        &self.component,
                        &self.instance,
                        &said,
                        written,
                    )
                    .await
                }
                Flavour::Series => {
                    write_series(
                        &self.client,
                        &self.component,
                        &self.instance,
                        &said,
                        written,
                    )
                    .await
                }
            };
            if let Err(error) = result {
                // A namespace on its way out takes no events: nothing to complain about.
                debug!(reason = %said.reason, about = ?said.about.name, %error, "event not written");
                METRICS.events_dropped.inc();
            }
        }
    }
}

fn namespace_of(said: &Said) -> &str {
    said.about
        .namespace
        .as_deref()
        .filter(|ns| !ns.is_empty())
        .unwrap_or("default")
}

fn fresh_name(said: &Said, now: jiff::Timestamp) -> String {
    // Cluster-scoped names may hold what an event's name may not (a user name, say), but those are not reported about.
    format!(
        "{}.{:x}",
        said.about.name.as_deref().unwrap_or_default(),
        now.as_nanosecond()
    )
}

fn meta(said: &Said, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace_of(said).to_owned()),
        ..ObjectMeta::default()
    }
}

async fn write_core(
    client: &Client,
    component: &str,
    host: &str,
    said: &Said,
    written: &mut Written,
) -> Result<(), Error> {
    let api = Api::<CoreEvent>::namespaced(client.clone(), namespace_of(said));
    let now = jiff::Timestamp::now();
    if written.count > 1 && !written.name.is_empty() {
        let patch =
            json!({"count": written.count, "lastTimestamp": Time(now), "message": said.message});
        match patched(&api, &written.name, patch).await {
            // It expired: a new one takes its place and goes on counting.
            Err(error) if is_not_found(&error) => {}
            other => return other,
        }
    }
    let first = *written.first.get_or_insert(now);
    let name = fresh_name(said, now);
    let event = CoreEvent {
        metadata: meta(said, &name),
        involved_object: said.about.clone(),
        reason: Some(said.reason.clone()),
        message: Some(said.message.clone()),
        type_: Some(said.kind.as_str().to_owned()),
        count: Some(written.count),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(host.to_owned()),
        ..CoreEvent::default()
    };
    created(&api, &event).await?;
    written.name = name;
    Ok(())
}

async fn write_series(
    client: &Client,
    component: &str,
    instance: &str,
    said: &Said,
    written: &mut Written,
) -> Result<(), Error> {
    let api = Api::<SeriesEvent>::namespaced(client.clone(), namespace_of(said));
    let now = jiff::Timestamp::now();
    if written.count > 1 && !written.name.is_empty() {
        if written.count > 2
            && written
                .sent
                .is_some_and(|sent| sent.elapsed() < SERIES_REFRESH)
        {
            return Ok(());
        }
        let patch = json!({"series": {"count": written.count, "lastObservedTime": MicroTime(now)}});
        match patched(&api, &written.name, patch).await {
            Err(error) if is_not_found(&error) => written.count = 1,
            other => {
                written.sent = Some(Instant::now());
                return other;
            }
        }
    }
    let name = fresh_name(said, now);
    let event = SeriesEvent {
        metadata: meta(said, &name),
        event_time: Some(MicroTime(now)),
        regarding: Some(said.about.clone()),
        reason: Some(said.reason.clone()),
        action: Some(said.action.clone()),
        note: Some(said.message.clone()),
        type_: Some(said.kind.as_str().to_owned()),
        reporting_controller: Some(component.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..SeriesEvent::default()
    };
    created(&api, &event).await?;
    written.name = name;
    written.sent = Some(Instant::now());
    Ok(())
}

async fn created<K>(api: &Api<K>, event: &K) -> Result<(), Error>
where
    K: Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    retried(|| async { api.create(&PostParams::default(), event).await.map(drop) }).await
}

async fn patched<K>(api: &Api<K>, name: &str, patch: Value) -> Result<(), Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Strategic(patch);
    retried(|| async {
        api.patch(name, &PatchParams::default(), &patch)
            .await
            .map(drop)
    })
    .await
}

/// Tries again while the server is away; what it refuses is not asked twice.
async fn retried<F, Fut>(mut attempt: F) -> Result<(), Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    let mut pause = Duration::from_millis(500);
    for _ in 1..TRIES {
        match attempt().await {
            Err(Error::Api(status)) if status.code < 500 => return Err(Error::Api(status)),
            Err(_) => tokio::time::sleep(pause).await,
            Ok(()) => return Ok(()),
        }
        pause *= 3;
    }
    attempt().await
}
