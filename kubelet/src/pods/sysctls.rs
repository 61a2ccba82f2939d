//! Which sysctls a pod may set on this node. Pure.

use k8s_openapi::api::core::v1::Pod;

use super::memory::Verdict;

/// Namespaced and harmless: always allowed, as upstream has them.
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// In which namespace a sysctl is; `None` if in none.
fn namespace(name: &str) -> Option<&'static str> {
    match name {
        "kernel.sem" => Some("ipc"),
        _ if name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name.starts_with("fs.mqueue.") =>
        {
            Some("ipc")
        }
        _ if name.starts_with("net.") => Some("net"),
        _ => None,
    }
}

fn listed(name: &str, allowed: &[String]) -> bool {
    SAFE.contains(&name)
        || allowed.iter().any(|pattern| {
            pattern
                .strip_suffix('*')
                .map_or(pattern == name, |prefix| name.starts_with(prefix))
        })
}

/// Why the pod's sysctls are refused, if they are.
pub fn refuse(pod: &Pod, allowed: &[String]) -> Option<Verdict> {
    let spec = pod.spec.as_ref()?;
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    for sysctl in spec.security_context.as_ref()?.sysctls.iter().flatten() {
        // Both ways of writing a name are the same name.
        let name = match sysctl.name.find(['.', '/']) {
            Some(at) if sysctl.name[at..].starts_with('/') => sysctl
                .name
                .chars()
                .map(|c| match c {
                    '/' => '.',
                    '.' => '/',
                    c => c,
                })
                .collect(),
            _ => sysctl.name.clone(),
        };
        let why = match namespace(&name) {
            _ if !listed(&name, allowed) => "not allowlisted",
            Some("net") if on(spec.host_network) => "not allowed with host net enabled",
            Some("ipc") if on(spec.host_ipc) => "not allowed with host ipc enabled",
            _ => continue,
        };
        return Some(Verdict {
            reason: "SysctlForbidden".into(),
            message: format!(
                "Pod was rejected: forbidden sysctl: {:?} {why}",
                sysctl.name
            ),
            ..Verdict::default()
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_listed_and_namespaced() {
        let pod = |name: &str, host: bool| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "hostNetwork": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .unwrap()
        };
        assert_eq!(refuse(&pod("kernel.shm_rmid_forced", false), &[]), None);
        assert_eq!(refuse(&pod("kernel/shm_rmid_forced", false), &[]), None);
        let verdict = refuse(&pod("kernel.msgmax", false), &[]).unwrap();
        assert_eq!(verdict.reason, "SysctlForbidden");
        assert_eq!(
            verdict.message,
            "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
        assert_eq!(
            refuse(&pod("kernel.msgmax", false), &["kernel.msg*".into()]),
            None
        );
        assert!(refuse(&pod("net.ipv4.tcp_syncookies", true), &[]).is_some());
    }
}
