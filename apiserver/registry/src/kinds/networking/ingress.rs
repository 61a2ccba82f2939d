//! Ingress: how requests from outside reach Services, by host and path.

use std::net::IpAddr;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, copy, set};
use crate::columns::{AGE, Column, NAME, text};
use crate::kinds::core::service::load_balancer;
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation};
use crate::validation::{checked, ip};

const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The rules of Ingress.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn prepare_for_create(&self, ingress: &mut Value, _context: &Context<'_>) {
        set(ingress, "status", json!({"loadBalancer": {}}));
        set(ingress, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, ingress: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = spec(ingress);
        if let Some(class) = ingress
            .part("metadata.annotations")
            .get(OLD_CLASS)
            .and_then(Value::as_str)
            && ingress.has("spec.ingressClassName")
            && ingress.text("spec.ingressClassName") != class
        {
            let annotations = Path::new("annotations");
            errors.push(Error::invalid(
                &annotations.child(OLD_CLASS),
                class,
                "must match `ingressClassName` when both are specified",
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> ErrorList {
        spec(new)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let has = |o: &Value| o.part("metadata.annotations").get(OLD_CLASS).is_some();
        if has(new) && !old.is_some_and(has) {
            vec![format!(
                "annotation \"{OLD_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Class", "Who serves it."),
            text("Hosts", "The first hosts."),
            text("Address", "Where it is served."),
            text("Ports", "The ports it is served on."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, ingress: &Value, now: Timestamp) -> Vec<Value> {
        let ports = if ingress.is_blank("spec.tls") {
            "80"
        } else {
            "80, 443"
        };
        vec![
            print::name(ingress),
            print::or(ingress.text("spec.ingressClassName"), "<none>").into(),
            hosts(ingress.items("spec.rules")).into(),
            load_balancer(ingress).into(),
            ports.into(),
            print::age(ingress, now),
        ]
    }
}

fn hosts(rules: &[Value]) -> String {
    const MAX: usize = 3;
    let named: Vec<&str> = rules
        .iter()
        .map(|r| r.text("host"))
        .filter(|h| !h.is_empty())
        .collect();
    if named.is_empty() {
        return "*".into();
    }
    let shown = named[..named.len().min(MAX)].join(",");
    // Upstream counts rules from the moment the list is full.
    let full_at = rules.iter().scan(0, |n, r| {
        *n += usize::from(!r.text("host").is_empty());
        Some(*n)
    });
    let more = full_at.take_while(|n| *n < MAX).count() + 1 < rules.len() && named.len() >= MAX;
    if more {
        format!("{shown} + {} more...", rules.len() - MAX)
    } else {
        shown
    }
}

fn spec(ingress: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (ingress.part("spec"), Path::new("spec"));
    if spec.is_blank("rules") && !spec.has("defaultBackend") {
        errors.push(Error::invalid(
            &path,
            spec.items("rules"),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if spec.has("defaultBackend") {
        backend(
            &mut errors,
            spec.part("defaultBackend"),
            &path.child("defaultBackend"),
        );
    }
    let list = path.child("rules");
    for (i, rule) in spec.items("rules").iter().enumerate() {
        let at = list.index(i);
        host(&mut errors, rule.text("host"), &at.child("host"), true);
        if rule.has("http") {
            let paths = at.child("http.paths");
            if rule.is_blank("http.paths") {
                errors.push(Error::required(&paths, ""));
            }
            for (j, item) in rule.items("http.paths").iter().enumerate() {
                http_path(&mut errors, item, &paths.index(j));
            }
        }
    }
    let list = path.child("tls");
    for (i, tls) in spec.items("tls").iter().enumerate() {
        let at = list.index(i);
        let hosts = at.child("hosts");
        for (j, name) in tls
            .items("hosts")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            host(&mut errors, name, &hosts.index(j), false);
        }
        checked(
            &mut errors,
            tls,
            "secretName",
            &at,
            names::dns1123_subdomain,
        );
    }
    if spec.has("ingressClassName") {
        let class = spec.text("ingressClassName");
        faults(
            &mut errors,
            &path.child("ingressClassName"),
            class,
            names::dns1123_subdomain(class),
        );
    }
    errors
}

fn host(errors: &mut ErrorList, host: &str, path: &Path<'_>, optional: bool) {
    if optional && host.is_empty() {
        return;
    }
    if optional && host.parse::<IpAddr>().is_ok() {
        errors.push(Error::invalid(
            path,
            host,
            "must be a DNS name, not an IP address",
        ));
    }
    if host.contains('*') {
        faults(errors, path, host, names::wildcard_dns1123_subdomain(host));
    } else {
        faults(errors, path, host, names::dns1123_subdomain(host));
    }
}

fn http_path(errors: &mut ErrorList, item: &Value, path: &Path<'_>) {
    if !item.has("pathType") {
        errors.push(Error::required(
            &path.child("pathType"),
            "pathType must be specified",
        ));
        return;
    }
    let (target, at) = (item.text("path"), path.child("path"));
    match item.text("pathType") {
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                errors.push(Error::invalid(&at, target, "must be an absolute path"));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"]
                .into_iter()
                .filter(|s| target.contains(s))
            {
                errors.push(Error::invalid(
                    &at,
                    target,
                    format!("must not contain '{sequence}'"),
                ));
            }
            for suffix in ["/..", "/."].into_iter().filter(|s| target.ends_with(s)) {
                errors.push(Error::invalid(
                    &at,
                    target,
                    format!("cannot end with '{suffix}'"),
                ));
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                errors.push(Error::invalid(&at, target, "must be an absolute path"));
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(Error::not_supported(&path.child("pathType"), other, &known));
        }
    }
    backend(errors, item.part("backend"), &path.child("backend"));
}

fn backend(errors: &mut ErrorList, backend: &Value, path: &Path<'_>) {
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => errors.push(Error::invalid(
            path,
            "",
            "cannot set both resource and service backends",
        )),
        (false, false) => errors.push(Error::invalid(
            path,
            "",
            "resource or service backend is required",
        )),
        (true, false) => {
            let (resource, at) = (backend.part("resource"), path.child("resource"));
            checked(errors, resource, "apiGroup", &at, names::dns1123_subdomain);
            for key in ["kind", "name"] {
                if resource.text(key).is_empty() {
                    errors.push(Error::required(&at.child(key), ""));
                } else {
                    faults(
                        errors,
                        &at.child(key),
                        resource.text(key),
                        names::path_segment(resource.text(key)),
                    );
                }
            }
        }
        (false, true) => service(errors, backend.part("service"), path),
    }
}

fn service(errors: &mut ErrorList, service: &Value, path: &Path<'_>) {
    let name = service.text("name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("service.name"), ""));
    } else {
        faults(
            errors,
            &path.child("service.name"),
            name,
            names::dns1123_label(name),
        );
    }
    let (port_name, number) = (service.text("port.name"), service.number("port.number"));
    match (port_name.is_empty(), number == 0) {
        (false, false) => errors.push(Error::invalid(
            path,
            "",
            "cannot set both port name & port number",
        )),
        (true, true) => errors.push(Error::required(path, "port name or number is required")),
        (false, true) => faults(
            errors,
            &path.child("service.port.name"),
            port_name,
            names::port_name(port_name),
        ),
        (true, false) => {
            let at = path.child("service.port.number");
            errors.extend(
                names::port_number(number)
                    .into_iter()
                    .map(|f| Error::invalid(&at, number, f)),
            );
        }
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    let list = status.child("loadBalancer.ingress");
    for (i, ingress) in new.items("status.loadBalancer.ingress").iter().enumerate() {
        let (at, address, name) = (list.index(i), ingress.text("ip"), ingress.text("hostname"));
        if !address.is_empty() {
            ip(&mut errors, address, &at.child("ip"));
        }
        if !name.is_empty() {
            faults(
                &mut errors,
                &at.child("hostname"),
                name,
                names::dns1123_subdomain(name),
            );
            if name.parse::<IpAddr>().is_ok() {
                errors.push(Error::invalid(
                    &at.child("hostname"),
                    name,
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

    #[test]
    fn rules_are_checked() {
        let ingress = json!({"spec": {"rules": [{"host": "a_b", "http": {"paths": [
            {"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}, {"path": "/"}]}}]}});
        let found: Vec<String> = Rules
            .validate(&ingress, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(found[0].starts_with("spec.rules[0].host: Invalid value: \"a_b\""));
        assert_eq!(
            found[1..],
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified"
            ]
        );
        let empty = Rules.validate(&json!({"spec": {}}), &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(
            empty[0].to_string(),
            "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"
        );
    }

    #[test]
    fn hosts_are_shortened() {
        let rules: Vec<Value> = ["a", "b", "c", "d"]
            .iter()
            .map(|h| json!({"host": h}))
            .collect();
        assert_eq!(hosts(&rules), "a,b,c + 1 more...");
        assert_eq!(hosts(&rules[..3]), "a,b,c");
        assert_eq!(hosts(&[]), "*");
    }
}
