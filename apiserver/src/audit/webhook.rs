//! The webhook: events in batches, tried again while it is away, dropped when too many wait.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Sink;
use super::event::Event;
use crate::webhook_client::WebhookClient;

/// How often a batch is tried, and how much longer each pause is.
const TRIES: u32 = 5;
const LONGER: f64 = 1.5;

/// How events are gathered.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// How many may wait.
    pub buffer: usize,
    /// How many go together.
    pub size: usize,
    /// How long the first of a batch waits.
    pub wait: Duration,
    /// Batches a second, if that is bounded, and how many may go at once.
    pub throttle: Option<(f32, u32)>,
    /// The first pause before a batch is tried again.
    pub backoff: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            buffer: 10_000,
            size: 400,
            wait: Duration::from_secs(30),
            throttle: Some((10.0, 15)),
            backoff: Duration::from_secs(10),
        }
    }
}

/// The sink.
pub struct Webhook {
    queue: mpsc::Sender<Value>,
}

impl Webhook {
    /// Starts to send; what waits when the server stops is still sent.
    pub fn start(
        client: Arc<WebhookClient>,
        options: BatchOptions,
        stop: CancellationToken,
    ) -> Self {
        let (queue, events) = mpsc::channel(options.buffer.max(1));
        tokio::spawn(run(client, options, events, stop));
        Webhook { queue }
    }
}

impl Sink for Webhook {
    fn take(&self, event: &Event) -> bool {
        match serde_json::to_value(event) {
            Ok(event) => {
                if self.queue.try_send(event).is_err() {
                    tracing::error!("audit webhook queue is full, an event was dropped");
                }
            }
            Err(error) => tracing::error!(%error, "an audit event can't be encoded"),
        }
        true
    }
}

async fn run(
    client: Arc<WebhookClient>,
    options: BatchOptions,
    mut events: mpsc::Receiver<Value>,
    stop: CancellationToken,
) {
    let mut throttle = options
        .throttle
        .map(|(rate, burst)| Throttle::new(rate, burst));
    loop {
        let Some(batch) = gather(&mut events, &options, &stop).await else {
            return;
        };
        if let Some(throttle) = &mut throttle {
            throttle.wait().await;
        }
        // One at a time: a webhook that is slow holds up the queue, whose bound is the memory's.
        send(&client, batch, options.backoff).await;
    }
}

/// The next batch; `None` at the end.
async fn gather(
    events: &mut mpsc::Receiver<Value>,
    options: &BatchOptions,
    stop: &CancellationToken,
) -> Option<Vec<Value>> {
    let mut batch = Vec::new();
    tokio::select! {
        event = events.recv() => batch.push(event?),
        () = stop.cancelled() => {
            events.close();
            batch.push(events.recv().await?);
        }
    }
    let deadline = Instant::now() + options.wait;
    while batch.len() < options.size {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => batch.push(event),
                None => break,
            },
            () = tokio::time::sleep_until(deadline) => break,
            () = stop.cancelled() => {
                while batch.len() < options.size && let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
                break;
            }
        }
    }
    Some(batch)
}

async fn send(client: &WebhookClient, batch: Vec<Value>, backoff: Duration) {
    let count = batch.len();
    let list = json!({
        "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": batch,
    });
    let mut pause = backoff;
    for attempt in 1..=TRIES {
        match client.post(&list).await {
            Ok(_) => return,
            Err(error) if attempt == TRIES => {
                tracing::error!(error, count, "audit events could not be sent and are lost");
            }
            Err(error) => {
                tracing::warn!(error, count, "audit webhook failed, trying again");
                tokio::time::sleep(pause).await;
                pause = pause.mul_f64(LONGER);
            }
        }
    }
}

/// A token bucket.
struct Throttle {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Throttle {
    fn new(rate: f32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Throttle {
            rate: f64::from(rate).max(0.001),
            burst,
            left: burst,
            at: Instant::now(),
        }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        self.left = (self.left + (now - self.at).as_secs_f64() * self.rate).min(self.burst);
        self.at = now;
        if self.left < 1.0 {
            let missing = (1.0 - self.left) / self.rate;
            tokio::time::sleep(Duration::from_secs_f64(missing)).await;
        }
        self.left -= 1.0;
    }
}
