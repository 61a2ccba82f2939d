//! How far in front the group versions of this server stand in discovery: upstream's numbers.

/// The group that stands before all others.
pub const REGISTRATION: (&str, i64) = ("apiregistration.k8s.io", 20_001);
/// The priorities of the group and the version of custom resources.
pub const CUSTOM: (i64, i64) = (1_000, 100);

/// Group, version, priority of the group, priority of the version.
const TABLE: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
];

/// The priorities of a built-in group version that is registered.
pub fn builtin(group: &str, version: &str) -> Option<(i64, i64)> {
    TABLE
        .iter()
        .find(|row| (row.0, row.1) == (group, version))
        .map(|row| (row.2, row.3))
}

/// The priorities of a group version of this server.
pub fn of(group: &str, version: &str) -> (i64, i64) {
    if group == REGISTRATION.0 {
        return (REGISTRATION.1, 0);
    }
    builtin(group, version).unwrap_or(CUSTOM)
}

/// How high a version ranks among those of equal priority: `v2` above `v1`, releases above betas above alphas above
/// everything else.
pub fn rank(version: &str) -> (u8, u64, u64) {
    let numbers = |text: &str| -> Option<(u8, u64, u64)> {
        let rest = text.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => return Some((3, major, 0)),
            stage => match stage.strip_prefix("beta") {
                Some(minor) => (2, minor),
                None => (1, stage.strip_prefix("alpha")?),
            },
        };
        let minor = if minor.is_empty() {
            0
        } else {
            minor.parse().ok()?
        };
        Some((stage, major, minor))
    };
    numbers(version).unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_rank_above_betas() {
        let mut versions = [
            "v1alpha1", "v1", "foo", "v10", "v2beta1", "v2", "v1beta2", "v1beta1",
        ];
        versions.sort_by_key(|v| std::cmp::Reverse(rank(v)));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v2beta1", "v1beta2", "v1beta1", "v1alpha1", "foo"
            ]
        );
    }

    #[test]
    fn every_built_in_group_version_has_its_place() {
        for kind in keelson_registry::kinds::ALL.iter() {
            let known = builtin(&kind.group, &kind.version).is_some();
            assert_eq!(known, kind.group != REGISTRATION.0, "{}", kind.group);
        }
        assert_eq!(of("example.com", "v1"), CUSTOM);
    }
}
