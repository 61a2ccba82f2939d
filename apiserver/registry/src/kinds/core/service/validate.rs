//! Validation of a Service.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::{addresses, is_external, is_headless, needs_health_check};
use crate::access::Access;
use crate::meta::{faults, labels};
use crate::pod::port;
use crate::validation::{cidr, endpoint_ip, ip, one_of, protocol, required_one_of};

const MAX_AFFINITY_SECONDS: i64 = 86400;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Everything wrong with a Service, but for changes.
pub(super) fn service(service: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let kind = service.text("spec.type");
    let list = service.items("spec.ports");
    if list.is_empty() && !is_headless(service) && kind != "ExternalName" {
        errors.push(Error::required(&spec.child("ports"), ""));
    }
    by_type(&mut errors, service, &spec);
    ports(&mut errors, service, &spec.child("ports"));
    labels(
        &mut errors,
        service.part("spec.selector"),
        &spec.child("selector"),
    );
    affinity(&mut errors, service, &spec);
    addresses::validate(&mut errors, service);
    let external = spec.child("externalIPs");
    for (i, text) in service
        .items("spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if ip(&mut errors, text, &external.index(i)).is_some() {
            endpoint_ip(&mut errors, text, &external.index(i));
        }
    }
    required_one_of(&mut errors, kind, TYPES, &spec.child("type"));
    node_ports(&mut errors, service, &spec.child("ports"));
    load_balancer(&mut errors, service, &spec);
    traffic(&mut errors, service, &spec);
    errors
}

fn by_type(errors: &mut ErrorList, service: &Value, spec: &Path<'_>) {
    let kind = service.text("spec.type");
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            let list = spec.child("clusterIPs");
            errors.push(Error::invalid(&list.index(0), "None", detail));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !service.part("spec").is_blank(field) {
                    errors.push(Error::forbidden(
                        &spec.child(field),
                        "may not be set for ExternalName services",
                    ));
                }
            }
            let name = service.text("spec.externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            let at = spec.child("externalName");
            if name.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                faults(errors, &at, name, names::dns1123_subdomain(name));
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut ErrorList, service: &Value, path: &Path<'_>) {
    let list = service.items("spec.ports");
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let (at, name) = (path.index(i), item.text("name"));
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(Error::required(&at.child("name"), ""));
            }
        } else {
            faults(errors, &at.child("name"), name, names::dns1123_label(name));
            if !seen.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        let number = item.number("port");
        errors.extend(
            names::port_number(number)
                .into_iter()
                .map(|f| Error::invalid(&at.child("port"), number, f)),
        );
        protocol(errors, item.text("protocol"), &at.child("protocol"));
        port(errors, item.part("targetPort"), &at.child("targetPort"));
        if item.has("appProtocol") {
            faults(
                errors,
                &at.child("appProtocol"),
                item.text("appProtocol"),
                names::qualified_name(item.text("appProtocol")),
            );
        }
    }
}

fn affinity(errors: &mut ErrorList, service: &Value, spec: &Path<'_>) {
    let affinity = service.text("spec.sessionAffinity");
    required_one_of(
        errors,
        affinity,
        &["ClientIP", "None"],
        &spec.child("sessionAffinity"),
    );
    let config = spec.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => {
            let at = config.child("clientIP.timeoutSeconds");
            match service.int("spec.sessionAffinityConfig.clientIP.timeoutSeconds") {
                None => errors.push(Error::required(
                    &at,
                    "when session affinity type is ClientIP",
                )),
                Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                    let detail =
                        format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.push(Error::invalid(&at, seconds, detail));
                }
                Some(_) => {}
            }
        }
        "None" if service.has("spec.sessionAffinityConfig") => {
            errors.push(Error::forbidden(
                &config,
                "must not be set when session affinity is None",
            ));
        }
        _ => {}
    }
}

fn node_ports(errors: &mut ErrorList, service: &Value, path: &Path<'_>) {
    let (mut nodes, mut ports) = (BTreeSet::new(), BTreeSet::new());
    let list = service.items("spec.ports");
    if service.text("spec.type") == "ClusterIP" {
        for (i, _) in list
            .iter()
            .enumerate()
            .filter(|(_, p)| p.number("nodePort") != 0)
        {
            errors.push(Error::forbidden(
                &path.index(i).child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    for (i, item) in list
        .iter()
        .enumerate()
        .filter(|(_, p)| p.number("nodePort") != 0)
    {
        let node = item.number("nodePort");
        if !nodes.insert((item.text("protocol"), node)) {
            errors.push(Error::duplicate(&path.index(i).child("nodePort"), node));
        }
    }
    for (i, item) in list.iter().enumerate() {
        let (protocol, number) = (item.text("protocol"), item.number("port"));
        if !ports.insert((protocol, number)) {
            errors.push(Error::duplicate(
                &path.index(i),
                json!({"port": number, "protocol": protocol}),
            ));
        }
    }
}

fn load_balancer(errors: &mut ErrorList, service: &Value, spec: &Path<'_>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = service.text("spec.type") == "LoadBalancer";
    let ranges = service.items("spec.loadBalancerSourceRanges");
    // Upstream spells this path with a capital.
    let path = spec.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() {
        if !balanced {
            errors.push(Error::forbidden(&path, ONLY));
        }
        for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            cidr(errors, range.trim(), &path.index(i));
        }
    }
    let at = spec.child("allocateLoadBalancerNodePorts");
    match (balanced, service.has("spec.allocateLoadBalancerNodePorts")) {
        (false, true) => errors.push(Error::forbidden(&at, ONLY)),
        (true, false) => errors.push(Error::required(
            &Path::new("allocateLoadBalancerNodePorts"),
            "",
        )),
        _ => {}
    }
    if service.has("spec.loadBalancerClass") {
        let (at, class) = (
            spec.child("loadBalancerClass"),
            service.text("spec.loadBalancerClass"),
        );
        if balanced {
            faults(errors, &at, class, names::qualified_name(class));
        } else {
            errors.push(Error::forbidden(&at, ONLY));
        }
    }
}

fn traffic(errors: &mut ErrorList, service: &Value, spec: &Path<'_>) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let (at, policy) = (
        spec.child("externalTrafficPolicy"),
        service.text("spec.externalTrafficPolicy"),
    );
    if is_external(service) {
        required_one_of(errors, policy, POLICIES, &at);
    } else if !policy.is_empty() {
        errors.push(Error::invalid(
            &at,
            policy,
            "may only be set for externally-accessible services",
        ));
    }
    let (at, port) = (
        spec.child("healthCheckNodePort"),
        service.number("spec.healthCheckNodePort"),
    );
    if needs_health_check(service) {
        if port == 0 {
            errors.push(Error::required(&at, ""));
        } else {
            errors.extend(
                names::port_number(port)
                    .into_iter()
                    .map(|f| Error::invalid(&at, port, f)),
            );
        }
    } else if port != 0 {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&at, port, detail));
    }
    let at = spec.child("internalTrafficPolicy");
    if service.has("spec.internalTrafficPolicy") {
        one_of(
            errors,
            service.text("spec.internalTrafficPolicy"),
            POLICIES,
            &at,
        );
    } else if matches!(
        service.text("spec.type"),
        "NodePort" | "LoadBalancer" | "ClusterIP"
    ) {
        errors.push(Error::required(&at, ""));
    }
    if service.has("spec.trafficDistribution") {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        one_of(
            errors,
            service.text("spec.trafficDistribution"),
            &known,
            &spec.child("trafficDistribution"),
        );
    }
}
