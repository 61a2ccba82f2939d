//! The downward API: fields and resources of a pod as text, for the environment and for volumes. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::containers;
use crate::quantity;

/// Why a field can't be had.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum DownwardError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// The divisor is no quantity.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// What limits default to: the node's allocatable resources.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capacity {
    /// CPU in thousandths.
    pub cpu_millis: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral: i64,
}

fn key_of<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?
        .strip_prefix("['")?
        .strip_suffix("']")
}

/// A map in the form of downward files: sorted, quoted as Go quotes.
fn format_map(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A metadata field, as volumes and the environment both have it.
pub fn field(pod: &Pod, path: &str) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    if let Some(key) = key_of(path, "metadata.annotations") {
        return Ok(meta
            .annotations
            .as_ref()
            .and_then(|a| a.get(key))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(key) = key_of(path, "metadata.labels") {
        return Ok(meta
            .labels
            .as_ref()
            .and_then(|a| a.get(key))
            .cloned()
            .unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        other => Err(DownwardError::Field(other.to_owned())),
    }
}

/// A field for the environment: those of volumes, and what only a running pod has.
pub fn env_field(
    pod: &Pod,
    path: &str,
    ips: &[IpAddr],
    host_ips: &[IpAddr],
) -> Result<String, DownwardError> {
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| {
        ips.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    Ok(match path {
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => join(host_ips),
        "status.podIP" => first(ips),
        "status.podIPs" => join(ips),
        other => field(pod, other)?,
    })
}

/// A resource of a container, divided and rounded up.
pub fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    capacity: &Capacity,
) -> Result<String, DownwardError> {
    let items = containers::of(pod);
    let container = match selector
        .container_name
        .as_deref()
        .filter(|n| !n.is_empty() && *n != own.name)
    {
        None => own,
        Some(name) => {
            &items
                .iter()
                .find(|i| i.name() == name)
                .ok_or_else(|| DownwardError::Container(name.to_owned()))?
                .container
        }
    };
    let (side, name) = selector.resource.split_once('.').unwrap_or(("", ""));
    let resources = container.resources.as_ref();
    let list = match side {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(DownwardError::Resource(selector.resource.clone())),
    };
    let fallback = |own: Option<i64>, all: i64| match (own, side) {
        (Some(v), _) if v > 0 => v,
        (_, "limits") => all,
        (v, _) => v.unwrap_or(0),
    };
    let (value, cpu) = match name {
        "cpu" => (
            fallback(quantity::milli_value(list, name), capacity.cpu_millis),
            true,
        ),
        "memory" => (
            fallback(quantity::value(list, name), capacity.memory),
            false,
        ),
        "ephemeral-storage" => (
            fallback(quantity::value(list, name), capacity.ephemeral),
            false,
        ),
        n if n.starts_with("hugepages-") => (quantity::value(list, n).unwrap_or(0), false),
        _ => return Err(DownwardError::Resource(selector.resource.clone())),
    };
    let text = selector.divisor.as_ref().map_or("1", |d| d.0.as_str());
    let divisor = if cpu {
        quantity::millis(text)
    } else {
        quantity::bytes(text)
    };
    let divisor = match divisor {
        Some(0) => {
            if cpu {
                1000
            } else {
                1
            }
        }
        Some(d) if d > 0 => d,
        _ => return Err(DownwardError::Divisor(text.to_owned())),
    };
    Ok(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}
        }))
        .unwrap();
        assert_eq!(
            field(&pod, "metadata.labels").unwrap(),
            "a=\"x\\\"y\"\nb=\"2\""
        );
        assert!(field(&pod, "status.podIP").is_err());
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let capacity = Capacity {
            cpu_millis: 4000,
            memory: 1 << 30,
            ephemeral: 0,
        };
        let get = |r: &str, d: Option<&str>| {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": r, "divisor": d})).unwrap();
            resource(&pod, own, &selector, &capacity)
        };
        assert_eq!(get("limits.memory", Some("1Mi")).unwrap(), "64");
        assert_eq!(get("requests.cpu", None).unwrap(), "1");
        assert_eq!(get("requests.cpu", Some("1m")).unwrap(), "250");
        assert_eq!(get("limits.cpu", Some("0")).unwrap(), "4");
        assert!(get("limits.gpu", None).is_err());
    }
}
