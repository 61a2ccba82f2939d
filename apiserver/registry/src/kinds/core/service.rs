//! Service: a stable address for pods.
//!
//! Addresses and node ports are allocated by the API server before these rules look at the object.

mod addresses;
mod validate;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::NameRule;
use serde_json::{Value, json};

use crate::access::{
    Access, copy, items_mut, part_mut, remove, same, set, set_default, set_default_text,
};
use crate::columns::{AGE, Column, NAME, SELECTOR, text};
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};
use crate::validation::ip;

/// The rules of Service.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

/// Whether clients from outside the cluster can reach it.
#[must_use]
pub fn is_external(service: &Value) -> bool {
    let kind = service.text("spec.type");
    matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !service.is_blank("spec.externalIPs"))
}

/// Whether it has no address of its own.
#[must_use]
pub fn is_headless(service: &Value) -> bool {
    matches!(service.items("spec.clusterIPs"), [only] if only == "None")
}

/// Whether load balancers need a port to ask which nodes serve it.
#[must_use]
pub fn needs_health_check(service: &Value) -> bool {
    service.text("spec.type") == "LoadBalancer"
        && service.text("spec.externalTrafficPolicy") == "Local"
}

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn name_rule(&self) -> NameRule {
        // Names that begin with a digit are good since 1.36.
        NameRule::Label
    }

    fn default(&self, service: &mut Value) {
        let Some(spec) = part_mut(service, "spec") else {
            return;
        };
        set_default_text(spec, "sessionAffinity", "None");
        match spec.text("sessionAffinity") {
            "None" => drop(remove(spec, "sessionAffinityConfig")),
            "ClientIP" => set_default(spec, "sessionAffinityConfig.clientIP.timeoutSeconds", 10800),
            _ => {}
        }
        set_default_text(spec, "type", "ClusterIP");
        for port in items_mut(spec, "ports") {
            set_default_text(port, "protocol", "TCP");
            let target = port.part("targetPort");
            if target.is_null() || target == 0 || target == "" {
                let number = port.part("port").clone();
                set(port, "targetPort", number);
            }
        }
        let kind = spec.text("type").to_string();
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if is_external(service) {
            set_default_text(service, "spec.externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            for ingress in items_mut(service, "status.loadBalancer.ingress") {
                if !ingress.text("ip").is_empty() {
                    set_default(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_for_create(&self, service: &mut Value, _context: &Context<'_>) {
        set(service, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        drop_fields_of_old_type(new, old);
    }

    fn validate(&self, service: &Value, _context: &Context<'_>) -> ErrorList {
        validate::service(service)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = addresses::changes(new, old);
        let spec = Path::new("spec");
        let class = "spec.loadBalancerClass";
        if old.text("spec.type") == "LoadBalancer"
            && new.text("spec.type") == "LoadBalancer"
            && new.part(class) != old.part(class)
        {
            errors.push(Error::invalid(
                &spec.child("loadBalancerClass"),
                new.part(class),
                "may not change once set",
            ));
        }
        let port = "spec.healthCheckNodePort";
        if needs_health_check(new)
            && needs_health_check(old)
            && new.number(port) != old.number(port)
        {
            errors.push(Error::forbidden(
                &spec.child("healthCheckNodePort"),
                "field is immutable",
            ));
        }
        errors.extend(validate::service(new));
        errors
    }

    fn warnings(&self, service: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if service
            .part("metadata.annotations")
            .get("service.kubernetes.io/topology-aware-hints")
            .is_some()
        {
            warnings.push(
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use annotation service.kubernetes.io/topology-mode instead"
                    .into(),
            );
        }
        if !service.text("spec.loadBalancerIP").is_empty()
            && service.text("spec.type") == "LoadBalancer"
        {
            warnings.push("spec.loadBalancerIP is deprecated".into());
        }
        if service.text("spec.type") == "ExternalName" {
            if !service.is_blank("spec.externalIPs") {
                warnings
                    .push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
            }
        } else if !service.text("spec.externalName").is_empty() {
            warnings
                .push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
        }
        warnings
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Type", "How it can be reached."),
            text("Cluster-IP", "Its address within the cluster."),
            text("External-IP", "Its addresses from outside."),
            text("Port(s)", "Its ports, with node ports behind colons."),
            AGE,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, service: &Value, now: Timestamp) -> Vec<Value> {
        let cluster = service
            .items("spec.clusterIPs")
            .first()
            .and_then(Value::as_str)
            .unwrap_or(service.text("spec.clusterIP"));
        vec![
            print::name(service),
            service.text("spec.type").into(),
            print::or(cluster, "<none>").into(),
            external_addresses(service).into(),
            print::or(&ports(service), "<none>").into(),
            print::age(service, now),
            print::labels(service, "spec.selector").into(),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
}

fn ports(service: &Value) -> String {
    let shown = |p: &Value| match p.number("nodePort") {
        0 => format!("{}/{}", p.number("port"), p.text("protocol")),
        node => format!("{}:{node}/{}", p.number("port"), p.text("protocol")),
    };
    service
        .items("spec.ports")
        .iter()
        .map(shown)
        .collect::<Vec<_>>()
        .join(",")
}

fn external_addresses(service: &Value) -> String {
    let external = print::join(service.items("spec.externalIPs"), ",");
    match service.text("spec.type") {
        "ClusterIP" | "NodePort" => print::or(&external, "<none>").into(),
        "LoadBalancer" => {
            let balancer = load_balancer(service);
            match (balancer.is_empty(), external.is_empty()) {
                (true, true) => "<pending>".into(),
                (true, false) => external,
                (false, true) => balancer,
                (false, false) => format!("{balancer},{external}"),
            }
        }
        "ExternalName" => service.text("spec.externalName").into(),
        _ => "<unknown>".into(),
    }
}

/// The load balancer's addresses and names, sorted.
#[must_use]
pub fn load_balancer(object: &Value) -> String {
    let list = object.items("status.loadBalancer.ingress");
    let all: std::collections::BTreeSet<&str> = list
        .iter()
        .map(|i| print::or(i.text("ip"), i.text("hostname")))
        .filter(|a| !a.is_empty())
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// What only the old type needed is dropped, if the client did not change it.
fn drop_fields_of_old_type(new: &mut Value, old: &Value) {
    let unchanged = |new: &Value, path: &str| same(new.part(path), old.part(path));
    let (now, before) = (new.text("spec.type").to_string(), old.text("spec.type"));
    if before != "ExternalName" && now == "ExternalName" {
        if unchanged(new, "spec.clusterIP") && unchanged(new, "spec.clusterIPs") {
            remove(new, "spec.clusterIP");
            remove(new, "spec.clusterIPs");
        }
        for path in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if unchanged(new, path) {
                remove(new, path);
            }
        }
    }
    let needs_ports = |service: &Value| match service.text("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service
            .part("spec.allocateLoadBalancerNodePorts")
            .as_bool()
            .unwrap_or(true),
        _ => false,
    };
    if needs_ports(old) && !needs_ports(new) {
        let ports = |s: &Value| {
            s.items("spec.ports")
                .iter()
                .map(|p| p.number("nodePort"))
                .filter(|n| *n != 0)
                .collect::<std::collections::BTreeSet<_>>()
        };
        if ports(new) == ports(old) {
            for port in items_mut(new, "spec.ports") {
                remove(port, "nodePort");
            }
        }
    }
    if needs_health_check(old)
        && !needs_health_check(new)
        && unchanged(new, "spec.healthCheckNodePort")
    {
        remove(new, "spec.healthCheckNodePort");
    }
    if before == "LoadBalancer" && now != "LoadBalancer" {
        for path in [
            "spec.allocateLoadBalancerNodePorts",
            "spec.loadBalancerClass",
        ] {
            if unchanged(new, path) {
                remove(new, path);
            }
        }
    }
    if is_external(old) && !is_external(new) && unchanged(new, "spec.externalTrafficPolicy") {
        remove(new, "spec.externalTrafficPolicy");
    }
    if now != "LoadBalancer" {
        set(new, "status.loadBalancer", json!({}));
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    let path = status.child("loadBalancer.ingress");
    let list = new.items("status.loadBalancer.ingress");
    if !list.is_empty() && new.text("spec.type") != "LoadBalancer" {
        errors.push(Error::forbidden(
            &path,
            "may only be used when `spec.type` is 'LoadBalancer'",
        ));
    }
    for (i, ingress) in list.iter().enumerate() {
        let at = path.index(i);
        let (address, mode, host) = (
            ingress.text("ip"),
            ingress.text("ipMode"),
            ingress.text("hostname"),
        );
        if !address.is_empty() {
            ip(&mut errors, address, &at.child("ip"));
        }
        if !address.is_empty() && mode.is_empty() {
            errors.push(Error::required(
                &at.child("ipMode"),
                "must be specified when `ip` is set",
            ));
        } else if !mode.is_empty() && address.is_empty() {
            errors.push(Error::forbidden(
                &at.child("ipMode"),
                "may not be specified when `ip` is not set",
            ));
        } else if !mode.is_empty() {
            crate::validation::one_of(&mut errors, mode, &["Proxy", "VIP"], &at.child("ipMode"));
        }
        if !host.is_empty() {
            crate::meta::faults(
                &mut errors,
                &at.child("hostname"),
                host,
                keelson_api::names::dns1123_subdomain(host),
            );
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.push(Error::invalid(
                    &at.child("hostname"),
                    host,
                    "must be a DNS name, not an IP address",
                ));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        Rules.default(&mut service);
        service
    }

    #[test]
    fn a_service_is_filled_in() {
        let found = service(json!({"ports": [{"port": 80}], "type": "LoadBalancer"}));
        assert_eq!(
            found["spec"],
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "LoadBalancer", "sessionAffinity": "None",
                "allocateLoadBalancerNodePorts": true, "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster"})
        );
    }

    #[test]
    fn faults_have_upstreams_sentences() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let of = |spec| texts(&Rules.validate(&service(spec), &context));
        assert!(of(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]})).is_empty());
        assert_eq!(of(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            of(json!({"type": "X", "ports": [{"port": 80}]})),
            [
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
            ]
        );
        assert_eq!(
            of(json!({"type": "ExternalName"})),
            ["spec.externalName: Required value"]
        );
        assert_eq!(
            of(json!({"ports": [{"port": 80}, {"port": 80}]})),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"
            ]
        );
        assert_eq!(
            of(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
        assert_eq!(
            of(json!({"ports": [{"port": 70000}], "sessionAffinity": "X"})),
            [
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.sessionAffinity: Unsupported value: \"X\": supported values: \"ClientIP\", \"None\""
            ]
        );
    }

    #[test]
    fn the_address_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = service(
            json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
        );
        let new = service(
            json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}),
        );
        assert_eq!(
            texts(&Rules.validate_update(&new, &old, &context)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }

    #[test]
    fn a_changed_type_drops_what_it_does_not_need() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}));
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        Rules.prepare_for_update(&mut new, &old, &context);
        assert!(
            new["spec"]["ports"][0].get("nodePort").is_none()
                && new["spec"].get("externalTrafficPolicy").is_none()
        );
    }

    #[test]
    fn rows() {
        let mut found = service(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"}}),
        );
        found["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z".into();
        assert_eq!(
            Rules.row(&found, Timestamp::UNIX_EPOCH),
            [
                "s",
                "NodePort",
                "10.0.0.1",
                "<none>",
                "80:30080/TCP",
                "0s",
                "a=b"
            ]
        );
    }
}
