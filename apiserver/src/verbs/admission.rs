//! Takes a write through the admission chain.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_admission as admission;
use keelson_admission::{Operation, Request as Admission};
use keelson_api::status::Status;
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// The parts of a write that admission looks at and that stay the same through all attempts.
pub struct Write<'a> {
    /// The server.
    pub server: &'a Arc<Server>,
    /// The request.
    pub request: &'a Request,
    /// The resource.
    pub resource: &'a Resource,
    /// Group, version and kind of the body, where it isn't the resource's own.
    pub kind: Option<(&'a str, &'a str, &'a str)>,
    /// Namespace of the object.
    pub namespace: &'a str,
    /// Name of the object, empty while it isn't known.
    pub name: &'a str,
    /// The write's options.
    pub options: Value,
    /// Nothing will be stored.
    pub dry_run: bool,
}

impl Write<'_> {
    /// The request as plugins see it.
    pub fn admission(
        &self,
        operation: Operation,
        object: Option<Value>,
        old: Option<Arc<Value>>,
    ) -> Admission {
        let own = &self.resource.kind;
        let (group, version, kind) = self.kind.unwrap_or((&own.group, &own.version, &own.kind));
        Admission {
            operation,
            kind: admission::Kind {
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
            },
            resource: admission::Resource {
                group: own.group.to_string(),
                version: own.version.to_string(),
                resource: own.plural.to_string(),
            },
            subresource: self.request.info.subresource.clone(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            object,
            old_object: old,
            options: self.options.clone(),
            user: self.request.user.clone(),
            dry_run: self.dry_run,
            warnings: Vec::new(),
            audit_annotations: BTreeMap::new(),
        }
    }

    /// Hands the plugins' annotations to the audit record.
    fn note(&self, admitted: &mut Admission) {
        let annotations = std::mem::take(&mut admitted.audit_annotations);
        if self.request.audit.is_on() {
            let annotations = annotations.iter().map(|(k, v)| (k.as_str(), v.clone()));
            self.request.audit.annotate(annotations);
        }
    }

    /// Lets the plugins change the object.
    pub async fn admit(&self, admitted: &mut Admission) -> ApiResult<()> {
        let done = self
            .server
            .admission
            .admit(admitted, &self.server.environment)
            .await;
        self.request
            .warnings
            .extend(std::mem::take(&mut admitted.warnings));
        self.note(admitted);
        done?;
        // What webhooks put in is held against the schema as what clients send is.
        if let (Some(custom), Some(object)) = (&self.resource.custom, admitted.object.as_mut())
            && self.kind.is_none()
        {
            custom.accept(object).map_err(Status::internal)?;
            self.resource.kind.strategy.default(object);
        }
        Ok(())
    }

    /// Lets the plugins check the object.
    pub async fn validate(&self, admitted: &mut Admission) -> ApiResult<()> {
        let done = self
            .server
            .admission
            .validate(admitted, &self.server.environment)
            .await;
        self.request
            .warnings
            .extend(std::mem::take(&mut admitted.warnings));
        self.note(admitted);
        done
    }
}
