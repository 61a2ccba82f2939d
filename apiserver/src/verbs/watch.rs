//! WATCH: events from the cache, framed once for all watchers and written as they come.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use keelson_api::status::Status;
use keelson_storage::{CacheError, WatchEvent, WatchRequest, WatchStart, Watcher};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::body::{Body, BodyError};
use crate::error::from_cache;
use crate::metrics::Held;
use crate::negotiate::{Encoding, Negotiated, Offers, View};
use crate::protobuf;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::options::{ListOptions, revision};
use crate::verbs::view::{self, Include};

/// A last bookmark is sent so long before a watch ends.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// The numbers under which the cache keeps frames.
const FRAME: u32 = 16;
const FRAME_PROTOBUF: u32 = 18;

/// How events are written.
#[derive(Clone)]
struct Framing {
    resource: Arc<Resource>,
    agreed: Negotiated,
    include: Include,
    columns_sent: bool,
}

/// Answers WATCH.
pub async fn watch(
    server: &Arc<Server>,
    request: &Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let mut options = ListOptions::of(&request.query, resource, true)?;
    if request.info.verb_in_path && !request.info.path_name().is_empty() {
        options.fields = with_name(&options, request.info.path_name());
    }
    let framing = Framing {
        resource: resource.clone(),
        agreed,
        include: Include::of(&request.query)?,
        columns_sent: false,
    };
    let index = ["metadata.name", "spec.nodeName"]
        .into_iter()
        .find_map(|f| {
            options
                .fields
                .requires_exact_match(f)
                .map(|v| (f.to_owned(), v.to_owned()))
        })
        .filter(|_| resource.cached_as.is_none());
    let watching = WatchRequest {
        namespace: Some(request.info.namespace.clone())
            .filter(|n| !n.is_empty() && resource.kind.namespaced),
        predicate: options.predicate(resource),
        prepare: resource.preparing(),
        index,
        start: start(&options)?,
        bookmarks: options.bookmarks,
        initial_events_end: options.send_initial_events == Some(true) && options.bookmarks,
    };
    let content_type = agreed.encoding.watch_media_type();
    let watcher = match server.cache.watch(&resource.id, watching).await {
        Ok(watcher) => watcher,
        // Once the request is understood, what goes wrong is an event.
        Err(e @ (CacheError::Gone { .. } | CacheError::TooLarge { .. })) => {
            return Ok(response::with_type(
                200,
                content_type,
                framing.error(&from_cache(e)),
            ));
        }
        Err(e) => return Err(from_cache(e)),
    };
    let lasts = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => {
            let least = server.options.min_request_timeout.max(1);
            Duration::from_secs(least + rand::rng().random_range(0..least))
        }
    };
    let stream = Stream {
        server: server.clone(),
        watcher,
        framing,
        ends: Instant::now() + lasts,
        last_bookmark: (options.bookmarks && lasts > 2 * LAST_BOOKMARK)
            .then(|| Instant::now() + lasts - LAST_BOOKMARK),
        over: false,
        _counted: server.metrics.watches.hold(),
    };
    Ok(response::with_type(
        200,
        content_type,
        Body::stream(futures::stream::unfold(stream, Stream::step)),
    ))
}

/// The field selector narrowed to the name in an old watch path.
fn with_name(options: &ListOptions, name: &str) -> keelson_api::selector::FieldSelector {
    use keelson_api::selector::{FieldSelector, FieldTerm};
    let mut terms = options.fields.terms().to_vec();
    terms.push(FieldTerm {
        field: "metadata.name".to_owned(),
        negated: false,
        value: name.to_owned(),
    });
    FieldSelector::of(terms)
}

fn start(options: &ListOptions) -> ApiResult<WatchStart> {
    let asked = match options.resource_version.as_str() {
        "" => None,
        text => Some(revision(text, false)?),
    };
    Ok(match (options.send_initial_events, asked) {
        (Some(true), None) => WatchStart::Fresh,
        (Some(true), Some(0)) => WatchStart::Any,
        (Some(true), Some(n)) => WatchStart::AtLeast(n),
        (Some(false), None | Some(0)) => WatchStart::Now,
        (Some(false), Some(n)) => WatchStart::After(n),
        (None, None) => WatchStart::Fresh,
        (None, Some(0)) => WatchStart::Any,
        (None, Some(n)) => WatchStart::After(n),
    })
}

/// A watch on its way to the client.
struct Stream {
    server: Arc<Server>,
    watcher: Watcher,
    framing: Framing,
    ends: Instant,
    last_bookmark: Option<Instant>,
    over: bool,
    _counted: Held,
}

impl Stream {
    /// The next chunk of the body.
    async fn step(mut self) -> Option<(Result<Bytes, BodyError>, Self)> {
        if self.over {
            return None;
        }
        let bookmark_at = self.last_bookmark.unwrap_or(self.ends);
        let next = tokio::select! {
            biased;
            () = self.server.stop.cancelled() => return None,
            next = self.watcher.next() => next,
            () = tokio::time::sleep_until(bookmark_at), if self.last_bookmark.is_some() => {
                self.last_bookmark = None;
                Some(Ok(self.watcher.bookmark().into_iter().collect()))
            }
            () = tokio::time::sleep_until(self.ends) => return None,
        };
        let chunk = match next? {
            Ok(events) => match self.framing.prepare(&events).await {
                Ok(()) => self.framing.frames(&events),
                Err(e) => {
                    self.over = true;
                    self.framing.error(&e)
                }
            },
            Err(CacheError::TooSlow) => {
                tracing::debug!(
                    resource = self.framing.resource.id,
                    "a watcher did not keep up and is cut off"
                );
                return None;
            }
            Err(e) => {
                self.over = true;
                self.framing.error(&from_cache(e))
            }
        };
        Some((Ok(chunk), self))
    }
}

impl Framing {
    /// Makes objects ready that a webhook must convert.
    async fn prepare(&self, events: &[WatchEvent]) -> ApiResult<()> {
        if self.resource.custom.is_none() {
            return Ok(());
        }
        let entries: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                WatchEvent::Object { entry, .. } => Some(entry.clone()),
                WatchEvent::Bookmark { .. } => None,
            })
            .collect();
        self.resource.prepare(&entries).await
    }

    fn frames(&mut self, events: &[WatchEvent]) -> Bytes {
        if let [only] = events {
            return self.frame(only);
        }
        let frames: Vec<Bytes> = events.iter().map(|e| self.frame(e)).collect();
        let mut chunk = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
        for frame in &frames {
            chunk.extend_from_slice(frame);
        }
        chunk.freeze()
    }

    fn frame(&mut self, event: &WatchEvent) -> Bytes {
        match event {
            WatchEvent::Object { .. }
                if self.agreed.view == View::Object && self.agreed.encoding == Encoding::Json =>
            {
                event.frame(self.resource.number(FRAME), |event| self.plain(event))
            }
            WatchEvent::Object { kind, entry, .. }
                if self.agreed.view == View::Object
                    && self.agreed.encoding == Encoding::Protobuf =>
            {
                event.frame(self.resource.number(FRAME_PROTOBUF), |_| {
                    protobuf::frame(kind.as_str(), &protobuf::body(&self.resource, entry))
                })
            }
            WatchEvent::Object { kind, entry, .. } => match self.resource.object(entry) {
                Ok(object) => self.shown(kind.as_str(), &object),
                Err(e) => self.error(&e),
            },
            WatchEvent::Bookmark {
                revision,
                initial_events_end,
            } => {
                let mut object = json!({"metadata": {"resourceVersion": revision.to_string()}});
                if *initial_events_end {
                    object["metadata"]["annotations"] =
                        json!({"k8s.io/initial-events-end": "true"});
                }
                self.resource.add_type_meta(&mut object);
                self.shown("BOOKMARK", &object)
            }
        }
    }

    /// The frame that most watchers get, from the entry's own bytes.
    fn plain(&self, event: &WatchEvent) -> Bytes {
        let WatchEvent::Object { kind, entry, .. } = event else {
            return Bytes::new();
        };
        let json = self.resource.json(entry);
        let head = format!(
            "{{\"type\":\"{}\",\"object\":{{{},",
            kind.as_str(),
            self.resource.type_meta()
        );
        let mut frame = BytesMut::with_capacity(head.len() + json.len() + 3);
        frame.extend_from_slice(head.as_bytes());
        frame.extend_from_slice(json.get(1..).unwrap_or(b"}"));
        frame.extend_from_slice(b"}\n");
        frame.freeze()
    }

    fn shown(&mut self, kind: &str, object: &Value) -> Bytes {
        let shown = match self.agreed.view {
            View::Object => object.clone(),
            View::Partial(version) => view::partial(object, version),
            View::Table(version) => {
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                let meta = json!({"resourceVersion": object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default()});
                let rows = if kind == "BOOKMARK" {
                    &[][..]
                } else {
                    std::slice::from_ref(object)
                };
                view::table(
                    &self.resource.kind,
                    rows,
                    meta,
                    version,
                    self.include,
                    with_columns,
                )
            }
        };
        self.encode(kind, shown)
    }

    /// The event that ends a watch.
    fn error(&self, status: &Status) -> Bytes {
        self.encode("ERROR", serde_json::to_value(status).unwrap_or_default())
    }

    fn encode(&self, kind: &str, object: Value) -> Bytes {
        let plain = Negotiated {
            pretty: false,
            ..self.agreed
        };
        let event = || json!({"type": kind, "object": object});
        let encoded = match self.agreed.encoding {
            Encoding::Protobuf => {
                return protobuf::encode(&object)
                    .map(|body| protobuf::frame(kind, &body))
                    .unwrap_or_default();
            }
            Encoding::Json => response::encode(&plain, &event()),
            Encoding::Yaml => {
                response::encode(&plain, &event()).map(|text| [b"---\n", &text[..]].concat())
            }
        };
        // Values can always be written as JSON and YAML.
        Bytes::from(encoded.unwrap_or_default())
    }
}
