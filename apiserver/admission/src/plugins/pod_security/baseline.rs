//! The rules of the baseline standard: nothing that reaches the host.

use std::collections::BTreeSet;

use keelson_registry::access::Access;
use serde_json::Value;

use super::checks::{Subject, Violation, named, plural, quote, setters, violation};

pub(super) fn app_armor(s: &Subject<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |holder: &Value| {
        let kind = holder.text("securityContext.appArmorProfile.type");
        let fault = holder.has("securityContext.appArmorProfile")
            && !matches!(kind, "RuntimeDefault" | "Localhost");
        if fault {
            values.insert(kind.to_owned());
        }
        fault
    };
    let pod = bad(s.spec);
    let containers = s.containers(&mut bad);
    let mut parts = setters(pod, &containers);
    let mut annotations = Vec::new();
    for (key, value) in s
        .metadata
        .entries("annotations")
        .filter(|(k, _)| k.starts_with(ANNOTATION))
    {
        let value = value.as_str().unwrap_or_default();
        if !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/")) {
            annotations.push(format!("{key}={value:?}"));
            values.insert(value.to_owned());
        }
    }
    if !annotations.is_empty() {
        parts.push(plural("annotation", annotations.len()));
    }
    if parts.is_empty() {
        return None;
    }
    violation(
        &plural("forbidden AppArmor profile", values.len()),
        format!(
            "{} must not set AppArmor profile type to {}",
            parts.join(" and "),
            quote(&values)
        ),
    )
}

pub(super) fn added(container: &Value) -> impl Iterator<Item = &str> {
    container
        .items("securityContext.capabilities.add")
        .iter()
        .filter_map(Value::as_str)
}

pub(super) fn added_capabilities(s: &Subject<'_>) -> Option<Violation> {
    const DEFAULTS: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut capabilities = BTreeSet::new();
    let bad = s.containers(|c| {
        let extra: Vec<&str> = added(c).filter(|cap| !DEFAULTS.contains(cap)).collect();
        capabilities.extend(extra.iter().map(|cap| (*cap).to_owned()));
        !extra.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&bad),
            quote(&capabilities)
        ),
    )
}

pub(super) fn host_namespaces(s: &Subject<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| s.spec.flag(f))
        .map(|f| format!("{f}=true"))
        .collect();
    if used.is_empty() {
        None
    } else {
        violation("host namespaces", used.join(", "))
    }
}

pub(super) fn host_paths(s: &Subject<'_>) -> Option<Violation> {
    let bad: Vec<&str> = s
        .spec
        .items("volumes")
        .iter()
        .filter(|v| v.has("hostPath"))
        .map(|v| v.text("name"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    violation(
        "hostPath volumes",
        format!("{} {}", plural("volume", bad.len()), quote(&bad)),
    )
}

pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

pub(super) fn host_ports(s: &Subject<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = s.containers(|c| {
        let used: Vec<i64> = c
            .items("ports")
            .iter()
            .map(|p| p.number("hostPort"))
            .filter(|p| *p != 0)
            .collect();
        ports.extend(used.iter().map(ToString::to_string));
        !used.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let list: Vec<&str> = ports.iter().map(String::as_str).collect();
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        uses(bad.len()),
        plural("hostPort", list.len()),
        list.join(", ")
    );
    violation("hostPort", detail)
}

pub(super) fn probe_hosts(s: &Subject<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let bad: BTreeSet<String> = s
        .containers(|c| {
            let handlers = [
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
                "lifecycle.postStart",
                "lifecycle.preStop",
            ];
            let mut found = false;
            for host in handlers
                .iter()
                .flat_map(|h| ["httpGet", "tcpSocket"].map(|a| c.part(h).part(a).text("host")))
            {
                if !host.is_empty() {
                    hosts.insert(host.to_owned());
                    found = true;
                }
            }
            found
        })
        .into_iter()
        .collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<String> = bad.into_iter().collect();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            named(&names),
            uses(names.len()),
            plural("probe or lifecycle host", hosts.len()),
            quote(&hosts)
        ),
    )
}

pub(super) fn privileged(s: &Subject<'_>) -> Option<Violation> {
    let bad = s.containers(|c| c.flag("securityContext.privileged"));
    if bad.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            named(&bad)
        ),
    )
}

pub(super) fn proc_mount_baseline(s: &Subject<'_>) -> Option<Violation> {
    if s.has_own_users() {
        None
    } else {
        proc_mount(s)
    }
}

pub(super) fn proc_mount(s: &Subject<'_>) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let bad = s.containers(|c| {
        let kind = c.text("securityContext.procMount");
        let fault = !matches!(kind, "" | "Default");
        if fault {
            types.insert(kind.to_owned());
        }
        fault
    });
    if bad.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            named(&bad),
            quote(&types)
        ),
    )
}

pub(super) fn se_linux(s: &Subject<'_>) -> Option<Violation> {
    let engine = s.version.since(31);
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |holder: &Value| {
        let options = holder.part("securityContext.seLinuxOptions");
        let kind = options.text("type");
        let allowed = matches!(
            kind,
            "" | "container_t" | "container_init_t" | "container_kvm_t"
        ) || (engine && kind == "container_engine_t");
        if !allowed {
            types.insert(kind.to_owned());
        }
        let (has_user, has_role) = (!options.is_blank("user"), !options.is_blank("role"));
        user |= has_user;
        role |= has_role;
        !allowed || has_user || has_role
    };
    let pod = bad(s.spec);
    let containers = s.containers(&mut bad);
    let parts = setters(pod, &containers);
    if parts.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quote(&types)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    violation(
        "seLinuxOptions",
        format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            parts.join(" and "),
            data.join("; ")
        ),
    )
}

/// The seccomp profile that somebody set; none where nobody did.
pub(super) fn seccomp(holder: &Value) -> Option<&str> {
    let profile = holder.part("securityContext.seccompProfile");
    if profile.is_null() {
        None
    } else {
        Some(profile.text("type"))
    }
}

fn confined(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

fn seccomp_violation(
    pod: bool,
    containers: &[String],
    values: &BTreeSet<String>,
) -> Option<Violation> {
    let parts = setters(pod, containers);
    if parts.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        parts.join(" and "),
        quote(values)
    );
    violation("seccompProfile", detail)
}

pub(super) fn seccomp_baseline(s: &Subject<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |holder: &Value| match seccomp(holder) {
        Some(profile) if !confined(profile) => {
            values.insert(profile.to_owned());
            true
        }
        _ => false,
    };
    let pod = bad(s.spec);
    let containers = s.containers(&mut bad);
    seccomp_violation(pod, &containers, &values)
}

/// Sysctls that are namespaced and harmless, with the release that allowed them.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn sysctls(s: &Subject<'_>) -> Option<Violation> {
    let allowed = |name: &str| {
        SYSCTLS
            .iter()
            .any(|(n, since)| *n == name && s.version.since(*since))
    };
    let bad: Vec<&str> = s
        .spec
        .items("securityContext.sysctls")
        .iter()
        .map(|c| c.text("name"))
        .filter(|n| !allowed(n))
        .collect();
    if bad.is_empty() {
        None
    } else {
        violation("forbidden sysctls", bad.join(", "))
    }
}

pub(super) fn host_process(s: &Subject<'_>) -> Option<Violation> {
    let bad = |holder: &Value| holder.flag("securityContext.windowsOptions.hostProcess");
    let parts = setters(bad(s.spec), &s.containers(bad));
    if parts.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        parts.join(" and ")
    );
    violation("hostProcess", detail)
}
