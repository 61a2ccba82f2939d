//! Conversion of objects by their definition's strategy: relabelled, or by its webhook.

use std::sync::Arc;
use std::time::Duration;

use keelson_admission::webhooks::{self, Caller};
use keelson_auth::Lookup;
use keelson_extensions::conversion;
use keelson_extensions::{Conversion, Definition};
use serde_json::Value;

/// How long a webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Converts the objects of one definition.
pub struct Converter {
    conversion: Conversion,
    kind: String,
    lookup: Arc<dyn Lookup>,
    caller: Arc<dyn Caller>,
}

impl Converter {
    /// By the strategy of a definition.
    pub fn new(definition: &Definition, lookup: Arc<dyn Lookup>, caller: Arc<dyn Caller>) -> Self {
        Converter {
            conversion: definition.conversion.clone(),
            kind: definition.names.kind.clone(),
            lookup,
            caller,
        }
    }

    /// The objects, in their order, in a version. The error is what a client is told.
    pub async fn convert(
        &self,
        mut objects: Vec<Value>,
        desired: &str,
    ) -> Result<Vec<Value>, String> {
        let Conversion::Webhook { config, reviews } = &self.conversion else {
            for object in &mut objects {
                conversion::relabel(object, desired);
            }
            return Ok(objects);
        };
        let mut places = Vec::new();
        let mut asked = Vec::new();
        for (at, object) in objects.iter_mut().enumerate() {
            if object.get("apiVersion").and_then(Value::as_str) != Some(desired) {
                if let Some(map) = object.as_object_mut() {
                    map.insert("kind".to_owned(), self.kind.clone().into());
                }
                places.push(at);
                asked.push(object.clone());
            }
        }
        if asked.is_empty() {
            return Ok(objects);
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let (review, version) = conversion::review(reviews, &asked, desired, &uid)?;
        let subject = conversion::subject(&asked[0]);
        let answer = self
            .post(config, review)
            .await
            .map_err(|why| format!("conversion webhook for {subject} failed: {why}"))?;
        let converted = conversion::converted(&answer, &version, &uid, &asked, desired)?;
        for (at, object) in places.into_iter().zip(converted) {
            objects[at] = object;
        }
        Ok(objects)
    }

    async fn post(&self, config: &Value, review: Value) -> Result<Vec<u8>, String> {
        let mut target = webhooks::target(config, TIMEOUT.as_secs() as i64)?;
        let url = target.url();
        let failed = |why: String| format!("Post {url:?}: {why}");
        webhooks::locate(&mut target, config, self.lookup.as_ref())
            .await
            .map_err(failed)?;
        let body = review.to_string().into_bytes();
        match tokio::time::timeout(TIMEOUT, self.caller.post(&target, body)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }
}
