//! The served resources, as requests and the cache see them: one per row of the kinds table.
//!
//! The cache keeps objects in their served form with defaults applied, but without `kind` and `apiVersion`: lists leave
//! them out of their items, and everything else puts them in front.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use keelson_api::status::{Qualified, Status};
use keelson_encryption::{Classify, GroupResource};
use keelson_registry::access::Access;
use keelson_registry::kinds::{self, Kind, KindRef};
use keelson_schema::{Schema, Type};
use keelson_storage::{Entry, ExtractError, Extracted, Pairs, Prepare, ResourceConfig};
use serde_json::Value;

use crate::custom::Custom;
use crate::response::ApiResult;

/// The number under which an entry keeps its JSON in another version.
const OTHER_VERSION: u32 = 1;

/// A served resource.
pub struct Resource {
    /// Its row in the kinds table.
    pub kind: KindRef,
    /// Its type.
    pub ty: Type,
    /// Its name in the cache, `deployments.apps`; resources that share storage share it.
    pub id: String,
    /// What its keys in the store begin with.
    pub prefix: String,
    /// Whether objects are stored as protobuf.
    pub protobuf: bool,
    /// The kind in whose version the cache keeps the objects, if that's another one.
    pub cached_as: Option<KindRef>,
    /// Its number among the resources that share its storage.
    pub slot: u32,
    /// What it has beyond that if it is a custom resource.
    pub custom: Option<Custom>,
    /// How the OpenAPI documents see it, once they have.
    pub published: OnceLock<Arc<keelson_schema::openapi::Resource>>,
}

impl Resource {
    /// Gives the structs of a built-in kind their places before defaults are set, as Go's types have them.
    pub fn fill_structs(&self, object: &mut Value) {
        let kind = &self.kind;
        if let Some(ty) =
            keelson_schema::Schema::builtin().kind(&kind.group, &kind.version, &kind.kind)
        {
            keelson_schema::fill_structs(object, ty);
        }
    }

    /// Group and plural, as errors name the resource.
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified::new(&self.kind.group, &self.kind.plural)
    }

    /// Group and kind, as 422 names the object.
    pub fn qualified_kind(&self) -> Qualified<'_> {
        Qualified::new(&self.kind.group, &self.kind.kind)
    }

    /// The etcd key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.kind.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The number under which an entry or a change keeps something of this resource's own; `what` is below 64.
    pub fn number(&self, what: u32) -> u32 {
        what + 64 * self.slot
    }

    /// Whether an entry of the cache is in this resource's version already.
    pub fn is_own_form(&self, entry: &Entry) -> bool {
        match &self.custom {
            Some(custom) => custom.is_own(entry),
            None => self.cached_as.is_none(),
        }
    }

    /// What the cache is to do before it lets a predicate look at entries, if anything.
    pub fn preparing(self: &Arc<Self>) -> Option<Prepare> {
        let asks = self
            .custom
            .as_ref()
            .is_some_and(|c| c.definition.asks_webhook());
        asks.then(|| {
            let resource = self.clone();
            let prepare: Prepare = Arc::new(move |entries| {
                let resource = resource.clone();
                Box::pin(async move {
                    let done = resource.prepare(&entries).await;
                    done.map_err(|status| status.message.clone())
                })
            });
            prepare
        })
    }

    /// Makes entries ready to be read in this resource's version, where a webhook must be asked for that.
    pub async fn prepare(&self, entries: &[Arc<Entry>]) -> ApiResult<()> {
        let Some(custom) = self.custom.as_ref().filter(|c| c.definition.asks_webhook()) else {
            return Ok(());
        };
        let number = self.number(OTHER_VERSION);
        let mut waiting: Vec<&Arc<Entry>> = entries
            .iter()
            .filter(|e| !custom.is_own(e) && e.made(number).is_none())
            .collect();
        waiting.sort_by_key(|e| Arc::as_ptr(e));
        waiting.dedup_by_key(|e| Arc::as_ptr(e));
        if waiting.is_empty() {
            return Ok(());
        }
        let mut objects = Vec::with_capacity(waiting.len());
        for entry in &waiting {
            objects.push(custom.stored(entry)?);
        }
        let converted = custom
            .converter
            .convert(objects, &custom.version.api_version)
            .await
            .map_err(|why| Status::failure(500, "", why))?;
        for (entry, object) in waiting.into_iter().zip(converted) {
            let mut object = custom.restored(object)?;
            object["metadata"]["resourceVersion"] = entry.revision().to_string().into();
            strip_type_meta(&mut object);
            let bytes = Bytes::from(object.to_string());
            entry.encoded(number, |_| bytes);
        }
        Ok(())
    }

    /// The members that every object of the resource begins with, as JSON: `"kind":"Pod","apiVersion":"v1"`.
    pub fn type_meta(&self) -> String {
        format!(
            "\"kind\":\"{}\",\"apiVersion\":\"{}\"",
            self.kind.kind,
            self.kind.api_version()
        )
    }

    /// An entry's JSON in this resource's version, without kind and apiVersion.
    pub fn json(&self, entry: &Entry) -> Bytes {
        if self.is_own_form(entry) {
            return entry.json().clone();
        }
        let number = self.number(OTHER_VERSION);
        if let Some(bytes) = entry.made(number) {
            return bytes;
        }
        // Not while the entry's lock is held: the conversion looks at what was made before.
        let converted = self.converted(entry);
        entry.encoded(number, |entry| match converted {
            Ok(mut value) => {
                strip_type_meta(&mut value);
                Bytes::from(value.to_string())
            }
            // It was decoded before it became an entry.
            Err(_) => entry.json().clone(),
        })
    }

    /// The whole object behind an entry, in this resource's version.
    pub fn object(&self, entry: &Entry) -> ApiResult<Value> {
        let mut value = self.converted(entry)?;
        self.add_type_meta(&mut value);
        Ok(value)
    }

    fn converted(&self, entry: &Entry) -> ApiResult<Value> {
        if let Some(custom) = &self.custom
            && !custom.is_own(entry)
        {
            return match entry.made(self.number(OTHER_VERSION)) {
                Some(bytes) => serde_json::from_slice(&bytes).map_err(Status::internal),
                None => custom.converted(custom.stored(entry)?),
            };
        }
        let value = entry.value().map_err(Status::internal)?;
        let mut value = Value::clone(&value);
        if let Some(cached) = &self.cached_as {
            cached.strategy.to_storage(&mut value);
            self.kind.strategy.from_storage(&mut value);
        }
        Ok(value)
    }

    /// Says in the object what it is.
    pub fn add_type_meta(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.insert("kind".into(), self.kind.kind.as_ref().into());
            map.insert("apiVersion".into(), self.kind.api_version().into());
        }
    }

    /// The object behind a stored value at a revision, in this resource's version.
    pub async fn decode(&self, value: &[u8], revision: u64) -> ApiResult<Value> {
        let mut object = match &self.custom {
            Some(custom) => custom.decode(value).await?,
            None => decode_stored(&self.kind, value).map_err(Status::internal)?,
        };
        self.add_type_meta(&mut object);
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        Ok(object)
    }

    /// The bytes to store for an object.
    pub async fn encode(&self, object: &Value) -> ApiResult<Bytes> {
        let mut stored = object.clone();
        if let Some(metadata) = stored.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("selfLink");
        }
        match &self.custom {
            Some(custom) => stored = custom.encode(stored).await?,
            None => self.kind.strategy.to_storage(&mut stored),
        }
        stored["apiVersion"] = self.kind.stored_as.as_ref().into();
        if self.protobuf {
            return crate::protobuf::encode(&stored).map(Bytes::from);
        }
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .map_err(Status::internal)
    }
}

/// `pods` or `deployments.apps`.
pub fn id(group: &str, plural: &str) -> String {
    Qualified::new(group, plural).to_string()
}

/// Takes kind and apiVersion off, which the cache does not keep.
pub fn strip_type_meta(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
}

/// What values in protobuf begin with.
const PROTOBUF: &[u8] = b"k8s\0";
/// The media type of such values.
pub const PROTOBUF_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Groups whose objects upstream stores as JSON whatever it is told.
const ALWAYS_JSON: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// A stored value, JSON or protobuf, in the version it is stored in.
pub fn from_bytes(value: &[u8]) -> Result<Value, ExtractError> {
    if value.starts_with(PROTOBUF) {
        return crate::protobuf::decode_any(value)
            .ok_or_else(|| ExtractError("a protobuf value of an unknown kind or form".to_owned()));
    }
    serde_json::from_slice(value).map_err(|e| ExtractError(e.to_string()))
}

/// The object behind a stored value, in the kind's version, defaults applied.
fn decode_stored(kind: &Kind, value: &[u8]) -> Result<Value, ExtractError> {
    let mut object = from_bytes(value)?;
    if !object.get("metadata").is_some_and(Value::is_object) {
        return Err(ExtractError("not an object with metadata".to_owned()));
    }
    kind.strategy.from_storage(&mut object);
    kind.strategy.default(&mut object);
    Ok(object)
}

/// Makes what the cache keeps of a stored value: labels and selectable fields taken out.
fn extract(kind: &Kind, value: &[u8]) -> Result<Extracted, ExtractError> {
    let mut object = decode_stored(kind, value)?;
    let metadata = object.part("metadata");
    let (namespace, name) = (
        metadata.text("namespace").to_owned(),
        metadata.text("name").to_owned(),
    );
    let labels: Pairs = metadata
        .entries("labels")
        .map(|(k, v)| (k, v.as_str().unwrap_or_default()))
        .collect();
    let own = kind.strategy.field_labels().iter().copied();
    let fields: Pairs = ["metadata.name", "metadata.namespace"]
        .into_iter()
        .chain(own)
        .map(|l| (l, kind.field(&object, l).into_owned()))
        .collect();
    strip_type_meta(&mut object);
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

/// All served resources: those of the table, and the custom ones, which come and go.
pub struct Resources {
    prefix: String,
    builtin: Table,
    custom: ArcSwap<Table>,
}

#[derive(Default)]
struct Table {
    all: Vec<Arc<Resource>>,
    by_name: HashMap<String, usize>,
}

impl Table {
    fn of(all: Vec<Arc<Resource>>) -> Self {
        let by_name = all
            .iter()
            .enumerate()
            .map(|(at, r)| {
                let kind = &r.kind;
                (path_name(&kind.group, &kind.version, &kind.plural), at)
            })
            .collect();
        Table { all, by_name }
    }

    fn get(&self, name: &str) -> Option<Arc<Resource>> {
        self.by_name.get(name).map(|at| self.all[*at].clone())
    }
}

impl Resources {
    /// The table for keys under `prefix` (`/registry`), objects stored as JSON.
    pub fn new(prefix: &str) -> Self {
        Self::storing(prefix, false)
    }

    /// The same, objects stored as protobuf or as JSON. Both are read.
    pub fn storing(prefix: &str, protobuf: bool) -> Self {
        Resources {
            prefix: prefix.to_owned(),
            builtin: Table::of(builtin(prefix, protobuf)),
            custom: ArcSwap::default(),
        }
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The resource of a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let name = path_name(group, version, plural);
        self.builtin
            .get(&name)
            .or_else(|| self.custom.load().get(&name))
    }

    /// The resource that is cached under an id such as `deployments.apps`.
    pub fn cached_as(&self, id: &str) -> Option<Arc<Resource>> {
        let find = |all: &[Arc<Resource>]| {
            all.iter()
                .find(|r| r.id == id && r.cached_as.is_none())
                .cloned()
        };
        find(&self.builtin.all).or_else(|| find(&self.custom.load().all))
    }

    /// Says which resource a key under `prefix` belongs to, as an encryption configuration names it.
    pub fn classifier(&self, prefix: &str) -> Classify {
        let root = format!("{}/", prefix.trim_end_matches('/'));
        let known: HashMap<String, GroupResource> = self
            .builtin
            .all
            .iter()
            .filter(|r| r.kind.is_stored())
            .map(|r| {
                let kind = self
                    .cached_as(&r.id)
                    .map_or_else(|| r.kind.clone(), |owner| owner.kind.clone());
                (
                    r.kind.prefix.to_string(),
                    GroupResource::new(&*kind.group, &*kind.plural),
                )
            })
            .collect();
        Arc::new(move |key: &str| classify(&known, key.strip_prefix(&root).unwrap_or(key)))
    }

    /// Every resource, in the order of discovery.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom.load();
        self.builtin
            .all
            .iter()
            .chain(&custom.all)
            .cloned()
            .collect()
    }

    /// The resources of the kinds table.
    pub fn builtin(&self) -> &[Arc<Resource>] {
        &self.builtin.all
    }

    /// The custom resources as they are now.
    pub fn custom(&self) -> Vec<Arc<Resource>> {
        self.custom.load().all.clone()
    }

    /// Replaces the custom resources.
    pub fn set_custom(&self, all: Vec<Arc<Resource>>) {
        self.custom.store(Arc::new(Table::of(all)));
    }

    /// What the cache is to keep of the table's kinds.
    pub fn cache_config(&self) -> Vec<ResourceConfig> {
        self.builtin
            .all
            .iter()
            .filter(|r| r.kind.is_stored() && r.cached_as.is_none())
            .map(|r| {
                let kind = r.kind.clone();
                ResourceConfig {
                    id: r.id.clone(),
                    prefix: r.prefix.clone(),
                    namespaced: kind.namespaced,
                    extract: Arc::new(move |_: &str, value: &Bytes, _: u64| extract(&kind, value)),
                    index_fields: if r.id == "pods" {
                        vec!["spec.nodeName".to_owned()]
                    } else {
                        Vec::new()
                    },
                }
            })
            .collect()
    }
}

fn classify(known: &HashMap<String, GroupResource>, key: &str) -> GroupResource {
    let (first, rest) = key.split_once('/').unwrap_or((key, ""));
    let second = rest.split('/').next().unwrap_or_default();
    let two = &key[..key.len().min(first.len() + 1 + second.len())];
    if let Some(resource) = known.get(two).or_else(|| known.get(first)) {
        return resource.clone();
    }
    match (first, second) {
        // What has no API of its own: upstream's names.
        ("masterleases", _) => GroupResource::new("", "apiServerIPInfo"),
        ("ranges", "servicenodeports") => GroupResource::new("", "servicenodeportallocations"),
        ("ranges", _) => GroupResource::new("", "serviceipallocations"),
        // Custom resources lie under their group.
        (group, plural) if group.contains('.') => GroupResource::new(group, plural),
        (other, _) => GroupResource::new("", other),
    }
}

fn builtin(prefix: &str, protobuf: bool) -> Vec<Arc<Resource>> {
    let schema = Schema::builtin();
    let mut all = Vec::new();
    for kind in kinds::ALL.iter() {
        let Some(ty) = schema.kind(&kind.group, &kind.version, &kind.kind) else {
            tracing::error!(
                group = &*kind.group,
                kind = &*kind.kind,
                "a kind without a type is not served"
            );
            continue;
        };
        let owner = kinds::ALL
            .iter()
            .find(|k| k.is_stored() && k.prefix == kind.prefix && k.stored_as == k.api_version())
            .unwrap_or(kind);
        let cached_as = (!std::ptr::eq(owner, kind)).then_some(KindRef::Static(owner));
        all.push(Arc::new(Resource {
            kind: KindRef::Static(kind),
            ty: ty.clone(),
            id: id(&owner.group, &owner.plural),
            prefix: if kind.is_stored() {
                format!("{prefix}/{}/", kind.prefix)
            } else {
                String::new()
            },
            protobuf: protobuf && !ALWAYS_JSON.contains(&&*kind.group),
            slot: u32::from(cached_as.is_some()),
            cached_as,
            custom: None,
            published: OnceLock::new(),
        }));
    }
    all
}

fn path_name(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_of_both_groups_share_their_storage() {
        let resources = Resources::new("/registry");
        let core = resources.get("", "v1", "events").unwrap();
        let other = resources.get("events.k8s.io", "v1", "events").unwrap();
        assert_eq!((core.id.as_str(), other.id.as_str()), ("events", "events"));
        assert_eq!(core.key("a", "b"), "/registry/events/a/b");
        assert!(core.cached_as.is_none() && other.cached_as.is_some());
        assert_eq!(
            resources
                .cache_config()
                .iter()
                .filter(|c| c.prefix == "/registry/events/")
                .count(),
            1
        );
    }

    #[tokio::test]
    async fn values_in_protobuf_are_written_where_asked_for_and_always_read() {
        let (json, protobuf) = (
            Resources::new("/registry"),
            Resources::storing("/registry", true),
        );
        let object = json!({"kind": "Secret", "metadata": {"name": "a", "namespace": "b"}, "type": "Opaque", "data": {"k": "dg=="}});
        let secrets = protobuf.get("", "v1", "secrets").unwrap();
        let bytes = secrets.encode(&object).await.unwrap();
        // The envelope of upstream: k8s\0, then Unknown with its TypeMeta.
        assert!(bytes.starts_with(b"k8s\0\n\x0c\n\x02v1\x12\x06Secret"));
        let read = json.get("", "v1", "secrets").unwrap();
        let plain = read.encode(&object).await.unwrap();
        assert_eq!(
            read.decode(&bytes, 7).await.unwrap(),
            read.decode(&plain, 7).await.unwrap()
        );
        let services = protobuf
            .get("apiregistration.k8s.io", "v1", "apiservices")
            .unwrap();
        let object = json!({"kind": "APIService", "metadata": {"name": "v1."}, "spec": {}});
        assert!(services.encode(&object).await.unwrap().starts_with(b"{"));
        assert!(from_bytes(b"k8s\0\xff").is_err());
    }

    #[test]
    fn keys_are_told_apart_as_an_encryption_configuration_names_them() {
        let classify = Resources::new("/registry").classifier("/registry");
        for (key, name) in [
            ("/registry/secrets/a/b", "secrets"),
            ("/registry/services/specs/a/b", "services"),
            ("/registry/minions/a", "nodes"),
            ("/registry/deployments/a/b", "deployments.apps"),
            ("/registry/events/a/b", "events"),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a",
                "customresourcedefinitions.apiextensions.k8s.io",
            ),
            ("/registry/example.com/widgets/a/b", "widgets.example.com"),
            (
                "/registry/ranges/servicenodeports",
                "servicenodeportallocations",
            ),
        ] {
            assert_eq!(classify(key), GroupResource::parse(name), "{key}");
        }
    }

    #[tokio::test]
    async fn what_is_stored_carries_its_version_and_no_revision() {
        let resources = Resources::new("/registry");
        let r = resources.get("", "v1", "configmaps").unwrap();
        let bytes = r.encode(&json!({"kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "3"}, "data": {"k": "v"}})).await.unwrap();
        let stored: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            stored,
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
        let extracted = extract(&r.kind, &bytes).unwrap();
        assert_eq!(extracted.name, "a");
        assert!(!String::from_utf8_lossy(&extracted.json).contains("ConfigMap"));
        assert_eq!(
            r.decode(&bytes, 9).await.unwrap()["metadata"]["resourceVersion"],
            "9"
        );
    }
}
