//! The plans of Deployments, by tables and by playing whole rollouts.

use super::*;
use crate::pod::tests::merge;
use std::collections::BTreeMap;

pub(in crate::deployment) fn deployment(replicas: i32, extra: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    });
    merge(&mut value, &extra);
    serde_json::from_value(value).unwrap()
}

pub(in crate::deployment) fn set(
    name: &str,
    size: i32,
    available: i32,
    extra: Value,
) -> ReplicaSet {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "generation": 1,
            "labels": {"app": "web"}, "annotations": {}},
        "spec": {"replicas": size, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": name}]}}},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1},
    });
    merge(&mut value, &extra);
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A cluster with one Deployment, in which ReplicaSets do as they are told.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    clock: Timestamp,
    born: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: BTreeMap::new(),
            clock: now(),
            born: 0,
        }
    }

    fn step(&mut self) -> Vec<Change> {
        let sets: Vec<_> = self.sets.values().cloned().collect();
        let running = sets
            .iter()
            .filter(|s| s.status.as_ref().is_some_and(|s| s.replicas > 0))
            .filter_map(|s| s.metadata.uid.clone());
        let plan = plan(Snapshot {
            deployment: self.deployment.clone(),
            running: running.collect(),
            sets,
            now: self.clock,
        });
        for change in &plan.changes {
            match change {
                Change::Create(set) => {
                    let mut set = (**set).clone();
                    self.born += 1;
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.creation_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                            Timestamp::from_second(self.born).unwrap(),
                        ));
                    self.sets.insert(set.metadata.name.clone().unwrap(), set);
                }
                Change::Update { name, patch, .. } => {
                    let mut value = serde_json::to_value(&self.sets[name]).unwrap();
                    merge(&mut value, patch);
                    self.sets
                        .insert(name.clone(), serde_json::from_value(value).unwrap());
                }
                Change::Delete { name, .. } => {
                    self.sets.remove(name);
                }
            }
        }
        self.deployment = plan.deployment;
        plan.changes
    }

    /// Every set has the pods it asks for, and all are available.
    fn settle(&mut self) {
        for set in self.sets.values_mut() {
            let size = sets::size(set);
            set.status = Some(serde_json::from_value(json!({
                "replicas": size, "readyReplicas": size, "availableReplicas": size, "observedGeneration": 9})).unwrap());
        }
    }

    fn image(&mut self, image: &str) {
        let mut value = serde_json::to_value(&self.deployment).unwrap();
        value["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let generation = value["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        value["metadata"]["generation"] = json!(generation);
        self.deployment = serde_json::from_value(value).unwrap();
    }

    /// Steps until nothing changes, checking the fenceposts after each.
    fn roll(&mut self) -> usize {
        let (surge, unavailable) = sets::fenceposts(&self.deployment);
        let wanted = sets::wanted(&self.deployment);
        for steps in 0..100 {
            let available: i32 = self.sets.values().map(sets::available).sum();
            let status = self.deployment.status.clone();
            if self.step().is_empty() && self.deployment.status == status {
                return steps;
            }
            let total: i32 = self.sets.values().map(sets::size).sum();
            assert!(total <= wanted + surge, "{total} pods");
            if steps > 0 {
                let kept: i32 = self
                    .sets
                    .values()
                    .map(|s| sets::available(s).min(sets::size(s)))
                    .sum();
                assert!(
                    kept >= (wanted - unavailable).min(available),
                    "{kept} of {available} kept"
                );
            }
            self.settle();
        }
        panic!("the rollout doesn't end");
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        let mut sizes: Vec<_> = self
            .sets
            .values()
            .map(|set| {
                let image = set
                    .spec
                    .as_ref()
                    .unwrap()
                    .template
                    .as_ref()
                    .unwrap()
                    .spec
                    .as_ref()
                    .unwrap()
                    .containers[0]
                    .image
                    .clone();
                (
                    format!(
                        "{}@{}",
                        image.unwrap(),
                        set.metadata.annotations.as_ref().unwrap()[REVISION]
                    ),
                    sets::size(set),
                )
            })
            .collect();
        sizes.sort();
        sizes
    }

    fn reason(&self, kind: &str) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind);
        condition
            .map(|c| format!("{} {}", c.status, c.reason.clone().unwrap_or_default()))
            .unwrap_or_default()
    }
}

#[test]
fn a_rollout_an_update_and_an_undo() {
    let mut world = World::new(deployment(3, json!({})));
    let first = world.step();
    assert!(
        matches!(&first[..], [Change::Create(set)] if sets::size(set) == 3),
        "{first:?}"
    );
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(
        world.reason("Available"),
        "False MinimumReplicasUnavailable"
    );
    world.settle();
    world.roll();
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "True MinimumReplicasAvailable");

    world.image("v2");
    world.roll();
    assert_eq!(world.sizes(), [("v1@1".into(), 0), ("v2@2".into(), 3)]);
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "2"
    );

    world.image("v1");
    world.roll();
    assert_eq!(world.sizes(), [("v1@3".into(), 3), ("v2@2".into(), 0)]);
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        (
            status.replicas,
            status.updated_replicas,
            status.unavailable_replicas
        ),
        (Some(3), Some(3), None)
    );
}

#[test]
fn every_fencepost_ends() {
    for (surge, unavailable) in [
        ("25%", "25%"),
        ("0", "1"),
        ("100%", "0"),
        ("1", "0"),
        ("0", "50%"),
        ("50%", "100%"),
    ] {
        let int = |text: &str| text.parse::<i32>().map_or(json!(text), |n| json!(n));
        let mut world = World::new(deployment(
            7,
            json!({"spec": {"strategy": {"rollingUpdate":
            {"maxSurge": int(surge), "maxUnavailable": int(unavailable)}}}}),
        ));
        world.roll();
        world.image("v2");
        world.roll();
        assert_eq!(
            world.sizes(),
            [("v1@1".into(), 0), ("v2@2".into(), 7)],
            "{surge} {unavailable}"
        );
    }
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(deployment(
        2,
        json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}),
    ));
    world.roll();
    world.image("v2");
    let changes = world.step();
    assert!(
        matches!(
            &changes[..],
            [Change::Update {
                scaled: Some((2, 0)),
                ..
            }]
        ),
        "{changes:?}"
    );
    // The old pods still run.
    assert!(world.step().is_empty());
    world.settle();
    world.roll();
    assert_eq!(world.sizes(), [("v1@1".into(), 0), ("v2@2".into(), 2)]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let rolling =
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}});
    let mut world = World::new(deployment(10, rolling));
    world.roll();
    world.image("v2");
    world.step();
    // The new pods don't come up; the old set shrinks as far as it may.
    world.step();
    assert_eq!(world.sizes(), [("v1@1".into(), 8), ("v2@2".into(), 5)]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.step();
    assert_eq!(world.sizes(), [("v1@1".into(), 11), ("v2@2".into(), 7)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(3, json!({})));
    world.roll();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.image("v2");
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    world.step();
    assert_eq!(world.sizes(), [("v1@1".into(), 5)]);
    assert_eq!(world.reason("Progressing"), "Unknown DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    world.roll();
    assert_eq!(world.sizes(), [("v1@1".into(), 0), ("v2@2".into(), 5)]);
}

#[test]
fn a_rollout_that_stands_still_times_out_and_recovers() {
    let mut world = World::new(deployment(
        1,
        json!({"spec": {"progressDeadlineSeconds": 10}}),
    ));
    world.step();
    assert!(world.step().is_empty());
    world.clock += jiff::SignedDuration::from_secs(11);
    world.step();
    assert_eq!(
        world.reason("Progressing"),
        "False ProgressDeadlineExceeded"
    );
    world.settle();
    world.roll();
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn old_revisions_go_beyond_the_limit() {
    let mut world = World::new(deployment(1, json!({"spec": {"revisionHistoryLimit": 2}})));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.image(image);
        world.roll();
    }
    assert_eq!(
        world.sizes(),
        [("v3@3".into(), 0), ("v4@4".into(), 0), ("v5@5".into(), 1)]
    );
}

#[test]
fn a_deadline_is_looked_at_when_it_passes() {
    let deployment = deployment(1, json!({"spec": {"progressDeadlineSeconds": 10}}));
    let plan = plan(Snapshot {
        deployment,
        sets: Vec::new(),
        running: Vec::new(),
        now: now(),
    });
    assert_eq!(plan.again, Some(Duration::from_secs(11)));
}
