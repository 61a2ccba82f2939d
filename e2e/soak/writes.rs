//! Writes that go on while daemons are killed, with a record of what was acknowledged: all of that must be there in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;

/// Labels what was written.
const SELECTOR: &str = "soak=writes";

/// A writer under way.
pub struct Writer {
    client: Client,
    stopping: Arc<AtomicBool>,
    task: JoinHandle<Acknowledged>,
}

/// Names, and the newest value that was acknowledged for each.
type Acknowledged = BTreeMap<String, u64>;

fn api(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

impl Writer {
    /// Starts to create objects and to count each up once.
    pub fn start(client: &Client) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(client.clone(), stopping.clone()));
        Self {
            client: client.clone(),
            stopping,
            task,
        }
    }

    /// Stops, and counts what was acknowledged and what of it is not there.
    pub async fn finish(self) -> Result<(usize, Vec<String>)> {
        self.stopping.store(true, Ordering::SeqCst);
        let acknowledged = self.task.await.context("the writer failed")?;
        let list = api(&self.client)
            .list(&ListParams::default().labels(SELECTOR))
            .await?;
        let found: BTreeMap<String, u64> = list
            .items
            .into_iter()
            .filter_map(|object| {
                let value = object.data?.get("value")?.parse().ok()?;
                Some((object.metadata.name?, value))
            })
            .collect();
        let lost = acknowledged
            .iter()
            .filter(|(name, value)| found.get(*name).is_none_or(|stored| stored < value))
            .map(|(name, value)| format!("{name}={value}, stored: {:?}", found.get(name)))
            .collect();
        Ok((acknowledged.len(), lost))
    }
}

async fn write(client: Client, stopping: Arc<AtomicBool>) -> Acknowledged {
    let api = api(&client);
    let mut acknowledged = Acknowledged::new();
    let mut number = 0_u64;
    while !stopping.load(Ordering::SeqCst) {
        number += 1;
        let name = format!("soak-{number}");
        // A write that was not acknowledged may or may not have been made: nothing is asked of it.
        if let Ok(created) = api.create(&PostParams::default(), &object(&name, 1)).await {
            acknowledged.insert(name.clone(), 1);
            let mut next = object(&name, 2);
            next.metadata.resource_version = created.metadata.resource_version;
            if api
                .replace(&name, &PostParams::default(), &next)
                .await
                .is_ok()
            {
                acknowledged.insert(name, 2);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}

fn object(name: &str, value: u64) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.into()),
            labels: Some([("soak".to_owned(), "writes".to_owned())].into()),
            ..Default::default()
        },
        data: serde_json::from_value(json!({"value": value.to_string()})).ok(),
        ..Default::default()
    }
}
