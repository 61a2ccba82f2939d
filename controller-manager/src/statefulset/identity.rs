//! What a StatefulSet's pod with a certain ordinal looks like, and the volume claims it has. No I/O.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::owners;
use kube::ResourceExt;

use crate::revision::HASH;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The template that a revision keeps.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision
        .data
        .as_ref()?
        .0
        .get("spec")?
        .get("template")?
        .clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec
        .as_ref()
        .and_then(|spec| spec.volume_claim_templates.as_deref())
        .unwrap_or_default()
}

fn name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The pod with this ordinal.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let name = name(set, ordinal);
    let meta = template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH.into(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set
        .spec
        .as_ref()
        .and_then(|spec| spec.service_name.clone())
        .filter(|service| !service.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for claim in claim_templates(set) {
        let volume = claim.name_any();
        // The claim wins over a volume of the same name in the template.
        volumes.retain(|own| own.name != volume);
        volumes.push(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: format!("{volume}-{name}"),
                read_only: None,
            }),
            name: volume,
            ..Volume::default()
        });
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owners::controller_ref(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// A pod that isn't made yet: nothing but its name.
pub fn unmade(set: &StatefulSet, ordinal: i32) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name(set, ordinal)),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

/// The pod with the labels of its place, if it lacks them (as one that was adopted may).
pub fn mended(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Pod> {
    let name = name(set, ordinal);
    if pod.labels().get(POD_NAME) == Some(&name) {
        return None;
    }
    let mut next = pod.clone();
    let labels = next.labels_mut();
    labels.insert(POD_NAME.into(), name);
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    Some(next)
}

/// The claims of the pod with this ordinal.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let pod = name(set, ordinal);
    let selected = set
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.match_labels.clone())
        .unwrap_or_default();
    claim_templates(set)
        .iter()
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("{}-{pod}", template.name_any()));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            claim
                .metadata
                .labels
                .get_or_insert_default()
                .extend(selected.clone());
            claim.status = None;
            claim
        })
        .collect()
}

/// Whether the claim has the name of one of the set's pods' claims.
pub fn may_have(set: &StatefulSet, claim: &PersistentVolumeClaim) -> bool {
    let (set_name, claim) = (set.name_any(), claim.name_any());
    claim_templates(set).iter().any(|template| {
        claim
            .strip_prefix(template.name_any().as_str())
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_prefix(set_name.as_str()))
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|ordinal| ordinal.parse::<i32>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_its_name_its_place_and_its_claims() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "default", "uid": "u"}, "spec": {
            "serviceName": "peers", "selector": {"matchLabels": {"app": "db"}}, "template": {"spec": {"containers": [], "volumes": [{"name": "data"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}))
        .unwrap();
        let template = set.spec.as_ref().unwrap().template.clone();
        let pod = pod(&set, &template, 2, "db-abc");
        let spec = pod.spec.clone().unwrap();
        assert_eq!(
            (
                pod.name_any().as_str(),
                spec.hostname.as_deref(),
                spec.subdomain.as_deref()
            ),
            ("db-2", Some("db-2"), Some("peers"))
        );
        assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "2");
        assert!(mended(&set, &pod, 2).is_none());
        assert_eq!(
            mended(&set, &unmade(&set, 2), 2).unwrap().labels()[POD_NAME],
            "db-2"
        );
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(
            volumes[0]
                .persistent_volume_claim
                .as_ref()
                .unwrap()
                .claim_name,
            "data-db-2"
        );
        let claims = claims(&set, 2);
        assert!(may_have(&set, &claims[0]));
        assert_eq!(
            (
                claims[0].name_any().as_str(),
                claims[0].labels()["app"].as_str()
            ),
            ("data-db-2", "db")
        );
    }

    #[test]
    fn a_revision_gives_its_template_back() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}),
        )
        .unwrap();
        let revision = ControllerRevision {
            data: Some(k8s_openapi::apimachinery::pkg::runtime::RawExtension(
                crate::revision::data(&template),
            )),
            ..ControllerRevision::default()
        };
        assert_eq!(super::template(&revision), Some(template));
    }
}
