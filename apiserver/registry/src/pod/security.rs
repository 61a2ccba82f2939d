//! Validation of security contexts.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::volumes::relative_path;
use crate::access::Access;
use crate::validation::one_of;

const ID_MAX: i64 = i32::MAX as i64;

fn id(errors: &mut ErrorList, value: Option<i64>, path: &Path<'_>) {
    if let Some(id) = value.filter(|v| !(0..=ID_MAX).contains(v)) {
        errors.push(Error::invalid(
            path,
            id,
            names::inclusive_range_error(0, ID_MAX),
        ));
    }
}

/// `securityContext` of a container.
pub(super) fn container(errors: &mut ErrorList, container: &Value, spec: &Value, path: &Path<'_>) {
    let context = container.part("securityContext");
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(errors, context.int(field), &path.child(field));
    }
    if context.has("procMount") {
        let (mount, at) = (context.text("procMount"), path.child("procMount"));
        one_of(errors, mount, &["Default", "Unmasked"], &at);
        let host_users = spec.part("hostUsers").as_bool().unwrap_or(true);
        if host_users && mount == "Unmasked" {
            errors.push(Error::invalid(
                &at,
                mount,
                "`hostUsers` must be false to use `Unmasked`",
            ));
        }
    }
    seccomp(
        errors,
        context.part("seccompProfile"),
        &path.child("seccompProfile"),
    );
    if context.part("allowPrivilegeEscalation") == &Value::Bool(false) {
        if context.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, context, detail));
        }
        if context
            .items("capabilities.add")
            .iter()
            .any(|c| c == "CAP_SYS_ADMIN")
        {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, context, detail));
        }
    }
    app_armor(
        errors,
        context.part("appArmorProfile"),
        &path.child("appArmorProfile"),
    );
}

/// `securityContext` of a pod.
pub(super) fn pod(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let context = spec.part("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, context.int(field), &path.child(field));
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in context.items("supplementalGroups").iter().enumerate() {
        id(errors, group.as_i64(), &groups.index(i));
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(
            &path.child("shareProcessNamespace"),
            true,
            detail,
        ));
    }
    sysctls(errors, spec, &path.child("sysctls"));
    for (field, allowed) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        if context.has(field) {
            one_of(errors, context.text(field), &allowed, &path.child(field));
        }
    }
    seccomp(
        errors,
        context.part("seccompProfile"),
        &path.child("seccompProfile"),
    );
    app_armor(
        errors,
        context.part("appArmorProfile"),
        &path.child("appArmorProfile"),
    );
}

fn is_sysctl(name: &str) -> bool {
    let segment = |s: &str| {
        let b = s.as_bytes();
        let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        !b.is_empty()
            && alnum(b[0])
            && alnum(b[b.len() - 1])
            && b.iter().all(|&c| alnum(c) || c == b'-' || c == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in spec.items("securityContext.sysctls").iter().enumerate() {
        let (at, name) = (path.index(i), sysctl.text("name"));
        let at = at.child("name");
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(&at, name, detail));
        } else if !seen.insert(name) {
            errors.push(Error::duplicate(&at, name));
        }
        let plain = name.replace('/', ".");
        if spec.flag("hostNetwork") && plain.starts_with("net.") {
            errors.push(Error::invalid(
                &at,
                name,
                "may not be specified when 'hostNetwork' is true",
            ));
        } else if spec.flag("hostIPC") && is_ipc(&plain) {
            errors.push(Error::invalid(
                &at,
                name,
                "may not be specified when 'hostIPC' is true",
            ));
        }
    }
}

fn is_ipc(name: &str) -> bool {
    name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.")
}

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(errors: &mut ErrorList, profile: &Value, path: &Path<'_>) {
    if profile.is_null() {
        return;
    }
    let kind = profile.text("type");
    if kind.is_empty() {
        errors.push(Error::required(
            &path.child("type"),
            "type is required when seccompProfile is set",
        ));
    } else {
        one_of(errors, kind, PROFILES, &path.child("type"));
    }
    let at = path.child("localhostProfile");
    match (kind == "Localhost", profile.has("localhostProfile")) {
        (true, false) => errors.push(Error::required(
            &at,
            "must be set when seccomp type is Localhost",
        )),
        (true, true) => relative_path(errors, profile.text("localhostProfile"), &at),
        (false, true) => errors.push(Error::invalid(
            &at,
            profile,
            "can only be set when seccomp type is Localhost",
        )),
        (false, false) => {}
    }
}

fn app_armor(errors: &mut ErrorList, profile: &Value, path: &Path<'_>) {
    if profile.is_null() {
        return;
    }
    let (kind, local) = (profile.text("type"), profile.text("localhostProfile"));
    let at = path.child("localhostProfile");
    match kind {
        "Localhost" => {
            if local.trim() != local {
                errors.push(Error::invalid(
                    &at,
                    local,
                    "must not be padded with whitespace",
                ));
            } else if local.is_empty() {
                errors.push(Error::required(
                    &at,
                    "must be set when AppArmor type is Localhost",
                ));
            }
            if local.len() > 4095 {
                errors.push(Error::too_long(&at, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.has("localhostProfile") {
                errors.push(Error::invalid(
                    &at,
                    local,
                    "can only be set when AppArmor type is Localhost",
                ));
            }
        }
        "" => errors.push(Error::required(
            &path.child("type"),
            "type is required when appArmorProfile is set",
        )),
        other => errors.push(Error::not_supported(&path.child("type"), other, PROFILES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contexts_are_checked() {
        let mut errors = ErrorList::new();
        let spec = json!({"hostPID": true, "shareProcessNamespace": true, "hostNetwork": true, "securityContext": {
            "runAsUser": -1, "sysctls": [{"name": "net.core.somaxconn"}], "seccompProfile": {"type": "Localhost"}, "fsGroupChangePolicy": "X"}});
        let path = Path::new("spec");
        pod(&mut errors, &spec, &path.child("securityContext"));
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnRootMismatch\"",
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ]
        );
    }

    #[test]
    fn privileges_must_agree() {
        let mut errors = ErrorList::new();
        let c = json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}});
        container(&mut errors, &c, &json!({}), &Path::new("c"));
        assert!(
            errors[0]
                .detail
                .starts_with("cannot set `allowPrivilegeEscalation` to false and `privileged`")
        );
    }
}
