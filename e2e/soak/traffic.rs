//! Requests from a pod to the example's Service while its Deployment is rolled over, rolled back, scaled and restarted: none may fail.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use keelson_e2e::cluster::Cluster;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{Findings, rollout};

const POD: &str = "load";
/// Longest that the load goes on; it is ended when the rollouts are through.
const SECONDS_MOST: u64 = 900;

/// Runs the load and judges it.
pub async fn run(
    cluster: &Cluster,
    client: &Client,
    rate: u64,
    findings: &mut Findings,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod(rate)?).await?;
    wait_phase(&pods, "Running").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let image = |tag: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "api", "image": format!("myregistry/api:{tag}")}]}}}});
    let scale = |replicas: i32| json!({"spec": {"replicas": replicas}});
    for (what, patch) in [
        ("set image", image("1.6.0")),
        ("rollout undo", image("1.5.0")),
        ("scale 3 to 10", scale(10)),
        ("scale 10 to 3", scale(3)),
    ] {
        rollout::patch(client, "api", &patch).await.context(what)?;
        rollout::finished(client, "api").await.context(what)?;
        // What is going away still serves for a while.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    rollout::restart(client, "api", "traffic").await?;
    rollout::finished(client, "api")
        .await
        .context("rollout restart")?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let text = end(cluster, &pods).await?;
    let line = text.lines().rfind(|line| line.starts_with('{'));
    let result: Value = serde_json::from_str(line.context("the load printed no result")?)?;
    let succeeded = result["succeeded"].as_u64().unwrap_or(0);
    let good = result["failed"] == 0 && succeeded > rate * 30;
    findings.note(
        good,
        &format!("{rate} requests/s through set image, undo, scale 3-10-3 and restart: {result}"),
    );
    Ok(())
}

fn pod(rate: u64) -> Result<Pod> {
    let (rate, seconds) = (rate.to_string(), SECONDS_MOST.to_string());
    let url = "http://api-service:3000/version";
    Ok(serde_json::from_value(json!({
        "metadata": {"name": POD},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "load",
                "image": "myregistry/api:1.5.0",
                "command": ["/api", "load", url, rate, seconds],
            }],
        },
    }))?)
}

/// Ends the load by SIGTERM to its process, and reads what it printed.
async fn end(cluster: &Cluster, pods: &Api<Pod>) -> Result<String> {
    // The program is pid 1 of its container; the shell beside it sends the signal.
    let line = ["exec", POD, "--", "sh", "-c", "kill -TERM 1"];
    let answer = tokio::task::block_in_place(|| cluster.kubectl_with(&line, None))?;
    ensure!(answer.code == 0, "kubectl exec: {}", answer.stderr);
    wait_phase(pods, "Succeeded").await?;
    let text = pods.logs(POD, &LogParams::default()).await?;
    pods.delete(POD, &DeleteParams::default()).await?;
    Ok(text)
}

async fn wait_phase(pods: &Api<Pod>, wanted: &str) -> Result<()> {
    for _ in 0..600 {
        let pod = pods.get(POD).await?;
        if pod.status.and_then(|s| s.phase).as_deref() == Some(wanted) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the load's pod was not {wanted} within a minute")
}
