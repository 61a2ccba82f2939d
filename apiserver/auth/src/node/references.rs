//! The objects that a pod or a volume refers to.

use std::collections::HashSet;

use serde_json::Value;

use super::graph::{Key, Kind};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Volume sources whose secret's name stands in a reference: (source, reference).
const SECRET_REFERENCES: &[(&str, &str)] = &[
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("flexVolume", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("iscsi", "secretRef"),
    ("storageos", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("csi", "nodeStageSecretRef"),
    ("csi", "nodeExpandSecretRef"),
    ("csi", "controllerPublishSecretRef"),
    ("csi", "controllerExpandSecretRef"),
];

/// What a pod refers to, all in its namespace. Mirror pods refer to nothing: their kubelet made them up.
pub(super) fn of_pod(pod: &Value, namespace: &str) -> HashSet<Key> {
    let mut found = Found {
        namespace,
        keys: HashSet::new(),
    };
    if pod
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(MIRROR))
        .is_some()
    {
        return found.keys;
    }
    let Some(spec) = pod.get("spec") else {
        return found.keys;
    };
    found.add(Kind::ServiceAccount, spec.get("serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        found.add(Kind::Secret, secret.get("name"));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            found.container(container);
        }
    }
    let pod_name = text(pod.pointer("/metadata/name"));
    for volume in items(spec, "volumes") {
        found.volume(volume, pod_name);
    }
    for claim in items(spec, "resourceClaims") {
        found.add(Kind::ResourceClaim, claim.get("resourceClaimName"));
    }
    if let Some(status) = pod.get("status") {
        for claim in items(status, "resourceClaimStatuses") {
            found.add(Kind::ResourceClaim, claim.get("resourceClaimName"));
        }
        found.add(
            Kind::ResourceClaim,
            status.pointer("/extendedResourceClaimStatus/resourceClaimName"),
        );
    }
    found.keys
}

/// The secrets that a persistent volume needs; references without a namespace are in the claim's.
pub(super) fn of_volume(volume: &Value, claim_namespace: &str) -> HashSet<Key> {
    let mut keys = HashSet::new();
    let Some(spec) = volume.get("spec") else {
        return keys;
    };
    let mut add = |namespace: Option<&Value>, name: Option<&Value>| {
        let namespace = Some(text(namespace))
            .filter(|n| !n.is_empty())
            .unwrap_or(claim_namespace);
        let name = text(name);
        if !name.is_empty() {
            keys.insert(Key::new(Kind::Secret, namespace, name));
        }
    };
    if let Some(azure) = spec.get("azureFile") {
        add(azure.get("secretNamespace"), azure.get("secretName"));
    }
    for (source, reference) in SECRET_REFERENCES {
        if let Some(reference) = spec.get(*source).and_then(|s| s.get(*reference)) {
            add(reference.get("namespace"), reference.get("name"));
        }
    }
    keys
}

struct Found<'a> {
    namespace: &'a str,
    keys: HashSet<Key>,
}

impl Found<'_> {
    fn add(&mut self, kind: Kind, name: Option<&Value>) {
        let name = text(name);
        if !name.is_empty() {
            self.keys.insert(Key::new(kind, self.namespace, name));
        }
    }

    fn container(&mut self, container: &Value) {
        for env in items(container, "env") {
            self.add(Kind::Secret, env.pointer("/valueFrom/secretKeyRef/name"));
            self.add(
                Kind::ConfigMap,
                env.pointer("/valueFrom/configMapKeyRef/name"),
            );
        }
        for from in items(container, "envFrom") {
            self.add(Kind::Secret, from.pointer("/secretRef/name"));
            self.add(Kind::ConfigMap, from.pointer("/configMapRef/name"));
        }
    }

    fn volume(&mut self, volume: &Value, pod_name: &str) {
        self.add(Kind::Secret, volume.pointer("/secret/secretName"));
        self.add(Kind::Secret, volume.pointer("/azureFile/secretName"));
        self.add(Kind::ConfigMap, volume.pointer("/configMap/name"));
        self.add(
            Kind::PersistentVolumeClaim,
            volume.pointer("/persistentVolumeClaim/claimName"),
        );
        for (source, reference) in SECRET_REFERENCES {
            self.add(
                Kind::Secret,
                volume
                    .get(*source)
                    .and_then(|s| s.get(*reference))
                    .and_then(|r| r.get("name")),
            );
        }
        for source in volume
            .get("projected")
            .map(|p| items(p, "sources"))
            .unwrap_or_default()
        {
            self.add(Kind::Secret, source.pointer("/secret/name"));
            self.add(Kind::ConfigMap, source.pointer("/configMap/name"));
        }
        if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
            let claim = Value::from(format!("{pod_name}-{}", text(volume.get("name"))));
            self.add(Kind::PersistentVolumeClaim, Some(&claim));
        }
    }
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}
