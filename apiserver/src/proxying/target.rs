//! Where a proxied request goes: a kubelet, a pod or an endpoint of a Service. Pure functions over objects.

use std::sync::Arc;

use keelson_api::status::{Qualified, Status};
use rustls::ClientConfig;
use serde_json::Value;

use crate::response::ApiResult;

/// The port of a kubelet that says none.
const KUBELET_PORT: u16 = 10250;

/// A backend, and what to ask it for.
#[derive(Clone)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, if it speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Path and query of the request.
    pub path_and_query: String,
}

impl Target {
    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Host and port, as URLs have them.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A name as the proxy subresource takes it: `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
pub struct ProxyName<'a> {
    /// `http`, `https` or empty.
    pub scheme: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// Port number or name, or empty.
    pub port: &'a str,
}

impl<'a> ProxyName<'a> {
    /// Splits a name; `None` if it isn't of the form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(ProxyName {
            scheme,
            name,
            port,
        })
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
}

/// A node's address by the preferred types, and its kubelet's port.
pub fn kubelet(node: &Value, preferred: &[String]) -> ApiResult<(String, u16)> {
    let addresses = items(node, "/status/addresses");
    let host = preferred
        .iter()
        .find_map(|wanted| {
            addresses
                .iter()
                .find(|a| text(a, "/type") == wanted)
                .map(|a| text(a, "/address").to_owned())
        })
        .filter(|host| !host.is_empty());
    let Some(host) = host else {
        let types: Vec<&str> = preferred.iter().map(String::as_str).collect();
        return Err(Status::internal(format!(
            "no preferred addresses found; known addresses: {}; preferred: {types:?}",
            addresses.len()
        )));
    };
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(port_number)
        .unwrap_or(KUBELET_PORT);
    Ok((host, port))
}

/// A pod's address and the port that the proxy was asked for: a number, a container port's name, or the first container port.
pub fn pod(pod: &Value, port: &str) -> ApiResult<(String, u16)> {
    let name = text(pod, "/metadata/name");
    let address = [text(pod, "/status/podIP")]
        .into_iter()
        .find(|ip| !ip.is_empty());
    let Some(address) = address else {
        return Err(Status::bad_request("address not allowed"));
    };
    let ports = || {
        items(pod, "/spec/containers")
            .iter()
            .flat_map(|c| items(c, "/ports"))
    };
    let number = if port.is_empty() {
        ports()
            .find_map(|p| p.get("containerPort").and_then(port_number))
            .or(Some(80))
    } else {
        port.parse().ok().filter(|p| *p > 0).or_else(|| {
            ports()
                .find(|p| text(p, "/name") == port)?
                .get("containerPort")
                .and_then(port_number)
        })
    };
    number
        .map(|n| (address.to_owned(), n))
        .ok_or_else(|| Status::bad_request(format!("no port {port:?} in pod {name:?}")))
}

/// The name of a Service's port that the proxy was asked for by name or number; `None` if there is no such port.
pub fn service_port<'a>(service: &'a Value, port: &str) -> Option<&'a str> {
    let ports = items(service, "/spec/ports");
    if port.is_empty() {
        return match ports {
            [only] => Some(text(only, "/name")),
            _ => ports
                .iter()
                .map(|p| text(p, "/name"))
                .find(|n| n.is_empty()),
        };
    }
    ports
        .iter()
        .find(|p| {
            text(p, "/name") == port
                || p.get("port")
                    .and_then(port_number)
                    .is_some_and(|n| n.to_string() == port)
        })
        .map(|p| text(p, "/name"))
}

/// The ready endpoints of a port name in a Service's EndpointSlices.
pub fn endpoints(slices: &[Arc<Value>], port_name: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for slice in slices {
        let Some(port) = items(slice, "/ports")
            .iter()
            .find(|p| text(p, "/name") == port_name)
            .and_then(|p| p.get("port"))
            .and_then(port_number)
        else {
            continue;
        };
        for endpoint in items(slice, "/endpoints") {
            let ready = endpoint
                .pointer("/conditions/ready")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            if !ready {
                continue;
            }
            if let Some(address) = items(endpoint, "/addresses")
                .first()
                .and_then(Value::as_str)
            {
                found.push((address.to_owned(), port));
            }
        }
    }
    found
}

/// The container that exec, attach and log mean: the one named, or the only one.
pub fn container(pod: &Value, named: &str) -> ApiResult<String> {
    let name = text(pod, "/metadata/name");
    let names = |list: &str| -> Vec<String> {
        items(pod, &format!("/spec/{list}"))
            .iter()
            .map(|c| text(c, "/name").to_owned())
            .collect()
    };
    let (containers, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if named.is_empty() {
        let all = [&init[..], &containers[..], &ephemeral[..]].concat();
        return match &containers[..] {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}"
            ))),
            _ => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                all.join(" ")
            ))),
        };
    }
    if [containers, init, ephemeral]
        .concat()
        .iter()
        .any(|c| c == named)
    {
        return Ok(named.to_owned());
    }
    Err(Status::bad_request(format!(
        "container {named} is not valid for pod {name}"
    )))
}

/// The node that a pod runs on.
pub fn node_of(pod: &Value) -> ApiResult<&str> {
    match text(pod, "/spec/nodeName") {
        "" => Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            text(pod, "/metadata/name")
        ))),
        node => Ok(node),
    }
}

/// 503 for a Service without ready endpoints.
pub fn no_endpoints(name: &str) -> Status {
    Status::service_unavailable(format!("no endpoints available for service {name:?}"))
}

/// 400 for a name that isn't of the proxy's form.
pub fn bad_name(resource: &str, name: &str) -> Status {
    Status::bad_request(format!(
        "invalid {} request {name:?}",
        Qualified::new("", resource)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_split_into_scheme_name_and_port() {
        assert_eq!(
            ProxyName::parse("web"),
            Some(ProxyName {
                scheme: "",
                name: "web",
                port: ""
            })
        );
        assert_eq!(
            ProxyName::parse("web:http"),
            Some(ProxyName {
                scheme: "",
                name: "web",
                port: "http"
            })
        );
        assert_eq!(
            ProxyName::parse("https:web:"),
            Some(ProxyName {
                scheme: "https",
                name: "web",
                port: ""
            })
        );
        assert_eq!(ProxyName::parse("ftp:web:1"), None);
        assert_eq!(ProxyName::parse("a:b:c:d"), None);
    }

    #[test]
    fn only_ready_endpoints_of_the_port_are_chosen() {
        let service =
            json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "x", "port": 81}]}});
        assert_eq!(service_port(&service, "80"), Some("web"));
        assert_eq!(service_port(&service, ""), None);
        let slice = Arc::new(json!({
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            ],
        }));
        assert_eq!(
            endpoints(std::slice::from_ref(&slice), "web"),
            [("10.0.0.2".to_owned(), 8080)]
        );
        assert!(endpoints(&[slice], "x").is_empty());
    }

    #[test]
    fn containers_are_chosen_as_upstream_does() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(
            container(&one, "z").unwrap_err().message,
            "container z is not valid for pod p"
        );
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[test]
    fn kubelets_are_reached_by_the_preferred_address() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.9"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
        }});
        assert_eq!(
            kubelet(&node, &["InternalIP".into()]).unwrap(),
            ("10.0.0.9".to_owned(), 10251)
        );
        assert!(kubelet(&node, &["ExternalIP".into()]).is_err());
    }
}
