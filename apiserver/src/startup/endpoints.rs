//! The endpoints of `default/kubernetes`: the addresses of all servers whose lease is fresh, as Endpoints and as an EndpointSlice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{bootstrap, identity, own};
use crate::objects::text;
use crate::response::ApiResult;
use crate::server::Server;

const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const EVERY: Duration = Duration::from_secs(10);

/// Makes the endpoints right until that succeeds once.
pub async fn reconcile(server: &Arc<Server>) {
    if server.options.reconcile_endpoints {
        own::retry(server, "endpoints of default/kubernetes", async || {
            write(server, &addresses(server, false)).await
        })
        .await;
    }
}

/// Keeps them right for as long as the server runs.
pub async fn keep(server: Arc<Server>) {
    if !server.options.reconcile_endpoints {
        return;
    }
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        bootstrap::kubernetes_service(&server).await;
        if let Err(e) = write(&server, &addresses(&server, false)).await {
            tracing::warn!(error = %e, "the endpoints of default/kubernetes could not be written");
        }
    }
}

/// Takes this server's address out, unless it is the only one: a restart then changes nothing.
pub async fn leave(server: &Arc<Server>) {
    if !server.options.reconcile_endpoints {
        return;
    }
    let others = addresses(server, true);
    if others.is_empty() {
        return;
    }
    let left = tokio::time::timeout(Duration::from_secs(5), write(server, &others)).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::warn!("this server's address could not be taken out of default/kubernetes");
    }
}

/// The addresses of the servers with a fresh lease; this one's own counts always, or never.
fn addresses(server: &Server, without_own: bool) -> BTreeSet<String> {
    let own_name = identity::name(server);
    let mut addresses = BTreeSet::new();
    if !without_own {
        addresses.insert(server.options.advertise_address.to_string());
    }
    let now = Timestamp::now();
    for lease in server
        .lookup
        .list("leases.coordination.k8s.io", "kube-system")
    {
        let labels = lease.pointer("/metadata/labels");
        let ours = labels
            .and_then(|l| l.get(identity::LABEL.0))
            .and_then(Value::as_str)
            == Some(identity::LABEL.1);
        if !ours || text(&lease, "name") == own_name {
            continue;
        }
        let renewed: Option<Timestamp> = lease
            .pointer("/spec/renewTime")
            .and_then(Value::as_str)
            .and_then(|t| t.parse().ok());
        let fresh = renewed.is_some_and(|t| now.duration_since(t).unsigned_abs() < identity::STALE);
        let address = lease
            .pointer("/metadata/annotations")
            .and_then(|a| a.get(identity::ADDRESS))
            .and_then(Value::as_str);
        if let (true, Some(address)) = (fresh, address) {
            let parsed = address.parse::<SocketAddr>();
            addresses.extend(parsed.map(|a| a.ip().to_string()));
        }
    }
    addresses
}

async fn write(server: &Server, addresses: &BTreeSet<String>) -> ApiResult<()> {
    let port = json!([{"name": "https", "port": server.options.secure_port, "protocol": "TCP"}]);
    let listed: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
    let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    put(
        server,
        ENDPOINTS,
        "subsets",
        json!([{"addresses": listed, "ports": port}]),
        json!({"metadata": metadata}),
    )
    .await?;
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "conditions": {"ready": true}}))
        .collect();
    let family = if server.options.advertise_address.is_ipv4() {
        "IPv4"
    } else {
        "IPv6"
    };
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "ports": port,
    });
    put(server, SLICES, "endpoints", Value::Array(endpoints), slice).await
}

/// Writes an object of the name `default/kubernetes` with one member as wanted, if it isn't so already.
async fn put(
    server: &Server,
    id: &str,
    member: &str,
    wanted: Value,
    mut new: Value,
) -> ApiResult<()> {
    match own::get(server, id, "default", "kubernetes").await? {
        Some(mut existing) => {
            existing[member] = wanted;
            if let Some(ports) = new.get("ports") {
                existing["ports"] = ports.clone();
            }
            own::update(server, id, existing).await.map(|_| ())
        }
        None => {
            new[member] = wanted;
            own::create(server, id, new).await.map(|_| ())
        }
    }
}
