//! What the server does once when it starts, and goes on doing: the objects that every cluster has.

pub mod bootstrap;
pub mod endpoints;
pub mod identity;
pub mod own;
pub mod rbac;

use std::sync::Arc;

use keelson_admission::service_addresses::Leaks;

use crate::addresses;
use crate::aggregation;
use crate::server::Server;

/// Makes the start-up objects and starts what keeps them.
pub async fn run(server: &Arc<Server>) {
    bootstrap::namespaces(server).await;
    rbac::reconcile(server).await;
    server.steps.rbac.done();
    bootstrap::priority_classes(server).await;
    server.steps.priority_classes.done();
    aggregation::register::start(server).await;
    server.steps.registration.done();
    bootstrap::flow_control(server).await;
    bootstrap::authentication(server).await;
    bootstrap::service_cidr(server).await;
    let mut leaks = Leaks::default();
    own::retry(server, "service addresses", async || {
        server.addresses.repair(&mut Leaks::default()).await
    })
    .await;
    if let Err(e) = server.addresses.repair(&mut leaks).await {
        tracing::warn!(error = %e, "looking for leaked Service addresses failed");
    }
    bootstrap::kubernetes_service(server).await;
    identity::renew_once(server).await;
    endpoints::reconcile(server).await;
    server.steps.system_objects.done();
    tokio::spawn(addresses::repair_loop(server.clone(), leaks));
    tokio::spawn(identity::keep(server.clone()));
    tokio::spawn(endpoints::keep(server.clone()));
}

/// Takes back, when the server stops, what says that it is there.
pub async fn leave(server: &Arc<Server>) {
    endpoints::leave(server).await;
}
