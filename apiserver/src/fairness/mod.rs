//! API priority and fairness: which priority level a request belongs to, and whether it may run, must wait or is
//! turned away.
//!
//! FlowSchemas and PriorityLevelConfigurations are compiled into a [`Config`] whenever one changes; a request only
//! reads it. Seats and queues of a level are [`level`]'s, their numbers [`allocate`]'s, what a request costs
//! [`estimate`]'s.

pub mod allocate;
pub mod compile;
pub mod dropped;
pub mod estimate;
pub mod level;
pub mod metrics;
pub mod schema;
pub mod shuffle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use keelson_registry::access::Access;
use keelson_registry::rest;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::feeds::{self, Feed, Follower};
use crate::options::Options;
use crate::server::Server;
use crate::startup::own;
use compile::Config;
use dropped::Dropped;
use estimate::Watches;

const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
/// Who says of FlowSchemas whether their level exists.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// How often levels lend each other seats anew.
const REBALANCE: Duration = Duration::from_secs(10);
/// The longest a change waits for others before the configuration is compiled again.
const GATHER: Duration = Duration::from_millis(10);

/// The state of priority and fairness.
pub struct Fairness {
    config: ArcSwap<Config>,
    /// Seats of the whole server.
    seats: u64,
    objects: Mutex<Objects>,
    changed: Notify,
    /// Requests that were turned away.
    pub dropped: Dropped,
    /// Open watches, which changes have to be told to.
    pub watches: Watches,
}

#[derive(Default)]
struct Objects {
    schemas: HashMap<String, Arc<Value>>,
    levels: HashMap<String, Arc<Value>>,
}

impl Fairness {
    /// Only what every server must have, as long as nothing is stored.
    pub fn new(options: &Options) -> Self {
        let seats = options.max_requests_inflight + options.max_mutating_requests_inflight;
        let seats = u64::try_from(seats).unwrap_or(u64::MAX);
        Fairness {
            config: ArcSwap::from_pointee(Config::compile(&[], &[], seats, None)),
            seats,
            objects: Mutex::default(),
            changed: Notify::new(),
            dropped: Dropped::default(),
            watches: Watches::default(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Compiles what is stored; answers the FlowSchemas as they are stored.
    fn compile(&self) -> Vec<Arc<Value>> {
        let (schemas, levels): (Vec<_>, Vec<_>) = {
            let objects = self.objects.lock();
            (
                objects.schemas.values().cloned().collect(),
                objects.levels.values().cloned().collect(),
            )
        };
        let old = self.config.load_full();
        let new = Config::compile(&schemas, &levels, self.seats, Some(&old));
        self.config.store(Arc::new(new));
        schemas
    }
}

/// Keeps the objects at hand.
struct Keeper(Arc<Server>);

impl Follower for Keeper {
    fn upsert(&self, resource: &str, object: &Value) {
        let fairness = &self.0.fairness;
        let name = object.text("metadata.name").to_owned();
        let mut objects = fairness.objects.lock();
        let map = match resource {
            "flowschemas" => &mut objects.schemas,
            _ => &mut objects.levels,
        };
        let old = map.insert(name, Arc::new(object.clone()));
        let same = old.is_some_and(|old| {
            old["spec"] == object["spec"]
                && old["status"] == object["status"]
                && old["metadata"]["uid"] == object["metadata"]["uid"]
        });
        if !same {
            fairness.changed.notify_one();
        }
    }

    fn remove(&self, resource: &str, _namespace: &str, name: &str) {
        let fairness = &self.0.fairness;
        let mut objects = fairness.objects.lock();
        match resource {
            "flowschemas" => objects.schemas.remove(name),
            _ => objects.levels.remove(name),
        };
        fairness.changed.notify_one();
    }
}

/// Follows what is stored, if priority and fairness is on.
pub async fn start(server: &Arc<Server>) {
    if !server.options.priority_and_fairness {
        return;
    }
    let keeper = Arc::new(Keeper(server.clone()));
    feeds::start(server, vec![Feed::new(&[LEVELS, SCHEMAS], keeper)]).await;
    server.fairness.compile();
    tokio::spawn(keep(server.clone()));
}

async fn keep(server: Arc<Server>) {
    let mut rebalance = tokio::time::interval(REBALANCE);
    rebalance.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rebalance.tick().await;
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            _ = rebalance.tick() => server.fairness.config().rebalance(),
            () = server.fairness.changed.notified() => {
                tokio::time::sleep(GATHER).await;
                let schemas = server.fairness.compile();
                let config = server.fairness.config();
                for schema in schemas {
                    say_whether_dangling(&server, &config, &schema).await;
                }
            }
        }
    }
}

/// Says of a FlowSchema whether its level exists.
async fn say_whether_dangling(server: &Server, config: &Config, schema: &Value) {
    let level = schema.text("spec.priorityLevelConfiguration.name");
    let wanted = dangling(level, config.has_level(level));
    let now = schema
        .items("status.conditions")
        .iter()
        .find(|c| c.text("type") == "Dangling");
    let same = now.is_some_and(|c| {
        ["status", "reason", "message"]
            .iter()
            .all(|key| c.text(key) == wanted.text(key))
    });
    if same {
        return;
    }
    let mut wanted = wanted;
    wanted["lastTransitionTime"] = rest::timestamp(Timestamp::now()).into();
    let name = schema.text("metadata.name");
    let status = json!({"conditions": [wanted]});
    match own::apply_status(server, SCHEMAS, name, MANAGER, status).await {
        Ok(_) => {}
        // The change comes by, and is looked at again.
        Err(e) if e.is_conflict() || e.is_not_found() => {}
        Err(e) => {
            tracing::warn!(name, error = %e, "the condition of a FlowSchema can't be stored");
        }
    }
}

fn dangling(level: &str, exists: bool) -> Value {
    let (status, reason, rest) = if exists {
        ("False", "Found", "and it exists")
    } else {
        ("True", "NotFound", "but there is no such object")
    };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}"
    );
    json!({"type": "Dangling", "status": status, "reason": reason, "message": message})
}
