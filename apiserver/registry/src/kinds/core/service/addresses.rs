//! A Service's addresses and their families: how they fit together, and how they may change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::is_headless;
use crate::access::Access;
use crate::validation::{ip, one_of};

const SET: &str = "may not change once set";

/// Everything wrong with addresses, families and their policy.
pub(super) fn validate(errors: &mut ErrorList, service: &Value) {
    if service.text("spec.type") == "ExternalName" {
        return;
    }
    let spec = Path::new("spec");
    let (path, families_path) = (spec.child("clusterIPs"), spec.child("ipFamilies"));
    let (single, list) = (
        service.text("spec.clusterIP"),
        service.items("spec.clusterIPs"),
    );
    if single.is_empty() {
        if !list.is_empty() {
            errors.push(Error::invalid(
                &path,
                list,
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if list.is_empty() {
        errors.push(Error::required(&path, ""));
    } else if list[0] != single {
        errors.push(Error::invalid(
            &path,
            list,
            "first value must match `clusterIP`",
        ));
    }
    let families: Vec<&str> = service
        .items("spec.ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut seen = BTreeSet::new();
    for (i, family) in families.iter().enumerate() {
        one_of(errors, family, &["IPv4", "IPv6"], &families_path.index(i));
        if !seen.insert(family) {
            errors.push(Error::duplicate(&families_path.index(i), family));
        }
    }
    if service.has("spec.ipFamilyPolicy") {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(
            errors,
            service.text("spec.ipFamilyPolicy"),
            &policies,
            &spec.child("ipFamilyPolicy"),
        );
    }
    addresses(errors, service, list, &families, &path);
}

fn addresses(
    errors: &mut ErrorList,
    service: &Value,
    list: &[Value],
    families: &[&str],
    path: &Path<'_>,
) {
    let mut parsed: Vec<IpAddr> = Vec::new();
    let mut good = true;
    for (i, text) in list.iter().filter_map(Value::as_str).enumerate() {
        if i == 0 && text == "None" {
            if list.len() > 1 {
                good = false;
                errors.push(Error::invalid(
                    path,
                    list,
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        match ip(errors, text, &path.index(i)) {
            Some(address) => parsed.push(address),
            None => good = false,
        }
    }
    if list.len() > 2 {
        errors.push(Error::invalid(path, list, "may only hold up to 2 values"));
    }
    if !good {
        return;
    }
    if parsed.len() > 1
        && !(parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6))
    {
        errors.push(Error::invalid(
            path,
            list,
            "may specify no more than one IP for each IP family",
        ));
    }
    if is_headless(service) {
        return;
    }
    for (i, (address, family)) in parsed.iter().zip(families).enumerate() {
        if address.is_ipv4() != (*family == "IPv4") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(&path.index(i), address.to_string(), detail));
        }
    }
}

/// What may not change: the primary address and family; a second one may come and go.
pub(super) fn changes(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if new.text("spec.type") == "ExternalName" || old.text("spec.type") == "ExternalName" {
        return errors;
    }
    let (now_headless, was_headless) = (is_headless(new), is_headless(old));
    if !(now_headless && was_headless) {
        list_changes(&mut errors, new, old, "clusterIPs", "clusterIP");
    }
    if now_headless == was_headless && !now_headless {
        list_changes(&mut errors, new, old, "ipFamilies", "ipFamily");
    }
    errors
}

fn list_changes(errors: &mut ErrorList, new: &Value, old: &Value, field: &str, singular: &str) {
    let spec = Path::new("spec");
    let path = spec.child(field);
    let (now, before) = (new.part("spec").items(field), old.part("spec").items(field));
    if now.len() == before.len() {
        for (i, _) in before.iter().enumerate().filter(|(i, b)| now[*i] != **b) {
            errors.push(Error::invalid(
                &path.index(if field == "clusterIPs" { i } else { 0 }),
                now,
                SET,
            ));
        }
        return;
    }
    if now.len() < before.len() && now.is_empty() {
        errors.push(Error::invalid(
            &path.index(0),
            now,
            format!("primary {singular} can not be unset"),
        ));
    }
    if let (Some(a), Some(b)) = (now.first(), before.first())
        && a != b
    {
        errors.push(Error::invalid(&path.index(0), now, SET));
    }
    let policy = new.part("spec.ipFamilyPolicy");
    if now.len() < before.len() && now.len() == 1 && policy != "SingleStack" {
        let detail =
            format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        errors.push(Error::invalid(
            &spec.child("ipFamilyPolicy"),
            policy,
            detail,
        ));
    }
}
