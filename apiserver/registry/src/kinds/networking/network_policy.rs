//! NetworkPolicy: who may talk to a namespace's pods, and whom they may talk to.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, items_mut, part_mut, set, set_default};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy, count_generation};
use crate::validation::{cidr, label_selector, one_of};

/// The rules of NetworkPolicy.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = part_mut(policy, "spec") else {
            return;
        };
        set_default(spec, "podSelector", json!({}));
        if spec.is_blank("policyTypes") {
            let types = if spec.is_blank("egress") {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
            set(spec, "policyTypes", types);
        }
        for direction in ["ingress", "egress"] {
            for port in items_mut(spec, direction).flat_map(|r| items_mut(r, "ports")) {
                set_default(port, "protocol", "TCP");
            }
        }
    }

    fn prepare_for_create(&self, policy: &mut Value, _context: &Context<'_>) {
        set(policy, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        count_generation(new, old);
    }

    fn validate(&self, policy: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (policy.part("spec"), Path::new("spec"));
        label_selector(
            &mut errors,
            spec.part("podSelector"),
            &path.child("podSelector"),
        );
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let list = path.child(direction);
            for (i, rule) in spec.items(direction).iter().enumerate() {
                let at = list.index(i);
                let ports = at.child("ports");
                for (j, port) in rule.items("ports").iter().enumerate() {
                    check_port(&mut errors, port, &ports.index(j));
                }
                let here = at.child(peers);
                for (j, peer) in rule.items(peers).iter().enumerate() {
                    check_peer(&mut errors, peer, &here.index(j));
                }
            }
        }
        let (types, at) = (spec.items("policyTypes"), path.child("policyTypes"));
        if types.len() > 2 {
            errors.push(Error::invalid(
                &at,
                types,
                "may not specify more than two policyTypes",
            ));
            return errors;
        }
        for (i, kind) in types.iter().filter_map(Value::as_str).enumerate() {
            one_of(&mut errors, kind, &["Ingress", "Egress"], &at.index(i));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("Pod-Selector", "The pods it is about."), AGE];
        COLUMNS
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(policy),
            print::selector(policy, "spec.podSelector").into(),
            print::age(policy, now),
        ]
    }
}

fn check_port(errors: &mut ErrorList, port: &Value, path: &Path<'_>) {
    if port.has("protocol") {
        one_of(
            errors,
            port.text("protocol"),
            &["TCP", "UDP", "SCTP"],
            &path.child("protocol"),
        );
    }
    let end = port.int("endPort");
    match port.part("port") {
        Value::String(name) => {
            if end.is_some() {
                errors.push(Error::invalid(
                    &path.child("endPort"),
                    end,
                    "may not be specified when `port` is non-numeric",
                ));
            }
            faults(errors, &path.child("port"), name, names::port_name(name));
        }
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            errors.extend(
                names::port_number(number)
                    .into_iter()
                    .map(|f| Error::invalid(&path.child("port"), number, f)),
            );
            if let Some(end) = end {
                let at = path.child("endPort");
                if end < number {
                    errors.push(Error::invalid(
                        &at,
                        number,
                        "must be greater than or equal to `port`",
                    ));
                }
                errors.extend(
                    names::port_number(end)
                        .into_iter()
                        .map(|f| Error::invalid(&at, end, f)),
                );
            }
        }
        _ => {
            if end.is_some() {
                errors.push(Error::invalid(
                    &path.child("endPort"),
                    end,
                    "may not be specified when `port` is not specified",
                ));
            }
        }
    }
}

fn check_peer(errors: &mut ErrorList, peer: &Value, path: &Path<'_>) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"]
        .into_iter()
        .filter(|f| peer.has(f))
    {
        count += 1;
        label_selector(errors, peer.part(field), &path.child(field));
    }
    if peer.has("ipBlock") {
        count += 1;
        block(errors, peer.part("ipBlock"), &path.child("ipBlock"));
    }
    if count == 0 {
        errors.push(Error::required(path, "must specify a peer"));
    } else if count > 1 && peer.has("ipBlock") {
        errors.push(Error::forbidden(
            path,
            "may not specify both ipBlock and another peer",
        ));
    }
}

fn block(errors: &mut ErrorList, block: &Value, path: &Path<'_>) {
    let range = block.text("cidr");
    if range.is_empty() {
        errors.push(Error::required(&path.child("cidr"), ""));
        return;
    }
    let Some(whole) = cidr(errors, range, &path.child("cidr")) else {
        return;
    };
    let list = path.child("except");
    for (i, text) in block
        .items("except")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let at = list.index(i);
        let Some(part) = cidr(errors, text, &at) else {
            continue;
        };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            errors.push(Error::invalid(
                &at,
                text,
                "must be a strict subset of `cidr`",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_filled_in_and_checked() {
        let mut policy = json!({"spec": {"egress": [{"ports": [{"port": 80, "endPort": 70}], "to": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}});
        Rules.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        let found: Vec<String> = Rules
            .validate(&policy, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.egress[0].to[0]: Required value: must specify a peer",
                "spec.egress[0].to[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
            ]
        );
    }
}
