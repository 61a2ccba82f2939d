//! Creates and updates, by one worker and by 32.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Measured;
use crate::load::Encoding;
use crate::table::{Table, median};

/// A pod as controllers make them: 1.5 kB or so.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench", "tier": "backend", "release": "r1"},
            "annotations": {"example.com/checksum": "3f786850e387550fdab836ed7e6dc881de23001b"}},
        "spec": {"nodeName": "nowhere", "automountServiceAccountToken": false, "containers": [
            {"name": "main", "image": "registry.example.com/team/api:1.5.0", "ports": [{"containerPort": 3000, "name": "http"}],
                "env": [{"name": "A", "value": "one"}, {"name": "B", "value": "two"}, {"name": "C", "value": "three"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 5}},
            {"name": "side", "image": "registry.example.com/team/log:0.9.1"}]},
    })
}

/// Measures creates of pods.
pub async fn run(measured: &Measured<'_>, count: usize, table: &mut Table) -> Result<()> {
    // The namespace's service account is what admission asks for first.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let client = measured.load.client();
    let path = "/api/v1/namespaces/default/serviceaccounts";
    let body = Encoding::Json.body(&account)?;
    client
        .send("POST", path, Encoding::Json, false, body)
        .await?;
    for encoding in Encoding::ALL {
        for workers in [1, 32] {
            // One worker waits for etcd most of the time; fewer writes tell as much.
            let count = if workers == 1 { count / 5 } else { count };
            creates(measured, encoding, workers, count, table).await?;
        }
    }
    Ok(())
}

async fn creates(
    measured: &Measured<'_>,
    encoding: Encoding,
    workers: usize,
    count: usize,
    table: &mut Table,
) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let before = measured.server.processor()?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let (client, next) = (measured.load.client(), next.clone());
        let prefix = format!("w{workers}-{}", encoding.name().to_lowercase());
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(times);
                }
                let body = encoding.body(&pod(&format!("{prefix}-{worker}-{number}")))?;
                let sent = Instant::now();
                client
                    .send(
                        "POST",
                        "/api/v1/namespaces/default/pods",
                        encoding,
                        true,
                        body,
                    )
                    .await?;
                times.push(sent.elapsed().as_secs_f64() * 1000.0);
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let used = measured.server.processor()?.saturating_sub(before);
    let (name, of) = (
        measured.side.name,
        format!("create pods, {workers} at once, {}", encoding.name()),
    );
    let number = times.len() as f64;
    table.put(&of, "1/s", name, number / elapsed);
    table.put(&format!("{of}: latency"), "ms", name, median(&mut times));
    table.put(
        &format!("{of}: processor"),
        "ms each",
        name,
        used.as_secs_f64() * 1000.0 / number,
    );
    Ok(())
}
