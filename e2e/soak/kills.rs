//! Kills each daemon (-9) at random instants of a rollout, stops etcd for a minute, and looks whether anybody who should not
//! notice did: containers' processes, the rollout's end, acknowledged writes, and the time until the daemon serves again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use keelson::layout::Layout;
use keelson::supervisor::{Running, pid_file};
use kube::api::PostParams;
use kube::{Api, Client};
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::writes::Writer;
use crate::{Findings, NAME, rollout};

/// The Deployment that is rolled over; the example's pods are the ones that must not notice.
const TARGET: &str = "target";
/// Longest until a daemon serves, counted from the start of its new process.
const SERVING_MOST: Duration = Duration::from_secs(2);
/// Given up after this.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How long etcd is gone.
const OUTAGE: Duration = Duration::from_secs(60);
const DAEMONS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// All rounds of all daemons, then the outage.
pub async fn run(
    client: &Client,
    layout: &Layout,
    rounds: u64,
    seed: u64,
    findings: &mut Findings,
) -> Result<()> {
    rollout::deployments(client)
        .create(&PostParams::default(), &target()?)
        .await?;
    rollout::finished(client, TARGET).await?;
    let mut random = SmallRng::seed_from_u64(seed);
    let bystanders = bystanders();
    findings.note(
        bystanders.len() == 3,
        &format!("three bystanders: {bystanders:?}"),
    );
    let writer = Writer::start(client);
    for daemon in DAEMONS {
        let mut times = Vec::new();
        for round in 0..rounds {
            rollout::restart(client, TARGET, &format!("{daemon}-{round}")).await?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
            times.push(
                kill(client, layout, daemon)
                    .await
                    .with_context(|| format!("{daemon}, round {round}"))?,
            );
            rollout::finished(client, TARGET)
                .await
                .with_context(|| format!("{daemon}, round {round}"))?;
        }
        times.sort_unstable();
        let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) else {
            continue;
        };
        findings.note(
            *worst <= SERVING_MOST,
            &format!(
                "{daemon}: {rounds} kills, every rollout ended, serving again after {:.2} s (median), {:.2} s (worst)",
                median.as_secs_f64(),
                worst.as_secs_f64()
            ),
        );
    }
    outage(client, layout, findings).await?;
    let after = self::bystanders();
    findings.note(
        bystanders == after,
        &format!("the bystanders' pids are unchanged: {after:?}"),
    );
    let (written, lost) = writer.finish().await?;
    findings.note(
        lost.is_empty() && written > 0,
        &format!("{written} acknowledged objects, lost: {lost:?}"),
    );
    Ok(())
}

/// etcd does not answer for a minute; then a rollout goes through.
async fn outage(client: &Client, layout: &Layout, findings: &mut Findings) -> Result<()> {
    let etcd = Running::find(&pid_file(layout, "etcd")).context("etcd does not run")?;
    rollout::restart(client, TARGET, "outage").await?;
    etcd.signal(Signal::SIGSTOP);
    tokio::time::sleep(OUTAGE).await;
    etcd.signal(Signal::SIGCONT);
    let back = Instant::now();
    rollout::finished(client, TARGET)
        .await
        .context("after the outage")?;
    findings.note(
        true,
        &format!(
            "etcd gone for {} s in a rollout: it ended {:.1} s after etcd was back",
            OUTAGE.as_secs(),
            back.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

/// Kills a daemon; returns how long its successor took from its start until it served.
async fn kill(client: &Client, layout: &Layout, daemon: &str) -> Result<Duration> {
    let file = pid_file(layout, daemon);
    let old = Running::find(&file).with_context(|| format!("{daemon} does not run"))?;
    let renewed = lease(client, daemon).await;
    old.signal(Signal::SIGKILL);
    let deadline = Instant::now() + GIVE_UP;
    let started = loop {
        match Running::find(&file) {
            Some(new) if new != old => break Instant::now(),
            _ if Instant::now() > deadline => bail!("nobody started it again"),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    while !serves(client, daemon, renewed.as_deref()).await {
        if Instant::now() > deadline {
            bail!("it does not serve after {} s", GIVE_UP.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(started.elapsed())
}

/// Whether a daemon does its work: not that it says so where more can be seen.
async fn serves(client: &Client, daemon: &str, renewed: Option<&str>) -> bool {
    match daemon {
        // Both: what was stored can be read, and a new object written.
        "etcd" | "kube-apiserver" => {
            let object = serde_json::from_value(
                json!({"metadata": {"generateName": "probe-", "labels": {"soak": "probe"}}}),
            );
            let api: Api<k8s_openapi::api::core::v1::ConfigMap> =
                Api::namespaced(client.clone(), "default");
            match object {
                Ok(object) => tokio::time::timeout(
                    Duration::from_secs(2),
                    api.create(&PostParams::default(), &object),
                )
                .await
                .is_ok_and(|answer| answer.is_ok()),
                Err(_) => false,
            }
        }
        // They lead again when they have renewed their lease.
        "kube-controller-manager" | "kube-scheduler" => lease(client, daemon)
            .await
            .is_some_and(|now| Some(now.as_str()) != renewed),
        "kubelet" => healthy("127.0.0.1:10248").await,
        _ => healthy("127.0.0.1:10256").await,
    }
}

/// When a daemon's lease was renewed; `None` for a daemon without one.
async fn lease(client: &Client, daemon: &str) -> Option<String> {
    if !matches!(daemon, "kube-controller-manager" | "kube-scheduler") {
        return None;
    }
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let renewed = api.get(daemon).await.ok()?.spec?.renew_time?;
    Some(format!("{renewed:?}"))
}

async fn healthy(address: &str) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(1), ask).await,
        Ok(Ok(true))
    )
}

fn target() -> Result<Deployment> {
    let probe = json!({"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1});
    let container =
        json!({"name": "api", "image": "myregistry/api:1.5.0", "readinessProbe": probe});
    let labels = json!({"app": TARGET});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": TARGET},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }))?)
}

/// Host pids of the example's containers: those that were given its settings.
pub fn bystanders() -> Vec<i32> {
    let cluster = format!("/keelson-{NAME}/");
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_bystander(&entry.path(), &cluster))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

fn is_bystander(process: &Path, cluster: &str) -> bool {
    let read = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
    let environment = read("environ");
    String::from_utf8_lossy(&read("cgroup")).contains(cluster)
        && read("cmdline").starts_with(b"/api\0")
        && environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(b"JWT_SECRET="))
}
