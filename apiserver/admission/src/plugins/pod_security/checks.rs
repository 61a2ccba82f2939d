//! The table of the Pod Security Standards: at which level, and since which release, each rule holds.

use keelson_registry::access::Access;
use serde_json::Value;

use super::policy::{Level, Standard, Version};
use super::{baseline as b, restricted as r};

/// What a rule found, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    reason: String,
    detail: String,
}

/// A pod, or the template of one.
pub(super) struct Subject<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) version: Version,
}

struct Check {
    level: Level,
    /// The first release that has the rule.
    since: u32,
    /// From which release on a restricted rule says the same and more, so that this one is left out at that level.
    covered_since: Option<u32>,
    run: fn(&Subject<'_>) -> Option<Violation>,
}

const fn baseline(
    since: u32,
    covered_since: Option<u32>,
    run: fn(&Subject<'_>) -> Option<Violation>,
) -> Check {
    Check {
        level: Level::Baseline,
        since,
        covered_since,
        run,
    }
}

const fn restricted(since: u32, run: fn(&Subject<'_>) -> Option<Violation>) -> Check {
    Check {
        level: Level::Restricted,
        since,
        covered_since: None,
        run,
    }
}

/// Every rule, in the order in which violations are told.
const ALL: &[Check] = &[
    baseline(0, None, b::app_armor),
    baseline(0, Some(22), b::added_capabilities),
    baseline(0, None, b::host_namespaces),
    baseline(0, Some(0), b::host_paths),
    baseline(0, None, b::host_ports),
    baseline(34, None, b::probe_hosts),
    baseline(0, None, b::privileged),
    baseline(0, Some(35), b::proc_mount_baseline),
    baseline(0, None, b::se_linux),
    baseline(0, Some(19), b::seccomp_baseline),
    baseline(0, None, b::sysctls),
    baseline(0, None, b::host_process),
    restricted(8, r::privilege_escalation),
    restricted(22, r::dropped_capabilities),
    restricted(35, b::proc_mount),
    restricted(0, r::volumes),
    restricted(0, r::run_as_non_root),
    restricted(23, r::run_as_user),
    restricted(19, r::seccomp_restricted),
];

/// Everything in a pod that a standard forbids.
pub(super) fn evaluate(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let subject = Subject {
        metadata,
        spec,
        version: standard.version,
    };
    let holds = |check: &&Check| {
        let covered = standard.level == Level::Restricted
            && check
                .covered_since
                .is_some_and(|v| standard.version.since(v));
        check.level <= standard.level && standard.version.since(check.since) && !covered
    };
    ALL.iter()
        .filter(holds)
        .filter_map(|check| (check.run)(&subject))
        .collect()
}

/// `reason (detail), reason (detail)`.
pub(super) fn details(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|v| format!("{} ({})", v.reason, v.detail))
        .collect();
    parts.join(", ")
}

/// `reason, reason`.
pub(super) fn reasons(violations: &[Violation]) -> String {
    let parts: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
    parts.join(", ")
}

pub(super) fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation {
        reason: reason.into(),
        detail,
    })
}

impl Subject<'_> {
    /// The names of the containers that a predicate finds fault with, init containers first.
    pub(super) fn containers(&self, mut bad: impl FnMut(&Value) -> bool) -> Vec<String> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists
            .iter()
            .flat_map(|list| self.spec.items(list))
            .filter(|c| bad(c))
            .map(|c| c.text("name").to_owned())
            .collect()
    }

    pub(super) fn is_windows(&self) -> bool {
        self.version.since(25) && self.spec.text("os.name") == "windows"
    }

    /// Root in a user namespace of the pod's own is not root.
    pub(super) fn has_own_users(&self) -> bool {
        self.version.since(35) && self.spec.part("hostUsers") == &Value::Bool(false)
    }
}

pub(super) fn quote<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> = names
        .into_iter()
        .map(|n| format!("\"{}\"", n.as_ref()))
        .collect();
    quoted.join(", ")
}

pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(containers: &[String]) -> String {
    format!(
        "{} {}",
        plural("container", containers.len()),
        quote(containers)
    )
}

/// `pod and containers "a", "b"`, with the parts that apply.
pub(super) fn setters(pod: bool, containers: &[String]) -> Vec<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(named(containers));
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(level: Level, version: Version, spec: Value) -> String {
        details(&evaluate(Standard { level, version }, &json!({}), &spec))
    }

    #[test]
    fn a_plain_pod_violates_the_restricted_standard_in_four_ways() {
        assert_eq!(
            found(
                Level::Restricted,
                Version::Latest,
                json!({"containers": [{"name": "a"}, {"name": "b"}]})
            ),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")"
        );
    }

    #[test]
    fn a_hardened_pod_passes() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(found(Level::Restricted, Version::Latest, spec), "");
    }

    #[test]
    fn baseline_forbids_what_reaches_the_host() {
        let spec = json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}}, "ports": [{"hostPort": 80}]}]});
        assert_eq!(
            found(Level::Baseline, Version::Latest, spec.clone()),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"root\"), \
             hostPort (container \"a\" uses hostPort 80), privileged (container \"a\" must not set securityContext.privileged=true)"
        );
        // At the restricted level the stricter rule speaks for both.
        let restricted = found(Level::Restricted, Version::Latest, spec);
        assert!(restricted.contains(
            "restricted volume types (volume \"root\" uses restricted volume type \"hostPath\")"
        ));
        assert!(!restricted.contains("hostPath volumes"));
    }

    #[test]
    fn rules_hold_from_their_release_on() {
        let probe = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]});
        assert_eq!(
            found(Level::Baseline, Version::Minor(33), probe.clone()),
            ""
        );
        assert!(
            found(Level::Baseline, Version::Minor(34), probe)
                .starts_with("probe or lifecycle host (container \"a\" uses")
        );
        let sysctl = json!({"containers": [], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(
            found(Level::Baseline, Version::Minor(31), sysctl.clone()),
            "forbidden sysctls (net.ipv4.tcp_rmem)"
        );
        assert_eq!(found(Level::Baseline, Version::Minor(32), sysctl), "");
    }
}
