//! What a quota's status is to say. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use keelson_api::pod::{ResourceList, parse};
use keelson_api::quantity::Quantity;
use keelson_api::quota::{Counted, Traits};
use serde_json::Value;

/// What one object uses, and which scopes it is in.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Amounts by the quota's resource names.
    pub usage: ResourceList,
    /// What scopes look at.
    pub traits: Traits,
}

/// The objects of one resource in a namespace.
pub enum Objects<'a> {
    /// Each is to be looked at.
    Charged(Vec<&'a Charge>),
    /// Only their number counts.
    Number(usize),
}

/// What a quota's namespace uses of what it limits. A limited resource that no source knows has no entry, as it is not known.
pub fn used(quota: &Value, hard: &[&str], sources: &[(Counted<'_>, Objects<'_>)]) -> ResourceList {
    let mut used = ResourceList::new();
    for (counted, objects) in sources {
        let names: Vec<&str> = hard
            .iter()
            .copied()
            .filter(|name| counted.uses(name))
            .collect();
        let mut charge = |usage: &ResourceList, times: usize| {
            for name in &names {
                let total = used.entry((*name).to_owned()).or_insert(Quantity::ZERO);
                if let Some(amount) = usage.get(*name) {
                    for _ in 0..times {
                        *total += *amount;
                    }
                }
            }
        };
        charge(&ResourceList::new(), 0);
        match objects {
            Objects::Charged(charges) => {
                for object in charges {
                    if counted.in_scope_with(quota, &object.traits) {
                        charge(&object.usage, 1);
                    }
                }
            }
            Objects::Number(number) => {
                if counted.in_scope_with(quota, &Traits::default()) {
                    let each = Quantity::from_value(i64::try_from(*number).unwrap_or(i64::MAX));
                    let all = counted.plain_usage().into_keys().map(|name| (name, each));
                    charge(&all.collect(), 1);
                }
            }
        }
    }
    used
}

/// The status to write, or `None` if the present one says so already.
pub fn status(quota: &ResourceQuota, used: &ResourceList) -> Option<ResourceQuotaStatus> {
    let hard = quota
        .spec
        .as_ref()
        .and_then(|spec| spec.hard.clone())
        .unwrap_or_default();
    let before = quota.status.clone().unwrap_or_default();
    let mut amounts = before
        .used
        .as_ref()
        .map(|used| used.clone().into_iter().collect::<BTreeMap<_, _>>())
        .unwrap_or_default();
    amounts.retain(|name, _| hard.contains_key(name));
    for (name, amount) in used {
        if hard.contains_key(name) {
            amounts.insert(name.clone(), Text(amount.to_string()));
        }
    }
    let same = before.hard.as_ref().map(parse).unwrap_or_default() == parse(&hard)
        && before.used.as_ref().map(parse).unwrap_or_default() == parse(&amounts)
        && (quota.status.is_some() && (before.hard.is_some() || hard.is_empty()));
    (!same).then_some(ResourceQuotaStatus {
        hard: Some(hard),
        used: Some(amounts),
    })
}

/// Whether some amount is less than the status says: what must be certain, as it lets more in.
pub fn lowers(quota: &ResourceQuota, used: &ResourceList) -> bool {
    let before = quota
        .status
        .as_ref()
        .and_then(|status| status.used.as_ref())
        .map(parse)
        .unwrap_or_default();
    before
        .iter()
        .any(|(name, amount)| used.get(name).is_some_and(|now| now < amount))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn charge(counted: Counted<'_>, object: &Value) -> Charge {
        Charge {
            usage: counted.usage(object),
            traits: counted.traits(object),
        }
    }

    fn counted<'a>(group: &'a str, resource: &'a str) -> Counted<'a> {
        Counted { group, resource }
    }

    fn shown(used: &ResourceList) -> Vec<String> {
        used.iter()
            .map(|(name, amount)| format!("{name}={amount}"))
            .collect()
    }

    #[test]
    fn usage_is_summed_by_scope_and_known_resources_start_at_zero() {
        let pods = counted("", "pods");
        let small = charge(
            pods,
            &json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}}),
        );
        let best = charge(pods, &json!({"spec": {"containers": [{"name": "c"}]}}));
        let ended = charge(
            pods,
            &json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Failed"}}),
        );
        let sources = || {
            [
                (pods, Objects::Charged(vec![&small, &best, &ended])),
                (counted("", "secrets"), Objects::Number(3)),
                (counted("example.com", "foos"), Objects::Number(0)),
            ]
        };
        let hard = [
            "pods",
            "requests.cpu",
            "count/pods",
            "secrets",
            "count/secrets",
            "count/foos.example.com",
            "count/unknown.example.com",
        ];
        let plain = json!({"spec": {}});
        assert_eq!(
            shown(&used(&plain, &hard, &sources())),
            [
                "count/foos.example.com=0",
                "count/pods=3",
                "count/secrets=3",
                "pods=2",
                "requests.cpu=100m",
                "secrets=3"
            ]
        );
        let scoped = json!({"spec": {"scopes": ["BestEffort"]}});
        assert_eq!(
            shown(&used(&scoped, &["pods"], &sources())),
            ["pods=1"],
            "the ended one counts for nothing but its count"
        );
        let scoped = json!({"spec": {"scopes": ["NotBestEffort"]}});
        assert_eq!(
            shown(&used(&scoped, &["pods", "requests.cpu"], &sources())),
            ["pods=1", "requests.cpu=100m"]
        );
    }

    #[test]
    fn a_status_is_written_only_when_it_differs() {
        let quota = |status: Value| -> ResourceQuota {
            serde_json::from_value(json!({"metadata": {}, "spec": {"hard": {"cpu": "1", "pods": "2"}}, "status": status}))
                .unwrap()
        };
        let used: ResourceList = [
            ("cpu".to_owned(), Quantity::from_milli(500)),
            ("pods".to_owned(), Quantity::from_value(1)),
        ]
        .into();
        let fresh = status(&quota(json!({})), &used).unwrap();
        assert_eq!(fresh.used.unwrap()["cpu"].0, "500m");
        let same =
            json!({"hard": {"cpu": "1000m", "pods": "2"}, "used": {"cpu": "0.5", "pods": "1"}});
        assert!(status(&quota(same), &used).is_none());
        let stale = quota(
            json!({"hard": {"cpu": "1", "gone": "1"}, "used": {"cpu": "1", "pods": "1", "gone": "1"}}),
        );
        let next = status(&stale, &used).unwrap();
        assert!(!next.used.unwrap().contains_key("gone"));
        assert!(lowers(&stale, &used) && !lowers(&quota(json!({})), &used));
    }
}
