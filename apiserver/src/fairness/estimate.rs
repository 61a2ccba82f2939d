//! What a request costs: a list, seats by how many objects it walks over; a change, some more for a while after it, if
//! many watches are to be told of it.
//!
//! A seat is upstream's measure for lists. Watches are told of changes from encoded frames here, so that a change costs a
//! fraction of what upstream reckons for each of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::level::Cost;
use crate::request::Request;
use crate::server::Server;

const OBJECTS_PER_SEAT: u64 = 100;
const MOST_SEATS: u64 = 10;
const WATCHES_PER_SEAT: usize = 100;
/// For how long one seat is held for the watches of one seat.
const TELLING: Duration = Duration::from_millis(1);

type Key = (String, String);

/// How many watches there are of each resource.
#[derive(Default)]
pub struct Watches(RwLock<HashMap<Key, Arc<AtomicUsize>>>);

/// A watch that is counted.
pub struct Counted(Arc<AtomicUsize>);

impl Watches {
    /// Counts a watch until it is dropped. Watches of one object are told of few changes, and not counted.
    pub fn count(&self, request: &Request) -> Option<Counted> {
        let info = &request.info;
        if !info.name.is_empty() {
            return None;
        }
        let key = (info.group.clone(), info.resource.clone());
        let counter = {
            let known = self.0.read().get(&key).cloned();
            known.unwrap_or_else(|| self.0.write().entry(key).or_default().clone())
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(Counted(counter))
    }

    fn of(&self, request: &Request) -> usize {
        let key = (request.info.group.clone(), request.info.resource.clone());
        let known = self.0.read();
        known.get(&key).map_or(0, |c| c.load(Ordering::Relaxed))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request costs at a level where one may take `widest` seats.
pub fn cost(server: &Server, request: &Request, widest: u64) -> Cost {
    let most = widest.clamp(1, MOST_SEATS);
    let info = &request.info;
    if !info.is_resource {
        return seats(1);
    }
    match info.verb.as_str() {
        "list" => seats(of_list(server, request, most)),
        "watch" => {
            let version = request.query.get("resourceVersion").unwrap_or_default();
            let begins = request.query.flag("sendInitialEvents");
            if begins || matches!(version, "" | "0") {
                seats(of_list(server, request, most))
            } else {
                seats(1)
            }
        }
        "create" | "update" | "patch" | "delete" => of_change(server, request, most),
        _ => seats(1),
    }
}

fn seats(seats: u64) -> Cost {
    Cost {
        seats,
        after: 0,
        lasting: Duration::ZERO,
    }
}

fn of_list(server: &Server, request: &Request, most: u64) -> u64 {
    let info = &request.info;
    if !info.name.is_empty() {
        return 1;
    }
    let resource = server
        .resources
        .get(&info.group, &info.version, &info.resource);
    // What other servers list costs them.
    let Some(stored) = resource.and_then(|r| server.cache.count(&r.id).ok()) else {
        return 1;
    };
    let limit = request
        .query
        .get("limit")
        .and_then(|l| l.parse::<u64>().ok())
        .filter(|l| *l > 0);
    let walked = limit.map_or(stored as u64, |limit| limit.min(stored as u64));
    walked.div_ceil(OBJECTS_PER_SEAT).clamp(1, most)
}

fn of_change(server: &Server, request: &Request, most: u64) -> Cost {
    let watches = server.fairness.watches.of(request);
    // Tokens and reviews change nothing that is watched.
    if watches < WATCHES_PER_SEAT || request.info.subresource == "token" {
        return seats(1);
    }
    told(watches, most)
}

/// A change that so many watches are told of.
fn told(watches: usize, most: u64) -> Cost {
    let wanted = watches.div_ceil(WATCHES_PER_SEAT) as u64;
    let after = wanted.min(most);
    let lasting = TELLING.mul_f64(wanted as f64 / after as f64);
    Cost {
        seats: 1,
        after,
        lasting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_watches_hold_seats_for_longer() {
        assert_eq!(
            told(150, 8),
            Cost {
                seats: 1,
                after: 2,
                lasting: TELLING
            }
        );
        let many = told(1600, 8);
        assert_eq!((many.after, many.lasting), (8, TELLING * 2));
    }
}
