//! Lists of many objects, as client-go asks for them: all at once, compressed.

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Measured;
use crate::load::Encoding;
use crate::table::{Table, median};
use crate::writes::pod;

/// Lists of one measurement.
const ROUNDS: usize = 7;
/// Objects are made by so many at once.
const MAKERS: usize = 32;
const PATH: &str = "/api/v1/namespaces/bench-lists/configmaps?resourceVersion=0";

/// Fills a namespace, then lists it.
pub async fn run(measured: &Measured<'_>, objects: usize, table: &mut Table) -> Result<()> {
    fill(measured, objects).await?;
    let name = measured.side.name;
    let client = measured.load.client();
    for encoding in Encoding::ALL {
        measured.server.forget_peak()?;
        let rest = measured.server.memory()?;
        let before = measured.server.processor()?;
        let mut times = Vec::new();
        let mut length = 0;
        for _ in 0..ROUNDS {
            let sent = Instant::now();
            length = client
                .send("GET", PATH, encoding, true, Bytes::new())
                .await?;
            times.push(sent.elapsed().as_secs_f64() * 1000.0);
        }
        let used = measured.server.processor()?.saturating_sub(before);
        let of = format!("list {objects} objects, {}, gzip", encoding.name());
        table.put(&of, "ms", name, median(&mut times));
        table.put(
            &format!("{of}: processor"),
            "ms each",
            name,
            used.as_secs_f64() * 1000.0 / ROUNDS as f64,
        );
        table.put(
            &format!("{of}: on the wire"),
            "MB",
            name,
            length as f64 / 1e6,
        );
        table.put(
            &format!("{of}: memory above rest, at most"),
            "MB",
            name,
            (measured.server.peak()? - rest).max(0.0),
        );
    }
    Ok(())
}

/// ConfigMaps of a pod's size, since what pods go through before they are stored is measured elsewhere.
async fn fill(measured: &Measured<'_>, objects: usize) -> Result<()> {
    let client = measured.load.client();
    let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench-lists"}});
    let body = Encoding::Json.body(&namespace)?;
    client
        .send("POST", "/api/v1/namespaces", Encoding::Json, false, body)
        .await?;
    let mut tasks = JoinSet::new();
    for maker in 0..MAKERS {
        let client = measured.load.client();
        tasks.spawn(async move {
            let mut number = maker;
            while number < objects {
                let text = pod(&format!("p{number}")).to_string();
                let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("c{number}"), "labels": {"app": "bench"}}, "data": {"pod": text}});
                let body = Encoding::Protobuf.body(&object)?;
                let path = "/api/v1/namespaces/bench-lists/configmaps";
                client.send("POST", path, Encoding::Protobuf, false, body).await?;
                number += MAKERS;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
