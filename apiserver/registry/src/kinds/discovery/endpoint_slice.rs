//! EndpointSlice: a part of the addresses behind a Service.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, copy, items_mut, same, set, set_default};
use crate::columns::{AGE, Column, NAME, text};
use crate::kinds::core::endpoints::shorten;
use crate::meta::{faults, immutable, labels};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{endpoint_ip, ip, protocol, required_one_of};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

/// The rules of EndpointSlice.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, slice: &mut Value) {
        for port in items_mut(slice, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
    }

    fn prepare_for_create(&self, slice: &mut Value, _context: &Context<'_>) {
        set(slice, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        // Everything but metadata counts here, and of metadata the labels.
        let changed = ["addressType", "endpoints", "ports", "metadata.labels"]
            .iter()
            .any(|p| !same(new.part(p), old.part(p)));
        if changed {
            set(
                new,
                "metadata.generation",
                old.number("metadata.generation") + 1,
            );
        } else {
            copy(new, old, "metadata.generation");
        }
    }

    fn validate(&self, slice: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = head(slice);
        endpoints(&mut errors, slice);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = head(new);
        if !same(new.part("endpoints"), old.part("endpoints")) {
            endpoints(&mut errors, new);
        }
        immutable(
            &mut errors,
            new.part("addressType"),
            old.part("addressType"),
            &Path::new("addressType"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("AddressType", "The kind of addresses."),
            text("Ports", "The first ports."),
            text("Endpoints", "The first addresses."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, slice: &Value, now: Timestamp) -> Vec<Value> {
        let port = |p: &Value| match p.int("port") {
            Some(number) => number.to_string(),
            None if p.has("name") => p.text("name").to_string(),
            None => "*".into(),
        };
        let ports: Vec<String> = slice.items("ports").iter().map(port).collect();
        let addresses: Vec<String> = slice
            .items("endpoints")
            .iter()
            .flat_map(|e| e.items("addresses"))
            .filter_map(|a| a.as_str().map(str::to_string))
            .collect();
        vec![
            print::name(slice),
            slice.text("addressType").into(),
            or_unset(shorten(&ports)).into(),
            or_unset(shorten(&addresses)).into(),
            print::age(slice, now),
        ]
    }
}

fn or_unset(text: String) -> String {
    if text.is_empty() {
        "<unset>".into()
    } else {
        text
    }
}

/// Address type and ports.
fn head(slice: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    required_one_of(
        &mut errors,
        slice.text("addressType"),
        &["FQDN", "IPv4", "IPv6"],
        &Path::new("addressType"),
    );
    let (path, ports) = (Path::new("ports"), slice.items("ports"));
    if ports.len() > PORTS_MAX {
        errors.push(Error::too_many(&path, ports.len(), PORTS_MAX));
        return errors;
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            faults(
                &mut errors,
                &at.child("name"),
                name,
                names::dns1123_label(name),
            );
        }
        if !seen.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        protocol(&mut errors, port.text("protocol"), &at.child("protocol"));
        if port.has("appProtocol") {
            faults(
                &mut errors,
                &at.child("appProtocol"),
                port.text("appProtocol"),
                names::qualified_name(port.text("appProtocol")),
            );
        }
    }
    errors
}

fn endpoints(errors: &mut ErrorList, slice: &Value) {
    let (path, list) = (Path::new("endpoints"), slice.items("endpoints"));
    if list.len() > ENDPOINTS_MAX {
        errors.push(Error::too_many(&path, list.len(), ENDPOINTS_MAX));
        return;
    }
    for (i, endpoint) in list.iter().enumerate() {
        let at = path.index(i);
        addresses(
            errors,
            endpoint.items("addresses"),
            slice.text("addressType"),
            &at.child("addresses"),
        );
        if endpoint.has("nodeName") {
            faults(
                errors,
                &at.child("nodeName"),
                endpoint.text("nodeName"),
                names::dns1123_subdomain(endpoint.text("nodeName")),
            );
        }
        let topology = endpoint.part("deprecatedTopology");
        let count = endpoint.entries("deprecatedTopology").count();
        if count > TOPOLOGY_MAX {
            errors.push(Error::too_many(
                &at.child("deprecatedTopology"),
                count,
                TOPOLOGY_MAX,
            ));
        }
        labels(errors, topology, &at.child("deprecatedTopology"));
        if endpoint.has("hostname") {
            faults(
                errors,
                &at.child("hostname"),
                endpoint.text("hostname"),
                names::dns1123_label(endpoint.text("hostname")),
            );
        }
        let hints = at.child("hints");
        named_hints(
            errors,
            endpoint.items("hints.forZones"),
            &hints.child("forZones"),
            names::label_value,
        );
        named_hints(
            errors,
            endpoint.items("hints.forNodes"),
            &hints.child("forNodes"),
            names::dns1123_subdomain,
        );
    }
}

fn named_hints(
    errors: &mut ErrorList,
    hints: &[Value],
    path: &Path<'_>,
    check: fn(&str) -> names::Faults,
) {
    if hints.len() > HINTS_MAX {
        errors.push(Error::too_many(path, hints.len(), HINTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, hint) in hints.iter().enumerate() {
        let (at, name) = (path.index(i), hint.text("name"));
        if !seen.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        faults(errors, &at.child("name"), name, check(name));
    }
}

fn addresses(errors: &mut ErrorList, list: &[Value], kind: &str, path: &Path<'_>) {
    if list.is_empty() {
        errors.push(Error::required(path, "must contain at least 1 address"));
    } else if list.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(path, list.len(), ADDRESSES_MAX));
    }
    for (i, address) in list.iter().filter_map(Value::as_str).enumerate() {
        let at = path.index(i);
        match kind {
            "IPv4" | "IPv6" => {
                let Some(parsed) = ip(errors, address, &at) else {
                    continue;
                };
                if parsed.is_ipv4() != (kind == "IPv4") {
                    errors.push(Error::invalid(
                        path,
                        address,
                        format!("must be an {kind} address"),
                    ));
                }
                endpoint_ip(errors, address, &at);
            }
            "FQDN" => domain_name(errors, address, &at),
            _ => {}
        }
    }
}

fn domain_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let found = names::dns1123_subdomain(bare);
    if !found.is_empty() {
        errors.push(Error::invalid(path, bare, found.join(",")));
    } else if !bare.contains('.') {
        errors.push(Error::invalid(
            path,
            bare,
            "should be a domain with at least two segments separated by dots",
        ));
    } else if let Some(label) = bare
        .split('.')
        .find(|l| !names::dns1123_label(l).is_empty())
    {
        errors.push(Error::invalid(
            path,
            label,
            names::dns1123_label(label).join(","),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices_are_checked() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["::1"]}],
                           "ports": [{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "TCP"}]});
        let found: Vec<String> = Rules
            .validate(&slice, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "ports[1].name: Duplicate value: \"a\"",
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ]
        );
    }

    #[test]
    fn ports_are_defaulted_and_shown() {
        let mut slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
        Rules.default(&mut slice);
        assert_eq!(
            slice["ports"][0],
            json!({"name": "", "port": 80, "protocol": "TCP"})
        );
        assert_eq!(
            Rules.row(&slice, Timestamp::UNIX_EPOCH)[1..4],
            ["IPv4", "80", "10.0.0.1"]
        );
    }
}
