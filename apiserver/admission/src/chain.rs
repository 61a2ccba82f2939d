//! The plugins in upstream's order, and how a request goes through them: first all that change it, then all that check it.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::{Authorizer, Lookup, Status};
use serde_json::Value;

use crate::plugins;
use crate::request::Request;

/// Writes that plugins need. They are made as the API server itself and bypass admission.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Replaces an object's status if its resourceVersion still is the one in `object`: 409 otherwise. Resources are written as
    /// for `Lookup`.
    async fn update_status(&self, resource: &str, object: Value) -> Result<Value, Status>;
}

/// What plugins may use.
pub struct Environment {
    /// Read access to objects.
    pub lookup: Arc<dyn Lookup>,
    /// Write access to the few things that plugins write.
    pub writer: Arc<dyn Writer>,
    /// Decides what the caller may do, for plugins that ask.
    pub authorizer: Arc<dyn Authorizer>,
}

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see the request.
    fn handles(&self, request: &Request) -> bool;

    /// Changes the object.
    async fn admit(
        &self,
        _request: &mut Request,
        _environment: &Environment,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Changes the object once more, after a webhook or a policy changed it.
    async fn readmit(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        self.admit(request, environment).await
    }

    /// Checks the object after all changes. It must not change the object, but may add warnings and audit annotations.
    async fn validate(
        &self,
        _request: &mut Request,
        _environment: &Environment,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// A row of the table of plugins.
pub struct Row {
    /// Upstream's name.
    pub name: &'static str,
    /// Whether it is on without being asked for.
    pub default_on: bool,
    /// Makes one.
    pub make: fn() -> Box<dyn Plugin>,
}

/// A row for a plugin that needs no configuration.
macro_rules! row {
    ($module:ident, $plugin:ident, $default_on:literal) => {
        Row {
            name: plugins::$module::NAME,
            default_on: $default_on,
            make: || Box::new(plugins::$module::$plugin::default()),
        }
    };
}

/// Every plugin, in upstream's order.
pub const ALL: &[Row] = &[
    row!(namespace_lifecycle, NamespaceLifecycle, true),
    row!(limit_ranger, LimitRanger, true),
    row!(service_account, ServiceAccount, true),
    row!(node_restriction, NodeRestriction, false),
    row!(taint_nodes_by_condition, TaintNodesByCondition, true),
    row!(always_pull_images, AlwaysPullImages, false),
    row!(pod_security, PodSecurity, true),
    row!(priority, Priority, true),
    row!(default_toleration_seconds, DefaultTolerationSeconds, true),
    row!(default_storage_class, DefaultStorageClass, true),
    row!(
        storage_object_in_use_protection,
        StorageObjectInUseProtection,
        true
    ),
    row!(
        owner_references,
        OwnerReferencesPermissionEnforcement,
        false
    ),
    row!(
        persistent_volume_claim_resize,
        PersistentVolumeClaimResize,
        true
    ),
    row!(runtime_class, RuntimeClass, true),
    row!(certificate_approval, CertificateApproval, true),
    row!(certificate_signing, CertificateSigning, true),
    row!(
        certificate_subject_restriction,
        CertificateSubjectRestriction,
        true
    ),
    row!(default_ingress_class, DefaultIngressClass, true),
    row!(pod_topology_labels, PodTopologyLabels, true),
    row!(mutating_admission_policy, MutatingAdmissionPolicy, true),
    row!(mutating_admission_webhook, MutatingAdmissionWebhook, true),
    row!(validating_admission_policy, ValidatingAdmissionPolicy, true),
    row!(
        validating_admission_webhook,
        ValidatingAdmissionWebhook,
        true
    ),
    row!(resource_quota, ResourceQuota, true),
];

/// A plugin name that no row has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("admission plugin {0:?} is unknown")]
pub struct UnknownPlugin(pub String);

/// The plugins that are on.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The default plugins, with `--enable-admission-plugins` and `--disable-admission-plugins` applied.
    pub fn new(enable: &[String], disable: &[String]) -> Result<Self, UnknownPlugin> {
        if let Some(unknown) = enable
            .iter()
            .chain(disable)
            .find(|n| !ALL.iter().any(|row| row.name == n.as_str()))
        {
            return Err(UnknownPlugin(unknown.clone()));
        }
        let wanted = |row: &&Row| {
            let named = |list: &[String]| list.iter().any(|n| n == row.name);
            named(enable) || (row.default_on && !named(disable))
        };
        Ok(Self {
            plugins: ALL.iter().filter(wanted).map(|row| (row.make)()).collect(),
        })
    }

    /// Lets every plugin change the object. If a policy or a webhook changed it, the plugins before have another look: what they
    /// fill in must be filled in for what those brought, too.
    pub async fn admit(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let dynamic = |plugin: &dyn Plugin| {
            matches!(
                plugin.name(),
                plugins::mutating_admission_policy::NAME
                    | plugins::mutating_admission_webhook::NAME
            )
        };
        let first = self.plugins.iter().position(|p| dynamic(p.as_ref()));
        let last = self.plugins.iter().rposition(|p| dynamic(p.as_ref()));
        let mut before = None;
        for (i, plugin) in self.plugins.iter().enumerate() {
            if Some(i) == first {
                before.clone_from(&request.object);
            }
            if plugin.handles(request) {
                plugin.admit(request, environment).await?;
            }
            if Some(i) == last && request.object != before {
                let webhooks = plugins::mutating_admission_webhook::NAME;
                for earlier in self.plugins[..=i].iter().filter(|p| p.name() != webhooks) {
                    if earlier.handles(request) {
                        earlier.readmit(request, environment).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets every plugin check the object.
    pub async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            if plugin.handles(request) {
                plugin.validate(request, environment).await?;
            }
        }
        Ok(())
    }
}
