//! The configuration in force: FlowSchemas in the order they are tried in, and the levels they lead to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderValue;
use keelson_admission::startup::flow_control;
use keelson_auth::User;
use keelson_registry::access::Access;
use parking_lot::Mutex;
use serde_json::Value;

use super::allocate::{self, Need};
use super::level::{Level, Queuing};
use super::metrics::Counts;
use super::schema::{Distinguisher, Matcher};
use crate::request_info::RequestInfo;

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
/// The part of its nominal seats that one request may take of a level.
const WIDEST: f64 = 0.15;

/// A FlowSchema that requests can belong to.
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its UID, as answers carry it.
    pub uid: HeaderValue,
    /// What tells its flows apart.
    pub distinguisher: Distinguisher,
    /// Its level.
    pub level: Arc<Configured>,
    /// What has been counted of it.
    pub counts: Arc<Counts>,
    precedence: i64,
    matcher: Matcher,
}

/// A level with its configuration.
pub struct Configured {
    /// Its name.
    pub name: String,
    /// Its UID, as answers carry it.
    pub uid: HeaderValue,
    /// Whether it has no limit.
    pub exempt: bool,
    /// Whether flows need to be told apart.
    pub queues: bool,
    /// Seats by its share.
    pub nominal: u64,
    /// Seats that it never lends.
    pub least: u64,
    /// Seats that it may have at most.
    pub most: u64,
    /// Seats that one request may take.
    pub widest: u64,
    /// Its seats and queues.
    pub level: Arc<Level>,
    /// Its need of late: peak and smoothed.
    pub need: Mutex<(u64, f64)>,
}

/// All of it.
pub struct Config {
    /// FlowSchemas, the first that takes a request gets it.
    pub schemas: Vec<Arc<Schema>>,
    /// Levels by name.
    pub levels: BTreeMap<String, Arc<Configured>>,
}

/// What a PriorityLevelConfiguration says.
struct Said<'o> {
    name: &'o str,
    uid: &'o str,
    exempt: bool,
    queuing: Option<Queuing>,
    shares: i64,
    lendable: i64,
    borrowing: Option<i64>,
}

impl Config {
    /// Compiles objects; levels that were there before keep their seats and queues.
    pub fn compile(
        schemas: &[Arc<Value>],
        levels: &[Arc<Value>],
        seats: u64,
        old: Option<&Config>,
    ) -> Config {
        let own = flow_control::mandatory();
        let of = |resource: &str| -> Vec<&Value> {
            let found = own.iter().filter(|o| o.resource.starts_with(resource));
            found.map(|o| &o.value).collect()
        };
        let said = said(levels, &of("prioritylevelconfigurations"));
        let shares: i64 = said.iter().map(|s| s.shares).sum();
        let levels: BTreeMap<String, Arc<Configured>> = said
            .iter()
            .map(|s| {
                let before = old.and_then(|old| old.levels.get(s.name));
                (
                    s.name.to_owned(),
                    Arc::new(configured(s, seats, shares, before)),
                )
            })
            .collect();
        let counts: HashMap<(&str, &str), Arc<Counts>> = old
            .into_iter()
            .flat_map(|old| &old.schemas)
            .map(|s| ((s.name.as_str(), s.level.name.as_str()), s.counts.clone()))
            .collect();
        let mandatory = of("flowschemas");
        let missing = mandatory.into_iter().filter(|own| {
            let name = own.text("metadata.name");
            !schemas.iter().any(|s| s.text("metadata.name") == name)
        });
        let mut compiled: Vec<Arc<Schema>> = schemas
            .iter()
            .map(|s| &**s)
            .chain(missing)
            .filter_map(|object| schema(object, &levels, &counts))
            .map(Arc::new)
            .collect();
        compiled.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let config = Config {
            schemas: compiled,
            levels,
        };
        config.allocate();
        config
    }

    /// Whether there is a level of this name in use.
    pub fn has_level(&self, name: &str) -> bool {
        self.levels.contains_key(name)
    }

    /// The schema that a request belongs to.
    pub fn classify(&self, user: &User, info: &RequestInfo) -> Option<&Arc<Schema>> {
        let first = self.schemas.iter().find(|s| s.matcher.takes(user, info));
        // Everybody is authenticated or not, so that nobody should fall through.
        first.or_else(|| self.schemas.iter().find(|s| s.name == CATCH_ALL))
    }

    /// Looks at what the levels needed since the last time, and gives out seats anew.
    pub fn rebalance(&self) {
        for level in self.levels.values() {
            *level.need.lock() = level.level.end_period();
        }
        self.allocate();
    }

    fn allocate(&self) {
        let levels: Vec<&Arc<Configured>> = self.levels.values().collect();
        let needs: Vec<Need> = levels
            .iter()
            .map(|l| {
                let (peak, smoothed) = *l.need.lock();
                Need {
                    nominal: l.nominal,
                    least: l.least,
                    most: l.most,
                    peak,
                    smoothed,
                    exempt: l.exempt,
                }
            })
            .collect();
        for (level, seats) in levels.iter().zip(allocate::seats(&needs)) {
            if !level.exempt {
                level.level.limit(seats);
            }
        }
    }
}

fn said<'o>(levels: &'o [Arc<Value>], mandatory: &[&'o Value]) -> Vec<Said<'o>> {
    let stored = levels.iter().map(|l| &**l).filter_map(read);
    let mut all: Vec<Said<'o>> = stored.collect();
    for own in mandatory {
        if !all.iter().any(|s| s.name == own.text("metadata.name")) {
            all.extend(read(own));
        }
    }
    all
}

/// Reads a level; `None` for one that contradicts itself.
fn read(object: &Value) -> Option<Said<'_>> {
    let name = object.text("metadata.name");
    let exempt = object.text("spec.type") == "Exempt";
    if exempt != (name == EXEMPT) {
        return None;
    }
    let part = object.part(if exempt {
        "spec.exempt"
    } else {
        "spec.limited"
    });
    let queuing = part.part("limitResponse.queuing");
    let number = |key: &str| usize::try_from(queuing.number(key)).unwrap_or_default();
    let queuing = (part.text("limitResponse.type") == "Queue").then(|| Queuing {
        queues: number("queues").max(1),
        hand: number("handSize").max(1),
        length: number("queueLengthLimit").max(1),
    });
    Some(Said {
        name,
        uid: object.text("metadata.uid"),
        exempt,
        queuing,
        shares: match part.part("nominalConcurrencyShares").as_i64() {
            Some(shares) => shares,
            None if exempt => 0,
            None => 30,
        },
        lendable: part.number("lendablePercent"),
        borrowing: part.part("borrowingLimitPercent").as_i64(),
    })
}

fn configured(
    said: &Said<'_>,
    seats: u64,
    shares: i64,
    before: Option<&Arc<Configured>>,
) -> Configured {
    let part = said.shares as f64 / shares.max(1) as f64;
    let nominal = (seats as f64 * part).ceil() as u64;
    let percent = |percent: i64| (nominal as f64 * percent as f64 / 100.0).round() as u64;
    let lendable = percent(said.lendable.clamp(0, 100));
    let level = match before {
        Some(before) => before.level.clone(),
        None if said.exempt => Arc::new(Level::new(None)),
        None => Arc::new(Level::new(Some(nominal - lendable / 2))),
    };
    level.configure(said.queuing);
    let widest = said.queuing.map_or(u64::MAX, |queuing| {
        let of_all = (nominal as f64 * WIDEST).ceil() as u64;
        of_all.min(nominal / queuing.hand as u64).max(1)
    });
    Configured {
        name: said.name.to_owned(),
        uid: header(said.uid),
        exempt: said.exempt,
        queues: said.queuing.is_some_and(|q| q.queues > 1),
        nominal,
        least: nominal - lendable,
        most: nominal + said.borrowing.map_or(seats, |b| percent(b.max(0))),
        widest,
        level,
        need: Mutex::new(before.map_or((0, 0.0), |b| *b.need.lock())),
    }
}

fn schema(
    object: &Value,
    levels: &BTreeMap<String, Arc<Configured>>,
    counts: &HashMap<(&str, &str), Arc<Counts>>,
) -> Option<Schema> {
    let name = object.text("metadata.name");
    let level = levels.get(object.text("spec.priorityLevelConfiguration.name"))?;
    let counts = counts.get(&(name, level.name.as_str())).cloned();
    Some(Schema {
        name: name.to_owned(),
        uid: header(object.text("metadata.uid")),
        distinguisher: Distinguisher::of(object),
        level: level.clone(),
        counts: counts.unwrap_or_default(),
        precedence: object.number("spec.matchingPrecedence"),
        matcher: Matcher::of(object),
    })
}

fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use http::Method;

    fn all() -> (Vec<Arc<Value>>, Vec<Arc<Value>>) {
        let (schemas, levels): (Vec<_>, Vec<_>) = flow_control::objects()
            .into_iter()
            .partition(|o| o.resource.starts_with("flowschemas"));
        let values = |objects: Vec<keelson_admission::startup::Object>| {
            objects.into_iter().map(|o| Arc::new(o.value)).collect()
        };
        (values(schemas), values(levels))
    }

    fn classified(config: &Config, user: &User, path: &str) -> (String, String) {
        let info = RequestInfo::parse(&Method::GET, path, &Query::default());
        let schema = config.classify(user, &info).unwrap();
        (schema.name.clone(), schema.level.name.clone())
    }

    #[test]
    fn every_request_has_its_place() {
        let (schemas, levels) = all();
        let config = Config::compile(&schemas, &levels, 600, None);
        let of = |name: &str, groups: &[&str], path: &str| {
            let (schema, level) = classified(&config, &User::new(name, groups), path);
            format!("{schema} {level}")
        };
        let everybody = "system:authenticated";
        assert_eq!(
            of("a", &["system:masters", everybody], "/api/v1/pods"),
            "exempt exempt"
        );
        assert_eq!(of("a", &[everybody], "/readyz"), "probes exempt");
        assert_eq!(
            of(
                "system:node:n",
                &["system:nodes", everybody],
                "/api/v1/nodes/n/status"
            ),
            "system-node-high node-high"
        );
        assert_eq!(
            of(
                "system:node:n",
                &["system:nodes", everybody],
                "/api/v1/pods"
            ),
            "system-nodes system"
        );
        assert_eq!(
            of(
                "system:kube-scheduler",
                &[everybody],
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x"
            ),
            "system-leader-election leader-election"
        );
        assert_eq!(
            of(
                "system:serviceaccount:a:b",
                &["system:serviceaccounts", everybody],
                "/api/v1/pods"
            ),
            "service-accounts workload-low"
        );
        assert_eq!(
            of("jane", &[everybody], "/version"),
            "global-default global-default"
        );
    }

    #[test]
    fn seats_follow_the_shares() {
        let (schemas, levels) = all();
        let config = Config::compile(&schemas, &levels, 600, None);
        let of = |name: &str| {
            let level = &config.levels[name];
            (level.nominal, level.least, level.most, level.widest)
        };
        assert_eq!(of("workload-low"), (245, 24, 845, 37));
        assert_eq!(of("global-default"), (49, 24, 649, 8));
        assert_eq!(of("exempt"), (0, 0, 600, u64::MAX));
        let limits: u64 = config
            .levels
            .values()
            .map(|l| l.level.snapshot().limit)
            .sum();
        assert!((598..=606).contains(&limits), "{limits}");
    }

    #[test]
    fn the_mandatory_ones_are_always_there() {
        let config = Config::compile(&[], &[], 600, None);
        let masters = User::new("a", &["system:masters"]);
        assert_eq!(classified(&config, &masters, "/version").0, "exempt");
        let jane = User::new("jane", &["system:authenticated"]);
        assert_eq!(classified(&config, &jane, "/version").0, "catch-all");
        assert_eq!(config.levels["catch-all"].nominal, 600);
    }
}
