//! VolumeRestrictions: a claim with access mode ReadWriteOncePod is used by one pod at a time.
//!
//! Upstream's rules for in-tree cloud disks are left out: their drivers are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use keelson_runtime::Informer;
use serde_json::Value;

use super::PluginError;
use crate::framework::{Change, CycleState, Handle, Plugin, Point, PreFilter, Rejection};
use crate::model::{NodeInfo, PodInfo, Snapshot};

const NAME: &str = "VolumeRestrictions";

pub struct VolumeRestrictions {
    claims: Informer<PersistentVolumeClaim>,
}

pub fn make(_: Option<&Value>, handle: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    Ok(Arc::new(VolumeRestrictions {
        claims: handle.informers.get(),
    }))
}

/// The pod's claims that one pod may use, and by how many others they are used.
#[derive(Clone)]
struct Exclusive {
    claims: BTreeSet<String>,
    users: i64,
}

fn claim_names(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref());
    volumes
        .unwrap_or_default()
        .iter()
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .map(|source| source.claim_name.as_str())
}

impl Exclusive {
    /// How many of the claims another pod uses.
    fn used_by(&self, pod: &PodInfo, other: &PodInfo) -> i64 {
        if other.namespace() != pod.namespace() || other.uid == pod.uid {
            return 0;
        }
        let shared = claim_names(other).filter(|name| self.claims.contains(*name));
        shared.count() as i64
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::PodDeleted(other) => {
                let theirs: BTreeSet<&str> = claim_names(other).collect();
                other.namespace() == pod.namespace()
                    && claim_names(pod).any(|name| theirs.contains(name))
            }
            Change::StorageChanged => true,
            _ => false,
        }
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        let is_exclusive = |name: &&str| {
            let claim = self.claims.find(pod.namespace(), name);
            let modes = claim.and_then(|claim| claim.spec.clone()?.access_modes);
            modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"))
        };
        let mut exclusive = Exclusive {
            claims: claim_names(pod)
                .filter(is_exclusive)
                .map(str::to_owned)
                .collect(),
            users: 0,
        };
        if exclusive.claims.is_empty() {
            return Ok(PreFilter::Skip);
        }
        exclusive.users = snapshot
            .nodes
            .iter()
            .flat_map(|node| node.pods())
            .map(|other| exclusive.used_by(pod, other))
            .sum();
        state.put(NAME, exclusive);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, _: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>(NAME) {
            exclusive.users += exclusive.used_by(pod, added);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, _: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>(NAME) {
            exclusive.users -= exclusive.used_by(pod, removed);
        }
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, _: &NodeInfo) -> Result<(), Rejection> {
        match state.get::<Exclusive>(NAME) {
            Some(exclusive) if exclusive.users > 0 => Err(Rejection::unschedulable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            )),
            _ => Ok(()),
        }
    }
}
