//! Where the Service of an APIService is reached: at its address, or at one of its endpoints. Pure functions over objects.

use std::sync::Arc;

use keelson_auth::Lookup;
use keelson_registry::access::Access;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::registration::{Condition, ServiceRef};

/// The label by which EndpointSlices name their Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Where to send a request: host and port, or why there is no such place.
pub fn address(
    lookup: &dyn Lookup,
    service: &ServiceRef,
    by_endpoints: bool,
) -> Result<(String, u16), String> {
    let ServiceRef {
        namespace, name, ..
    } = service;
    let found = lookup
        .get("services", namespace, name)
        .ok_or_else(|| format!("services {name:?} not found"))?;
    if by_endpoints {
        endpoint(&found, &slices(lookup, service), service)
    } else {
        cluster(&found, service)
    }
}

/// The EndpointSlices of a Service.
fn slices(lookup: &dyn Lookup, service: &ServiceRef) -> Vec<Arc<Value>> {
    let mut all = lookup.list(SLICES, &service.namespace);
    all.retain(|slice| {
        slice
            .pointer("/metadata/labels")
            .and_then(|l| l.get(SERVICE_NAME))
            .is_some_and(|n| n == service.name.as_str())
    });
    all
}

fn port<'a>(found: &'a Value, service: &ServiceRef) -> Option<&'a Value> {
    let wanted = i64::from(service.port);
    found
        .items("spec.ports")
        .iter()
        .find(|p| p.number("port") == wanted)
}

fn cluster(found: &Value, service: &ServiceRef) -> Result<(String, u16), String> {
    let address = found.text("spec.clusterIP");
    match found.text("spec.type") {
        "ClusterIP" if address == "None" => {
            Err("cannot route to service with ClusterIP \"None\"".to_owned())
        }
        "ClusterIP" | "LoadBalancer" | "NodePort" => match port(found, service) {
            Some(_) => Ok((address.to_owned(), service.port)),
            None => Err(no_port(service)),
        },
        "ExternalName" => Ok((found.text("spec.externalName").to_owned(), service.port)),
        other => Err(format!("unsupported service type {other:?}")),
    }
}

fn endpoint(
    found: &Value,
    slices: &[Arc<Value>],
    service: &ServiceRef,
) -> Result<(String, u16), String> {
    match found.text("spec.type") {
        "ClusterIP" | "LoadBalancer" | "NodePort" => {}
        other => return Err(format!("unsupported service type {other:?}")),
    }
    let port = port(found, service).ok_or_else(|| no_port(service))?;
    let ready = crate::proxying::target::endpoints(slices, port.text("name"));
    let chosen = ready.choose(&mut rand::rng()).cloned();
    chosen.ok_or_else(|| format!("no endpoints available for service {:?}", service.name))
}

fn no_port(service: &ServiceRef) -> String {
    format!(
        "no service port {} found for service {:?}",
        service.port, service.name
    )
}

/// What can be seen to be wrong with a Service without asking it.
pub fn fault(lookup: &dyn Lookup, service: &ServiceRef) -> Option<Condition> {
    let ServiceRef {
        namespace, name, ..
    } = service;
    let Some(found) = lookup.get("services", namespace, name) else {
        return Some(Condition::failed(
            "ServiceNotFound",
            format!("service/{name} in {namespace:?} is not present"),
        ));
    };
    if found.text("spec.type") != "ClusterIP" {
        return None;
    }
    let Some(port) = port(&found, service) else {
        let message = format!(
            "service/{name} in {namespace:?} is not listening on port {}",
            service.port
        );
        return Some(Condition::failed("ServicePortError", message));
    };
    let slices = slices(lookup, service);
    if slices.is_empty() {
        return Some(Condition::failed(
            "EndpointsNotFound",
            format!("cannot find endpointslices for service/{name} in {namespace:?}"),
        ));
    }
    let port_name = port.text("name");
    let has_endpoints = slices.iter().any(|slice| {
        let ready = |e: &Value| e.part("conditions.ready").as_bool().unwrap_or(true);
        let named = |p: &Value| p.text("name") == port_name && p.has("port");
        slice.items("endpoints").iter().any(ready) && slice.items("ports").iter().any(named)
    });
    (!has_endpoints).then(|| {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        Condition::failed("MissingEndpoints", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference() -> ServiceRef {
        ServiceRef {
            namespace: "n".into(),
            name: "s".into(),
            port: 443,
        }
    }

    #[test]
    fn services_are_reached_at_their_address() {
        let of = |spec: Value| cluster(&json!({ "spec": spec }), &reference());
        assert_eq!(
            of(json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 443}]})),
            Ok(("10.0.0.1".to_owned(), 443))
        );
        assert_eq!(
            of(json!({"type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 443}]})),
            Err("cannot route to service with ClusterIP \"None\"".to_owned())
        );
        assert_eq!(
            of(json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80}]})),
            Err("no service port 443 found for service \"s\"".to_owned())
        );
        assert_eq!(
            of(json!({"type": "ExternalName", "externalName": "a.example"})),
            Ok(("a.example".to_owned(), 443))
        );
    }

    #[test]
    fn or_at_a_ready_endpoint() {
        let found =
            json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": 443}]}});
        let slice = |ready: bool| {
            Arc::new(json!({"ports": [{"name": "https", "port": 8443}],
                "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": ready}}]}))
        };
        assert_eq!(
            endpoint(&found, &[slice(true)], &reference()),
            Ok(("10.1.0.1".to_owned(), 8443))
        );
        assert_eq!(
            endpoint(&found, &[slice(false)], &reference()),
            Err("no endpoints available for service \"s\"".to_owned())
        );
    }
}
