//! The version that every daemon shows in `--version`, `/version` and its user agent.

/// Kubernetes' version that this build behaves as, with our build suffix.
pub const GIT_VERSION: &str = "v1.36.2+keelson";
/// Major version of the API.
pub const MAJOR: &str = "1";
/// Minor version of the API.
pub const MINOR: &str = "36";

/// What `--version` prints, as upstream: `Kubernetes v1.36.2+keelson`.
pub const LONG: &str = "Kubernetes v1.36.2+keelson";

/// User agent of a daemon in the form clients of upstream use.
pub fn user_agent(daemon: &str) -> String {
    format!(
        "{daemon}/{GIT_VERSION} ({}/{})",
        std::env::consts::OS,
        go_arch()
    )
}

/// The architecture in Go's words, which node labels, image indexes and `/version` use.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_parts_agree() {
        assert!(GIT_VERSION.starts_with(&format!("v{MAJOR}.{MINOR}.")));
        assert!(LONG.ends_with(GIT_VERSION));
        assert!(user_agent("kubelet").starts_with("kubelet/v1.36."));
    }
}
