//! A Deployment's ReplicaSets: which is the new one, its name and hash, revisions and the annotations that carry them. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_runtime::owners;

/// The label that tells the pods of a Deployment's ReplicaSets apart.
pub const HASH: &str = "pod-template-hash";
/// The annotation with the revision, on Deployments and ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The annotation with the revisions that a ReplicaSet once was.
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The annotation with the Deployment's size when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The annotation with that size plus the surge.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that are not its ReplicaSets' business.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The longest history of revisions kept.
const HISTORY_LIMIT: usize = 2000;

/// The Deployment's spec; the API server doesn't store one without.
pub fn spec(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

/// How many pods the Deployment asks for.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// How many pods the ReplicaSet asks for.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(0)
}

/// How many of the ReplicaSet's pods are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Whether the strategy is RollingUpdate.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref());
    strategy
        .and_then(|strategy| strategy.type_.as_deref())
        .unwrap_or("RollingUpdate")
        == "RollingUpdate"
}

/// How many pods more than asked for there may be, and how many may be unavailable, during a rolling update.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let wanted = wanted(deployment);
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = scaled(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        wanted,
        true,
    );
    let unavailable = scaled(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        wanted,
        false,
    );
    // Validation refuses two zeros, but two percentages may come to that; then one at a time must do.
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable.min(wanted))
    }
}

/// A number, or a percentage of `total`.
fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => percentage(text).map_or(0, |percent| {
            let product = i64::from(percent) * i64::from(total);
            let part = if up {
                (product + 99).div_euclid(100)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(part).unwrap_or(i32::MAX)
        }),
        None => 0,
    }
}

fn percentage(text: &str) -> Option<i32> {
    text.strip_suffix('%')?.parse().ok()
}

/// A number kept in an annotation.
pub fn annotation(meta: &ObjectMeta, key: &str) -> Option<i64> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

/// The ReplicaSet whose template is the Deployment's: the oldest, should there be several. Takes it out of `sets`.
pub fn take_new(deployment: &Deployment, sets: &mut Vec<ReplicaSet>) -> Option<ReplicaSet> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template)?;
    sets.sort_by(by_age);
    let position = sets.iter().position(|set| {
        set.spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .is_some_and(|own| same(own, template))
    })?;
    Some(sets.remove(position))
}

/// Orders by creation, then by name.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let age = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    age(a)
        .cmp(&age(b))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// Whether two templates are equal but for the hash label.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn bare(meta: Option<&ObjectMeta>) -> ObjectMeta {
        let mut meta = meta.cloned().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta.annotations = meta
            .annotations
            .filter(|annotations| !annotations.is_empty());
        meta
    }
    a.spec == b.spec && bare(a.metadata.as_ref()) == bare(b.metadata.as_ref())
}

/// A short hash of the template, salted by how often it collided. Its letters form no words.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // Serialising these types cannot fail: their keys are strings.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let salt = collisions.map(|collisions| collisions.to_le_bytes());
    let sum = text
        .iter()
        .chain(salt.iter().flatten())
        .fold(0x811c_9dc5_u32, |sum, byte| {
            (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    sum.to_string()
        .bytes()
        .map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()]))
        .collect()
}

/// The new ReplicaSet for the Deployment's template, without replicas or annotations yet.
pub fn make(deployment: &Deployment) -> ReplicaSet {
    let spec = spec(deployment);
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![owners::controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The highest revision among ReplicaSets.
pub fn max_revision(sets: &[ReplicaSet]) -> i64 {
    sets.iter()
        .filter_map(|set| annotation(&set.metadata, REVISION))
        .max()
        .unwrap_or(0)
}

/// Annotates the new ReplicaSet with the Deployment's annotations and its revision; says whether anything changed.
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let number = old
        .as_deref()
        .map_or(Some(0), |old| old.parse::<i64>().ok());
    if let Some(number) = number
        && number < revision
    {
        annotations.insert(REVISION.into(), revision.to_string());
        if let Some(old) = old {
            let history = annotations.entry(HISTORY.into()).or_default();
            *history = if history.is_empty() {
                old
            } else {
                format!("{history},{old}")
            };
            while history.len() > HISTORY_LIMIT {
                *history = history
                    .split_once(',')
                    .map(|(_, rest)| rest.to_owned())
                    .unwrap_or_default();
            }
        }
    }
    *annotations != before
}

/// Notes the Deployment's size on a ReplicaSet; says whether anything changed.
pub fn annotate_size(deployment: &Deployment, annotations: &mut BTreeMap<String, String>) -> bool {
    let wanted = wanted(deployment);
    let mut changed = false;
    for (key, value) in [(DESIRED, wanted), (MAX, wanted + fenceposts(deployment).0)] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.into(), value);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::{deployment, set};
    use serde_json::json;

    #[test]
    fn fenceposts_round_surge_up_and_unavailability_down() {
        for (replicas, surge, unavailable, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (3, json!(1), json!(0), (1, 0)),
            (2, json!(0), json!("10%"), (0, 1)),
            (2, json!("0%"), json!(5), (0, 2)),
        ] {
            let deployment = deployment(
                replicas,
                json!({"spec": {"strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}),
            );
            assert_eq!(
                fenceposts(&deployment),
                expected,
                "{replicas} {surge} {unavailable}"
            );
        }
        let recreate = deployment(
            3,
            json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}),
        );
        assert_eq!(fenceposts(&recreate), (0, 0));
    }

    #[test]
    fn the_hash_is_stable_and_salted() {
        let template = spec(&deployment(1, json!({}))).template;
        assert_eq!(hash(&template, None), hash(&template.clone(), None));
        assert_ne!(hash(&template, None), hash(&template, Some(1)));
        assert!(keelson_api::names::label_value(&hash(&template, Some(2))).is_empty());
    }

    #[test]
    fn a_set_that_is_new_again_gets_the_next_revision_and_remembers_its_old_one() {
        let deployment = deployment(
            1,
            json!({"metadata": {"annotations": {"a": "b", REVISION: "7"}}}),
        );
        let mut set = set(
            "x",
            1,
            1,
            json!({"metadata": {"annotations": {REVISION: "2", HISTORY: "1"}}}),
        );
        assert!(annotate_new(&deployment, &mut set, 5));
        let annotations = set.metadata.annotations.clone().unwrap();
        assert_eq!(
            (
                annotations[REVISION].as_str(),
                annotations[HISTORY].as_str()
            ),
            ("5", "1,2")
        );
        assert_eq!(annotations["a"], "b");
        assert!(!annotate_new(&deployment, &mut set, 5));
        assert!(!annotate_new(&deployment, &mut set, 4));
    }

    #[test]
    fn the_new_set_is_found_by_its_template() {
        let deployment = deployment(1, json!({}));
        let made = make(&deployment);
        let mut sets = vec![set("old", 1, 1, json!({})), made.clone()];
        assert_eq!(take_new(&deployment, &mut sets), Some(made));
        assert_eq!(sets.len(), 1);
        assert_eq!(take_new(&deployment, &mut sets), None);
    }
}
