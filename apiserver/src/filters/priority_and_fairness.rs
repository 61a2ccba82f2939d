//! Gives every request its priority level, and lets it through when that level has seats for it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{Next, in_flight};
use crate::body::Body;
use crate::fairness::compile::Schema;
use crate::fairness::level::Seats;
use crate::fairness::metrics::Counts;
use crate::fairness::{estimate, shuffle};
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// The part of its time that a request may spend waiting, and the longest it ever waits.
const PART: u32 = 4;
const LONGEST: Duration = Duration::from_secs(60);

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    if !server.options.priority_and_fairness {
        return in_flight::run(server, request, next).await;
    }
    let watches = request.info.verb == "watch";
    if request.info.is_long_running() && !watches {
        return next.call(server, request).await;
    }
    let config = server.fairness.config();
    let Some(schema) = config.classify(&request.user, &request.info).cloned() else {
        return next.call(server, request).await;
    };
    drop(config);
    let level = &schema.level;
    let cost = estimate::cost(server, &request, level.widest);
    let flow = if level.queues {
        let flow = schema.distinguisher.value(&request.user, &request.info);
        shuffle::hash(&schema.name, flow)
    } else {
        0
    };
    let patience = (server.options.request_timeout / PART).min(LONGEST);
    let asking = Asking::begin(&schema.counts);
    let admitted = level.level.admit(cost, flow, patience).await;
    drop(asking);
    let mut response = match admitted {
        Ok(seats) => serve(server, request, next, &schema, seats, watches).await,
        Err(why) => {
            schema.counts.refused(why, patience);
            tracing::debug!(
                level = level.name,
                schema = schema.name,
                reason = why.reason(),
                "turned away"
            );
            refuse(server, &schema)
        }
    };
    let headers = response.headers_mut();
    headers.insert(SCHEMA, schema.uid.clone());
    headers.insert(LEVEL, level.uid.clone());
    response
}

async fn serve(
    server: &Arc<Server>,
    request: Request,
    next: Next,
    schema: &Arc<Schema>,
    seats: Seats,
    watches: bool,
) -> Response {
    let changes = !matches!(
        request.info.verb.as_str(),
        "get" | "list" | "watch" | "head" | "options"
    );
    let gauge = if changes {
        &server.metrics.mutating
    } else {
        &server.metrics.reading
    };
    let held = gauge.hold();
    let serving = Serving::begin(&schema.counts, seats);
    let counted = watches
        .then(|| server.fairness.watches.count(&request))
        .flatten();
    // A watch holds its seats until it has begun.
    let mut response = next.call(server, request).await;
    drop((serving, held));
    if let (Some(counted), Body::Stream(stream)) = (counted, response.body_mut()) {
        let stream = std::mem::replace(stream, Box::pin(futures::stream::empty()));
        *response.body_mut() = Body::stream(Watched {
            stream,
            _counted: counted,
        });
    }
    response
}

/// 429, in upstream's words.
fn refuse(server: &Server, schema: &Schema) -> Response {
    let second = jiff::Timestamp::now().as_second();
    let second = u64::try_from(second).unwrap_or_default();
    let wait = server.fairness.dropped.record(&schema.level.name, second);
    let mut answer = response::text(429, "Too many requests, please try again later.\n");
    let headers = answer.headers_mut();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from(wait));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// Counts a request as waiting, even if it is dropped while it does.
struct Asking<'c>(&'c Counts);

impl<'c> Asking<'c> {
    fn begin(counts: &'c Counts) -> Self {
        counts.asks();
        Asking(counts)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asked();
    }
}

/// Counts a request as served for as long as it is.
struct Serving<'c> {
    counts: &'c Counts,
    seats: Seats,
}

impl<'c> Serving<'c> {
    fn begin(counts: &'c Counts, seats: Seats) -> Self {
        counts.begins(seats.width(), seats.waited);
        Serving { counts, seats }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.counts.ends(self.seats.width(), self.seats.held());
    }
}

/// The events of a watch, which is counted until they end.
struct Watched {
    stream: crate::body::ByteStream,
    _counted: estimate::Counted,
}

impl futures::Stream for Watched {
    type Item = Result<bytes::Bytes, crate::body::BodyError>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().stream.as_mut().poll_next(context)
    }
}
