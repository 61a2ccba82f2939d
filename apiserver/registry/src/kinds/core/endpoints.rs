//! Endpoints: the addresses behind a Service, in the old form.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, items_mut, same, set_default_text};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{checked, endpoint_ip, ip, protocol};

/// The rules of Endpoints.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, endpoints: &mut Value) {
        for subset in items_mut(endpoints, "subsets") {
            for port in items_mut(subset, "ports") {
                set_default_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, endpoints: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let subsets = Path::new("subsets");
        for (i, subset) in endpoints.items("subsets").iter().enumerate() {
            let path = subsets.index(i);
            if subset.is_blank("addresses") && subset.is_blank("notReadyAddresses") {
                errors.push(Error::required(
                    &path,
                    "must specify `addresses` or `notReadyAddresses`",
                ));
            }
            for key in ["addresses", "notReadyAddresses"] {
                let list = path.child(key);
                for (j, address) in subset.items(key).iter().enumerate() {
                    check_address(&mut errors, address, &list.index(j));
                }
            }
            let list = path.child("ports");
            let ports = subset.items("ports");
            for (j, port) in ports.iter().enumerate() {
                check_port(&mut errors, port, ports.len() > 1, &list.index(j));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        // What is stored may be older than today's rules; it may stay as it is.
        if same(new.part("subsets"), old.part("subsets")) {
            ErrorList::new()
        } else {
            self.validate(new, context)
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Endpoints", "The first addresses with their ports."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, endpoints: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(endpoints),
            summary(endpoints).into(),
            print::age(endpoints, now),
        ]
    }
}

fn check_address(errors: &mut ErrorList, address: &Value, path: &Path<'_>) {
    let text = address.text("ip");
    let at = path.child("ip");
    if ip(errors, text, &at).is_some() {
        endpoint_ip(errors, text, &at);
    } else {
        errors.push(Error::invalid(&at, text, "must be a valid IP address"));
    }
    checked(errors, address, "hostname", path, names::dns1123_label);
    if address.has("nodeName") {
        faults(
            errors,
            &path.child("nodeName"),
            address.text("nodeName"),
            names::dns1123_subdomain(address.text("nodeName")),
        );
    }
}

fn check_port(errors: &mut ErrorList, port: &Value, named: bool, path: &Path<'_>) {
    if named && port.text("name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        checked(errors, port, "name", path, names::dns1123_label);
    }
    let number = port.number("port");
    errors.extend(
        names::port_number(number)
            .into_iter()
            .map(|fault| Error::invalid(&path.child("port"), number, fault)),
    );
    protocol(errors, port.text("protocol"), &path.child("protocol"));
    if port.has("appProtocol") {
        faults(
            errors,
            &path.child("appProtocol"),
            port.text("appProtocol"),
            names::qualified_name(port.text("appProtocol")),
        );
    }
}

/// At most three addresses, and how many more there are.
fn summary(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in endpoints.items("subsets") {
        let addresses: Vec<&str> = subset
            .items("addresses")
            .iter()
            .map(|a| a.text("ip"))
            .collect();
        if subset.is_blank("ports") {
            all.extend(addresses.iter().map(ToString::to_string));
        }
        for port in subset.items("ports") {
            all.extend(
                addresses
                    .iter()
                    .map(|a| join_host_port(a, port.number("port"))),
            );
        }
    }
    if endpoints.is_blank("subsets") {
        "<none>".into()
    } else {
        shorten(&all)
    }
}

fn join_host_port(host: &str, port: i64) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The first three of a list, and how many more there are.
#[must_use]
pub fn shorten(all: &[String]) -> String {
    if all.len() > 3 {
        format!("{} + {} more...", all[..3].join(","), all.len() - 3)
    } else {
        all.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_summarised() {
        let endpoints = json!({"metadata": {"name": "a"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(
            summary(&endpoints),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more..."
        );
        assert_eq!(summary(&json!({})), "<none>");
    }

    #[test]
    fn subsets_are_checked() {
        let bad = json!({"subsets": [{"ports": [{"port": 0, "protocol": "X"}]}, {"addresses": [{"ip": "127.0.0.1"}]}]});
        let found: Vec<String> = Rules
            .validate(&bad, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ]
        );
    }
}
