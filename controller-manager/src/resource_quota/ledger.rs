//! What each object of a namespace with quotas uses, kept until the object changes, so that a recount does not take every pod apart again.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_api::quota::Counted;
use keelson_runtime::informer::Object;
use keelson_runtime::{Informer, Key};
use serde::Serialize;
use serde_json::Value;

use super::plan::Charge;

/// The charges of one resource, by namespace and name, with the version they were read from.
pub struct Ledger {
    counted: Counted<'static>,
    charges: HashMap<String, HashMap<String, (String, Arc<Charge>)>>,
}

impl Ledger {
    /// An empty one.
    pub fn new(group: &'static str, resource: &'static str) -> Self {
        Self {
            counted: Counted { group, resource },
            charges: HashMap::new(),
        }
    }

    /// The resource.
    pub fn counted(&self) -> Counted<'static> {
        self.counted
    }

    /// The charges of a namespace, brought up to date.
    pub fn of_namespace<K: Object + Serialize>(
        &mut self,
        namespace: &str,
        informer: &Informer<K>,
        now: Timestamp,
    ) -> Vec<Arc<Charge>> {
        let mut before = self.charges.remove(namespace).unwrap_or_default();
        let mut after = HashMap::with_capacity(before.len());
        let mut all = Vec::new();
        for object in informer.list_namespace(namespace) {
            let Key { name, .. } = Key::of(&*object);
            let version = object.meta().resource_version.clone().unwrap_or_default();
            let charge = match before.remove(&name) {
                // What is on its way out stops counting with time, not with a change.
                Some((known, charge))
                    if known == version && object.meta().deletion_timestamp.is_none() =>
                {
                    charge
                }
                _ => Arc::new(self.read(&*object, now)),
            };
            all.push(charge.clone());
            after.insert(name, (version, charge));
        }
        self.charges.insert(namespace.to_owned(), after);
        all
    }

    /// Forgets a namespace that has no quotas any more.
    pub fn forget(&mut self, namespace: &str) {
        self.charges.remove(namespace);
    }

    fn read<K: Object + Serialize>(&self, object: &K, now: Timestamp) -> Charge {
        let value = serde_json::to_value(object).unwrap_or(Value::Null);
        let usage = if self.counted.resource == "pods" && is_overdue(object.meta(), now) {
            self.counted.plain_usage()
        } else {
            self.counted.usage(&value)
        };
        Charge {
            usage,
            traits: self.counted.traits(&value),
        }
    }
}

/// Whether a pod should have been gone for as long as its grace period: its node is lost, and its user is not charged for that.
fn is_overdue(meta: &ObjectMeta, now: Timestamp) -> bool {
    overdue_at(meta).is_some_and(|at| now > at)
}

/// When a pod that is being deleted stops counting.
pub fn overdue_at(meta: &ObjectMeta) -> Option<Timestamp> {
    let deleted = meta.deletion_timestamp.as_ref()?.0;
    let grace = meta.deletion_grace_period_seconds?;
    deleted
        .checked_add(jiff::SignedDuration::from_secs(grace))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_pod_that_is_late_to_go_stops_counting() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let meta = ObjectMeta {
            deletion_timestamp: Some(Time(at(100))),
            deletion_grace_period_seconds: Some(30),
            ..ObjectMeta::default()
        };
        assert!(!is_overdue(&meta, at(130)) && is_overdue(&meta, at(131)));
        assert!(!is_overdue(&ObjectMeta::default(), at(131)));
    }
}
