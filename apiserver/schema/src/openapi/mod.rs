//! OpenAPI v3 documents (one a group-version, and their index) and the v2 document, as JSON and protobuf.
//!
//! They are built from the types' tables when first asked for, and kept compressed. The server lists the resources
//! and serves the bytes.

mod foreign;
mod paths;
mod protobuf;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, LazyLock, OnceLock};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub use foreign::Foreign;

use crate::Schema;
use schemas::{Dialect, Schemas};

/// Descriptions by type, gathered by the build script.
static DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.z"));

/// The digest of what all documents are made of, to go on from.
static TABLES: LazyLock<Sha256> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    hasher.update(DESCRIPTIONS);
    hasher.update(schemas::FACTS);
    hasher
});

/// A served resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The served version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The resource: the plural in paths.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verbs: Vec<String>,
    /// The subresources.
    pub subresources: Vec<Subresource>,
    /// A custom resource's own schema, with `x-kubernetes-…` markers; none for built-in kinds.
    pub custom: Option<Arc<Value>>,
    /// The same for the v2 document, which knows less; where that is none, `custom` is taken.
    pub custom_v2: Option<Arc<Value>>,
}

/// A subresource.
#[derive(Clone, Debug, Default)]
pub struct Subresource {
    /// Its name in paths.
    pub name: String,
    /// The group of what it takes.
    pub group: String,
    /// The version of what it takes.
    pub version: String,
    /// The kind of what it takes.
    pub kind: String,
    /// The verbs it knows.
    pub verbs: Vec<String>,
}

/// A document as it's served.
#[derive(Debug)]
pub struct Document {
    gzip: Vec<u8>,
    /// What identifies the content, for ETags and the index.
    pub hash: String,
}

impl Document {
    /// The content, compressed with gzip.
    pub fn gzip(&self) -> &[u8] {
        &self.gzip
    }

    /// The content as it is.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // decompressing what was compressed here, from memory, can't fail
        if GzDecoder::new(&self.gzip[..])
            .read_to_end(&mut bytes)
            .is_err()
        {
            bytes.clear();
        }
        bytes
    }
}

/// All documents for a list of resources. When the list changes, make anew with the old ones at hand: what stays is not
/// built again.
#[derive(Debug)]
pub struct Documents {
    foreign: Vec<Arc<Foreign>>,
    version: String,
    v3: BTreeMap<String, Arc<Part>>,
    v2_json: OnceLock<Arc<Document>>,
    v2_protobuf: OnceLock<Arc<Document>>,
}

/// The resources of one group version, and what has been made of them.
#[derive(Debug, Default)]
struct Part {
    resources: Vec<Arc<Resource>>,
    hash: OnceLock<String>,
    document: OnceLock<Arc<Document>>,
}

impl Documents {
    /// Documents of a server that says it is `version` and serves these resources.
    pub fn new(version: &str, resources: Vec<Resource>) -> Documents {
        Documents::after(None, version, resources.into_iter().map(Arc::new))
    }

    /// The same, taking over from `old` what is made of the same resources.
    pub fn after(
        old: Option<&Documents>,
        version: &str,
        resources: impl Iterator<Item = Arc<Resource>>,
    ) -> Documents {
        let mut parts: BTreeMap<String, Vec<Arc<Resource>>> = BTreeMap::new();
        for resource in resources {
            let path = v3_path(&resource.group, &resource.version);
            parts.entry(path).or_default().push(resource);
        }
        let old = old.filter(|old| old.version == version);
        let v3 = parts
            .into_iter()
            .map(|(path, resources)| {
                let before = old.and_then(|old| old.v3.get(&path));
                let part = match before {
                    Some(part) if is_same(&part.resources, &resources) => part.clone(),
                    _ => Arc::new(Part {
                        resources,
                        ..Part::default()
                    }),
                };
                (path, part)
            })
            .collect();
        Documents {
            foreign: Vec::new(),
            version: version.to_owned(),
            v3,
            v2_json: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
        }
    }

    /// Takes the documents of other servers into the v2 document, the most important first.
    #[must_use]
    pub fn with_foreign(mut self, foreign: Vec<Arc<Foreign>>) -> Documents {
        self.foreign = foreign;
        self
    }

    /// The index at `/openapi/v3`.
    pub fn v3_index(&self) -> Value {
        let mut paths = Map::new();
        for (path, part) in &self.v3 {
            let url = format!("/openapi/v3/{path}?hash={}", self.hash(part));
            paths.insert(path.clone(), json!({ "serverRelativeURL": url }));
        }
        json!({ "paths": paths })
    }

    /// The document at `/openapi/v3/<path>`, as `apis/apps/v1` or `api/v1`.
    pub fn v3(&self, path: &str) -> Option<Arc<Document>> {
        let part = self.v3.get(path)?;
        let build = || Arc::new(self.build_v3(part));
        Some(part.document.get_or_init(build).clone())
    }

    /// Whether there is such a document.
    pub fn has_v3(&self, path: &str) -> bool {
        self.v3.contains_key(path)
    }

    /// The document at `/openapi/v2`, as JSON.
    pub fn v2_json(&self) -> Arc<Document> {
        let build = || {
            Arc::new(document(
                self.v2_hash(),
                self.build_v2().to_string().as_bytes(),
            ))
        };
        self.v2_json.get_or_init(build).clone()
    }

    /// The document at `/openapi/v2`, as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
    pub fn v2_protobuf(&self) -> Arc<Document> {
        let build = || {
            Arc::new(document(
                self.v2_hash(),
                &protobuf::encode(&self.build_v2()),
            ))
        };
        self.v2_protobuf.get_or_init(build).clone()
    }

    /// What a document is made of decides its hash, so that the index needs none of them built.
    fn hash<'p>(&self, part: &'p Part) -> &'p str {
        part.hash.get_or_init(|| {
            let mut hasher = TABLES.clone();
            hasher.update(self.version.as_bytes());
            for resource in &part.resources {
                hasher.update(format!("{resource:?}").as_bytes());
            }
            hex(hasher)
        })
    }

    fn v2_hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (path, part) in &self.v3 {
            hasher.update(path.as_bytes());
            hasher.update(self.hash(part).as_bytes());
        }
        for foreign in &self.foreign {
            hasher.update(foreign.tag.as_bytes());
        }
        hex(hasher)
    }

    fn build_v3(&self, part: &Part) -> Document {
        let resources: Vec<&Resource> = part.resources.iter().map(|r| &**r).collect();
        let mut schemas = Schemas::new(Schema::builtin(), Dialect::V3, descriptions());
        let paths = paths::paths(&resources, &mut schemas);
        let content = json!({
            "openapi": "3.0.0",
            "info": { "title": "Kubernetes", "version": self.version },
            "paths": paths,
            "components": {
                "schemas": schemas.finish(),
                "securitySchemes": { "BearerToken": bearer_token() }
            }
        });
        document(self.hash(part).to_owned(), content.to_string().as_bytes())
    }

    fn build_v2(&self) -> Value {
        let parts = self.v3.values();
        let resources: Vec<&Resource> = parts.flat_map(|p| &p.resources).map(|r| &**r).collect();
        let mut schemas = Schemas::new(Schema::builtin(), Dialect::V2, descriptions());
        let paths = paths::paths(&resources, &mut schemas);
        let mut document = json!({
            "swagger": "2.0",
            "info": { "title": "Kubernetes", "version": self.version },
            "paths": paths,
            "definitions": schemas.finish(),
            "securityDefinitions": { "BearerToken": bearer_token() },
            "security": [{ "BearerToken": [] }]
        });
        for foreign in &self.foreign {
            foreign.merge_into(&mut document);
        }
        document
    }

    /// The paths of the v3 documents, sorted.
    pub fn group_versions(&self) -> BTreeSet<&str> {
        self.v3.keys().map(String::as_str).collect()
    }
}

fn is_same(a: &[Arc<Resource>], b: &[Arc<Resource>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn document(hash: String, bytes: &[u8]) -> Document {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // writing into memory can't fail
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    Document {
        gzip: written.unwrap_or_default(),
        hash,
    }
}

fn hex(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn bearer_token() -> Value {
    json!({
        "type": "apiKey", "name": "authorization", "in": "header",
        "description": "Bearer Token authentication"
    })
}

fn v3_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn descriptions() -> Map<String, Value> {
    let mut text = Vec::new();
    let read = ZlibDecoder::new(DESCRIPTIONS).read_to_end(&mut text);
    let parsed = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    // the build script wrote it; the tests read it
    parsed.unwrap_or_default()
}

#[cfg(test)]
mod tests;
