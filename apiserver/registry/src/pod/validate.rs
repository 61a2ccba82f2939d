//! Validation of a whole pod specification.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::{containers, placement, resources, security, volumes};
use crate::access::Access;
use crate::meta::{faults, labels};
use crate::validation::{checked, one_of, required_one_of, tolerations};

/// Where a specification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'s> {
    /// In a Pod of this name.
    Pod(&'s str),
    /// In a template, whose pods have no names yet.
    Template,
}

/// Everything wrong with a pod specification.
pub fn spec(errors: &mut ErrorList, spec: &Value, scope: Scope<'_>, path: &Path<'_>) {
    let pod_name = match scope {
        Scope::Pod(name) => name,
        Scope::Template => "",
    };
    if !spec.has("terminationGracePeriodSeconds") {
        errors.push(Error::required(
            &path.child("terminationGracePeriodSeconds"),
            "",
        ));
    }
    let volumes = volumes::volumes(
        errors,
        spec.items("volumes"),
        pod_name,
        &path.child("volumes"),
    );
    let claims: BTreeSet<&str> = spec
        .items("resourceClaims")
        .iter()
        .map(|c| c.text("name"))
        .filter(|n| !n.is_empty())
        .collect();
    resource_claims(
        errors,
        spec.items("resourceClaims"),
        &path.child("resourceClaims"),
    );
    let around = containers::Surroundings {
        spec,
        volumes: &volumes,
        claims: &claims,
    };
    containers::regular(errors, &around, &path.child("containers"));
    containers::init(errors, &around, &path.child("initContainers"));
    containers::ephemeral(errors, &around, &path.child("ephemeralContainers"));
    resources::pod_level(errors, spec, &claims, path);
    host_network(errors, spec, scope, path);
    required_one_of(
        errors,
        spec.text("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(
        errors,
        spec.text("dnsPolicy"),
        &policies,
        &path.child("dnsPolicy"),
    );
    labels(
        errors,
        spec.part("nodeSelector"),
        &path.child("nodeSelector"),
    );
    security::pod(errors, spec, &path.child("securityContext"));
    placement::affinity(errors, spec.part("affinity"), &path.child("affinity"));
    placement::dns(errors, spec, &path.child("dnsConfig"));
    gates(errors, spec, path);
    placement::spread(
        errors,
        spec.items("topologySpreadConstraints"),
        &path.child("topologySpreadConstraints"),
    );
    host_users(errors, spec, path);
    host_name(errors, spec, path);
    names_of_others(errors, spec, path);
    deadline(errors, spec, path);
    tolerations(
        errors,
        spec.items("tolerations"),
        &path.child("tolerations"),
    );
    placement::host_aliases(
        errors,
        spec.items("hostAliases"),
        &path.child("hostAliases"),
    );
    if spec.has("preemptionPolicy") {
        let policy = spec.text("preemptionPolicy");
        required_one_of(
            errors,
            policy,
            &["PreemptLowerPriority", "Never"],
            &path.child("preemptionPolicy"),
        );
    }
    resources::limits_only(errors, spec.part("overhead"), &path.child("overhead"));
    operating_system(errors, spec, path);
    file_variables(errors, spec, path);
}

fn resource_claims(errors: &mut ErrorList, claims: &[Value], path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let (at, name) = (path.index(i), claim.text("name"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else if !seen.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else {
            faults(errors, &at.child("name"), name, names::dns1123_label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|s| claim.has(s)).count() {
            0 => errors.push(Error::invalid(&at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
            2 => errors.push(Error::invalid(&at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")),
            _ => {}
        }
        for source in sources {
            checked(errors, claim, source, &at, names::dns1123_subdomain);
        }
    }
}

fn host_network(errors: &mut ErrorList, spec: &Value, scope: Scope<'_>, path: &Path<'_>) {
    if !spec.flag("hostNetwork") {
        return;
    }
    let list = path.child("containers");
    for (i, container) in spec.items("containers").iter().enumerate() {
        let at = list.index(i);
        let ports = at.child("ports");
        for (j, port) in container.items("ports").iter().enumerate() {
            let (host, own) = (port.number("hostPort"), port.number("containerPort"));
            if (matches!(scope, Scope::Pod(_)) || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(
                    &ports.index(j).child("hostPort"),
                    host,
                    detail,
                ));
            }
        }
    }
}

fn gates(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let list = path.child("readinessGates");
    for (i, gate) in spec.items("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        faults(
            errors,
            &list.index(i).child("conditionType"),
            kind,
            names::qualified_name(kind),
        );
    }
    let list = path.child("schedulingGates");
    let mut seen = BTreeSet::new();
    for (i, gate) in spec.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        faults(errors, &list.index(i), name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.push(Error::duplicate(&list.index(i), name));
        }
    }
}

fn host_users(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    if spec.part("hostUsers") != &Value::Bool(false) {
        return;
    }
    for (field, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.flag(field) {
            errors.push(Error::forbidden(
                &path.child(shown),
                "when `hostUsers` is false",
            ));
        }
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(kind);
        for (i, _) in spec
            .items(kind)
            .iter()
            .enumerate()
            .filter(|(_, c)| !c.is_blank("volumeDevices"))
        {
            errors.push(Error::forbidden(
                &list.index(i).child("volumeDevices"),
                "when `hostUsers` is false",
            ));
        }
    }
}

fn host_name(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    if !spec.has("hostnameOverride") {
        return;
    }
    let (at, name) = (
        path.child("hostnameOverride"),
        spec.text("hostnameOverride"),
    );
    for (field, shown) in [
        ("setHostnameAsFQDN", "setHostnameAsFQDN"),
        ("hostNetwork", "hostNetwork"),
    ] {
        if spec.flag(field) {
            errors.push(Error::forbidden(
                &at,
                format!("may not be specified when {shown} is true"),
            ));
        }
    }
    if name.len() > 64 {
        errors.push(Error::too_long(&at, 64));
    }
    faults(errors, &at, name, names::dns1123_subdomain(name));
}

fn names_of_others(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    checked(
        errors,
        spec,
        "serviceAccountName",
        path,
        names::dns1123_subdomain,
    );
    checked(errors, spec, "nodeName", path, names::dns1123_subdomain);
    checked(errors, spec, "hostname", path, names::dns1123_label);
    checked(errors, spec, "subdomain", path, names::dns1123_label);
    checked(
        errors,
        spec,
        "priorityClassName",
        path,
        names::dns1123_subdomain,
    );
    if spec.has("runtimeClassName") {
        let name = spec.text("runtimeClassName");
        faults(
            errors,
            &path.child("runtimeClassName"),
            name,
            names::dns1123_subdomain(name),
        );
    }
}

fn deadline(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    const MAX: i64 = i32::MAX as i64;
    if let Some(seconds) = spec
        .int("activeDeadlineSeconds")
        .filter(|s| !(1..=MAX).contains(s))
    {
        errors.push(Error::invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            names::inclusive_range_error(1, MAX),
        ));
    }
}

/// Fields of the pod's and containers' security contexts that Windows does not know.
const NOT_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
];

fn operating_system(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    if !spec.has("os") {
        return;
    }
    let (os, at) = (spec.text("os.name"), path.child("os"));
    if os.is_empty() {
        errors.push(Error::required(&at.child("name"), "cannot be empty"));
        return;
    }
    one_of(errors, os, &["linux", "windows"], &at.child("name"));
    let windows = os == "windows";
    let mut context = |context: &Value, path: &Path<'_>| {
        if windows {
            for field in NOT_ON_WINDOWS.iter().filter(|f| context.has(f)) {
                errors.push(Error::forbidden(
                    &path.child(field),
                    "cannot be set for a windows pod",
                ));
            }
        } else if context.has("windowsOptions") {
            errors.push(Error::forbidden(
                &path.child("windowsOptions"),
                "windows options cannot be set for a linux pod",
            ));
        }
    };
    context(spec.part("securityContext"), &path.child("securityContext"));
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(kind);
        for (i, container) in spec.items(kind).iter().enumerate() {
            context(
                container.part("securityContext"),
                &list.index(i).child("securityContext"),
            );
        }
    }
    if windows {
        for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"]
            .into_iter()
            .filter(|f| spec.has(f))
        {
            errors.push(Error::forbidden(
                &path.child(field),
                "cannot be set for a windows pod",
            ));
        }
    }
}

fn file_variables(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(kind);
        for (i, container) in spec.items(kind).iter().enumerate() {
            let at = list.index(i);
            let env = at.child("env");
            for (j, variable) in container
                .items("env")
                .iter()
                .enumerate()
                .filter(|(_, v)| v.has("valueFrom.fileKeyRef"))
            {
                let name = variable.text("valueFrom.fileKeyRef.volumeName");
                let here = env.index(j);
                let here = here.child("valueFrom.fileKeyRef.volumeName");
                match spec
                    .items("volumes")
                    .iter()
                    .find(|v| v.text("name") == name)
                {
                    None => errors.push(Error::not_found(&here, name)),
                    Some(volume) if !volume.has("emptyDir") => {
                        errors.push(Error::invalid(
                            &here,
                            name,
                            "referenced volume must be of type emptyDir",
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn minimal() -> Value {
        let mut object = json!({"containers": [{"name": "c", "image": "a"}]});
        super::super::defaults::spec(&mut object);
        object
    }

    fn of(object: &Value, scope: Scope<'_>) -> Vec<String> {
        let mut errors = ErrorList::new();
        spec(&mut errors, object, scope, &Path::new("spec"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_minimal_spec_is_good() {
        assert_eq!(of(&minimal(), Scope::Pod("p")), Vec::<String>::new());
    }

    #[test]
    fn each_fault_has_upstreams_sentence() {
        let cases: Vec<(&str, Value, &str)> = vec![
            ("containers", json!([]), "spec.containers: Required value"),
            (
                "restartPolicy",
                json!("X"),
                "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                "dnsPolicy",
                json!("X"),
                "spec.dnsPolicy: Unsupported value: \"X\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            ),
            (
                "activeDeadlineSeconds",
                json!(0),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
            (
                "schedulingGates",
                json!([{"name": "a"}, {"name": "a"}]),
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
            ),
            (
                "hostAliases",
                json!([{"ip": "x"}]),
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                "os",
                json!({"name": "mac"}),
                "spec.os.name: Unsupported value: \"mac\": supported values: \"linux\", \"windows\"",
            ),
            (
                "resourceClaims",
                json!([{"name": "a"}]),
                "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
        ];
        for (field, value, want) in cases {
            let mut object = minimal();
            object[field] = value;
            assert_eq!(of(&object, Scope::Pod("p")), [want], "{field}");
        }
    }

    #[test]
    fn containers_are_checked() {
        let mut object = minimal();
        object["containers"][0]["name"] = "A".into();
        object["containers"][0]["image"] = "".into();
        object["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let found = of(&object, Scope::Pod("p"));
        assert!(
            found[0].starts_with(
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"
            ),
            "{found:?}"
        );
        assert_eq!(
            found[1..],
            [
                "spec.containers[0].image: Required value",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\""
            ]
        );
    }

    #[test]
    fn host_network_binds_ports() {
        let mut object = minimal();
        object["hostNetwork"] = true.into();
        object["containers"][0]["ports"] =
            json!([{"containerPort": 80, "hostPort": 81, "protocol": "TCP"}]);
        let want = "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true";
        assert_eq!(of(&object, Scope::Template), [want]);
    }
}
