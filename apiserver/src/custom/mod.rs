//! Custom resources in the server: what their definitions become, and the loop that follows the definitions.
//!
//! A definition's versions are resources like those of the kinds table, so the verbs, discovery, authorization and
//! admission serve both alike. What a schema says is `keelson-extensions`'.

mod cleanup;
mod conditions;
mod convert;
mod follow;
pub mod scale;
mod strategy;

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use bytes::Bytes;
use keelson_api::status::Status;
use keelson_extensions::{Definition, Version};
use keelson_registry::access::Access;
use keelson_registry::kinds::{self, KindRef};
use keelson_storage::{Entry, ExtractError, Extracted, Pairs, ResourceConfig};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use convert::Converter;
pub use follow::start;

use crate::resources::{Resource, id};
use crate::response::ApiResult;

/// The resource of definitions, as the cache names it.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// The field under which an entry remembers in which version it is stored. No selector can ask for it.
const STORED_VERSION: &str = "$apiVersion";

/// What a custom resource has beyond what every resource has.
pub struct Custom {
    /// Its definition.
    pub definition: Arc<Definition>,
    /// Its version.
    pub version: Arc<Version>,
    /// Gets objects from one version to another.
    pub converter: Arc<Converter>,
}

impl Custom {
    /// Whether an entry is stored in this version.
    pub fn is_own(&self, entry: &Entry) -> bool {
        entry.fields().get(STORED_VERSION) == Some(self.version.api_version.as_str())
    }

    /// Whether an entry is stored in another version than it would be stored in now.
    pub fn is_stale(&self, entry: &Entry) -> bool {
        entry.fields().get(STORED_VERSION) != Some(self.definition.stored().api_version.as_str())
    }

    /// The same of a stored value.
    pub fn is_stale_value(&self, value: &[u8]) -> bool {
        let found = keelson_schema::type_meta(value, keelson_schema::MediaType::Json);
        found.is_ok_and(|meta| meta.api_version != self.definition.stored().api_version)
    }

    /// The object behind an entry, in the version it is stored in.
    pub fn stored(&self, entry: &Entry) -> ApiResult<Value> {
        let value = entry.value().map_err(Status::internal)?;
        let mut object = Value::clone(&value);
        object["kind"] = self.definition.names.kind.clone().into();
        object["apiVersion"] = entry
            .fields()
            .get(STORED_VERSION)
            .unwrap_or_default()
            .into();
        Ok(object)
    }

    /// An object from another version into this one, where no webhook has to be asked.
    pub fn converted(&self, mut object: Value) -> ApiResult<Value> {
        if self.definition.asks_webhook() {
            return Err(Status::internal("the object was not converted in time"));
        }
        keelson_extensions::conversion::relabel(&mut object, &self.version.api_version);
        self.restored(object)
    }

    /// An object of this version, brought into form with defaults applied.
    pub fn restored(&self, mut object: Value) -> ApiResult<Value> {
        self.version
            .restore(&mut object)
            .map_err(|why| Status::failure(500, "", why))?;
        Ok(object)
    }

    /// The object behind a stored value in this version.
    pub async fn decode(&self, value: &[u8]) -> ApiResult<Value> {
        let object: Value = serde_json::from_slice(value).map_err(Status::internal)?;
        if object.text("apiVersion") == self.version.api_version {
            return self.restored(object);
        }
        let mut converted = self
            .converter
            .convert(vec![object], &self.version.api_version)
            .await
            .map_err(|why| Status::failure(500, "", why))?;
        let object = converted.pop().unwrap_or_default();
        self.restored(object)
    }

    /// An object of this version as it is to be stored.
    pub async fn encode(&self, object: Value) -> ApiResult<Value> {
        let stored = self.definition.stored();
        if stored.api_version == self.version.api_version {
            return Ok(object);
        }
        let mut converted = self
            .converter
            .convert(vec![object], &stored.api_version)
            .await
            .map_err(|why| Status::failure(500, "", why))?;
        let mut object = converted.pop().unwrap_or_default();
        stored
            .accept(&mut object, keelson_extensions::metadata::Malformed::Refuse)
            .map_err(|why| Status::failure(500, "", why))?;
        Ok(object)
    }

    /// Brings an object that somebody sent or changed into form; answers unknown fields as errors would spell them.
    pub fn accept(&self, object: &mut Value) -> Result<Vec<String>, String> {
        let unknown = self
            .version
            .accept(object, keelson_extensions::metadata::Malformed::Refuse)?;
        Ok(unknown
            .into_iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect())
    }
}

/// The served resources of a definition, and what the cache is to keep for them.
pub fn resources(
    definition: &Arc<Definition>,
    converter: &Arc<Converter>,
    prefix: &str,
) -> (Vec<Arc<Resource>>, ResourceConfig) {
    let names = &definition.names;
    let resource_id = id(&definition.group, &names.plural);
    let keys = format!("{prefix}/{}/{}/", definition.group, names.plural);
    let stored_as = definition.stored().api_version.clone();
    let mut all = Vec::new();
    for (slot, version) in definition.versions.iter().enumerate() {
        if !version.served {
            continue;
        }
        let kind = kinds::custom(kinds::Custom {
            group: definition.group.clone(),
            version: version.name.clone(),
            kind: names.kind.clone(),
            list_kind: names.list_kind.clone(),
            plural: names.plural.clone(),
            singular: names.singular.clone(),
            short_names: names.short_names.clone(),
            categories: names.categories.clone(),
            namespaced: definition.namespaced,
            stored_as: stored_as.clone(),
            status: version.status,
            scale: version.scale.is_some(),
            storage_version_hash: storage_hash(
                &definition.group,
                &definition.stored().name,
                &names.kind,
            ),
            strategy: Arc::new(strategy::Rules::new(definition, version)),
        });
        all.push(Arc::new(Resource {
            kind: KindRef::Shared(Arc::new(kind)),
            ty: version.ty.clone(),
            id: resource_id.clone(),
            prefix: keys.clone(),
            cached_as: None,
            protobuf: false,
            slot: u32::try_from(slot).unwrap_or(u32::MAX >> 8),
            custom: Some(Custom {
                definition: definition.clone(),
                version: version.clone(),
                converter: converter.clone(),
            }),
            published: OnceLock::new(),
        }));
    }
    let of = definition.clone();
    let config = ResourceConfig {
        id: resource_id,
        prefix: keys,
        namespaced: definition.namespaced,
        extract: Arc::new(move |_: &str, value: &Bytes, _: u64| extract(&of, value)),
        index_fields: Vec::new(),
    };
    (all, config)
}

/// Upstream's hash of the version objects are stored in.
fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// Makes what the cache keeps of a stored object: in the version it is stored in, whichever that is.
fn extract(definition: &Definition, value: &[u8]) -> Result<Extracted, ExtractError> {
    let mut object: Value =
        serde_json::from_slice(value).map_err(|e| ExtractError(e.to_string()))?;
    if !object.get("metadata").is_some_and(Value::is_object) {
        return Err(ExtractError("not an object with metadata".to_owned()));
    }
    let api_version = object.text("apiVersion").to_owned();
    let mut fields = Vec::new();
    if let Some(version) = definition.version(&api_version) {
        version.restore(&mut object).map_err(ExtractError)?;
        for (label, _) in &version.selectable {
            fields.push((label.clone(), version.field(&object, label).into_owned()));
        }
    }
    let metadata = object.part("metadata");
    let (namespace, name) = (
        metadata.text("namespace").to_owned(),
        metadata.text("name").to_owned(),
    );
    let labels: Pairs = metadata
        .entries("labels")
        .map(|(k, v)| (k, v.as_str().unwrap_or_default()))
        .collect();
    fields.push(("metadata.name".to_owned(), name.clone()));
    fields.push(("metadata.namespace".to_owned(), namespace.clone()));
    fields.push((STORED_VERSION.to_owned(), api_version));
    let fields: Pairs = fields.into_iter().collect();
    crate::resources::strip_type_meta(&mut object);
    let json = serde_json::to_vec(&object)
        .map_err(|e| ExtractError(e.to_string()))?
        .into();
    Ok(Extracted {
        namespace,
        name,
        json,
        labels,
        fields,
    })
}
