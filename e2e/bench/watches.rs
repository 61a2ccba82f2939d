//! Many watchers of one resource: how fast every one of them hears of every change, in order and with none lost.

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use crate::Measured;
use crate::load::Encoding;
use crate::table::Table;

/// Changes of one measurement.
const CHANGES: usize = 500;
/// Watches that share a connection, as those of one client do.
const SHARED: usize = 20;
/// All events must have come by then.
const PATIENCE: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "bench-watches";

/// Measures both encodings.
pub async fn run(measured: &Measured<'_>, watchers: usize, table: &mut Table) -> Result<()> {
    let client = measured.load.client();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let body = Encoding::Json.body(&namespace)?;
    client
        .send("POST", "/api/v1/namespaces", Encoding::Json, false, body)
        .await?;
    for encoding in Encoding::ALL {
        watch(measured, watchers, encoding, table).await?;
    }
    Ok(())
}

async fn watch(
    measured: &Measured<'_>,
    watchers: usize,
    encoding: Encoding,
    table: &mut Table,
) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let (told, mut open) = mpsc::channel::<()>(watchers.max(1));
    let mut tasks = JoinSet::new();
    let mut client = measured.load.client();
    let prefix = encoding.name().to_lowercase();
    for number in 0..watchers {
        if number % SHARED == 0 {
            client = measured.load.client();
        }
        let (client, told, path, prefix) =
            (client.clone(), told.clone(), path.clone(), prefix.clone());
        tasks.spawn(async move {
            let path = format!("{path}?watch=true");
            let answer = client
                .open("GET", &path, encoding, false, Bytes::new())
                .await?;
            ensure!(answer.status().is_success(), "watch: {}", answer.status());
            told.send(()).await?;
            follow(answer.into_body(), encoding, &prefix).await
        });
    }
    for _ in 0..watchers {
        timeout(PATIENCE, open.recv())
            .await
            .context("the watches did not open")?;
    }
    let before = measured.server.processor()?;
    let begun = Instant::now();
    let writers = measured.load.client();
    // By four at once, each its own objects: the order within a writer is what a watcher must see.
    let mut writes = JoinSet::new();
    for writer in 0..4 {
        let (client, path, prefix) = (writers.clone(), path.clone(), prefix.clone());
        writes.spawn(async move {
            for number in 0..CHANGES / 4 {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("{prefix}-{writer}-{number:05}")}, "data": {"text": "x".repeat(1000)}});
                let body = encoding.body(&object)?;
                client.send("POST", &path, encoding, false, body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writes.join_next().await {
        done??;
    }
    let (mut bytes, mut events, mut cut) = (0, 0, 0_u32);
    while let Some(done) = timeout(PATIENCE, tasks.join_next())
        .await
        .context("not all events came")?
    {
        let heard = done??;
        bytes += heard.bytes;
        events += heard.events;
        cut += u32::from(heard.events < CHANGES);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let used = measured.server.processor()?.saturating_sub(before);
    let events = events as f64;
    let of = format!(
        "{CHANGES} changes to {watchers} watchers, {}",
        encoding.name()
    );
    let name = measured.side.name;
    table.put(&of, "events/s", name, events / elapsed);
    table.put(
        &format!("{of}: processor"),
        "µs an event",
        name,
        used.as_secs_f64() * 1e6 / events,
    );
    table.put(
        &format!("{of}: an event"),
        "bytes",
        name,
        bytes as f64 / events,
    );
    table.put(&format!("{of}: cut off"), "watchers", name, f64::from(cut));
    Ok(())
}

/// What one watcher heard.
#[derive(Default)]
struct Heard {
    bytes: usize,
    events: usize,
}

/// Reads events until all changes were seen, or the server cuts a slow watcher off; each writer's must come in its order, and
/// none may be missing.
async fn follow(mut body: Incoming, encoding: Encoding, prefix: &str) -> Result<Heard> {
    let mut held = BytesMut::new();
    let mut next = [0_usize; 4];
    let mut heard = Heard::default();
    let wanted = CHANGES / 4;
    while next.iter().any(|n| *n < wanted) {
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        heard.bytes += data.len();
        held.extend_from_slice(&data);
        while let Some(event) = event(&mut held, encoding) {
            let Some((writer, number)) = origin(&event, prefix) else {
                continue;
            };
            ensure!(
                next.get(writer) == Some(&number),
                "writer {writer}: event {number}, expected {:?}",
                next.get(writer)
            );
            next[writer] += 1;
            heard.events += 1;
        }
    }
    Ok(heard)
}

/// Takes one event off what has been read.
fn event(held: &mut BytesMut, encoding: Encoding) -> Option<Bytes> {
    match encoding {
        Encoding::Json => {
            let end = held.iter().position(|byte| *byte == b'\n')?;
            Some(held.split_to(end + 1).freeze())
        }
        Encoding::Protobuf => {
            let length = held.get(..4)?;
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            let length = usize::try_from(length).ok()?;
            if held.len() < 4 + length {
                return None;
            }
            held.advance(4);
            Some(held.split_to(length).freeze())
        }
    }
}

/// Which writer's which object an event is about: the name is in it as text, whatever the encoding.
fn origin(event: &[u8], prefix: &str) -> Option<(usize, usize)> {
    let pattern = format!("{prefix}-");
    let at = event
        .windows(pattern.len())
        .position(|window| window == pattern.as_bytes())?;
    let text = event.get(at + pattern.len()..at + pattern.len() + 7)?;
    let (writer, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_and_named() {
        let mut held = BytesMut::from(&b"{\"name\":\"json-3-00041\"}\n{\"na"[..]);
        let first = event(&mut held, Encoding::Json).unwrap();
        assert_eq!(origin(&first, "json"), Some((3, 41)));
        assert_eq!(event(&mut held, Encoding::Json), None);
        let mut held = BytesMut::from(&b"\0\0\0\x13..protobuf-0-00002\0\0"[..]);
        let first = event(&mut held, Encoding::Protobuf).unwrap();
        assert_eq!(origin(&first, "protobuf"), Some((0, 2)));
        assert_eq!(held.len(), 1);
    }
}
