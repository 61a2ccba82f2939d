//! What several plugins ask about pods.

use keelson_registry::access::Access;
use serde_json::Value;

/// The annotation of mirror pods, the API's images of static pods.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// The lists of containers in a pod's spec.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Whether a pod mirrors a static one.
pub fn is_mirror(pod: &Value) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// An object's annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.part("metadata.annotations").get(key)?.as_str()
}

/// An object's label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.part("metadata.labels").get(key)?.as_str()
}

/// All containers of a pod spec: init containers, containers, ephemeral containers.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.iter().flat_map(|list| spec.items(list))
}

/// The first kind of API object that a pod refers to, in upstream's words.
pub fn references(pod: &Value) -> Option<&'static str> {
    let spec = pod.part("spec");
    if !spec.is_blank("serviceAccountName") {
        return Some("serviceaccounts");
    }
    if names_secret(spec) {
        return Some("secrets");
    }
    let names_config_map = |c: &Value| {
        c.items("env")
            .iter()
            .any(|e| e.has("valueFrom.configMapKeyRef"))
            || c.items("envFrom").iter().any(|e| e.has("configMapRef"))
    };
    if containers(spec).any(names_config_map)
        || spec.items("volumes").iter().any(|v| v.has("configMap"))
    {
        return Some("configmaps");
    }
    if !spec.items("resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    spec.items("volumes").iter().find_map(volume_reference)
}

fn volume_reference(volume: &Value) -> Option<&'static str> {
    for (source, word) in [
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        (
            "ephemeral",
            "persistentvolumeclaims (via ephemeral volumes)",
        ),
        ("azureFile", "secrets (via azureFile volumes)"),
    ] {
        if volume.has(source) {
            return Some(word);
        }
    }
    volume.items("projected.sources").iter().find_map(|source| {
        [
            ("configMap", "configmaps (via projected volumes)"),
            ("secret", "secrets (via projected volumes)"),
            (
                "serviceAccountToken",
                "serviceaccounts (via projected volumes)",
            ),
            ("clusterTrustBundle", "clustertrustbundles"),
            ("podCertificate", "podcertificates"),
        ]
        .into_iter()
        .find(|(name, _)| source.has(name))
        .map(|(_, word)| word)
    })
}

/// Whether a pod spec names a secret anywhere.
pub fn names_secret(spec: &Value) -> bool {
    let in_container = |c: &Value| {
        c.items("env")
            .iter()
            .any(|e| e.has("valueFrom.secretKeyRef"))
            || c.items("envFrom").iter().any(|e| e.has("secretRef"))
    };
    let in_volume = |v: &Value| {
        let referring = [
            "cephfs",
            "cinder",
            "flexVolume",
            "rbd",
            "scaleIO",
            "iscsi",
            "storageos",
        ]
        .iter()
        .any(|s| v.part(s).has("secretRef"));
        v.has("secret")
            || v.has("azureFile")
            || referring
            || v.has("csi.nodePublishSecretRef")
            || v.items("projected.sources").iter().any(|s| s.has("secret"))
    };
    !spec.items("imagePullSecrets").is_empty()
        || containers(spec).any(in_container)
        || spec.items("volumes").iter().any(in_volume)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let pod = |spec: Value| json!({"spec": spec});
        assert_eq!(
            references(&pod(
                json!({"containers": [{"name": "c"}], "volumes": [{"hostPath": {}}]})
            )),
            None
        );
        assert_eq!(
            references(&pod(json!({"serviceAccountName": "x"}))),
            Some("serviceaccounts")
        );
        assert_eq!(
            references(&pod(json!({"volumes": [{"secret": {}}]}))),
            Some("secrets")
        );
        let env =
            json!({"ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {}}}]}]});
        assert_eq!(references(&pod(env)), Some("configmaps"));
        let token = json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]});
        assert_eq!(
            references(&pod(token)),
            Some("serviceaccounts (via projected volumes)")
        );
    }
}
