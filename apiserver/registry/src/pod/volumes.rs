//! Validation of a pod's volumes.

use std::collections::{BTreeMap, BTreeSet};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::Value;

use super::defaults::SOURCES;
use super::environment::{field_reference, resource_reference};
use crate::access::Access;
use crate::meta::faults;
use crate::validation::{one_of, quantity, required};

const MODE_FAULT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const CONFLICT: &str = "conflicting duplicate paths";

/// Fields that downward API volumes can show.
const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Checks the volumes; answers the good ones by name.
pub fn volumes<'v>(
    errors: &mut ErrorList,
    list: &'v [Value],
    pod_name: &str,
    path: &Path<'_>,
) -> BTreeMap<&'v str, &'v Value> {
    let mut good = BTreeMap::new();
    for (i, volume) in list.iter().enumerate() {
        let (at, name) = (path.index(i), volume.text("name"));
        let mut found = ErrorList::new();
        source(&mut found, volume, &at);
        if volume.has("ephemeral") && !pod_name.is_empty() && !name.is_empty() {
            let claim = format!("{pod_name}-{name}");
            for fault in names::dns1123_subdomain(&claim) {
                found.push(Error::invalid(
                    &at.child("name"),
                    name,
                    format!("PVC name \"{claim}\": {fault}"),
                ));
            }
        }
        if name.is_empty() {
            found.push(Error::required(&at.child("name"), ""));
        } else {
            faults(
                &mut found,
                &at.child("name"),
                name,
                names::dns1123_label(name),
            );
        }
        if good.contains_key(name) {
            found.push(Error::duplicate(&at.child("name"), name));
        }
        if found.is_empty() {
            good.insert(name, volume);
        }
        errors.append(&mut found);
    }
    for (i, volume) in list.iter().enumerate() {
        let claim = volume.text("persistentVolumeClaim.claimName");
        let made =
            |v: &Value| v.has("ephemeral") && format!("{pod_name}-{}", v.text("name")) == claim;
        if !claim.is_empty() && !pod_name.is_empty() && list.iter().any(made) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(Error::invalid(
                &path.index(i).child("persistentVolumeClaim.claimName"),
                claim,
                detail,
            ));
        }
    }
    good
}

fn source(errors: &mut ErrorList, volume: &Value, path: &Path<'_>) {
    let mut first = true;
    for kind in SOURCES.iter().filter(|k| volume.has(k)) {
        let at = path.child(kind);
        if first {
            first = false;
            one_source(errors, kind, volume.part(kind), &at);
        } else {
            errors.push(Error::forbidden(
                &at,
                "may not specify more than 1 volume type",
            ));
        }
    }
    if first {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

fn one_source(errors: &mut ErrorList, kind: &str, source: &Value, path: &Path<'_>) {
    match kind {
        "emptyDir" => {
            if source.has("sizeLimit") && quantity(source.part("sizeLimit")) < Quantity::ZERO {
                errors.push(Error::forbidden(
                    &path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
        }
        "hostPath" => host_path(errors, source, path),
        "gitRepo" => {
            required(errors, source, "repository", path);
            relative_path(errors, source.text("directory"), &path.child("directory"));
        }
        "secret" => {
            required(errors, source, "secretName", path);
            mode(errors, source, "defaultMode", path);
            keys(errors, source.items("items"), &path.child("items"));
        }
        "configMap" => {
            required(errors, source, "name", path);
            mode(errors, source, "defaultMode", path);
            keys(errors, source.items("items"), &path.child("items"));
        }
        "downwardAPI" => {
            mode(errors, source, "defaultMode", path);
            for item in source.items("items") {
                downward_item(errors, item, path);
            }
        }
        "projected" => {
            mode(errors, source, "defaultMode", path);
            projected(errors, source.items("sources"), path);
        }
        "persistentVolumeClaim" => required(errors, source, "claimName", path),
        "ephemeral" => ephemeral(errors, source, path),
        "csi" => csi(errors, source, path),
        "image" => {
            required(errors, source, "reference", path);
            let policy = source.text("pullPolicy");
            if !policy.is_empty() {
                one_of(
                    errors,
                    policy,
                    &["Always", "IfNotPresent", "Never"],
                    &path.child("pullPolicy"),
                );
            }
        }
        other => super::volumes::shared_source(errors, other, source, path),
    }
}

/// Sources that a pod's volumes share with persistent volumes.
pub fn shared_source(errors: &mut ErrorList, kind: &str, source: &Value, path: &Path<'_>) {
    match kind {
        "nfs" => {
            required(errors, source, "server", path);
            required(errors, source, "path", path);
            if !source.text("path").is_empty() && !source.text("path").starts_with('/') {
                errors.push(Error::invalid(
                    &path.child("path"),
                    source.text("path"),
                    "must be an absolute path",
                ));
            }
        }
        "gcePersistentDisk" => required(errors, source, "pdName", path),
        "awsElasticBlockStore" | "cinder" => required(errors, source, "volumeID", path),
        "glusterfs" => {
            required(errors, source, "endpoints", path);
            required(errors, source, "path", path);
        }
        "rbd" => {
            if source.is_blank("monitors") {
                errors.push(Error::required(&path.child("monitors"), ""));
            }
            required(errors, source, "image", path);
        }
        "cephfs" if source.is_blank("monitors") => {
            errors.push(Error::required(&path.child("monitors"), ""));
        }
        "flexVolume" => required(errors, source, "driver", path),
        "vsphereVolume" => required(errors, source, "volumePath", path),
        "photonPersistentDisk" => required(errors, source, "pdID", path),
        "portworxVolume" => required(errors, source, "volumeID", path),
        "azureFile" => {
            required(errors, source, "secretName", path);
            required(errors, source, "shareName", path);
        }
        "azureDisk" => {
            required(errors, source, "diskName", path);
            required(errors, source, "diskURI", path);
        }
        "scaleIO" => {
            required(errors, source, "gateway", path);
            required(errors, source, "system", path);
            required(errors, source, "volumeName", path);
        }
        "iscsi" => {
            required(errors, source, "targetPortal", path);
            required(errors, source, "iqn", path);
            let lun = source.number("lun");
            if !(0..=255).contains(&lun) {
                errors.push(Error::invalid(
                    &path.child("lun"),
                    lun,
                    names::inclusive_range_error(0, 255),
                ));
            }
        }
        "quobyte" => {
            required(errors, source, "registry", path);
            required(errors, source, "volume", path);
        }
        "fc" if source.is_blank("targetWWNs") && source.is_blank("wwids") => {
            errors.push(Error::required(
                &path.child("targetWWNs"),
                "must specify either targetWWNs or wwids, but not both",
            ));
        }
        _ => {}
    }
}

/// A path on the host.
pub fn host_path(errors: &mut ErrorList, source: &Value, path: &Path<'_>) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let target = source.text("path");
    if target.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(errors, target, &path.child("path"));
    if source.has("type") {
        one_of(errors, source.text("type"), TYPES, &path.child("type"));
    }
}

fn ephemeral(errors: &mut ErrorList, source: &Value, path: &Path<'_>) {
    let at = path.child("volumeClaimTemplate");
    if !source.has("volumeClaimTemplate") {
        errors.push(Error::required(&at, ""));
        return;
    }
    let template = source.part("volumeClaimTemplate");
    let meta = at.child("metadata");
    crate::meta::labels(
        errors,
        template.part("metadata.labels"),
        &meta.child("labels"),
    );
    crate::meta::annotations(
        errors,
        template.part("metadata.annotations"),
        &meta.child("annotations"),
    );
    let spec = at.child("spec");
    if template.is_blank("spec.accessModes") {
        errors.push(Error::required(
            &spec.child("accessModes"),
            "at least 1 access mode is required",
        ));
    }
    if template
        .part("spec.resources.requests")
        .get("storage")
        .is_none_or(|s| quantity(s) <= Quantity::ZERO)
    {
        let resources = spec.child("resources");
        errors.push(Error::required(&resources.key("storage"), ""));
    }
}

fn csi(errors: &mut ErrorList, source: &Value, path: &Path<'_>) {
    driver_name(errors, source.text("driver"), &path.child("driver"));
    if source.has("nodePublishSecretRef") {
        let name = source.text("nodePublishSecretRef.name");
        let reference = path.child("nodePublishSecretRef");
        if name.is_empty() {
            errors.push(Error::required(&reference.child("name"), ""));
        } else {
            faults(
                errors,
                &reference.child("name"),
                name,
                names::dns1123_subdomain(name),
            );
        }
    }
}

/// The name of a CSI driver: a domain of at most 63 letters, whose case does not matter.
pub fn driver_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    faults(
        errors,
        path,
        name,
        names::dns1123_subdomain(&name.to_lowercase()),
    );
}

fn mode(errors: &mut ErrorList, object: &Value, key: &str, path: &Path<'_>) {
    if let Some(mode) = object.int(key).filter(|m| !(0..=0o777).contains(m)) {
        errors.push(Error::invalid(&path.child(key), mode, MODE_FAULT));
    }
}

fn keys(errors: &mut ErrorList, items: &[Value], path: &Path<'_>) {
    for (i, item) in items.iter().enumerate() {
        key_to_path(errors, item, &path.index(i));
    }
}

fn key_to_path(errors: &mut ErrorList, item: &Value, path: &Path<'_>) {
    required(errors, item, "key", path);
    required(errors, item, "path", path);
    inner_path(errors, item.text("path"), &path.child("path"));
    mode(errors, item, "mode", path);
}

fn downward_item(errors: &mut ErrorList, item: &Value, path: &Path<'_>) {
    required(errors, item, "path", path);
    inner_path(errors, item.text("path"), &path.child("path"));
    if item.has("fieldRef") {
        field_reference(
            errors,
            item.part("fieldRef"),
            FIELDS,
            &path.child("fieldRef"),
        );
        if item.has("resourceFieldRef") {
            errors.push(Error::invalid(
                path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ));
        }
    } else if item.has("resourceFieldRef") {
        resource_reference(
            errors,
            item.part("resourceFieldRef"),
            true,
            &path.child("resourceFieldRef"),
        );
    } else {
        errors.push(Error::required(
            path,
            "one of fieldRef and resourceFieldRef is required",
        ));
    }
    mode(errors, item, "mode", path);
}

fn projected(errors: &mut ErrorList, sources: &[Value], path: &Path<'_>) {
    const KINDS: &[&str] = &[
        "secret",
        "configMap",
        "downwardAPI",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    let list = path.child("sources");
    for (i, source) in sources.iter().enumerate() {
        let at = list.index(i);
        for kind in ["secret", "configMap"]
            .into_iter()
            .filter(|k| source.has(k))
        {
            let (part, here) = (source.part(kind), at.child(kind));
            required(errors, part, "name", &here);
            keys(errors, part.items("items"), &here.child("items"));
            for target in part
                .items("items")
                .iter()
                .map(|k| k.text("path"))
                .filter(|p| !p.is_empty())
            {
                if !paths.insert(target) {
                    errors.push(Error::invalid(path, part.text("name"), CONFLICT));
                }
            }
        }
        for item in source.items("downwardAPI.items") {
            downward_item(errors, item, &at.child("downwardAPI"));
            if !item.text("path").is_empty() && !paths.insert(item.text("path")) {
                errors.push(Error::invalid(path, item.text("path"), CONFLICT));
            }
        }
        if source.has("serviceAccountToken") {
            token(
                errors,
                source.part("serviceAccountToken"),
                path,
                &at.child("serviceAccountToken"),
            );
        }
        if KINDS.iter().filter(|k| source.has(k)).count() > 1 {
            errors.push(Error::forbidden(
                &at,
                "may not specify more than 1 volume type per source",
            ));
        }
    }
}

fn token(errors: &mut ErrorList, token: &Value, volume: &Path<'_>, path: &Path<'_>) {
    let seconds = token.number("expirationSeconds");
    let at = path.child("expirationSeconds");
    if seconds < 600 {
        errors.push(Error::invalid(
            &at,
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > 1 << 32 {
        errors.push(Error::invalid(
            &at,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    let target = token.text("path");
    if target.is_empty() {
        errors.push(Error::required(&volume.child("path"), ""));
    } else {
        inner_path(errors, target, &volume.child("path"));
    }
}

/// A path below a volume: relative, without `..`.
pub fn relative_path(errors: &mut ErrorList, target: &str, path: &Path<'_>) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errors, target, path);
}

/// Whether a path climbs.
#[must_use]
pub fn has_backsteps(target: &str) -> bool {
    target.split('/').any(|part| part == "..")
}

fn no_backsteps(errors: &mut ErrorList, target: &str, path: &Path<'_>) {
    if has_backsteps(target) {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
}

/// A path of a file that the kubelet writes: names that begin with `..` are its own.
fn inner_path(errors: &mut ErrorList, target: &str, path: &Path<'_>) {
    relative_path(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(list: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        volumes(
            &mut errors,
            list.as_array().unwrap(),
            "p",
            &spec.child("volumes"),
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn volumes_are_checked() {
        assert_eq!(
            of(json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}])),
            ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]
        );
        assert_eq!(
            of(json!([{"name": "a"}])),
            ["spec.volumes[0]: Required value: must specify a volume type"]
        );
        assert_eq!(
            of(json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}])),
            ["spec.volumes[1].name: Duplicate value: \"a\""]
        );
        assert_eq!(
            of(
                json!([{"name": "a", "configMap": {"defaultMode": 512, "items": [{"key": "k", "path": "../x"}]}}])
            ),
            [
                "spec.volumes[0].configMap.name: Required value",
                "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'"
            ]
        );
        assert_eq!(
            of(
                json!([{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 1, "path": "token"}}]}}])
            ),
            [
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes"
            ]
        );
        assert_eq!(
            of(
                json!([{"name": "a", "downwardAPI": {"items": [{"path": "x", "fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}]}}])
            ),
            [
                "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x"
            ]
        );
    }
}
