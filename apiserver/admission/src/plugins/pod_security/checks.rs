//! The rules of the Pod Security Standards, one function each, and the table that says at which level and since when each holds.

use std::collections::BTreeSet;

use keelson_registry::access::Access;
use serde_json::Value;

use super::policy::{Level, Standard, Version};

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
    baseline(0, None, app_armor),
    baseline(0, Some(22), added_capabilities),
    baseline(0, None, host_namespaces),
    baseline(0, Some(0), host_paths),
    baseline(0, None, host_ports),
    baseline(34, None, probe_hosts),
    baseline(0, None, privileged),
    baseline(0, Some(35), proc_mount_baseline),
    baseline(0, None, se_linux),
    baseline(0, Some(19), seccomp_baseline),
    baseline(0, None, sysctls),
    baseline(0, None, host_process),
    restricted(8, privilege_escalation),
    restricted(22, dropped_capabilities),
    restricted(35, proc_mount),
    restricted(0, volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, seccomp_restricted),
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

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation {
        reason: reason.into(),
        detail,
    })
}

impl Subject<'_> {
    /// The names of the containers that a predicate finds fault with, init containers first.
    fn containers(&self, mut bad: impl FnMut(&Value) -> bool) -> Vec<String> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists
            .iter()
            .flat_map(|list| self.spec.items(list))
            .filter(|c| bad(c))
            .map(|c| c.text("name").to_owned())
            .collect()
    }

    fn is_windows(&self) -> bool {
        self.version.since(25) && self.spec.text("os.name") == "windows"
    }

    /// Root in a user namespace of the pod's own is not root.
    fn has_own_users(&self) -> bool {
        self.version.since(35) && self.spec.part("hostUsers") == &Value::Bool(false)
    }
}

fn quote<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> = names
        .into_iter()
        .map(|n| format!("\"{}\"", n.as_ref()))
        .collect();
    quoted.join(", ")
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// `container "a"` or `containers "a", "b"`.
fn named(containers: &[String]) -> String {
    format!(
        "{} {}",
        plural("container", containers.len()),
        quote(containers)
    )
}

/// `pod and containers "a", "b"`, with the parts that apply.
fn setters(pod: bool, containers: &[String]) -> Vec<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(named(containers));
    }
    parts
}

fn app_armor(s: &Subject<'_>) -> Option<Violation> {
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

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container
        .items("securityContext.capabilities.add")
        .iter()
        .filter_map(Value::as_str)
}

fn added_capabilities(s: &Subject<'_>) -> Option<Violation> {
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

fn host_namespaces(s: &Subject<'_>) -> Option<Violation> {
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

fn host_paths(s: &Subject<'_>) -> Option<Violation> {
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

fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

fn host_ports(s: &Subject<'_>) -> Option<Violation> {
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

fn probe_hosts(s: &Subject<'_>) -> Option<Violation> {
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

fn privileged(s: &Subject<'_>) -> Option<Violation> {
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

fn proc_mount_baseline(s: &Subject<'_>) -> Option<Violation> {
    if s.has_own_users() {
        None
    } else {
        proc_mount(s)
    }
}

fn proc_mount(s: &Subject<'_>) -> Option<Violation> {
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

fn se_linux(s: &Subject<'_>) -> Option<Violation> {
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
fn seccomp(holder: &Value) -> Option<&str> {
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

fn seccomp_baseline(s: &Subject<'_>) -> Option<Violation> {
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

fn seccomp_restricted(s: &Subject<'_>) -> Option<Violation> {
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

fn sysctls(s: &Subject<'_>) -> Option<Violation> {
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

fn host_process(s: &Subject<'_>) -> Option<Violation> {
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

fn privilege_escalation(s: &Subject<'_>) -> Option<Violation> {
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

fn dropped_capabilities(s: &Subject<'_>) -> Option<Violation> {
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

fn volumes(s: &Subject<'_>) -> Option<Violation> {
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

fn run_as_non_root(s: &Subject<'_>) -> Option<Violation> {
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

fn run_as_user(s: &Subject<'_>) -> Option<Violation> {
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
