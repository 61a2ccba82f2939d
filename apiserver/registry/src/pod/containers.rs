//! Validation of containers: regular, init and ephemeral ones.

use std::collections::{BTreeMap, BTreeSet};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::{environment, handlers, resources, security, volumes};
use crate::access::Access;
use crate::meta::faults;
use crate::validation::{one_of, protocol, required_one_of};

/// What containers are checked against.
pub(super) struct Surroundings<'s> {
    /// The pod's specification.
    pub(super) spec: &'s Value,
    /// The pod's good volumes, by name.
    pub(super) volumes: &'s BTreeMap<&'s str, &'s Value>,
    /// The names of the pod's resource claims.
    pub(super) claims: &'s BTreeSet<&'s str>,
}

impl Surroundings<'_> {
    fn grace(&self) -> Option<i64> {
        self.spec.int("terminationGracePeriodSeconds")
    }

    fn os(&self) -> &str {
        self.spec.text("os.name")
    }
}

/// The list `containers`.
pub(super) fn regular(errors: &mut ErrorList, around: &Surroundings<'_>, path: &Path<'_>) {
    let list = around.spec.items("containers");
    if list.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        common(errors, container, around, &at);
        if !names.insert(container.text("name")) {
            errors.push(Error::duplicate(&at.child("name"), container.text("name")));
        }
        if container.has("lifecycle") {
            handlers::lifecycle(errors, container, around.grace(), around.os(), &at);
        }
        handlers::probes(errors, container, around.grace(), &at);
        restart_policy(errors, container, &at);
    }
    host_ports(errors, list.iter().enumerate(), path);
}

/// The list `initContainers`.
pub(super) fn init(errors: &mut ErrorList, around: &Surroundings<'_>, path: &Path<'_>) {
    const ALONE: &str = "may not be set for init containers without restartPolicy=Always";
    let mut names: BTreeSet<&str> = around
        .spec
        .items("containers")
        .iter()
        .map(|c| c.text("name"))
        .collect();
    for (i, container) in around.spec.items("initContainers").iter().enumerate() {
        let at = path.index(i);
        common(errors, container, around, &at);
        restart_policy(errors, container, &at);
        let name = container.text("name");
        if names.contains(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        host_ports(errors, std::iter::once((i, container)), path);
        let sidecar = container.text("restartPolicy") == "Always";
        if sidecar {
            if container.has("lifecycle") {
                handlers::lifecycle(errors, container, around.grace(), around.os(), &at);
            }
            handlers::probes(errors, container, around.grace(), &at);
        } else {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if container.has(field) {
                    errors.push(Error::forbidden(&at.child(field), ALONE));
                }
            }
            let list = at.child("resizePolicy");
            for (j, policy) in container.items("resizePolicy").iter().enumerate() {
                if policy.text("restartPolicy") == "RestartContainer" {
                    let detail =
                        "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.push(Error::invalid(
                        &list.index(j).child("restartPolicy"),
                        "RestartContainer",
                        detail,
                    ));
                }
            }
        }
    }
}

/// The list `ephemeralContainers`.
pub(super) fn ephemeral(errors: &mut ErrorList, around: &Surroundings<'_>, path: &Path<'_>) {
    const REFUSED: &str = "cannot be set for an Ephemeral Container";
    let names = |list: &str| {
        around
            .spec
            .items(list)
            .iter()
            .map(|c| c.text("name"))
            .collect::<Vec<_>>()
    };
    let others: BTreeSet<&str> = names("containers")
        .into_iter()
        .chain(names("initContainers"))
        .collect();
    let mut all = others.clone();
    for (i, container) in around.spec.items("ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        common(errors, container, around, &at);
        image_spaces(errors, container, &at);
        let name = container.text("name");
        if !all.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        for field in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            if !container.is_blank(field) {
                errors.push(Error::forbidden(&at.child(field), REFUSED));
            }
        }
        let mounts = at.child("volumeMounts");
        for (j, mount) in container.items("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(field).is_empty() {
                    errors.push(Error::forbidden(&mounts.index(j).child(field), REFUSED));
                }
            }
        }
    }
}

/// An image must not be padded with spaces; checked in Pods only.
pub(super) fn image_spaces(errors: &mut ErrorList, container: &Value, path: &Path<'_>) {
    let image = container.text("image");
    if image.trim() != image {
        errors.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn common(errors: &mut ErrorList, container: &Value, around: &Surroundings<'_>, path: &Path<'_>) {
    let name = container.text("name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        faults(
            errors,
            &path.child("name"),
            name,
            names::dns1123_label(name),
        );
    }
    if container.text("image").is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    }
    let policy = container.text("terminationMessagePolicy");
    required_one_of(
        errors,
        policy,
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
    );
    ports(errors, container.items("ports"), &path.child("ports"));
    environment::variables(errors, container.items("env"), &path.child("env"));
    environment::sources(errors, container.items("envFrom"), &path.child("envFrom"));
    mounts(errors, container, around, &path.child("volumeMounts"));
    devices(errors, container, around, &path.child("volumeDevices"));
    let policy = container.text("imagePullPolicy");
    required_one_of(
        errors,
        policy,
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
    );
    resources::container(
        errors,
        container.part("resources"),
        around.claims,
        &path.child("resources"),
    );
    resize_policy(errors, container, around, &path.child("resizePolicy"));
    security::container(
        errors,
        container,
        around.spec,
        &path.child("securityContext"),
    );
}

fn ports(errors: &mut ErrorList, list: &[Value], path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (path.index(i), port.text("name"));
        if !name.is_empty() {
            let found = names::port_name(name);
            if found.is_empty() && !seen.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            faults(errors, &at.child("name"), name, found);
        }
        let number = port.number("containerPort");
        if number == 0 {
            errors.push(Error::required(&at.child("containerPort"), ""));
        }
        for (key, number) in [
            ("containerPort", number),
            ("hostPort", port.number("hostPort")),
        ] {
            if number != 0 {
                errors.extend(
                    names::port_number(number)
                        .into_iter()
                        .map(|f| Error::invalid(&at.child(key), number, f)),
                );
            }
        }
        protocol(errors, port.text("protocol"), &at.child("protocol"));
    }
}

fn host_ports<'c>(
    errors: &mut ErrorList,
    containers: impl Iterator<Item = (usize, &'c Value)>,
    path: &Path<'_>,
) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers {
        let list = path.index(i);
        let list = list.child("ports");
        for (j, port) in container
            .items("ports")
            .iter()
            .enumerate()
            .filter(|(_, p)| p.number("hostPort") != 0)
        {
            let key = format!(
                "{}/{}/{}",
                port.text("protocol"),
                port.text("hostIP"),
                port.number("hostPort")
            );
            if !seen.insert(key.clone()) {
                errors.push(Error::duplicate(&list.index(j).child("hostPort"), key));
            }
        }
    }
}

fn mounts(errors: &mut ErrorList, container: &Value, around: &Surroundings<'_>, path: &Path<'_>) {
    let devices = container.items("volumeDevices");
    let privileged = container.flag("securityContext.privileged");
    let mut seen = BTreeSet::new();
    for (i, mount) in container.items("volumeMounts").iter().enumerate() {
        let (at, name, target) = (path.index(i), mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !around.volumes.contains_key(name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        if target.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if !seen.insert(target) {
            errors.push(Error::invalid(
                &at.child("mountPath"),
                target,
                "must be unique",
            ));
        }
        if devices.iter().any(|d| d.text("name") == name) {
            errors.push(Error::invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeDevices",
            ));
        }
        if devices.iter().any(|d| d.text("devicePath") == target) {
            errors.push(Error::invalid(
                &at.child("mountPath"),
                target,
                "must not already exist as a path in volumeDevices",
            ));
        }
        // Upstream's paths of what follows lack the index.
        let (sub, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub.is_empty() {
            volumes::relative_path(errors, sub, &path.child("subPath"));
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.push(Error::invalid(
                    &at.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                ));
            }
            volumes::relative_path(errors, expression, &path.child("subPathExpr"));
        }
        mount_modes(errors, mount, privileged, path);
    }
}

fn mount_modes(errors: &mut ErrorList, mount: &Value, privileged: bool, path: &Path<'_>) {
    let propagation = mount.text("mountPropagation");
    if mount.has("mountPropagation") {
        let at = path.child("mountPropagation");
        one_of(
            errors,
            propagation,
            &["Bidirectional", "HostToContainer", "None"],
            &at,
        );
        if propagation == "Bidirectional" && !privileged {
            errors.push(Error::forbidden(
                &at,
                "Bidirectional mount propagation is available only to privileged containers",
            ));
        }
    }
    let at = path.child("recursiveReadOnly");
    match mount.text("recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                errors.push(Error::forbidden(
                    &at,
                    "may only be specified when readOnly is true",
                ));
            }
            if mount.has("mountPropagation") && propagation != "None" {
                errors.push(Error::forbidden(
                    &at,
                    "may only be specified when mountPropagation is None or not specified",
                ));
            }
        }
        other => errors.push(Error::not_supported(
            &at,
            other,
            &["Disabled", "Enabled", "IfPossible"],
        )),
    }
}

fn devices(errors: &mut ErrorList, container: &Value, around: &Surroundings<'_>, path: &Path<'_>) {
    let mounts = container.items("volumeMounts");
    let (mut devices, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in container.items("volumeDevices").iter().enumerate() {
        let (at, name, target) = (
            path.index(i),
            device.text("name"),
            device.text("devicePath"),
        );
        let here = at.child("name");
        if name.is_empty() {
            errors.push(Error::required(&here, ""));
        }
        if devices.contains(name) {
            errors.push(Error::invalid(&here, name, "must be unique"));
        }
        match around.volumes.get(name) {
            Some(v) if !v.has("persistentVolumeClaim") && !v.has("ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(&here, name, detail));
            }
            Some(_) => {}
            None => errors.push(Error::not_found(&here, name)),
        }
        let here = at.child("devicePath");
        if target.is_empty() {
            errors.push(Error::required(&here, ""));
        }
        if paths.contains(target) {
            errors.push(Error::invalid(&here, target, "must be unique"));
        }
        if volumes::has_backsteps(target) {
            errors.push(Error::invalid(
                &here,
                target,
                "can not contain backsteps ('..')",
            ));
        } else {
            paths.insert(target);
        }
        if mounts.iter().any(|m| m.text("name") == name) {
            errors.push(Error::invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeMounts",
            ));
        }
        if mounts.iter().any(|m| m.text("mountPath") == target) {
            errors.push(Error::invalid(
                &here,
                target,
                "must not already exist as a path in volumeMounts",
            ));
        }
        if !name.is_empty() {
            devices.insert(name);
        }
    }
}

fn resize_policy(
    errors: &mut ErrorList,
    container: &Value,
    around: &Surroundings<'_>,
    path: &Path<'_>,
) {
    let mut seen = BTreeSet::new();
    for (i, policy) in container.items("resizePolicy").iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(&path.index(i), resource));
        }
        required_one_of(errors, resource, &["cpu", "memory"], path);
        required_one_of(errors, restart, &["NotRequired", "RestartContainer"], path);
        if around.spec.text("restartPolicy") == "Never" && restart != "NotRequired" {
            errors.push(Error::invalid(
                path,
                restart,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            ));
        }
    }
}

fn restart_policy(errors: &mut ErrorList, container: &Value, path: &Path<'_>) {
    let at = path.child("restartPolicy");
    let rules = container.items("restartPolicyRules");
    if container.has("restartPolicy") {
        one_of(
            errors,
            container.text("restartPolicy"),
            &["Always", "Never", "OnFailure"],
            &at,
        );
    } else if !rules.is_empty() {
        errors.push(Error::required(
            &at,
            "must specify restartPolicy when restart rules are used",
        ));
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(Error::too_many(&list, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let here = list.index(i);
        one_of(
            errors,
            rule.text("action"),
            &["Restart", "RestartAllContainers"],
            &here.child("action"),
        );
        let codes = here.child("exitCodes");
        if !rule.has("exitCodes") {
            errors.push(Error::required(&codes, "must be specified"));
            continue;
        }
        one_of(
            errors,
            rule.text("exitCodes.operator"),
            &["In", "NotIn"],
            &codes.child("operator"),
        );
        let count = rule.items("exitCodes.values").len();
        if count > 255 {
            errors.push(Error::too_many(&codes.child("values"), count, 255));
        }
    }
}
