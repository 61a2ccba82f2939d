//! The namespaces that every cluster has.

use std::sync::Arc;

use serde_json::json;

use super::own::create_missing;
use crate::server::Server;

const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// Creates those that are missing.
pub async fn ensure(server: &Arc<Server>) {
    for name in NAMESPACES {
        create_missing(server, "namespaces", json!({"metadata": {"name": name}})).await;
    }
}
