//! IP families: which ones a Service asks for, and which it gets in a cluster that has one or two.

use std::net::IpAddr;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_auth::{Qualified, Status};
use keelson_registry::access::{Access, same, set};
use serde_json::{Value, json};

use super::fields::{NONE, is_headless, needs_cluster_ip};

const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The word in `spec.ipFamilies`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    fn other(self) -> Self {
        if self == Self::V4 { Self::V6 } else { Self::V4 }
    }
}

/// Sets `ipFamilyPolicy` and `ipFamilies`, or says what is wrong with them. `cluster` are the cluster's families.
pub(super) fn init(
    service: &mut Value,
    old: Option<&Value>,
    cluster: &[Family],
) -> Result<(), Status> {
    if !needs_cluster_ip(service) || old.is_some_and(|old| keeps_prefer_dual(service, old)) {
        return Ok(());
    }
    let selectorless = service.is_blank("spec.selector");
    if service.is_blank("spec.ipFamilyPolicy") {
        let before = old
            .map(|o| o.text("spec.ipFamilyPolicy"))
            .filter(|p| !p.is_empty());
        let policy = match before {
            Some(policy) => policy.to_owned(),
            None if service.text("spec.clusterIP") == NONE && selectorless => REQUIRE.to_owned(),
            None => SINGLE.to_owned(),
        };
        set(service, "spec.ipFamilyPolicy", policy);
    }
    let refuse = |errors: ErrorList, service: &Value| {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(
            Qualified::new("", "Service"),
            service.text("metadata.name"),
            &errors,
        ))
    };
    refuse(related(service, old), service)?;
    let mut errors = ErrorList::new();
    if let Some(old) = old {
        shrink(service, old, &mut errors);
    }
    check_counts(service, &mut errors);
    infer(service, cluster, &mut errors);
    refuse(errors, service)?;
    let mut families = listed(service);
    let single = service.text("spec.ipFamilyPolicy") == SINGLE;
    let Some(first) = families.first().or(cluster.first()).copied() else {
        return Ok(());
    };
    if service.text("spec.clusterIP") == NONE && selectorless {
        // Nothing is allocated, so both families can be promised even where the cluster has one.
        if families.is_empty() {
            families.push(first);
        }
        if families.len() == 1 && !single {
            families.push(first.other());
        }
        write(service, &families);
        return Ok(());
    }
    refuse(check_cluster(service, cluster), service)?;
    if families.is_empty() {
        families.push(first);
    }
    if !single && families.len() == 1 && cluster.len() == 2 {
        families.push(families[0].other());
    }
    write(service, &families);
    Ok(())
}

/// A PreferDualStack Service does not change its families because the cluster did: only if the client changes the fields.
fn keeps_prefer_dual(service: &Value, old: &Value) -> bool {
    const PREFER: &str = "PreferDualStack";
    if old.text("spec.ipFamilyPolicy") != PREFER || !needs_cluster_ip(old) {
        return false;
    }
    service.text("spec.ipFamilyPolicy") == PREFER
        && same(old.part("spec.clusterIPs"), service.part("spec.clusterIPs"))
        && same(old.part("spec.ipFamilies"), service.part("spec.ipFamilies"))
}

fn listed(service: &Value) -> Vec<Family> {
    service
        .items("spec.ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .filter_map(Family::parse)
        .collect()
}

fn write(service: &mut Value, families: &[Family]) {
    let words: Vec<&str> = families.iter().map(|f| f.as_str()).collect();
    set(service, "spec.ipFamilies", json!(words));
}

/// Faults in the linked fields that allocation must not run into.
fn related(service: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let (ips_path, families_path) = (spec.child("clusterIPs"), spec.child("ipFamilies"));
    let (single, ips) = (
        service.text("spec.clusterIP"),
        service.items("spec.clusterIPs"),
    );
    let ips: Vec<&str> = ips.iter().filter_map(Value::as_str).collect();
    let shown = || service.part("spec.clusterIPs").clone();
    if single.is_empty() {
        if !ips.is_empty() {
            errors.push(Error::invalid(
                &ips_path,
                shown(),
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if ips.is_empty() {
        errors.push(Error::required(&ips_path, ""));
    } else if ips[0] != single {
        errors.push(Error::invalid(
            &ips_path,
            shown(),
            "first value must match `clusterIP`",
        ));
    }
    let families: Vec<&str> = service
        .items("spec.ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for (i, family) in families.iter().enumerate() {
        if Family::parse(family).is_none() {
            errors.push(Error::not_supported(
                &families_path.index(i),
                *family,
                &["IPv4", "IPv6"],
            ));
        } else if families[..i].contains(family) {
            errors.push(Error::duplicate(&families_path.index(i), *family));
        }
    }
    let policy = service.text("spec.ipFamilyPolicy");
    if !matches!(policy, SINGLE | REQUIRE | "PreferDualStack") {
        let path = spec.child("ipFamilyPolicy");
        errors.push(Error::not_supported(
            &path,
            policy,
            &["PreferDualStack", REQUIRE, SINGLE],
        ));
    }
    let mut seen: Vec<Family> = Vec::new();
    for (i, ip) in ips.iter().enumerate() {
        if *ip == NONE {
            if ips.len() > 1 {
                errors.push(Error::invalid(
                    &ips_path,
                    shown(),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        let path = ips_path.index(i);
        let Ok(address) = ip.parse::<IpAddr>() else {
            errors.push(Error::invalid(
                &path,
                *ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
            continue;
        };
        let family = Family::of(address);
        if seen.contains(&family) {
            errors.push(Error::invalid(
                &ips_path,
                shown(),
                "may specify no more than one IP for each IP family",
            ));
        }
        seen.push(family);
        if let Some(wanted) = families
            .get(i)
            .and_then(|f| Family::parse(f))
            .filter(|wanted| *wanted != family)
        {
            let sentence = format!(
                "expected an {} value as indicated by `ipFamilies[{i}]`",
                wanted.as_str()
            );
            errors.push(Error::invalid(&path, *ip, sentence));
        }
    }
    if ips.len() > 2 {
        errors.push(Error::invalid(
            &ips_path,
            shown(),
            "may only hold up to 2 values",
        ));
    }
    if let Some(old) = old {
        unchanged(service, old, &ips, &mut errors);
    }
    errors
}

/// A cluster IP stays once it is set; only the second of two may go.
fn unchanged(service: &Value, old: &Value, ips: &[&str], errors: &mut ErrorList) {
    if !needs_cluster_ip(old) || !needs_cluster_ip(service) {
        return;
    }
    let before: Vec<&str> = old
        .items("spec.clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let spec = Path::new("spec");
    let path = spec.child("clusterIPs");
    for (i, had) in before.iter().enumerate() {
        let gone_second = i == 1 && ips.len() < 2;
        if !gone_second && !had.is_empty() && ips.get(i) != Some(had) {
            errors.push(Error::invalid(
                &path.index(i),
                service.part("spec.clusterIPs"),
                "may not change once set",
            ));
        }
    }
}

/// Going back to one family drops the second ones; dropping them without saying so is a fault.
fn shrink(service: &mut Value, old: &Value, errors: &mut ErrorList) {
    let single = service.text("spec.ipFamilyPolicy") == SINGLE;
    for (path, what) in [
        ("spec.clusterIPs", "cluster IP"),
        ("spec.ipFamilies", "IP family"),
    ] {
        let (before, now) = (old.items(path), service.items(path));
        if single {
            if before == now && now.len() > 1 {
                let first = now[0].clone();
                set(service, path, json!([first]));
            }
        } else if before.len() == 2 && now.len() == 1 && before[0] == now[0] {
            let spec = Path::new("spec");
            let sentence = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(Error::invalid(
                &spec.child("ipFamilyPolicy"),
                service.text("spec.ipFamilyPolicy"),
                sentence,
            ));
        }
    }
}

fn check_counts(service: &Value, errors: &mut ErrorList) {
    if service.text("spec.ipFamilyPolicy") != SINGLE {
        return;
    }
    let spec = Path::new("spec");
    for (path, what) in [
        ("spec.clusterIPs", "cluster IPs"),
        ("spec.ipFamilies", "IP families"),
    ] {
        if service.items(path).len() == 2 {
            let sentence = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            );
            errors.push(Error::invalid(
                &spec.child("ipFamilyPolicy"),
                SINGLE,
                sentence,
            ));
        }
    }
}

/// Adds the families of addresses that the client named.
fn infer(service: &mut Value, cluster: &[Family], errors: &mut ErrorList) {
    if is_headless(service) {
        return;
    }
    let mut families = listed(service);
    let ips = service.items("spec.clusterIPs").to_vec();
    for (i, ip) in ips
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
        .skip(families.len())
    {
        let Ok(address) = ip.parse::<IpAddr>() else {
            continue;
        };
        let family = Family::of(address);
        if cluster.contains(&family) {
            families.push(family);
        } else {
            let spec = Path::new("spec");
            let ips_path = spec.child("clusterIPs");
            let sentence = format!("{} is not configured on this cluster", family.as_str());
            errors.push(Error::invalid(
                &ips_path.index(i),
                service.part("spec.clusterIPs"),
                sentence,
            ));
        }
    }
    if !families.is_empty() {
        write(service, &families);
    }
}

fn check_cluster(service: &Value, cluster: &[Family]) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    if service.text("spec.ipFamilyPolicy") == REQUIRE && cluster.len() < 2 {
        let path = spec.child("ipFamilyPolicy");
        errors.push(Error::invalid(
            &path,
            REQUIRE,
            "this cluster is not configured for dual-stack services",
        ));
    }
    let families = spec.child("ipFamilies");
    for (i, family) in listed(service).into_iter().enumerate() {
        if !cluster.contains(&family) {
            errors.push(Error::invalid(
                &families.index(i),
                family.as_str(),
                "not configured on this cluster",
            ));
        }
    }
    errors
}
