//! What the server does once when it starts, and goes on doing: the objects that every cluster has.

pub mod namespaces;
pub mod own;
pub mod rbac;

use std::sync::Arc;

use crate::server::Server;

/// Makes the start-up objects and starts what keeps them.
pub async fn run(server: &Arc<Server>) {
    namespaces::ensure(server).await;
    rbac::reconcile(server).await;
}

/// Takes back, when the server stops, what says that it is there.
pub async fn leave(_server: &Arc<Server>) {}
