//! Security context of a container: pod and container resolved into one, and the check for runAsNonRoot. Pure.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use crate::runtime::{Image, Seccomp, Security};

/// Why a container may not run as it would.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SecurityError(String);

fn seccomp(
    profile: Option<&SeccompProfile>,
    privileged: bool,
    default_on: bool,
    root_dir: &Path,
) -> Result<Seccomp, SecurityError> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        None if default_on => Ok(Seccomp::RuntimeDefault),
        None | Some(("Unconfined", _)) => Ok(Seccomp::Unconfined),
        Some(("RuntimeDefault", _)) => Ok(Seccomp::RuntimeDefault),
        Some(("Localhost", Some(file))) => {
            let inside = Path::new(file)
                .components()
                .all(|c| matches!(c, std::path::Component::Normal(_)));
            match inside {
                true => Ok(Seccomp::Localhost(root_dir.join("seccomp").join(file))),
                false => Err(SecurityError(format!(
                    "localhostProfile {file:?} must be a relative path without '..'"
                ))),
            }
        }
        Some((other, _)) => Err(SecurityError(format!(
            "invalid seccompProfile type {other:?}"
        ))),
    }
}

fn capabilities(list: Option<&Vec<String>>) -> Vec<String> {
    list.into_iter()
        .flatten()
        .map(|c| c.to_uppercase().trim_start_matches("CAP_").to_owned())
        .collect()
}

/// Pod and container as one; the container's word counts.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    seccomp_default: bool,
    root_dir: &Path,
) -> Result<Security, SecurityError> {
    let whole = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let privileged = own.and_then(|c| c.privileged).unwrap_or(false);
    let profile = own
        .and_then(|c| c.seccomp_profile.as_ref())
        .or(whole.and_then(|p| p.seccomp_profile.as_ref()));
    let mut groups: Vec<i64> = whole
        .and_then(|p| p.supplemental_groups.clone())
        .unwrap_or_default();
    groups.extend(whole.and_then(|p| p.fs_group));
    let given = own.and_then(|c| c.capabilities.as_ref());
    Ok(Security {
        privileged,
        run_as_user: own
            .and_then(|c| c.run_as_user)
            .or(whole.and_then(|p| p.run_as_user)),
        run_as_group: own
            .and_then(|c| c.run_as_group)
            .or(whole.and_then(|p| p.run_as_group)),
        run_as_non_root: own
            .and_then(|c| c.run_as_non_root)
            .or(whole.and_then(|p| p.run_as_non_root))
            .unwrap_or(false),
        supplemental_groups: groups,
        strict_groups: whole.and_then(|p| p.supplemental_groups_policy.as_deref())
            == Some("Strict"),
        add_capabilities: capabilities(given.and_then(|c| c.add.as_ref())),
        drop_capabilities: capabilities(given.and_then(|c| c.drop.as_ref())),
        read_only_root: own
            .and_then(|c| c.read_only_root_filesystem)
            .unwrap_or(false),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(profile, privileged, seccomp_default, root_dir)?,
        unmasked_proc: own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
    })
}

/// Refuses root where runAsNonRoot asks for it; the image's own user counts where none is given.
pub fn verify_non_root(
    pod: &Pod,
    container: &Container,
    security: &Security,
    image: &Image,
) -> Result<(), SecurityError> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let meta = &pod.metadata;
    let place = format!(
        "(pod: \"{}_{}({})\", container: {})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
        container.name
    );
    match (security.run_as_user, image.uid, &image.user) {
        (Some(0), ..) => Err(SecurityError(format!(
            "container's runAsUser breaks non-root policy {place}"
        ))),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) | (None, None, None) => Err(SecurityError(format!(
            "container has runAsNonRoot and image will run as root {place}"
        ))),
        (None, Some(_), _) => Ok(()),
        (None, None, Some(user)) => Err(SecurityError(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_overrides_and_root_is_refused() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "securityContext": {"runAsUser": 5, "runAsNonRoot": true, "fsGroup": 9, "supplementalGroups": [8]},
            "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 0, "capabilities": {"add": ["CAP_NET_ADMIN"], "drop": ["ALL"]}}}]}})).unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let get = |c: &Container| resolve(&pod, c, true, Path::new("/r")).unwrap();
        let image = Image {
            id: String::new(),
            tags: vec![],
            digests: vec![],
            size: 0,
            uid: None,
            user: Some("web".into()),
        };
        let (a, b) = (get(&containers[0]), get(&containers[1]));
        assert_eq!(
            (
                a.run_as_user,
                a.supplemental_groups.clone(),
                a.seccomp.clone()
            ),
            (Some(5), vec![8, 9], Seccomp::RuntimeDefault)
        );
        assert_eq!(b.add_capabilities, ["NET_ADMIN"]);
        assert!(verify_non_root(&pod, &containers[0], &a, &image).is_ok());
        assert!(
            verify_non_root(&pod, &containers[1], &b, &image)
                .unwrap_err()
                .to_string()
                .contains("breaks non-root policy")
        );
        let unknown = Security {
            run_as_user: None,
            ..a
        };
        assert!(
            verify_non_root(&pod, &containers[0], &unknown, &image)
                .unwrap_err()
                .to_string()
                .contains("non-numeric user (web)")
        );
    }
}
