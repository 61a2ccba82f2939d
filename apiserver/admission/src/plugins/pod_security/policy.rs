//! The levels and versions that a namespace's labels ask for.

use std::fmt;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_registry::access::Access;
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Which release's rules hold: its minor version, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    Minor(u32),
}

impl Version {
    /// Whether the rules that came with release 1.`minor` hold.
    pub(super) fn since(self, minor: u32) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(m) => m >= minor,
        }
    }
}

/// A level at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// What is refused.
    pub(super) enforce: Standard,
    /// What the audit log notes.
    pub(super) audit: Standard,
    /// What the user is warned of.
    pub(super) warn: Standard,
}

impl Policy {
    /// Reads a namespace's labels. What cannot be read is an error, and meanwhile counts as the strictest level to enforce and
    /// as nothing to audit or warn of.
    pub(super) fn of(namespace: &Value) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        let open = Standard {
            level: Level::Privileged,
            version: Version::Latest,
        };
        let mut policy = Self {
            enforce: open,
            audit: open,
            warn: open,
        };
        let (enforce, enforced) = read(namespace, "enforce", Level::Restricted, &mut errors);
        let (audit, _) = read(namespace, "audit", Level::Privileged, &mut errors);
        let (warn, _) = read(namespace, "warn", Level::Privileged, &mut errors);
        for (standard, found) in [
            (&mut policy.enforce, &enforce),
            (&mut policy.audit, &audit),
            (&mut policy.warn, &warn),
        ] {
            standard.level = found.0.unwrap_or(standard.level);
            standard.version = found.1.unwrap_or(standard.version);
        }
        if warn.0.is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warn.1.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether nothing is asked for.
    pub(super) fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|s| s.level == Level::Privileged)
    }
}

type Found = (Option<Level>, Option<Version>);

/// One mode's labels, and whether its level could be read.
fn read(namespace: &Value, mode: &str, fallback: Level, errors: &mut ErrorList) -> (Found, bool) {
    let labels = namespace.part("metadata.labels");
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let mut fault = |key: &str, value: &str, why: &str| {
        let metadata = Path::new("metadata");
        let path = metadata.child("labels");
        errors.push(Error::invalid(&path.key(key), value, why));
    };
    let level_key = format!("{PREFIX}{mode}");
    let mut readable = false;
    let level = label(&level_key).map(|word| match word {
        "privileged" | "baseline" | "restricted" => {
            readable = true;
            match word {
                "privileged" => Level::Privileged,
                "baseline" => Level::Baseline,
                _ => Level::Restricted,
            }
        }
        other => {
            fault(
                &level_key,
                other,
                "must be one of privileged, baseline, restricted",
            );
            fallback
        }
    });
    let version_key = format!("{PREFIX}{mode}-version");
    let version = label(&version_key).map(|word| match parse_version(word) {
        Some(version) => version,
        None => {
            fault(&version_key, word, "must be \"latest\" or \"v1.x\"");
            Version::Latest
        }
    });
    ((level, version), readable)
}

fn parse_version(word: &str) -> Option<Version> {
    if word == "latest" {
        return Some(Version::Latest);
    }
    let minor = word.strip_prefix("v1.")?;
    let plain =
        minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|b| b.is_ascii_digit()));
    if plain {
        minor.parse().ok().map(Version::Minor)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(labels: Value) -> Value {
        json!({"metadata": {"labels": labels}})
    }

    #[test]
    fn warnings_follow_what_is_enforced() {
        let (policy, errors) = Policy::of(&namespace(json!({
            "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"})));
        assert!(errors.is_empty());
        assert_eq!(
            (policy.enforce.to_string(), policy.warn.to_string()),
            ("baseline:v1.30".into(), "baseline:v1.30".into())
        );
        assert_eq!(policy.audit.level, Level::Privileged);
        assert!(Policy::of(&namespace(json!({}))).0.is_open());
    }

    #[test]
    fn unreadable_labels_fail_closed() {
        let (policy, errors) = Policy::of(&namespace(json!({
            "pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "1.30"})));
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(errors.len(), 2);
        assert_eq!(
            errors[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
        );
    }
}
