//! Bounds how many requests are worked on at once, where priority and fairness is off; the rest is told to come back in a
//! second.

use std::sync::Arc;

use keelson_api::status::Status;
use tokio::sync::Semaphore;

use super::Next;
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

/// Groups that are never turned away, so that an overloaded cluster can still be mended.
const PRIVILEGED: &str = "system:masters";

/// The two pools of upstream: reads and writes.
#[derive(Debug)]
pub struct Limits {
    reads: Option<Semaphore>,
    writes: Option<Semaphore>,
}

impl Limits {
    /// Pools of these sizes; zero means no limit.
    pub fn new(reads: usize, writes: usize) -> Self {
        let pool = |n: usize| (n > 0).then(|| Semaphore::new(n));
        Limits {
            reads: pool(reads),
            writes: pool(writes),
        }
    }
}

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    if request.info.is_long_running() || request.user.groups.iter().any(|g| g == PRIVILEGED) {
        return next.call(server, request).await;
    }
    let mutating = !matches!(
        request.info.verb.as_str(),
        "get" | "list" | "watch" | "head" | "options"
    );
    let pool = if mutating {
        &server.limits.writes
    } else {
        &server.limits.reads
    };
    let gauge = if mutating {
        &server.metrics.mutating
    } else {
        &server.metrics.reading
    };
    let _counted = gauge.hold();
    let Some(pool) = pool else {
        return next.call(server, request).await;
    };
    match pool.try_acquire() {
        Ok(_permit) => next.call(server, request).await,
        Err(_) => {
            let e = Status::too_many_requests("Too many requests, please try again later.", 1);
            response::error(&Negotiated::JSON, &e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_unlimited() {
        let limits = Limits::new(0, 2);
        assert!(limits.reads.is_none());
        assert_eq!(limits.writes.map(|w| w.available_permits()), Some(2));
    }
}
