//! Which claims a pod uses, by its volumes. No I/O.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use keelson_runtime::owners;

/// The name of the claim of a pod's ephemeral volume.
pub fn ephemeral_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// The name of the claim that a volume of a pod is of, if it is of one.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    volume.ephemeral.as_ref().map(|_| {
        ephemeral_name(
            pod.metadata.name.as_deref().unwrap_or_default(),
            &volume.name,
        )
    })
}

/// The pod's volumes.
pub fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

/// `namespace/claim` of each claim that a pod names.
pub fn claims(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    volumes(pod)
        .filter_map(|volume| claim_name(pod, volume))
        .map(|name| format!("{namespace}/{name}"))
        .collect()
}

/// Why a claim that has the name of an ephemeral volume's claim is not it.
pub fn not_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Option<String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if pod.metadata.namespace == claim.metadata.namespace
        && owners::is_controlled_by(&claim.metadata, uid)
    {
        return None;
    }
    let name = |namespace: &Option<String>, name: &Option<String>| {
        format!(
            "{}/{}",
            namespace.as_deref().unwrap_or_default(),
            name.as_deref().unwrap_or_default()
        )
    };
    Some(format!(
        "PVC {} was not created for pod {} (pod is not owner)",
        name(&claim.metadata.namespace, &claim.metadata.name),
        name(&pod.metadata.namespace, &pod.metadata.name)
    ))
}

/// Whether a pod keeps a claim from being deleted: only once it is bound to a node, since a kubelet starts no pod whose claim is being deleted.
pub fn holds(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if crate::pod::node(pod).is_empty() {
        return false;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let shut_down = pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.deletion_grace_period_seconds == Some(0);
    volumes(pod).any(|volume| match &volume.persistent_volume_claim {
        Some(source) => source.claim_name == name,
        None => {
            !shut_down
                && claim_name(pod, volume).as_deref() == Some(name)
                && not_for_pod(pod, claim).is_none()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": node, "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "c", "emptyDir": {}}]}}))
        .unwrap()
    }

    fn claim(name: &str, owner: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "ns", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}),
        )
        .unwrap()
    }

    #[test]
    fn pods_name_claims_and_hold_their_own() {
        assert_eq!(claims(&pod("")), ["ns/data", "ns/p-b"]);
        assert!(holds(&pod("n"), &claim("data", "x")));
        assert!(!holds(&pod(""), &claim("data", "x")), "not on a node yet");
        assert!(holds(&pod("n"), &claim("p-b", "u")));
        assert!(!holds(&pod("n"), &claim("p-b", "x")), "another's claim");
        assert_eq!(
            not_for_pod(&pod("n"), &claim("p-b", "x")).as_deref(),
            Some("PVC ns/p-b was not created for pod ns/p (pod is not owner)")
        );
    }
}
