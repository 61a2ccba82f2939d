//! Runs scenarios on both servers and gathers what differs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::compare::{self, Difference};
use super::explained::Explained;
use super::scenario::{Body, Scenario, Step};

/// A scenario that takes longer than this is named.
const SLOW: std::time::Duration = std::time::Duration::from_secs(30);

/// What became of one request.
#[derive(Debug)]
pub struct Outcome {
    /// `apps/v1/deployments life › create`.
    pub title: String,
    /// Method and path.
    pub request: String,
    /// What was sent.
    pub sent: String,
    /// Differences without a reason.
    pub differences: Vec<Difference>,
    /// Reasons of the others.
    pub reasons: Vec<&'static str>,
}

/// Both servers' clients.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Upstream's.
    pub upstream: Client,
    /// Ours.
    pub ours: Client,
}

/// Runs all scenarios, `workers` beside each other.
pub async fn all(
    pair: Pair,
    scenarios: Vec<Scenario>,
    workers: usize,
) -> anyhow::Result<Vec<Outcome>> {
    let explained = Arc::new(Explained::compile()?);
    let counter = AtomicUsize::new(0);
    let outcomes = stream::iter(scenarios)
        .map(|scenario| {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let (pair, explained) = (pair.clone(), explained.clone());
            async move {
                let started = std::time::Instant::now();
                let outcomes = one(&pair, &explained, &scenario, &format!("diff-{number}")).await;
                if started.elapsed() > SLOW {
                    let seconds = started.elapsed().as_secs();
                    eprintln!("• {} took {seconds} s", scenario.name);
                }
                outcomes
            }
        })
        .buffered(workers.max(1))
        .collect::<Vec<_>>()
        .await;
    Ok(outcomes.into_iter().flatten().collect())
}

/// Values kept from earlier answers.
type Kept = BTreeMap<String, String>;

async fn one(
    pair: &Pair,
    explained: &Explained,
    scenario: &Scenario,
    namespace: &str,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    if scenario.namespaced {
        for step in preparation(namespace) {
            let mut kept = (Kept::new(), Kept::new());
            both(pair, &step, namespace, &mut kept).await;
        }
    }
    let mut kept = (Kept::new(), Kept::new());
    for step in &scenario.steps {
        if step.pause > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(step.pause)).await;
        }
        let (theirs, ours, sent) = both(pair, step, namespace, &mut kept).await;
        if step.quiet {
            continue;
        }
        let request = format!("{} {}", step.method, step.path);
        let mut reasons = Vec::new();
        let mut differences = compare::answers(&theirs, &ours, &sent);
        differences.retain(|d| match explained.reason(&request, d) {
            Some(reason) => {
                reasons.push(reason);
                false
            }
            None => true,
        });
        outcomes.push(Outcome {
            title: format!("{} › {}", scenario.name, step.name),
            request,
            sent,
            differences,
            reasons,
        });
    }
    outcomes
}

/// A namespace of the scenario's own, with the service account that a controller would make.
fn preparation(namespace: &str) -> [Step; 2] {
    [
        Step::json(
            "namespace",
            "POST",
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        ),
        Step::json(
            "service account",
            "POST",
            "/api/v1/namespaces/{ns}/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        ),
    ]
}

async fn both(
    pair: &Pair,
    step: &Step,
    namespace: &str,
    kept: &mut (Kept, Kept),
) -> (Answer, Answer, String) {
    let (theirs, ours) = tokio::join!(
        send(&pair.upstream, step, namespace, &kept.0),
        send(&pair.ours, step, namespace, &kept.1)
    );
    keep(step, &theirs.0, &mut kept.0);
    keep(step, &ours.0, &mut kept.1);
    (theirs.0, ours.0, theirs.1)
}

fn keep(step: &Step, answer: &Answer, kept: &mut Kept) {
    if step.save.is_empty() {
        return;
    }
    let body = compare::read(answer);
    for (name, pointer) in &step.save {
        let value = match body.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        kept.insert(name.clone(), value);
    }
}

fn fill(text: &str, namespace: &str, kept: &Kept) -> String {
    let mut text = text.replace("{ns}", namespace);
    for (name, value) in kept {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    text
}

async fn send(client: &Client, step: &Step, namespace: &str, kept: &Kept) -> (Answer, String) {
    let path = fill(&step.path, namespace, kept);
    let body = match &step.body {
        Body::None => Vec::new(),
        Body::Json(value) => fill(&value.to_string(), namespace, kept).into_bytes(),
        Body::Text(text) => fill(text, namespace, kept).into_bytes(),
        Body::Bytes(bytes) => bytes.clone(),
    };
    let mut headers = step.headers.clone();
    if let Some(content_type) = &step.content_type {
        headers.push(("content-type".into(), content_type.clone()));
    }
    let sent = format!("{path} {}", String::from_utf8_lossy(&body));
    let answer = match client.send(&step.method, &path, &headers, body).await {
        Ok(answer) => answer,
        Err(error) => Answer {
            body: format!("{error:#}").into(),
            ..Answer::default()
        },
    };
    (answer, sent)
}
