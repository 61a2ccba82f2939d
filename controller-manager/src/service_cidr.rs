//! ServiceCIDRs: ready when they are there, and gone only when no Service has an address of theirs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use keelson_runtime::{Informer, Key, Outcome, Queue, write};
use kube::{Api, Error, ResourceExt};
use serde_json::json;

use crate::context::{Context, StartError, now};
use crate::controllers::Task;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a range that is being deleted is kept at least, so that allocators which don't know yet show their addresses.
const GRACE: i64 = 10;

struct Controller {
    context: Context,
    cidrs: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("service_cidr");
    let controller = Arc::new(Controller {
        cidrs: context.informers.get(),
        addresses: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.cidrs.handle(move |event| {
        if let Some(cidr) = event.object() {
            wake.add(Key::of(&**cidr));
        }
    });
    let (wake, this) = (queue.clone(), controller.clone());
    controller.addresses.handle(move |_| {
        for cidr in this.cidrs.list() {
            if cidr.metadata.deletion_timestamp.is_some() {
                wake.add(Key::of(&*cidr));
            }
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 1, reconcile).boxed())
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    cidr.spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten())
        .filter_map(|cidr| cidr.parse().ok())
        .collect()
}

/// Whether an address lies in this range and in no other that stays.
fn needs(range: &ServiceCIDR, others: &[Arc<ServiceCIDR>], address: &IpAddr) -> bool {
    let holds = |cidr: &ServiceCIDR| ranges(cidr).iter().any(|range| range.contains(address));
    holds(range)
        && !others.iter().any(|other| {
            other.metadata.name != range.metadata.name
                && other.metadata.deletion_timestamp.is_none()
                && holds(other)
        })
}

/// Sets the condition; says whether that is news.
fn judge(cidr: &mut ServiceCIDR, in_use: bool, now: &Time) -> bool {
    let (status, reason, message) = if in_use {
        (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        )
    } else {
        ("True", "Ready", "Kubernetes Service CIDR is ready")
    };
    let conditions = cidr
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    if conditions
        .iter()
        .any(|own| own.type_ == "Ready" && own.status == status)
    {
        return false;
    }
    conditions.retain(|own| own.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: now.clone(),
        observed_generation: None,
    });
    true
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(cidr) = self.cidrs.get(key) else {
            return Ok(Outcome::Done);
        };
        let api = Api::<ServiceCIDR>::all(self.context.client.clone());
        let at = Time(now());
        let held = cidr.finalizers().iter().any(|own| own == FINALIZER);
        let Some(deleted) = &cidr.metadata.deletion_timestamp else {
            if !held {
                self.write_finalizers(&api, &cidr, true).await?;
            }
            write::update_status(&api, &*cidr, |cidr| judge(cidr, false, &at)).await?;
            return Ok(Outcome::Done);
        };
        if !held {
            return Ok(Outcome::Done);
        }
        let others = self.cidrs.list();
        let in_use = self
            .addresses
            .list()
            .iter()
            .filter_map(|address| address.name_any().parse().ok())
            .any(|address| needs(&cidr, &others, &address));
        if in_use {
            write::update_status(&api, &*cidr, |cidr| judge(cidr, true, &at)).await?;
            return Ok(Outcome::Done);
        }
        let left = deleted.0.as_second() + GRACE - at.0.as_second();
        if left > 0 {
            return Ok(Outcome::After(Duration::from_secs(
                u64::try_from(left).unwrap_or(1),
            )));
        }
        self.write_finalizers(&api, &cidr, false).await?;
        Ok(Outcome::Done)
    }

    async fn write_finalizers(
        &self,
        api: &Api<ServiceCIDR>,
        cidr: &ServiceCIDR,
        with: bool,
    ) -> Result<(), Error> {
        let mut finalizers = cidr.finalizers().to_vec();
        finalizers.retain(|own| own != FINALIZER);
        if with {
            finalizers.push(FINALIZER.into());
        }
        let patch = json!({"metadata": {"resourceVersion": cidr.metadata.resource_version, "finalizers": finalizers}});
        write::optional(write::patch_merge(api, &cidr.name_any(), &patch).await).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_unless_another_has_its_addresses() {
        let cidr = |name: &str, range: &str| -> Arc<ServiceCIDR> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}}),
                )
                .unwrap(),
            )
        };
        let (small, large) = (cidr("small", "10.0.1.0/24"), cidr("large", "10.0.0.0/16"));
        let all = [small.clone(), large.clone()];
        let address = "10.0.1.5".parse().unwrap();
        assert!(!needs(&small, &all, &address));
        assert!(needs(&small, std::slice::from_ref(&small), &address));
        assert!(!needs(&large, &all, &"192.168.0.1".parse().unwrap()));
    }
}
