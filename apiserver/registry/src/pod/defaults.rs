//! What a pod specification says where it says nothing.

use serde_json::{Value, json};

use crate::access::{
    Access, items_mut, part_mut, set, set_default, set_default_number, set_default_text,
};
use crate::validation::quantity;

/// Fills in a pod specification, in a Pod or a template.
pub fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default_text(spec, "dnsPolicy", "ClusterFirst");
    set_default_text(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_text(spec, "schedulerName", "default-scheduler");
    alias(spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            fill_container(container);
        }
    }
    round(spec, "overhead");
    for side in ["resources.limits", "resources.requests"] {
        round(spec, side);
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
}

/// The old name of the service account is kept equal to the new one.
fn alias(spec: &mut Value) {
    let (new, old) = (
        spec.text("serviceAccountName").to_string(),
        spec.text("serviceAccount").to_string(),
    );
    if !new.is_empty() {
        set(spec, "serviceAccount", new);
    } else if !old.is_empty() {
        set(spec, "serviceAccountName", old);
    }
}

/// Whether an image reference names neither a digest nor a tag other than `latest`.
fn is_moving(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn pull_policy(image: &str) -> &'static str {
    if is_moving(image) {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn fill_container(container: &mut Value) {
    let policy = pull_policy(container.text("image"));
    set_default_text(container, "imagePullPolicy", policy);
    set_default_text(container, "terminationMessagePath", "/dev/termination-log");
    set_default_text(container, "terminationMessagePolicy", "File");
    for port in items_mut(container, "ports") {
        set_default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = part_mut(variable, "valueFrom.fieldRef") {
            set_default_text(reference, "apiVersion", "v1");
        }
        if let Some(reference) = part_mut(variable, "valueFrom.fileKeyRef") {
            set_default(reference, "optional", false);
        }
    }
    for side in ["resources.limits", "resources.requests"] {
        round(container, side);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = part_mut(container, name) {
            probe(found);
        }
    }
    for hook in ["lifecycle.postStart", "lifecycle.preStop"] {
        if let Some(get) = part_mut(container, hook).and_then(|h| part_mut(h, "httpGet")) {
            http_get(get);
        }
    }
}

/// Amounts finer than a thousandth are rounded up to one.
fn round(object: &mut Value, path: &str) {
    let Some(Value::Object(list)) = part_mut(object, path) else {
        return;
    };
    for amount in list.values_mut() {
        let exact = quantity(amount);
        let rounded = exact.rounded_to_milli();
        if rounded != exact {
            *amount = rounded.to_string().into();
        }
    }
}

fn probe(probe: &mut Value) {
    set_default_number(probe, "timeoutSeconds", 1);
    set_default_number(probe, "periodSeconds", 10);
    set_default_number(probe, "successThreshold", 1);
    set_default_number(probe, "failureThreshold", 3);
    if let Some(get) = part_mut(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = part_mut(probe, "grpc") {
        set_default(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    set_default_text(get, "path", "/");
    set_default_text(get, "scheme", "HTTP");
}

/// The sources a volume can have.
pub(super) const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "configMap",
    "vsphereVolume",
    "quobyte",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn volume(volume: &mut Value) {
    if !SOURCES.iter().any(|s| volume.has(s)) {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(found) = part_mut(volume, source) {
            set_default(found, "defaultMode", 420);
        }
    }
    for item in items_mut(volume, "downwardAPI.items") {
        field_reference(item);
    }
    for source in items_mut(volume, "projected.sources") {
        if let Some(token) = part_mut(source, "serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        if let Some(certificate) = part_mut(source, "podCertificate") {
            set_default(certificate, "maxExpirationSeconds", 86400);
        }
        for item in items_mut(source, "downwardAPI.items") {
            field_reference(item);
        }
    }
    if let Some(image) = part_mut(volume, "image") {
        let policy = pull_policy(image.text("reference"));
        set_default_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = part_mut(volume, "ephemeral.volumeClaimTemplate.spec") {
        set_default(claim, "volumeMode", "Filesystem");
    }
    old_sources(volume);
}

fn field_reference(item: &mut Value) {
    if let Some(reference) = part_mut(item, "fieldRef") {
        set_default_text(reference, "apiVersion", "v1");
    }
}

/// Defaults of sources that volumes and persistent volumes share.
pub fn old_sources(volume: &mut Value) {
    const TEXTS: &[(&str, &str, &str)] = &[
        ("iscsi", "iscsiInterface", "default"),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("azureDisk", "cachingMode", "ReadWrite"),
        ("azureDisk", "fsType", "ext4"),
        ("azureDisk", "kind", "Shared"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ];
    for (source, key, value) in TEXTS {
        if let Some(found) = part_mut(volume, source) {
            set_default_text(found, key, value);
        }
    }
    if let Some(disk) = part_mut(volume, "azureDisk") {
        set_default(disk, "readOnly", false);
    }
    if let Some(host) = part_mut(volume, "hostPath") {
        set_default(host, "type", "");
    }
}

/// What only Pods get, never templates.
pub fn pod(pod: &mut Value) {
    let Some(spec) = part_mut(pod, "spec") else {
        return;
    };
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_level(spec);
    set_default(spec, "enableServiceLinks", true);
    if spec.flag("hostNetwork") {
        for list in ["containers", "initContainers"] {
            for port in items_mut(spec, list).flat_map(|c| items_mut(c, "ports")) {
                let number = port.number("containerPort");
                if number != 0 {
                    set_default_number(port, "hostPort", number);
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.part("resources.limits").as_object().cloned() else {
        return;
    };
    for (name, limit) in limits {
        if container.part("resources.requests").get(&name).is_none() {
            let requests = crate::access::slot(container, "resources.requests");
            if !requests.is_object() {
                *requests = json!({});
            }
            requests[name] = limit;
        }
    }
}

/// Pod-level requests come from the containers' or from the pod-level limits.
fn pod_level(spec: &mut Value) {
    use serde::Deserialize as _;
    if !spec.has("resources")
        || (spec.is_blank("resources.limits") && spec.is_blank("resources.requests"))
    {
        return;
    }
    let mut containers_only = spec.clone();
    for own in ["resources", "overhead"] {
        crate::access::remove(&mut containers_only, own);
    }
    let Ok(typed) = k8s_openapi::api::core::v1::PodSpec::deserialize(&containers_only) else {
        return;
    };
    let mut requests = spec
        .part("resources.requests")
        .as_object()
        .cloned()
        .unwrap_or_default();
    if !spec.is_blank("resources.limits") {
        for (name, amount) in keelson_api::pod::requests(&typed) {
            if matches!(name.as_str(), "cpu" | "memory") {
                requests
                    .entry(name)
                    .or_insert_with(|| amount.to_string().into());
            }
        }
    }
    for (name, limit) in spec.entries("resources.limits") {
        requests.entry(name).or_insert_with(|| limit.clone());
    }
    if !requests.is_empty() {
        set(spec, "resources.requests", requests);
    }
    let huge: Vec<_> = keelson_api::pod::limits(&typed)
        .into_iter()
        .filter(|(n, _)| n.starts_with("hugepages-"))
        .collect();
    for (name, amount) in huge {
        if spec.part("resources.requests").get(&name).is_none()
            && spec.part("resources.limits").get(&name).is_none()
        {
            let limits = crate::access::slot(spec, "resources.limits");
            if !limits.is_object() {
                *limits = json!({});
            }
            limits[name] = amount.to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_tag_are_pulled_always() {
        for (image, want) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("r:5000/a", "Always"),
            ("r:5000/a:1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_minimal_spec_is_filled_in() {
        let mut object = json!({
            "containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "0.0001"}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
            "serviceAccountName": "s"
        });
        spec(&mut object);
        assert_eq!(
            object,
            json!({
                "containers": [{"name": "c", "image": "a:1", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3}, "resources": {"limits": {"cpu": "1m"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}}],
                "serviceAccountName": "s", "serviceAccount": "s",
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler"
            })
        );
    }

    #[test]
    fn pods_take_requests_and_host_ports() {
        let mut object = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "2"}, "requests": {"cpu": "500m"}}}]}});
        pod(&mut object);
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["hostPort"], 80);
        assert_eq!(
            container["resources"]["requests"],
            json!({"cpu": "500m", "memory": "2"})
        );
        assert_eq!(object["spec"]["enableServiceLinks"], true);
    }
}
