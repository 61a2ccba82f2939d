//! One step of a Deployment: which ReplicaSets to create, scale and delete, and what the status becomes. No I/O.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::sets::{self, DESIRED, MAX, REVISION};
use super::status;

/// What is known of one Deployment.
pub struct Snapshot {
    /// The Deployment.
    pub deployment: Deployment,
    /// Its ReplicaSets.
    pub sets: Vec<ReplicaSet>,
    /// The UIDs of the ReplicaSets that have pods which have not ended.
    pub running: Vec<String>,
    /// The time.
    pub now: Timestamp,
}

/// Something to do about a ReplicaSet, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create it.
    Create(Box<ReplicaSet>),
    /// Merge a patch into it; if it is being scaled, from how many pods to how many.
    Update {
        /// Its name.
        name: String,
        /// The merge patch.
        patch: Value,
        /// The sizes before and after.
        scaled: Option<(i32, i32)>,
    },
    /// Delete it.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: Option<String>,
    },
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The changes.
    pub changes: Vec<Change>,
    /// The Deployment with the annotations and status it should have after them.
    pub deployment: Deployment,
    /// When to look again even if nothing happens.
    pub again: Option<Duration>,
}

/// The state of one planning: the sets as they will be after the changes so far.
pub(super) struct Work {
    pub(super) deployment: Deployment,
    pub(super) new: Option<ReplicaSet>,
    pub(super) old: Vec<ReplicaSet>,
    pub(super) changes: Vec<Change>,
    pub(super) now: Timestamp,
}

/// Decides.
pub fn plan(snapshot: Snapshot) -> Plan {
    let mut old = snapshot.sets;
    let new = sets::take_new(&snapshot.deployment, &mut old);
    let mut work = Work {
        deployment: snapshot.deployment,
        new,
        old,
        changes: Vec::new(),
        now: snapshot.now,
    };
    let deployment = &work.deployment;
    if deployment.metadata.deletion_timestamp.is_some() {
        work.revise(false);
        return work.finish(false);
    }
    status::note_pause(&mut work.deployment, work.now);
    let paused = work.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    if paused || work.was_scaled() {
        work.revise(false);
        work.scale();
        if paused {
            work.clean_up();
        }
        return work.finish(false);
    }
    if sets::is_rolling(&work.deployment) {
        work.roll();
    } else {
        work.recreate(&snapshot.running);
    }
    work.finish(true)
}

impl Work {
    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    fn finish(mut self, rollout: bool) -> Plan {
        let new = self.new.take();
        let sets: Vec<_> = self.old.iter().chain(&new).collect();
        let again = if rollout {
            status::after_rollout(&mut self.deployment, &sets, new.as_ref(), self.now)
        } else {
            self.deployment.status = Some(status::count(
                &self.deployment,
                &sets,
                new.as_ref(),
                self.now,
            ));
            None
        };
        Plan {
            changes: self.changes,
            deployment: self.deployment,
            again,
        }
    }

    /// Brings the new ReplicaSet's revision, annotations and minReadySeconds up to date; creates it if it has to be.
    fn revise(&mut self, create: bool) {
        let revision = sets::max_revision(&self.old) + 1;
        if let Some(set) = &mut self.new {
            let before = set.metadata.annotations.clone().unwrap_or_default();
            let annotated = sets::annotate_new(&self.deployment, set, revision);
            let seconds = self
                .deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.min_ready_seconds);
            let own = set.spec.get_or_insert_default();
            let retimed = own.min_ready_seconds.unwrap_or(0) != seconds.unwrap_or(0);
            own.min_ready_seconds = seconds;
            if annotated || retimed {
                let mut patch =
                    json!({"metadata": {"resourceVersion": set.metadata.resource_version}});
                if annotated {
                    let after = set.metadata.annotations.clone().unwrap_or_default();
                    let changed: serde_json::Map<_, _> = after
                        .into_iter()
                        .filter(|(key, value)| before.get(key) != Some(value))
                        .map(|(key, value)| (key, Value::String(value)))
                        .collect();
                    patch["metadata"]["annotations"] = Value::Object(changed);
                }
                if retimed {
                    patch["spec"] = json!({"minReadySeconds": seconds.unwrap_or(0)});
                }
                self.changes.push(Change::Update {
                    name: set.metadata.name.clone().unwrap_or_default(),
                    patch,
                    scaled: None,
                });
            }
            let own = sets::annotation(&set.metadata, REVISION).unwrap_or(revision);
            let name = set.metadata.name.clone().unwrap_or_default();
            set_revision(&mut self.deployment, own);
            status::note_found(&mut self.deployment, &name, self.now);
        } else if create {
            let mut set = sets::make(&self.deployment);
            let size = self.new_size(0);
            set.spec.get_or_insert_default().replicas = Some(size);
            sets::annotate_new(&self.deployment, &mut set, revision);
            sets::annotate_size(
                &self.deployment,
                set.metadata.annotations.get_or_insert_default(),
            );
            self.changes.push(Change::Create(Box::new(set.clone())));
            set_revision(&mut self.deployment, revision);
            status::note_created(
                &mut self.deployment,
                set.metadata.name.as_deref().unwrap_or_default(),
                self.now,
            );
            self.new = Some(set);
        }
    }

    /// How large the new ReplicaSet, now of this size, may become.
    fn new_size(&self, size: i32) -> i32 {
        let wanted = sets::wanted(&self.deployment);
        if !sets::is_rolling(&self.deployment) {
            return wanted;
        }
        let most = wanted + sets::fenceposts(&self.deployment).0;
        let total: i32 = self.all().map(sets::size).sum();
        if total >= most {
            size
        } else {
            size + (most - total).min(wanted - size)
        }
    }

    /// Whether the Deployment's size changed since its ReplicaSets were last scaled.
    fn was_scaled(&self) -> bool {
        let wanted = i64::from(sets::wanted(&self.deployment));
        self.all().filter(|set| sets::size(set) > 0).any(|set| {
            sets::annotation(&set.metadata, DESIRED).is_some_and(|desired| desired != wanted)
        })
    }

    fn roll(&mut self) {
        self.revise(true);
        if self.grow_new() || self.shrink_old() {
            return;
        }
        self.clean_up_if_complete();
    }

    fn grow_new(&mut self) -> bool {
        let Some(set) = &self.new else { return false };
        let (size, wanted) = (sets::size(set), sets::wanted(&self.deployment));
        let target = if size > wanted {
            wanted
        } else {
            self.new_size(size)
        };
        target != size && self.resize_new(target)
    }

    fn shrink_old(&mut self) -> bool {
        if self.old.iter().map(sets::size).sum::<i32>() == 0 {
            return false;
        }
        let total: i32 = self.all().map(sets::size).sum();
        let least = sets::wanted(&self.deployment) - sets::fenceposts(&self.deployment).1;
        let pending = self
            .new
            .as_ref()
            .map_or(0, |set| sets::size(set) - sets::available(set));
        let spare = total - least - pending;
        if spare <= 0 {
            return false;
        }
        self.old.sort_by(sets::by_age);
        // Pods that don't work anyway go first: nobody misses them.
        let mut gone = 0;
        for index in 0..self.old.len() {
            let (size, works) = (
                sets::size(&self.old[index]),
                sets::available(&self.old[index]),
            );
            let down = (spare - gone).min(size - works);
            if down > 0 {
                self.resize_old(index, size - down);
                gone += down;
            }
        }
        let surplus = self.all().map(sets::available).sum::<i32>() - least;
        let mut left = surplus;
        for index in 0..self.old.len() {
            let size = sets::size(&self.old[index]);
            let down = left.min(size);
            if down > 0 {
                self.resize_old(index, size - down);
                left -= down;
            }
        }
        gone > 0 || left < surplus
    }

    fn recreate(&mut self, running: &[String]) {
        self.revise(false);
        let mut scaled = false;
        for index in 0..self.old.len() {
            if sets::size(&self.old[index]) > 0 {
                scaled |= self.resize_old(index, 0);
            }
        }
        if scaled || self.old_pods_remain(running) {
            return;
        }
        if self.new.is_none() {
            self.revise(true);
        }
        let wanted = sets::wanted(&self.deployment);
        if self
            .new
            .as_ref()
            .is_some_and(|set| sets::size(set) != wanted)
        {
            self.resize_new(wanted);
        }
        self.clean_up_if_complete();
    }

    fn old_pods_remain(&self, running: &[String]) -> bool {
        let new = self.new.as_ref().and_then(|set| set.metadata.uid.as_ref());
        self.old.iter().any(|set| {
            set.status
                .as_ref()
                .is_some_and(|status| status.replicas > 0)
        }) || running.iter().any(|uid| Some(uid) != new)
    }

    /// Follows a change of the Deployment's size: the one set that is in use, or all of them in proportion.
    fn scale(&mut self) {
        let wanted = sets::wanted(&self.deployment);
        self.old.sort_by(sets::by_age);
        let active: Vec<_> = (0..self.old.len())
            .filter(|index| sets::size(&self.old[*index]) > 0)
            .collect();
        let new_active = self.new.as_ref().is_some_and(|set| sets::size(set) > 0);
        match (active.as_slice(), new_active) {
            ([], _) if self.new.is_some() => {
                self.resize_new(wanted);
                return;
            }
            ([], _) if self.old.is_empty() => return,
            ([], _) => {
                self.resize_old(self.old.len() - 1, wanted);
                return;
            }
            ([only], false) => {
                self.resize_old(*only, wanted);
                return;
            }
            _ => {}
        }
        if self.is_saturated() {
            for index in active {
                self.resize_old(index, 0);
            }
            return;
        }
        if sets::is_rolling(&self.deployment) {
            self.scale_in_proportion(&active, new_active);
        }
    }

    /// Whether the new set has all its pods, so that the old ones are only left over.
    fn is_saturated(&self) -> bool {
        let wanted = sets::wanted(&self.deployment);
        self.new.as_ref().is_some_and(|set| {
            sets::annotation(&set.metadata, DESIRED) == Some(i64::from(wanted))
                && sets::size(set) == wanted
                && sets::available(set) == wanted
        })
    }

    fn scale_in_proportion(&mut self, active: &[usize], new_active: bool) {
        let wanted = sets::wanted(&self.deployment);
        // None stands for the new set.
        let mut places: Vec<Option<usize>> = active.iter().copied().map(Some).collect();
        if new_active {
            places.push(None);
        }
        let total: i32 = places
            .iter()
            .filter_map(|place| self.at(*place))
            .map(sets::size)
            .sum();
        let allowed = if wanted > 0 {
            wanted + sets::fenceposts(&self.deployment).0
        } else {
            0
        };
        let add = allowed - total;
        // The largest first; of equals the newest grows and the oldest shrinks first.
        places.sort_by(|a, b| {
            let (Some(a), Some(b)) = (self.at(*a), self.at(*b)) else {
                return std::cmp::Ordering::Equal;
            };
            let age = if add > 0 {
                sets::by_age(b, a)
            } else {
                sets::by_age(a, b)
            };
            sets::size(b).cmp(&sets::size(a)).then(age)
        });
        let mut added = 0;
        let mut targets = Vec::new();
        for place in &places {
            let Some(set) = self.at(*place) else { continue };
            let part = self.share(set, add, added);
            added += part;
            targets.push((*place, sets::size(set) + part));
        }
        if let Some((_, target)) = targets.first_mut() {
            *target = (*target + add - added).max(0);
        }
        for (place, target) in targets {
            match place {
                Some(index) => self.resize_old(index, target),
                None => self.resize_new(target),
            };
        }
    }

    fn at(&self, place: Option<usize>) -> Option<&ReplicaSet> {
        place.map_or(self.new.as_ref(), |index| self.old.get(index))
    }

    /// How much of `add` falls to one set, `added` being given away already.
    fn share(&self, set: &ReplicaSet, add: i32, added: i32) -> i32 {
        let size = sets::size(set);
        if size == 0 || add == 0 || add == added {
            return 0;
        }
        let wanted = sets::wanted(&self.deployment);
        let fraction = if wanted == 0 {
            -size
        } else {
            let most = f64::from(wanted + sets::fenceposts(&self.deployment).0);
            let counted = self
                .deployment
                .status
                .as_ref()
                .and_then(|status| status.replicas)
                .unwrap_or(0);
            let before = sets::annotation(&set.metadata, MAX)
                .filter(|max| *max > 0)
                .unwrap_or(i64::from(counted).max(1));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                reason = "sizes are 32-bit and the float is rounded first"
            )]
            let scaled = (f64::from(size) * most / before as f64).round() as i32;
            scaled - size
        };
        if add > 0 {
            fraction.min(add - added)
        } else {
            fraction.max(add - added)
        }
    }

    fn resize_new(&mut self, size: i32) -> bool {
        let Some(mut set) = self.new.take() else {
            return false;
        };
        let resized = self.resize(&mut set, size);
        self.new = Some(set);
        resized
    }

    fn resize_old(&mut self, index: usize, size: i32) -> bool {
        let mut set = std::mem::take(&mut self.old[index]);
        let resized = self.resize(&mut set, size);
        self.old[index] = set;
        resized
    }

    /// Scales a set and notes the Deployment's size on it; says whether its size changed.
    fn resize(&mut self, set: &mut ReplicaSet, to: i32) -> bool {
        let from = sets::size(set);
        let annotated = sets::annotate_size(
            &self.deployment,
            set.metadata.annotations.get_or_insert_default(),
        );
        if from == to && !annotated {
            return false;
        }
        set.spec.get_or_insert_default().replicas = Some(to);
        let annotations = set.metadata.annotations.clone().unwrap_or_default();
        let name = set.metadata.name.clone().unwrap_or_default();
        let pending = self.changes.iter_mut().find(|change| match change {
            Change::Update { name: other, .. } => *other == name,
            Change::Create(other) => other.metadata.name.as_ref() == Some(&name),
            Change::Delete { .. } => false,
        });
        let size = json!({DESIRED: annotations.get(DESIRED), MAX: annotations.get(MAX)});
        match pending {
            Some(Change::Create(created)) => **created = set.clone(),
            // One write per set, since each write makes the version of the next one stale.
            Some(Change::Update { patch, scaled, .. }) => {
                patch["spec"]["replicas"] = json!(to);
                for (key, value) in size.as_object().into_iter().flatten() {
                    patch["metadata"]["annotations"][key] = value.clone();
                }
                let first = scaled.map_or(from, |(first, _)| first);
                *scaled = Some((first, to)).filter(|_| first != to);
            }
            _ => self.changes.push(Change::Update {
                name,
                patch: json!({
                    "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": size},
                    "spec": {"replicas": to},
                }),
                scaled: Some((from, to)).filter(|(from, to)| from != to),
            }),
        }
        from != to
    }

    fn clean_up_if_complete(&mut self) {
        if status::is_complete(&self.deployment, self.deployment.status.as_ref()) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions beyond the limit that have no pods any more.
    fn clean_up(&mut self) {
        let limit = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else {
            return;
        };
        let mut candidates: Vec<_> = self
            .old
            .iter()
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = candidates
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        candidates.sort_by_key(|set| sets::annotation(&set.metadata, REVISION).unwrap_or(0));
        for set in candidates.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            let seen =
                status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
            if status.replicas == 0 && sets::size(set) == 0 && seen {
                self.changes.push(Change::Delete {
                    name: set.metadata.name.clone().unwrap_or_default(),
                    uid: set.metadata.uid.clone(),
                });
            }
        }
    }
}

fn set_revision(deployment: &mut Deployment, revision: i64) {
    deployment
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(REVISION.into(), revision.to_string());
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
