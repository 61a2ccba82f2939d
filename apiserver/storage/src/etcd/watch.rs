//! One etcd watch as a stream of batches.

use std::time::Duration;

use etcd_client::{EventType, WatchClient, WatchStream};
use futures::StreamExt;

use super::{deadline, failure, range, signed, unsigned};
use crate::error::{Result, StoreError};
use crate::store::{Event, EventStream, Stored, WatchOptions};

/// Opens the watch and waits until etcd says that it stands, so that a refusal is an error of this call.
pub(super) async fn open(
    mut client: WatchClient,
    prefix: &str,
    options: WatchOptions,
    timeout: Duration,
) -> Result<EventStream> {
    let (start, end) = range(prefix);
    let mut request = etcd_client::WatchOptions::new().with_range(end);
    if let Some(after) = options.after_revision {
        request = request.with_start_revision(signed(after.saturating_add(1)));
    }
    if options.previous {
        request = request.with_prev_key();
    }
    let mut stream = deadline(timeout, "watch", client.watch(start, Some(request))).await?;
    let first = tokio::time::timeout(timeout, receive(&mut stream))
        .await
        .map_err(|_| StoreError::Timeout("etcd did not confirm a watch".to_owned()))??;
    let pending = first.unwrap_or_default();
    Ok(
        futures::stream::unfold((Some(stream), pending), |(stream, pending)| async move {
            let mut stream = stream?;
            if !pending.is_empty() {
                return Some((Ok(pending), (Some(stream), Vec::new())));
            }
            loop {
                match receive(&mut stream).await {
                    Ok(Some(events)) if events.is_empty() => {}
                    Ok(Some(events)) => return Some((Ok(events), (Some(stream), Vec::new()))),
                    Ok(None) => return None,
                    Err(error) => return Some((Err(error), (None, Vec::new()))),
                }
            }
        })
        .boxed(),
    )
}

/// The events of the next message. A watch that etcd gave up is a message like others, not an error of the stream.
async fn receive(stream: &mut WatchStream) -> Result<Option<Vec<Event>>> {
    let Some(message) = stream.message().await.map_err(failure)? else {
        return Ok(None);
    };
    if message.compact_revision() > 0 {
        return Err(StoreError::Compacted {
            compact_revision: unsigned(message.compact_revision()),
        });
    }
    if message.canceled() {
        return Err(StoreError::Cancelled(message.cancel_reason().to_owned()));
    }
    message
        .events()
        .iter()
        .map(event)
        .collect::<Result<Vec<_>>>()
        .map(Some)
}

fn event(event: &etcd_client::Event) -> Result<Event> {
    let kv = event
        .kv()
        .ok_or_else(|| StoreError::Internal("etcd sent an event without a key".to_owned()))?;
    let previous = event.prev_kv().cloned().map(super::stored).transpose()?;
    Ok(match event.event_type() {
        EventType::Put => Event::Put {
            stored: super::stored(kv.clone())?,
            previous,
        },
        EventType::Delete => {
            let Stored { key, revision, .. } = super::stored(kv.clone())?;
            Event::Delete {
                key,
                revision,
                previous,
            }
        }
    })
}
