//! Asking the metrics APIs: metrics.k8s.io for what pods use, custom.metrics.k8s.io and external.metrics.k8s.io for anything else.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::quantity::Quantity;
use keelson_runtime::write;
use kube::{Client, Error};
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::options::duration;
use crate::pod_control::words;

/// The window of samples that don't say theirs.
const WINDOW: Duration = Duration::from_secs(60);

/// The client of all three.
#[derive(Clone)]
pub struct Metrics {
    client: Client,
}

/// What is measured, and by which labels.
pub struct Wanted<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The metric's name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a str,
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn items(answer: &Value) -> &[Value] {
    answer["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::parse(value.as_str()?)
        .ok()
        .map(|quantity| quantity.milli_value())
}

fn time(value: &Value) -> Timestamp {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Metrics {
    /// Asks as this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn get(&self, path: String) -> Result<Value, Error> {
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|error| Error::Service(error.into()))?;
        self.client.request(request).await
    }

    /// What pods (or one container of each) use of a resource.
    pub async fn resource(
        &self,
        namespace: &str,
        resource: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<Samples, String> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            encode(selector)
        );
        let answer = self.get(path).await.map_err(|error| {
            format!(
                "unable to fetch metrics from resource metrics API: {}",
                words(&error)
            )
        })?;
        read_resource(&answer, resource, container)
    }

    /// Newer adapters speak v1beta2, older ones v1beta1 only.
    async fn custom(&self, rest: &str) -> Result<Value, String> {
        let path = |version: &str| format!("/apis/custom.metrics.k8s.io/{version}/{rest}");
        let answer = match self.get(path("v1beta2")).await {
            Err(error) if write::is_not_found(&error) => self.get(path("v1beta1")).await,
            other => other,
        };
        let answer = answer.map_err(|error| {
            format!(
                "unable to fetch metrics from custom metrics API: {}",
                words(&error)
            )
        })?;
        if items(&answer).is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        Ok(answer)
    }

    /// A metric of pods.
    pub async fn pods(&self, wanted: &Wanted<'_>, selector: &str) -> Result<Samples, String> {
        let rest = format!(
            "namespaces/{}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
            wanted.namespace,
            wanted.name,
            encode(selector),
            encode(wanted.labels)
        );
        let answer = self.custom(&rest).await?;
        let samples = items(&answer).iter().filter_map(|item| {
            let window = item["windowSeconds"]
                .as_u64()
                .map_or(WINDOW, Duration::from_secs);
            let sample = Sample {
                value: milli(&item["value"])?,
                at: time(&item["timestamp"]),
                window,
            };
            Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
        });
        Ok(samples.collect())
    }

    /// A metric of one object: `plural.group` and its name.
    pub async fn object(
        &self,
        wanted: &Wanted<'_>,
        resource: &str,
        object: &str,
    ) -> Result<i64, String> {
        let labels = encode(wanted.labels);
        let rest = if resource == "namespaces" {
            format!(
                "namespaces/{object}/metrics/{}?metricLabelSelector={labels}",
                wanted.name
            )
        } else {
            format!(
                "namespaces/{}/{resource}/{object}/{}?metricLabelSelector={labels}",
                wanted.namespace, wanted.name
            )
        };
        let answer = self.custom(&rest).await?;
        milli(&items(&answer)[0]["value"])
            .ok_or_else(|| "no metrics returned from custom metrics API".into())
    }

    /// The sum of a metric from outside the cluster.
    pub async fn external(&self, wanted: &Wanted<'_>) -> Result<i64, String> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}?labelSelector={}",
            wanted.namespace,
            wanted.name,
            encode(wanted.labels)
        );
        let answer = self.get(path).await.map_err(|error| {
            format!(
                "unable to fetch metrics from external metrics API: {}",
                words(&error)
            )
        })?;
        let values: Vec<i64> = items(&answer)
            .iter()
            .filter_map(|item| milli(&item["value"]))
            .collect();
        if values.is_empty() {
            return Err("no metrics returned from external metrics API".into());
        }
        Ok(values.into_iter().fold(0, i64::saturating_add))
    }
}

fn read_resource(
    answer: &Value,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    if items(answer).is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    let mut samples = BTreeMap::new();
    for item in items(answer) {
        let Some(pod) = item["metadata"]["name"].as_str() else {
            continue;
        };
        let containers = item["containers"].as_array();
        let (mut total, mut complete, mut found) = (0i64, true, false);
        for own in containers.into_iter().flatten() {
            if container.is_some_and(|wanted| own["name"].as_str() != Some(wanted)) {
                continue;
            }
            found = true;
            match milli(&own["usage"][resource]) {
                Some(value) => total = total.saturating_add(value),
                None => complete = false,
            }
        }
        if let Some(wanted) = container.filter(|_| !found) {
            let namespace = item["metadata"]["namespace"].as_str().unwrap_or_default();
            return Err(format!(
                "container {wanted} not present in metrics for pod {namespace}/{pod}"
            ));
        }
        if complete && found {
            let sample = Sample {
                value: total,
                at: time(&item["timestamp"]),
                window: item["window"]
                    .as_str()
                    .and_then(|text| duration(text).ok())
                    .unwrap_or(WINDOW),
            };
            samples.insert(pod.to_owned(), sample);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_summed_and_incomplete_pods_left_out() {
        let pod = |name: &str, usage: &[&str]| {
            let containers: Vec<Value> = usage
                .iter()
                .enumerate()
                .map(|(index, cpu)| json!({"name": format!("c{index}"), "usage": {"cpu": cpu}}))
                .collect();
            json!({"metadata": {"name": name, "namespace": "ns"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": containers})
        };
        let answer = json!({"items": [pod("a", &["100m", "1"]), pod("b", &["nonsense"])]});
        let samples = read_resource(&answer, "cpu", None).unwrap();
        assert_eq!(samples.len(), 1);
        assert_eq!(
            (samples["a"].value, samples["a"].window.as_secs()),
            (1100, 15)
        );
        assert_eq!(
            read_resource(&answer, "cpu", Some("c1")).unwrap_err(),
            "container c1 not present in metrics for pod ns/b"
        );
        assert!(read_resource(&json!({"items": []}), "cpu", None).is_err());
        assert_eq!(encode("a=b,c in (d)"), "a%3Db%2Cc%20in%20%28d%29");
    }
}
