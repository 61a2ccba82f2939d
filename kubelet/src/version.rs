//! What this kubelet calls itself.

/// Version of Kubernetes it behaves as, with our build suffix.
pub const KUBELET: &str = "v1.36.2+keelson";

/// `nodeInfo.containerRuntimeVersion`.
pub fn runtime() -> String {
    format!("keelson://{}", env!("CARGO_PKG_VERSION"))
}
