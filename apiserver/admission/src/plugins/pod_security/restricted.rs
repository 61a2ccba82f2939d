//! The rules that the restricted standard adds: hardening as it is advised today.

use std::collections::BTreeSet;

use keelson_registry::access::Access;
use serde_json::Value;

use super::baseline::{added, seccomp, seccomp_baseline, uses};
use super::checks::{Subject, Violation, named, plural, quote, setters, violation};

pub(super) fn privilege_escalation(s: &Subject<'_>) -> Option<Violation> {
    if s.is_windows() {
        return None;
    }
    let bad =
        s.containers(|c| c.part("securityContext.allowPrivilegeEscalation") != &Value::Bool(false));
    if bad.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            named(&bad)
        ),
    )
}

pub(super) fn dropped_capabilities(s: &Subject<'_>) -> Option<Violation> {
    if s.is_windows() {
        return None;
    }
    let keeping = s.containers(|c| {
        !c.items("securityContext.capabilities.drop")
            .iter()
            .any(|cap| cap == "ALL")
    });
    let mut capabilities = BTreeSet::new();
    let adding = s.containers(|c| {
        let extra: Vec<&str> = added(c).filter(|cap| *cap != "NET_BIND_SERVICE").collect();
        capabilities.extend(extra.iter().map(|cap| (*cap).to_owned()));
        !extra.is_empty()
    });
    let mut parts = Vec::new();
    if !keeping.is_empty() {
        parts.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        ));
    }
    if !adding.is_empty() {
        let list = quote(&capabilities);
        parts.push(format!(
            "{} must not include {list} in securityContext.capabilities.add",
            named(&adding)
        ));
    }
    if parts.is_empty() {
        None
    } else {
        violation("unrestricted capabilities", parts.join("; "))
    }
}

pub(super) fn volumes(s: &Subject<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const KNOWN: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let mut types = BTreeSet::new();
    let mut bad = Vec::new();
    for volume in s.spec.items("volumes") {
        if ALLOWED.iter().any(|kind| volume.has(kind)) {
            continue;
        }
        bad.push(volume.text("name"));
        types.insert(
            KNOWN
                .into_iter()
                .find(|kind| volume.has(kind))
                .unwrap_or("unknown"),
        );
    }
    if bad.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", bad.len()),
            quote(&bad),
            uses(bad.len()),
            plural("restricted volume type", types.len()),
            quote(&types)
        ),
    )
}

pub(super) fn run_as_non_root(s: &Subject<'_>) -> Option<Violation> {
    if s.has_own_users() {
        return None;
    }
    let set = |holder: &Value| holder.part("securityContext.runAsNonRoot").as_bool();
    let pod = set(s.spec);
    let parts = setters(pod == Some(false), &s.containers(|c| set(c) == Some(false)));
    let reason = "runAsNonRoot != true";
    if !parts.is_empty() {
        return violation(
            reason,
            format!(
                "{} must not set securityContext.runAsNonRoot=false",
                parts.join(" and ")
            ),
        );
    }
    let bare = s.containers(|c| set(c).is_none());
    if pod == Some(true) || bare.is_empty() {
        return None;
    }
    violation(
        reason,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            named(&bare)
        ),
    )
}

pub(super) fn run_as_user(s: &Subject<'_>) -> Option<Violation> {
    if s.has_own_users() {
        return None;
    }
    let root = |holder: &Value| holder.int("securityContext.runAsUser") == Some(0);
    let parts = setters(root(s.spec), &s.containers(root));
    if parts.is_empty() {
        return None;
    }
    violation(
        "runAsUser=0",
        format!("{} must not set runAsUser=0", parts.join(" and ")),
    )
}

pub(super) fn seccomp_restricted(s: &Subject<'_>) -> Option<Violation> {
    if s.is_windows() {
        return None;
    }
    let explicit = seccomp_baseline(s);
    if explicit.is_some() {
        return explicit;
    }
    if seccomp(s.spec).is_some() {
        return None;
    }
    let bare = s.containers(|c| seccomp(c).is_none());
    if bare.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&bare)
        ),
    )
}
