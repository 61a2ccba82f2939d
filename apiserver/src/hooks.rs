//! What is done around a write beside the object itself: the allocation of Service addresses and node ports.

use keelson_api::status::Status;
use serde_json::Value;

use crate::options::Options;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// What was taken for an object that is about to be stored.
pub struct Reserved {
    /// The object, completed.
    pub object: Value,
}

impl Reserved {
    /// The object is stored: what was taken stays taken.
    pub fn keep(self) {}

    /// The object was not stored: gives everything back.
    pub async fn release(self, _server: &Server) {}
}

/// The hooks of a server.
#[derive(Default)]
pub struct Hooks {}

impl Hooks {
    /// The hooks for a server with these options.
    pub fn new(_options: &Options) -> Self {
        Hooks::default()
    }

    /// Before a new object is stored.
    pub async fn before_create(
        &self,
        _server: &Server,
        _resource: &Resource,
        object: Value,
        _dry_run: bool,
    ) -> Result<Reserved, Status> {
        Ok(Reserved { object })
    }

    /// Before a changed object is stored.
    pub async fn before_update(
        &self,
        _server: &Server,
        _resource: &Resource,
        new: Value,
        _old: &Value,
        _dry_run: bool,
    ) -> ApiResult<Value> {
        Ok(new)
    }

    /// After an object is gone.
    pub async fn after_delete(&self, _server: &Server, _resource: &Resource, _object: &Value) {}
}
