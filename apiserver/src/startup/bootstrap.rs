//! The objects that are only data: namespaces, priority classes, flow control, the ServiceCIDR, what aggregated servers read.

use std::sync::Arc;

use jiff::Timestamp;
use keelson_admission::service_addresses::Range;
use keelson_admission::startup::authentication::{Authentication, config_map};
use keelson_admission::startup::{self, flow_control};
use keelson_registry::rest::timestamp;
use serde_json::Value;

use super::own::{self, create_missing, retry};
use crate::objects::text;
use crate::server::Server;

/// The four namespaces.
pub async fn namespaces(server: &Arc<Server>) {
    for object in startup::namespaces() {
        create_missing(server, object.resource, object.value).await;
    }
}

/// The priority classes of the system.
pub async fn priority_classes(server: &Arc<Server>) {
    for object in startup::priority_classes() {
        create_missing(server, object.resource, object.value).await;
    }
}

/// Priority levels and flow schemas, kept as they are meant to be.
pub async fn flow_control(server: &Arc<Server>) {
    for object in flow_control::objects() {
        let name = text(&object.value, "name").to_owned();
        retry(server, &name, async || {
            match own::get(server, object.resource, "", &name).await? {
                None => own::create(server, object.resource, object.value.clone())
                    .await
                    .map(|_| ()),
                Some(existing) => match flow_control::reconcile(&object.value, &existing) {
                    Some(changed) => own::update(server, object.resource, changed)
                        .await
                        .map(|_| ()),
                    None => Ok(()),
                },
            }
        })
        .await;
    }
}

/// `kube-system/extension-apiserver-authentication`.
pub async fn authentication(server: &Arc<Server>) {
    let options = &server.options;
    let pem = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut mine = Authentication {
        client_ca: options.client_ca.as_deref().map(pem).unwrap_or_default(),
        ..Authentication::default()
    };
    if let Some(proxy) = &options.front_proxy {
        mine.requestheader_ca = pem(&proxy.client_ca_pem);
        mine.allowed_names = proxy.allowed_names.clone();
        mine.username_headers = proxy.username_headers.clone();
        mine.uid_headers = proxy.uid_headers.clone();
        mine.group_headers = proxy.group_headers.clone();
        mine.extra_prefixes = proxy.extra_header_prefixes.clone();
    }
    retry(server, "extension-apiserver-authentication", async || {
        let existing = own::get(
            server,
            "configmaps",
            "kube-system",
            "extension-apiserver-authentication",
        )
        .await?;
        match config_map(&mine, existing.as_ref()) {
            None => Ok(()),
            Some(object) if existing.is_some() => {
                own::update(server, object.resource, object.value)
                    .await
                    .map(|_| ())
            }
            Some(object) => own::create(server, object.resource, object.value)
                .await
                .map(|_| ()),
        }
    })
    .await;
}

/// The ServiceCIDR `kubernetes`, which is ready from the start.
pub async fn service_cidr(server: &Arc<Server>) {
    let wanted =
        startup::service_cidr(&server.options.service_ranges, &timestamp(Timestamp::now()));
    retry(server, "servicecidr", async || {
        let existing = own::get(server, wanted.resource, "", "kubernetes").await?;
        let mut object = match existing {
            Some(object)
                if object
                    .pointer("/status/conditions")
                    .and_then(Value::as_array)
                    .is_some_and(|c| !c.is_empty()) =>
            {
                return Ok(());
            }
            Some(object) => object,
            None => own::create(server, wanted.resource, wanted.value.clone()).await?,
        };
        object["status"] = wanted.value["status"].clone();
        server
            .environment
            .writer
            .update_status(wanted.resource, object)
            .await
            .map(|_| ())
    })
    .await;
    // Allocation reads the range from the cache.
    for _ in 0..100 {
        if server
            .lookup
            .get(wanted.resource, "", "kubernetes")
            .is_some_and(|o| o.get("status").is_some())
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The Service `default/kubernetes`.
pub async fn kubernetes_service(server: &Arc<Server>) {
    let options = &server.options;
    let first = options
        .service_ranges
        .first()
        .and_then(|r| r.parse().ok())
        .and_then(Range::new)
        .map(|r| r.first_address());
    let Some(address) = first else {
        tracing::error!(ranges = ?options.service_ranges, "no address for default/kubernetes in the Service range");
        return;
    };
    let object = startup::kubernetes_service(address, options.secure_port);
    create_missing(server, object.resource, object.value).await;
}
